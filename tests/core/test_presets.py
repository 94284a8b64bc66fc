"""The evaluations that a preset skips: counted, and never where they decide the video."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.presets import PRESETS, plan_steps
from backend.core.schedule import make_schedule
from backend.core.schema import Preset


def counts(preset: Preset, steps: int = 30, guidance: bool = True, **blocks: int) -> list[int]:
    schedule = make_schedule(20, steps, **blocks)
    return [step.num_evaluations for step in plan_steps(schedule, steps, preset, guidance)]


def test_the_evaluations_of_thirty_steps():
    assert counts(Preset.EXACT) == [2] * 30
    assert counts(Preset.EXACT, guidance=False) == [1] * 30
    assert counts(Preset.BALANCED) == [2] * 8 + [0, 0, 2] * 3 + [0, 0, 1] * 4 + [1]
    assert counts(Preset.BALANCED, guidance=False) == [1] * 8 + [0, 0, 1] * 7 + [1]
    assert counts(Preset.TURBO) == [2] * 5 + [0, 2] * 3 + ([0] * 4 + [1]) * 3 + [0] * 3 + [1]
    assert counts(Preset.TURBO, 20) == [2] * 3 + [0, 2] * 2 + ([0] * 4 + [1]) * 2 + [0] * 2 + [1]


@given(
    preset=st.sampled_from([Preset.BALANCED, Preset.TURBO]),
    steps=st.integers(10, 50),
    block_size=st.sampled_from([1, 2, 5]),
    ar_step=st.integers(0, 12),
    num_context_frames=st.sampled_from([0, 5]),
    guidance=st.booleans(),
)
def test_the_steps_that_decide_the_video_are_evaluated(
    preset, steps, block_size, ar_step, num_context_frames, guidance
):
    schedule = make_schedule(20, steps, ar_step, block_size, num_context_frames)
    config, plans = PRESETS[preset], plan_steps(schedule, steps, preset, guidance)
    evaluated = []
    for row, (indices, updates) in enumerate(zip(schedule.timestep_indices, schedule.update_mask, strict=True)):
        updated = [index for index, update in zip(indices, updates, strict=True) if update]
        for index, update, guided in zip(indices, updates, plans[row].guided, strict=True):
            assert guided == (guidance and update and index <= math.ceil(config.guidance_until * steps))
        if plans[row].num_evaluations:
            assert plans[row].num_evaluations == (2 if any(plans[row].guided) else 1)
            evaluated.append(row)
            continue
        # Extrapolated: in the middle, from two evaluations of the same frames, the last of them recent.
        assert min(updated) > config.skipping[0][0] * steps
        assert max(updated) < steps
        assert row - evaluated[-1] < min(config.evaluation_interval(index, steps) for index in updated)
        for before in evaluated[-2:]:
            assert all(schedule.update_mask[before][frame] for frame in range(20) if updates[frame])
            assert all(plans[before].num_evaluations == 2 for guided in plans[row].guided if guided)


@pytest.mark.parametrize("preset", list(Preset))
@pytest.mark.parametrize("steps", range(4, 10))
def test_with_few_steps_every_one_is_evaluated(preset, steps):
    """As many as a distilled LoRA takes."""
    assert counts(preset, steps, guidance=False) == [1] * steps
    assert 0 in counts(Preset.TURBO, 10, guidance=False)


@pytest.mark.parametrize("preset", [Preset.BALANCED, Preset.TURBO])
def test_presets_halve_the_evaluations(preset):
    assert sum(counts(Preset.EXACT)) >= 2.2 * sum(counts(preset))
    blocks = {"ar_step": 5, "block_size": 5}
    assert sum(counts(Preset.EXACT, **blocks)) > 1.5 * sum(counts(preset, **blocks))
