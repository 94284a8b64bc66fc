"""What a preset leaves of the work: counted, and never where it would cost the film."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.presets import TRADES, work_of
from backend.core.schedule import make_schedule
from backend.core.schema import Preset


def counts(preset: Preset, steps: int = 30, guidance: bool = True, **waiting: int) -> list[int]:
    schedule = make_schedule(20, steps, **waiting)
    return [work.predictions for work in work_of(schedule, steps, preset, guidance)]


def test_the_work_of_thirty_steps():
    assert counts(Preset.EXACT) == [2] * 30
    assert counts(Preset.EXACT, guidance=False) == [1] * 30
    assert counts(Preset.BALANCED) == [2] * 8 + [0, 0, 2] * 3 + [0, 0, 1] * 4 + [1]
    assert counts(Preset.BALANCED, guidance=False) == [1] * 8 + [0, 0, 1] * 7 + [1]
    assert counts(Preset.TURBO) == [2] * 5 + [0, 2] * 3 + ([0] * 4 + [1]) * 3 + [0] * 3 + [1]
    assert counts(Preset.TURBO, 20) == [2] * 3 + [0, 2] * 2 + ([0] * 4 + [1]) * 2 + [0] * 2 + [1]


@given(
    preset=st.sampled_from([Preset.BALANCED, Preset.TURBO]),
    steps=st.integers(10, 50),
    block=st.sampled_from([1, 2, 5]),
    ar_step=st.integers(0, 12),
    ready=st.sampled_from([0, 5]),
    guidance=st.booleans(),
)
def test_what_decides_the_film_is_worked_out(preset, steps, block, ar_step, ready, guidance):
    schedule = make_schedule(20, steps, ar_step, block, ready)
    trade, work = TRADES[preset], work_of(schedule, steps, preset, guidance)
    asked = []
    for row, (levels, moves) in enumerate(zip(schedule.levels, schedule.moves, strict=True)):
        moving = [level for level, moved in zip(levels, moves, strict=True) if moved]
        for level, moved, guided in zip(levels, moves, work[row].guided, strict=True):
            assert guided == (guidance and moved and level <= math.ceil(trade.guided * steps))
        if work[row].predictions:
            assert work[row].predictions == (2 if any(work[row].guided) else 1)
            asked.append(row)
            continue
        # Extrapolated: in the middle, from two answers about the same frames, the last of them not long ago.
        assert min(moving) > trade.asked[0][0] * steps
        assert max(moving) < steps
        assert row - asked[-1] < min(trade.one_of(level, steps) for level in moving)
        for before in asked[-2:]:
            assert all(schedule.moves[before][frame] for frame in range(20) if moves[frame])
            assert all(work[before].predictions == 2 for guided in work[row].guided if guided)


@pytest.mark.parametrize("preset", list(Preset))
@pytest.mark.parametrize("steps", range(4, 10))
def test_of_few_steps_every_one_is_worked_out(preset, steps):
    """As many as a LoRA made for few steps takes."""
    assert counts(preset, steps, guidance=False) == [1] * steps
    assert 0 in counts(Preset.TURBO, 10, guidance=False)


@pytest.mark.parametrize("preset", [Preset.BALANCED, Preset.TURBO])
def test_presets_save_what_they_are_for(preset):
    assert sum(counts(Preset.EXACT)) >= 2.2 * sum(counts(preset))
    assert sum(counts(Preset.EXACT, ar_step=5, block=5)) > 1.5 * sum(counts(preset, ar_step=5, block=5))
