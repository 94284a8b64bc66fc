"""The frame rate of a clip, from the times of its frames."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

PAUSE_S = 0.25  # a picture that stands for longer does not move
LEAST_SHARE = 0.25  # of the intervals must be shorter than a pause; otherwise the clip is a series of stills
MOST_FPS = 240.0
NTSC = (24000 / 1001, 30000 / 1001, 60000 / 1001)


def even_times(count: int, fps: float) -> list[float]:
    """The times of `count` frames at a constant rate, in seconds from the first."""
    return [place / fps for place in range(count)]


def spread(stamps: Sequence[int]) -> list[float]:
    """Time stamps in order, those that are there several times spread evenly up to the next one. Empty if more than
    one, and more than one in twenty, are repeated: parts that were joined and overlap say nothing.

    >>> spread([0, 33, 33, 100, 133])
    [0.0, 33.0, 66.5, 100.0, 133.0]
    """
    times = sorted(set(stamps))
    if len(stamps) - len(times) > max(1, len(stamps) // 20):
        return []
    after = [*times[1:], times[-1] + (times[-1] - times[0]) / max(1, len(times) - 1)]
    counts = Counter(stamps)
    return [
        here + (there - here) * part / counts[here]
        for here, there in zip(times, after, strict=True)
        for part in range(counts[here])
    ]


def is_even(times: Sequence[float], fps: float, most: float = 0.5) -> bool:
    """Whether every frame is less than half a frame, or `most` frames, from its place at a constant rate.

    Less is rounding or a phone's jitter; taken for even, no frame is left out.
    """
    return all(abs(a - b) < most / fps for a, b in zip(even_times(len(times), fps), times, strict=True))


def moving_rate(times: Sequence[float]) -> float:
    """Frames per second of the moving parts of a clip whose rate varies: by the median of the intervals between its
    frames, pauses left out.

    Stamps in milliseconds make 24 frames a second 42 ms each, so the mean of the intervals near the median counts, and
    a rate within 1 % of a whole number is that number.

    >>> moving_rate([0.0, 0.042, 0.083, 0.125, 2.0, 2.042, 2.083])
    24.0
    """
    intervals = [b - a for a, b in pairwise(times) if b > a]
    moving = [interval for interval in intervals if interval < PAUSE_S]
    if len(moving) < LEAST_SHARE * len(intervals):
        moving = intervals
    middle = statistics.median_low(moving)
    fps = 1 / statistics.fmean(interval for interval in moving if abs(interval - middle) <= middle / 4)
    return _usual(min(fps, MOST_FPS))


def _usual(fps: float) -> float:
    nearest = min(NTSC, key=lambda rate: abs(rate - fps))
    if abs(nearest - fps) < 3e-4 * fps:
        return nearest
    whole = float(round(fps))
    return whole if abs(whole - fps) <= 0.01 * fps else fps
