"""P21: thousands of films later the studio holds no more memory, handles or threads than after the first."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from backend.jobs.filters import Filter
from backend.jobs.job import JobState
from tests.reliability.kills import work_folders


def soak(generator, a_request, jobs: int, warm: int) -> None:
    process = psutil.Process()

    def make(count: int, first: int) -> None:
        for number in range(count):
            while len(generator.store.queue()) > 50:
                time.sleep(0.02)
            generator.submit(a_request(seed=first + number, resolution="64x64", num_frames=16))
        while generator.store.queue():
            time.sleep(0.02)

    make(warm, 0)
    before = process.memory_info().rss, process.num_fds(), process.num_threads()
    began = time.monotonic()
    make(jobs, warm)
    took = time.monotonic() - began
    after = process.memory_info().rss, process.num_fds(), process.num_threads()
    grown = (after[0] - before[0]) / 2**20
    more = f"{after[1] - before[1]:+} handles, {after[2] - before[2]:+} threads"
    print(f"{jobs} jobs in {took:.0f} s: {grown:+.1f} MiB, {more}")
    assert generator.store.count(Filter(states=(JobState.SUCCEEDED,))) == jobs + warm
    assert abs(after[1] - before[1]) <= 5
    assert abs(after[2] - before[2]) <= 5
    assert grown < max(20.0, 5.0 * jobs / 1000)
    assert work_folders(generator.settings.temp.parent) == []
    wal = generator.settings.database.with_name("studio.db-wal")
    assert not wal.exists() or wal.stat().st_size < 64 * 2**20


@pytest.mark.timeout(400)
def test_fifty_films(generator, a_request):
    soak(generator, a_request, 30, 20)


@pytest.mark.long
@pytest.mark.timeout(36_000)
def test_thousands_of_films(generator, a_request):
    """2,000, or as many as SOAK_JOBS says."""
    soak(generator, a_request, int(os.environ.get("SOAK_JOBS", "2000")), 100)
