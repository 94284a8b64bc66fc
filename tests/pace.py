"""Bounds in seconds that mean the same on a slow or busy machine."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Collection

# One round of `_work` on the machine on which the bounds were set.
ROUND_S = 0.0075


def within(seconds: float) -> float:
    """`seconds`, and as much longer as this machine is slower now than that on which they were set."""
    rounds = []
    for _ in range(9):
        began = time.perf_counter()
        _work()
        rounds.append(time.perf_counter() - began)
    return seconds * max(1.0, statistics.median(rounds) / ROUND_S)


def nearly_all(seconds: Collection[float]) -> float:
    """What all but one of twenty took at most: a moment in which the machine stood still says nothing of the studio. Of
    less than ten all.
    """
    left_out = math.ceil(len(seconds) / 20) if len(seconds) >= 10 else 0
    return max(sorted(seconds)[: len(seconds) - left_out], default=0.0)


def _work() -> None:
    """What a web service does with a request: objects to text and back, and sums over it."""
    told = {"prompt": "a red boat at sunset", "sizes": list(range(50)), "seed": 1}
    for _ in range(400):
        text = json.dumps(told).encode()
        hashlib.sha256(text).hexdigest()
        json.loads(text)
