import hashlib
import json
from pathlib import Path

import pytest

from backend.core.schedule import make_schedule

DATA = json.loads((Path(__file__).parents[1] / "diffusion/data/df_step_matrix.json").read_text())


def test_all_step_matrices_are_the_originals():
    """279 settings, 42 of which it refuses; the hash is of all that its generate_timestep_matrix returns."""
    assert len(DATA["cases"]) == 279
    for steps, shift, frames, base, ar_step, block, num_context_frames, expected in DATA["cases"]:
        timesteps = [999, *DATA["templates"][f"steps={steps},shift={shift}"], 0]
        if expected.startswith("ar_step"):
            with pytest.raises(ValueError, match=expected):
                make_schedule(frames, steps, ar_step, block, num_context_frames, base)
            continue
        made = make_schedule(frames, steps, ar_step, block, num_context_frames, base)
        whole = {
            "matrix": [[timesteps[level] for level in row] for row in made.timestep_indices],
            "index": made.timestep_indices,
            "mask": [[int(moves) for moves in row] for row in made.update_mask],
            "interval": made.valid_intervals,
        }
        text = json.dumps(whole, separators=(",", ":"))
        assert hashlib.sha1(text.encode()).hexdigest() == expected, (
            steps,
            frames,
            base,
            ar_step,
            block,
            num_context_frames,
        )


@pytest.mark.parametrize("steps", [10, 13])
@pytest.mark.parametrize("ar_step", [0, 1, 5, 9, 10, 11, 50])
@pytest.mark.parametrize("block", [1, 2, 5])
@pytest.mark.parametrize("num_context_frames", [0, 5, 10])
def test_blocks_wait_for_one_another_and_take_all_levels(steps, ar_step, block, num_context_frames):
    made = make_schedule(20, steps, ar_step, block, num_context_frames)
    assert len(made.timestep_indices) == steps + min(ar_step, steps) * (20 // block - num_context_frames // block - 1)
    for frame, column in enumerate(zip(*made.update_mask, strict=True)):
        assert sum(column) == (0 if frame < num_context_frames // block * block else steps)


def test_frames_that_go_down_together_are_a_run():
    assert make_schedule(9, 10).frame_groups == [(0, 9)]
    assert make_schedule(9, 10, num_context_frames=2).frame_groups == [(2, 9)]
    assert make_schedule(9, 10, ar_step=2, block_size=3).frame_groups == [(0, 3), (3, 6), (6, 9)]
    assert make_schedule(9, 10, ar_step=2, block_size=3, num_context_frames=3).frame_groups == [(3, 6), (6, 9)]
    assert make_schedule(4, 10, ar_step=0, block_size=2).frame_groups == [(0, 4)]


def test_leading_frames_become_final_with_their_last_move():
    assert make_schedule(3, 10).num_final == (0,) * 10 + (3,)
    assert make_schedule(3, 10, num_context_frames=1).num_final == (1,) * 10 + (3,)
    assert make_schedule(6, 10, ar_step=3, block_size=2).num_final == (0,) * 10 + (2,) * 3 + (4,) * 3 + (6,)


@pytest.mark.parametrize(
    ("frames", "steps", "block", "context"),
    [
        (5, 10, 1, 5),
        (10, 10, 5, 10),
        (10, 10, 5, 12),
        (7, 10, 5, 5),  # the two frames behind the given block fill none
        (4, 10, 5, 0),
        (0, 10, 1, 0),
        (5, 0, 1, 0),
    ],
)
def test_a_window_without_anything_to_denoise_is_refused(frames, steps, block, context):
    with pytest.raises(ValueError, match=f"nothing to denoise: num_steps={steps}.*num_context_frames={context} gives"):
        make_schedule(frames, steps, block_size=block, num_context_frames=context)


def test_a_single_block_that_is_not_given_is_denoised():
    made = make_schedule(10, 10, block_size=5, num_context_frames=9)
    assert made.frame_groups == [(5, 10)]
    assert len(made.timestep_indices) == 10
