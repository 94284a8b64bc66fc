"""A render on the CPU beside other programs: threads that wait for one another sleep there, and spin elsewhere.

torch divides an operation among the threads of libgomp, which wait for the slowest before the next operation. They spin
while they wait, up to 3 ms. That is fastest where each has a core of its own. Where other programs compute, a spinning
thread uses up the core that the one it waits for needs: beside four busy processes on two cores, the transformer of
SkyReels V2 Tiny took 2.4 s a call instead of 0.2 s.

libgomp spins for some microseconds only while it has more threads than there are cores (its manual, GOMP_SPINCOUNT). So
`OtherPrograms` keeps further threads of libgomp, idle, for as long as other programs compute and the render's threads
wait for a core. What is computed stays the same in bits.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

log = logging.getLogger(__name__)

EVERY_S = 0.5
BUSY, QUIET = 0.3, 0.1  # cores that other programs use, and threads that wait for a core, on average
QUIET_SAMPLES = 6  # in a row, after which threads spin again
PARALLEL = 2**20  # numbers that torch divides among its threads


@dataclass(frozen=True, slots=True)
class Usage:
    """At the time `at`, in seconds: the processor time that other programs have used so far, and for how long threads
    of this process that could run have waited for a core.
    """

    at: float
    others_s: float
    waited_s: float


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
    try:
        others = OtherPrograms(usage(), IdleThreads)
        while not ended.wait(EVERY_S):
            others.compare(usage())
        others.close()
    except (OSError, ValueError, psutil.Error) as error:  # another system: threads spin, as torch has them
        log.info("other programs cannot be seen here: %s", error)


class OtherPrograms:
    """Whether other programs take the cores. `idle` makes the threads that let others sleep."""

    def __init__(self, now: Usage, idle: Callable[[], IdleThreads]) -> None:
        self._last, self._make_idle = now, idle
        self._quiet = 0
        self.idle: IdleThreads | None = None

    def compare(self, now: Usage) -> None:
        """Compare with the last usage, and make or end the idle threads."""
        last, self._last = self._last, now
        took_s = now.at - last.at
        if took_s <= 0:
            return
        others, waiting = (now.others_s - last.others_s) / took_s, (now.waited_s - last.waited_s) / took_s
        self._quiet = self._quiet + 1 if min(others, waiting) < QUIET else 0
        if self.idle is None and min(others, waiting) > BUSY:
            log.info("other programs use %.1f cores: threads that wait for one another sleep", others)
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


def usage() -> Usage:
    """The usage so far, as Linux counts it. Raises OSError, ValueError or psutil.Error elsewhere."""
    machine = psutil.cpu_times()
    busy_s = machine.user + machine.nice + machine.system  # `user` has the time of guests in it
    return Usage(time.monotonic(), busy_s - _own_s(), _waited_s())


def _own_s() -> float:
    """Processor time of this process and of those that it started, ended ones too."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _waited_s() -> float:
    total = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end meanwhile
            total += int((task / "schedstat").read_text().split()[1])
    return total / 1e9
