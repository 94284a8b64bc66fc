from __future__ import annotations

import pytest

from backend.core.ids import is_id, new_id


def test_ids_sort_by_time_and_do_not_repeat():
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(is_id(name) for name in ids)
    assert new_id(now=1_000_000_000) < new_id(now=1_000_000_000.001) < ids[0] < new_id(now=3_600_000_000)


def test_ids_of_one_moment_cannot_be_guessed_from_each_other():
    tails = {new_id(now=1)[10:] for _ in range(1000)}
    assert len(tails) == 1000


@pytest.mark.parametrize(
    "text", ["", "../../etc/passwd", "A" * 20, "a" * 19, "a" * 21, "a" * 20 + "\n", "ä" * 20, "٣" * 20]
)
def test_what_is_no_id(text: str):
    assert not is_id(text)
