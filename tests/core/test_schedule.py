import hashlib
import json
from pathlib import Path

import pytest

from backend.core.schedule import make_schedule

DATA = json.loads((Path(__file__).parents[1] / "diffusion/data/df_step_matrix.json").read_text())


def test_all_step_matrices_are_the_originals():
    """279 settings, 42 of which it refuses; the hash is of all that its generate_timestep_matrix returns."""
    assert len(DATA["cases"]) == 279
    for steps, shift, frames, base, ar_step, block, ready, expected in DATA["cases"]:
        timesteps = [999, *DATA["templates"][f"steps={steps},shift={shift}"], 0]
        if expected.startswith("ar_step"):
            with pytest.raises(ValueError, match=expected):
                make_schedule(frames, steps, ar_step, block, ready, base)
            continue
        made = make_schedule(frames, steps, ar_step, block, ready, base)
        whole = {
            "matrix": [[timesteps[level] for level in row] for row in made.levels],
            "index": made.levels,
            "mask": [[int(moves) for moves in row] for row in made.moves],
            "interval": made.intervals,
        }
        text = json.dumps(whole, separators=(",", ":"))
        assert hashlib.sha1(text.encode()).hexdigest() == expected, (steps, frames, base, ar_step, block, ready)


@pytest.mark.parametrize("steps", [10, 13])
@pytest.mark.parametrize("ar_step", [0, 1, 5, 9, 10, 11, 50])
@pytest.mark.parametrize("block", [1, 2, 5])
@pytest.mark.parametrize("ready", [0, 5, 10])
def test_blocks_wait_for_one_another_and_take_all_levels(steps, ar_step, block, ready):
    made = make_schedule(20, steps, ar_step, block, ready)
    assert len(made.levels) == steps + min(ar_step, steps) * (20 // block - ready // block - 1)
    for frame, column in enumerate(zip(*made.moves, strict=True)):
        assert sum(column) == (0 if frame < ready // block * block else steps)


def test_frames_that_go_down_together_are_a_run():
    assert make_schedule(9, 10).runs == [(0, 9)]
    assert make_schedule(9, 10, ready=2).runs == [(2, 9)]
    assert make_schedule(9, 10, ar_step=2, block=3).runs == [(0, 3), (3, 6), (6, 9)]
    assert make_schedule(9, 10, ar_step=2, block=3, ready=3).runs == [(3, 6), (6, 9)]
    assert make_schedule(4, 10, ar_step=0, block=2).runs == [(0, 4)]


def test_leading_frames_become_final_with_their_last_move():
    assert make_schedule(3, 10).final == (0,) * 10 + (3,)
    assert make_schedule(3, 10, ready=1).final == (1,) * 10 + (3,)
    assert make_schedule(6, 10, ar_step=3, block=2).final == (0,) * 10 + (2,) * 3 + (4,) * 3 + (6,)
