"""Finishing: rendered frames become delivered frames, by the finishing steps of the plan. One file a step.

`apply` of a step takes chunks of frames, the step's settings and the name of the device ("cpu", "cuda"), and yields
chunks of frames, of any length. It holds at most the step's `neighbours` beside a chunk, and pulls the next chunk only
when it needs it: there a cancelled render stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from backend.core.delivery import FinishingStep, FitStep
from backend.finishing import fit
from backend.media.fitting import Frames

# `apply` of each type of step.
APPLY: dict[type, Callable[[Iterator[Frames], Any, str], Iterator[Frames]]] = {
    FitStep: fit.apply,
}


def apply_steps(frames: Iterator[Frames], steps: Sequence[FinishingStep], device: str) -> Iterator[Frames]:
    """The chunks of `frames`, which are those of one segment, after all `steps`, in their order.

    A step sees no frames of other segments: they may have been made by an earlier attempt.
    """
    for step in steps:
        frames = APPLY[type(step)](frames, step, device)
    return frames
