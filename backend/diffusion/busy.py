"""A render on the CPU beside other programs: threads that wait for one another sleep there, and spin elsewhere.

torch divides an operation among the threads of libgomp, which wait for the slowest before the next operation. They spin
while they wait, up to 3 ms. That is fastest where each has a core of its own. Where other programs compute, a spinning
thread uses up the core that the one it waits for needs: beside four busy processes on two cores, the transformer of
SkyReels V2 Tiny took 2.4 s a call instead of 0.2 s.

libgomp spins for some microseconds only while it has more threads than there are cores (its manual, GOMP_SPINCOUNT). So
`OtherPrograms` keeps further threads of libgomp, idle, for as long as the render's own wait for a core. What is
computed stays the same in bits.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

log = logging.getLogger(__name__)

EVERY_S = 0.5
BUSY = 0.3  # threads of this process, on average, that could run and have no core
QUIET = 0.1
QUIET_SAMPLES = 6  # in a row, after which threads spin again
PARALLEL = 2**20  # numbers that torch divides among its threads


@contextmanager
def sleep_while_others_compute() -> Iterator[None]:
    """While open, look every EVERY_S seconds whether other programs take the cores, and let waiting threads sleep."""
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(ended,), name="other-programs", daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _watch(ended: threading.Event) -> None:
    others = OtherPrograms(waited_s, time.monotonic, IdleThreads)
    while not ended.wait(EVERY_S):
        others.compare()
    others.close()


class OtherPrograms:
    """Whether other programs take the cores. `waited_s` gives the seconds that threads of this process have waited for
    a core so far, None where the system does not say; `clock` seconds; `idle` makes the threads that let others sleep.
    """

    def __init__(
        self, waited_s: Callable[[], float | None], clock: Callable[[], float], idle: Callable[[], IdleThreads]
    ) -> None:
        self._waited_s, self._clock, self._make_idle = waited_s, clock, idle
        self._last = waited_s(), clock()
        self._quiet = 0
        self.idle: IdleThreads | None = None

    def compare(self) -> None:
        """Compare with the last look, and make or end the idle threads."""
        (waited_before, before), self._last = self._last, (self._waited_s(), self._clock())
        waited, now = self._last
        if waited is None or waited_before is None or now <= before:
            return
        waiting = (waited - waited_before) / (now - before)
        self._quiet = self._quiet + 1 if waiting < QUIET else 0
        if self.idle is None and waiting > BUSY:
            log.info("%.1f threads wait for a core: others compute, so waiting threads sleep", waiting)
            self.idle = self._make_idle()
        elif self.idle is not None and self._quiet >= QUIET_SAMPLES:
            self.close()

    def close(self) -> None:
        """End the idle threads."""
        if self.idle is not None:
            self.idle.end()
            self.idle = None


class IdleThreads:
    """Teams of libgomp that compute nothing: with the render's own, more threads than cores."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        team, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
        count = max(0, cores - team) // (team - 1) + 1 if team > 1 else 0
        started = threading.Barrier(count + 1)
        self._threads = [threading.Thread(target=self._stay, args=(started,), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        started.wait()

    def _stay(self, started: threading.Barrier) -> None:
        torch.ones(PARALLEL).add_(1)  # from here on this thread has a team
        started.wait()
        self._ended.wait()

    def end(self) -> None:
        """End them, and with each its team."""
        self._ended.set()
        for thread in self._threads:
            thread.join()


def waited_s() -> float | None:
    """Seconds for which threads of this process could run and waited for a core, summed over those that live, from
    Linux's statistics of its scheduler; None elsewhere.
    """
    total = None
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError, ValueError, IndexError):  # a thread may end meanwhile
                total = (total or 0.0) + int((task / "schedstat").read_text().split()[1]) / 1e9
    return total
