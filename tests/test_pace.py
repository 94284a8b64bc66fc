from tests import pace
from tests.pace import within


def test_a_bound_is_as_much_longer_as_the_machine_is_slower(monkeypatch):
    monkeypatch.setattr(pace, "ROUND_S", 1e6)
    assert within(3) == 3
    monkeypatch.setattr(pace, "ROUND_S", 1e-9)
    assert within(3) > 3000
