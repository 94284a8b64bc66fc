"""What a subject is doing at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pose:
    """`t` is the time in seconds; `stride` counts steps, wheel turns or wing beats made so far (it stands while the
    subject stands); `darkness` is 0 by day, 1 by night.
    """

    t: float
    stride: float
    darkness: float
