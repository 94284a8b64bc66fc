"""Delivery: the finishing steps between the frames that a model renders and the video that is delivered.

A finishing step is data: its settings, how it changes the shape of the video, the neighbouring frames it needs and its
cost. `backend/finishing/` applies it to frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.core.units import GIB

CHUNK_FRAMES = 4  # frames that travel together: the VAE decodes as many from one latent frame
RESIZE_S_PER_PIXEL = 7e-9  # bicubic, one core


@dataclass(frozen=True, slots=True)
class Strip:
    """The shape of a stream of frames: pixels, frames per second, number of frames, and whether sound goes with it."""

    width: int
    height: int
    fps: float
    frames: int
    has_sound: bool = False

    @property
    def pixels(self) -> int:
        """Pixels of all frames."""
        return self.width * self.height * self.frames

    def __str__(self) -> str:
        """
        >>> str(Strip(960, 540, 24, 64))
        '64 frames of 960x540 at 24 fps'
        """
        sound = " with sound" if self.has_sound else ""
        return f"{self.frames} frames of {self.width}x{self.height} at {self.fps:g} fps{sound}"


class FitStep(BaseModel):
    """Crop-or-enlarge: the middle of each frame, as large as the delivered shape allows, scaled to the delivered size.

    `crop` cuts the rows and columns that were rendered because sizes are multiples of 16 (and scales by less than that
    where two of them are to go); `enlarge` scales up what was rendered below the delivered size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: Literal["fit"] = "fit"
    version: Literal[1] = 1  # of its settings; a change of them is a new number and a migration
    width: int
    height: int
    method: Literal["crop", "enlarge"]

    neighbours: ClassVar[int] = 0  # frames before and after each frame that the step looks at

    def after(self, strip: Strip) -> Strip:
        """The shape of the frames that come out where those of `strip` go in."""
        return replace(strip, width=self.width, height=self.height)

    def seconds(self, strip: Strip) -> float:
        """Seconds for all frames of `strip`, guessed for any machine; earlier jobs calibrate the guess."""
        return RESIZE_S_PER_PIXEL * self.after(strip).pixels

    def memory_gib(self, strip: Strip, on_gpu: bool) -> float:
        """Extra memory of the device that renders, in GiB: the GPU, or the main memory, which holds a chunk."""
        frame = strip.width * strip.height + self.width * self.height
        return 0.0 if on_gpu else 3 * CHUNK_FRAMES * frame / GIB


# Every kind of finishing step; `step` says which one a stored step is.
FinishingStep = Annotated[FitStep, Field(discriminator="step")]


def strips(rendered: Strip, steps: Sequence[FinishingStep]) -> list[Strip]:
    """The shape of the video before the first step and after each; the last one is delivered.

    >>> [str(strip) for strip in strips(Strip(960, 544, 24, 64), [FitStep(width=960, height=540, method="crop")])]
    ['64 frames of 960x544 at 24 fps', '64 frames of 960x540 at 24 fps']
    """
    return list(itertools.accumulate(steps, lambda strip, step: step.after(strip), initial=rendered))


def check_delivery(rendered: Strip, steps: Sequence[FinishingStep], delivered: Strip) -> None:
    """Raise ValueError unless `steps` turn `rendered` into `delivered`."""
    finished = strips(rendered, steps)[-1]
    if finished != delivered:
        raise ValueError(f"The finishing steps turn {rendered} into {finished}, not into {delivered}.")


def plan_fitting(rendered: Strip, delivered: Strip, enlarged: bool) -> tuple[FinishingStep, ...]:
    """The finishing steps from `rendered` to `delivered`, checked: a FitStep where the sizes differ."""
    steps: tuple[FinishingStep, ...] = ()
    if (rendered.width, rendered.height) != (delivered.width, delivered.height):
        method: Literal["crop", "enlarge"] = "enlarge" if enlarged else "crop"
        steps = (FitStep(width=delivered.width, height=delivered.height, method=method),)
    check_delivery(rendered, steps, delivered)
    return steps


def finishing_seconds(rendered: Strip, steps: Sequence[FinishingStep]) -> float:
    """The guessed seconds of all steps."""
    return sum(step.seconds(strip) for step, strip in zip(steps, strips(rendered, steps), strict=False))


def finishing_gib(rendered: Strip, steps: Sequence[FinishingStep], on_gpu: bool) -> float:
    """The extra memory of all steps, which run side by side, in GiB."""
    return sum(step.memory_gib(strip, on_gpu) for step, strip in zip(steps, strips(rendered, steps), strict=False))
