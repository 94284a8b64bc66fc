"""P01, P02, P03, P18: killed at random moments, nothing is lost, doubled, torn or drawn otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.studio import ROOT


def kill(folder: Path, *flags: str, timeout: int = 380) -> dict[str, Any]:
    """What went wrong."""
    command = [sys.executable, str(ROOT / "tests" / "reliability" / "kills.py"), str(folder), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(found)
    return {what: found[what] for what in ("lost", "doubled", "torn", "different", "left in temp") if found[what]}


@pytest.mark.timeout(400)
def test_placeholders_survive_ten_kills(tmp_path):
    assert kill(tmp_path / "x", "--kills", "10", "--films", "8") == {}


@pytest.mark.timeout(400)
def test_denoised_films_survive_six_kills_with_the_same_pixels(tmp_path):
    assert kill(tmp_path / "x", "--engine", "skyreels", "--kills", "6", "--films", "4", "--longest-ms", "1500") == {}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_placeholders_survive_two_hundred_kills(tmp_path):
    assert kill(tmp_path / "x", "--kills", "200", timeout=1700) == {}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_denoised_films_survive_two_hundred_kills_with_the_same_pixels(tmp_path):
    assert kill(tmp_path / "x", "--engine", "skyreels", "--kills", "200", "--longest-ms", "1500", timeout=1700) == {}
