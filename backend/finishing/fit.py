"""The step `fit`: frames of the rendered size, cropped or enlarged to the delivered size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from backend.core.delivery import FitStep
from backend.core.schema import Fit
from backend.media.fitting import Frames, fit_picture


def apply(frames: Iterator[Frames], step: FitStep, device: str) -> Iterator[Frames]:
    """Fit each chunk, on the processor whatever the `device`."""
    for chunk in frames:
        yield fit_frames(chunk, step.width, step.height)


def fit_frames(frames: Frames, width: int, height: int) -> Frames:
    """`frames` as `width` x `height` pixels: the middle, as large as that shape allows, scaled to cover it."""
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([fit_picture(frame, width, height, Fit.CROP) for frame in frames])
