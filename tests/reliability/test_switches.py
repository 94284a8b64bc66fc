"""Two models in turns: after ten switches, or twenty, the studio holds what it held after the first."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from backend.core.config import ROOT
from backend.core.registry import TINY
from tests.tiny_checkpoints import build_checkpoint

# In a process of its own: what other tests have left in this one would be measured, too.
RENDERS = """
import sys
from pathlib import Path
import numpy as np
import psutil
from backend.core.plan import Machine
from backend.core.planning import make_plan
from backend.core.schema import parse_request
from backend.engine import Inputs, Task
from backend.library.checkpoints import find_checkpoints
from backend.skyreels_integration import SkyReelsEngine

engine, found = SkyReelsEngine(), find_checkpoints([Path(sys.argv[1])])
wish = {"prompt": "A red boat", "resolution": "160x96", "num_frames": 16, "guidance_scale": 1, "seed": 1}
wish["num_inference_steps"] = 10
films = {}
for number in range(int(sys.argv[2])):
    checkpoint = found[number % len(found)]
    request = parse_request(wish)
    plan = make_plan(request, checkpoint.spec, Machine("CPU", 2, 8.0))
    film = np.concatenate(list(engine.render(Task(request, plan, Inputs(), checkpoint.folder), lambda report: None)))
    assert np.array_equal(film, films.setdefault(checkpoint.spec.id, film))
    print(psutil.Process().memory_info().rss, flush=True)
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("switches", [10, pytest.param(20, marks=pytest.mark.long)])
def test_memory_is_where_it_was_after_switches(tmp_path, switches):
    shutil.copytree(ROOT / "models" / TINY.id, tmp_path / "one")
    shutil.copytree(ROOT / "models" / TINY.id, tmp_path / "two")
    build_checkpoint(tmp_path / "three", "t2v")
    done = subprocess.run(
        [sys.executable, "-c", RENDERS, tmp_path, f"{switches + 4}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    held = [int(line) for line in done.stdout.split()]
    print(f"{held[3] / 2**20:.0f} MiB after the first three, {held[-1] / 2**20:.0f} MiB after {switches} switches")
    assert len(held) == switches + 4
    assert held[-1] < 1.05 * held[3]
