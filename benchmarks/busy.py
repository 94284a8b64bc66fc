"""A whole job on SkyReels V2 Tiny on a quiet CPU and beside programs that compute, with and without sleeping waiters.

    python -m benchmarks.busy

In one process: quiet, in turns with and without `backend/diffusion/busy.py`, which comes first changes every round;
then beside BESIDE endless loops, with it, and once without it. The fair share is that of as many threads as torch has
among all that compute. Claims: beside others at most 1.5 times as long as the fair share gives, alone at most 1.03
times as long as without, as the median of the rounds' ratios.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from operator import truediv
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from backend.core.config import Settings
from backend.core.registry import TINY
from backend.core.schema import parse_request
from backend.diffusion import render
from backend.diffusion.busy import sleep_while_others_compute
from backend.system.monitoring import usable_cores
from backend.video_generator import VideoGenerator
from benchmarks.record import record

ROUNDS = 16
BUSY_ROUNDS = 3
BESIDE = 4
REQUEST = {"prompt": "A red boat drifts left on a calm sea at sunset", "model": TINY.id, "seed": 7, "num_frames": 25}


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """So many processes that compute as long as this is open. None is a child of this one, which would be its own."""
    command = f"for n in $(seq {count}); do '{sys.executable}' -c 'while True: pass' >/dev/null 2>&1 & echo $!; done"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    try:
        yield
    finally:
        for process in done.stdout.split():
            os.kill(int(process), signal.SIGKILL)


def main() -> None:
    ways: dict[str, Callable[[], Any]] = {"with": sleep_while_others_compute, "without": nullcontext}
    quiet: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        generator = VideoGenerator(Settings(data=Path(folder), disk_reserve_bytes=0))
        generator.start()

        def seconds(way: str) -> float:
            with patch.object(render, "sleep_while_others_compute", ways[way]):
                began = time.perf_counter()
                job = generator.wait(generator.submit(parse_request(REQUEST)).id)
            assert job.artifact is not None, job.error
            return round(time.perf_counter() - began, 3)

        seconds("with")  # warms up
        for number in range(ROUNDS):
            for way in sorted(ways, reverse=number % 2 == 1):
                quiet[way].append(seconds(way))
        with busy_programs(BESIDE):
            busy = {"with": [seconds("with") for _ in range(BUSY_ROUNDS)], "without": [seconds("without")]}
        generator.stop()
    alone = statistics.median(quiet["with"])
    threads = torch.get_num_threads()
    fair_s = alone * (threads + BESIDE) / usable_cores()
    found = {
        "beside": BESIDE,
        "threads": threads,
        "alone_s": alone,
        "fair_s": round(fair_s, 2),
        "busy_s": statistics.median(busy["with"]),
        "busy_without_s": statistics.median(busy["without"]),
        "ratio": {
            "alone_to_without": round(statistics.median(map(truediv, quiet["with"], quiet["without"])), 3),
            "to_fair_share": round(statistics.median(busy["with"]) / fair_s, 2),
        },
        "seconds": {"quiet": quiet, "busy": busy},
    }
    record("busy", found)


if __name__ == "__main__":
    main()
