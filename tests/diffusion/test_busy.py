"""Waiting threads sleep while other programs take the cores, and spin again when they have gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import psutil
import pytest
import torch

from backend.diffusion import busy
from backend.diffusion.busy import (
    EVERY_S,
    QUIET_SAMPLES,
    IdleThreads,
    OtherPrograms,
    Usage,
    sleep_while_others_compute,
    usage,
)


class Fake:
    """A machine whose clock moves by EVERY_S with every look, and the idle threads that were made on it."""

    def __init__(self) -> None:
        self.now, self.made, self.ended = Usage(0.0, 0.0, 0.0), 0, 0
        self.others = OtherPrograms(self.now, self.make)

    def make(self) -> Fake:
        self.made += 1
        return self

    def end(self) -> None:
        self.ended += 1

    def look(self, others: float, waiting: float, times: int = 1) -> tuple[int, int]:
        """Look while others use so many cores and so many threads wait for one, on average; how many idle threads were
        made and ended so far.
        """
        for _ in range(times):
            last = self.now
            self.now = Usage(last.at + EVERY_S, last.others_s + others * EVERY_S, last.waited_s + waiting * EVERY_S)
            self.others.compare(self.now)
        return self.made, self.ended


def test_idle_threads_are_there_while_others_compute():
    machine = Fake()
    assert machine.look(0.02, 0.02, 20) == (0, 0)
    assert machine.look(1.3, 1.3) == (1, 0)
    assert machine.look(1.3, 1.3, 20) == (1, 0)
    assert machine.look(0.02, 0.02, QUIET_SAMPLES - 1) == (1, 0)
    assert machine.look(0.02, 0.02) == (1, 1)
    assert machine.look(1.3, 1.3) == (2, 1)


def test_a_quiet_moment_among_busy_ones_changes_nothing():
    machine = Fake()
    machine.look(1.3, 1.3)
    for _ in range(10):
        machine.look(0.02, 0.02, QUIET_SAMPLES - 1)
        assert machine.look(0.5, 0.5) == (1, 0)


@pytest.mark.parametrize(("others", "waiting"), [(0.02, 1.3), (1.3, 0.02)])
def test_the_studios_own_encoder_is_no_other_program_and_another_may_have_a_core_to_spare(others, waiting):
    machine = Fake()
    assert machine.look(others, waiting, 20) == (0, 0)
    machine.look(1.3, 1.3)
    assert machine.look(others, waiting, QUIET_SAMPLES) == (1, 1)


def test_they_end_with_the_render():
    machine = Fake()
    machine.look(1.3, 1.3)
    machine.others.close()
    machine.others.close()
    assert (machine.made, machine.ended) == (1, 1)


def test_what_this_process_and_its_children_compute_is_its_own():
    """All that computes here until a second of it is over; other programs may compute too, but no core does twice."""
    before, own_before = usage(), busy._own_s()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        while busy._own_s() < own_before + 1.0:
            pass
        child.kill()
    after = usage()
    cores = psutil.cpu_count()
    assert busy._own_s() >= own_before + 1.0
    assert after.others_s - before.others_s < cores * (after.at - before.at) - 0.9


def test_the_wait_for_a_core_is_counted():
    """More threads than cores compute until they have waited for one for a tenth of a second."""
    before = usage().waited_s
    ended = threading.Event()
    square = torch.ones(300, 300)

    def compute() -> None:
        while not ended.is_set():
            square @ square

    threads = [threading.Thread(target=compute) for _ in range(2 * len(os.sched_getaffinity(0)) + 2)]
    for thread in threads:
        thread.start()
    try:
        while usage().waited_s < before + 0.1:
            ended.wait(0.01)
        assert usage().waited_s > before
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(("team", "cores", "count"), [(1, 2, 0), (2, 2, 1), (4, 4, 1), (2, 8, 7), (4, 16, 5)])
def test_more_threads_than_cores(monkeypatch, team, cores, count):
    """libgomp counts a team without its first thread: `team - 1` more for each idle thread, above the cores."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: team)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(cores))
    before = threading.active_count()
    idle = IdleThreads()
    assert threading.active_count() == before + count
    assert not count or team + count * (team - 1) > cores >= team + (count - 1) * (team - 1)
    idle.end()
    assert threading.active_count() == before


def test_a_render_is_watched_and_the_watch_ends_with_it(monkeypatch):
    looked = threading.Event()
    monkeypatch.setattr(busy, "EVERY_S", 0.001)
    monkeypatch.setattr(OtherPrograms, "compare", lambda self, now: looked.set())
    before = threading.active_count()
    with sleep_while_others_compute():
        assert looked.wait(100)
    assert threading.active_count() == before


def test_no_idle_thread_outlives_the_render(monkeypatch):
    """Where all cores are taken at every look."""
    numbers = iter(range(10_000))
    made = threading.Event()
    monkeypatch.setattr(busy, "EVERY_S", 0.001)
    monkeypatch.setattr(busy, "usage", lambda: Usage(*[float(next(numbers))] * 3))
    monkeypatch.setattr(busy, "IdleThreads", lambda: made.set() or IdleThreads())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    before = threading.active_count()
    with sleep_while_others_compute():
        assert made.wait(100)
    assert threading.active_count() == before


def test_where_other_programs_cannot_be_seen_the_render_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(busy, "usage", lambda: (_ for _ in ()).throw(FileNotFoundError("/proc/self/task")))
    with caplog.at_level("INFO", logger=busy.__name__), sleep_while_others_compute():
        pass
    assert "other programs cannot be seen here: /proc/self/task" in caplog.text
