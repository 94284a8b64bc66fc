"""A finishing step sees a stream: the same frames come out wherever its chunks begin and end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, get_args

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from backend import finishing
from backend.core.delivery import FinishingStep, FitStep, Strip
from backend.finishing import APPLY, apply_steps

COUNT = 9
FRAMES = np.random.default_rng(0).integers(0, 256, (COUNT, 12, 20, 3), np.uint8)
FIT = FitStep(width=16, height=8, method="crop")


class AverageStep(BaseModel):
    """A step with neighbours: each frame becomes the mean of itself, the one before and the one after; the first and
    the last frame count twice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    step: Literal["average"] = "average"
    version: Literal[1] = 1
    neighbours: ClassVar[int] = 1

    def after(self, strip: Strip) -> Strip:
        return strip


def mean(before, middle, after):
    return np.mean([before, middle, after], axis=0).astype(np.uint8)


def average(frames: Iterator, step: AverageStep, device: str) -> Iterator:
    """Holds the last two frames: the newest one waits for its neighbour, the one before it is that of the next."""
    before = newest = None
    for chunk in frames:
        done = []
        for frame in chunk:
            if newest is not None:
                done.append(mean(before, newest, frame))
            before, newest = frame if newest is None else newest, frame
        if done:
            yield np.stack(done)
    if newest is not None:
        yield mean(before, newest, newest)[None]


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(finishing.APPLY, AverageStep, average)


def cut(frames, edges):
    for start, stop in zip([0, *edges], [*edges, len(frames)], strict=True):
        yield frames[start:stop]


def finished(steps, edges):
    return np.concatenate(list(apply_steps(cut(FRAMES, edges), steps, "cpu")))


CHUNKS = [[edge] for edge in range(1, COUNT)] + [list(range(1, COUNT)), [2, 4, 6, 8], [1, 2, 8]]
ORDERS = [[AverageStep()], [FIT], [FIT, AverageStep()], [AverageStep(), FIT], [AverageStep(), AverageStep()]]


@pytest.mark.parametrize("steps", ORDERS, ids=lambda steps: " ".join(step.step for step in steps))
@pytest.mark.parametrize("edges", CHUNKS, ids=str)
def test_chunk_borders_do_not_show(steps, edges):
    whole = finished(steps, [])
    assert len(whole) == COUNT
    assert np.array_equal(finished(steps, edges), whole)


def test_the_toy_averages():
    padded = np.concatenate([FRAMES[:1], FRAMES, FRAMES[-1:]])
    expected = [mean(*padded[n : n + 3]) for n in range(COUNT)]
    assert np.array_equal(finished([AverageStep()], [4]), expected)


def test_steps_run_in_their_order():
    fit, one = FIT, AverageStep()
    assert not np.array_equal(finished([fit, one], []), finished([one, fit], []))
    assert finished([fit, one], []).shape == (COUNT, 8, 16, 3)
    assert np.array_equal(finished([], [3]), FRAMES)


@pytest.mark.parametrize("steps", ORDERS, ids=lambda steps: " ".join(step.step for step in steps))
def test_only_the_neighbours_are_held_beside_a_chunk(steps):
    pulled = given = 0

    def chunks():
        nonlocal pulled
        for chunk in cut(FRAMES, [2, 4, 6, 8]):
            pulled += len(chunk)
            yield chunk

    for chunk in apply_steps(chunks(), steps, "cpu"):
        given += len(chunk)
        assert pulled - given <= sum(step.neighbours for step in steps)
    assert given == COUNT


def test_an_error_between_chunks_ends_the_steps():
    class Cancelled(Exception):
        pass

    def chunks():
        yield FRAMES[:4]
        raise Cancelled

    out = apply_steps(chunks(), [AverageStep(), FIT], "cpu")
    assert len(next(out)) == 3
    with pytest.raises(Cancelled):
        next(out)


def test_every_finishing_step_has_its_apply():
    union = get_args(FinishingStep)[0]
    assert set(get_args(union) or [union]) == set(APPLY) - {AverageStep}
