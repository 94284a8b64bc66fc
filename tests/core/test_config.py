"""Settings from the environment."""

import pytest

from backend.core.config import Settings
from backend.core.errors import InvalidRequest


def test_the_environment_sets_what_it_names(tmp_path):
    found = Settings.from_env({"STUDIO_DATA": str(tmp_path), "STUDIO_SAVE_EVERY_S": "5", "STUDIO_COMPILE": "1"})
    assert (found.data, found.save_every_s, found.compile_blocks) == (tmp_path, 5.0, True)
    assert Settings.from_env({"STUDIO_COMPILE": "0"}).compile_blocks is False
    assert Settings.from_env({}) == Settings()
    assert Settings().compile_blocks is None


@pytest.mark.parametrize(
    ("name", "value"), [("STUDIO_SAVE_EVERY_S", "often"), ("STUDIO_SAVE_EVERY_S", "-1"), ("STUDIO_COMPILE", "yes")]
)
def test_what_it_cannot_mean_is_said(name, value):
    with pytest.raises(InvalidRequest, match=f"{name}={value}"):
        Settings.from_env({name: value})
