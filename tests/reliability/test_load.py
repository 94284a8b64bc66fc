"""P12, P13, P15: many at once are answered quickly, counted rightly and never mixed up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.jobs.job import JobState
from backend.jobs.store import Filter
from tests.conftest import SMALL
from tests.pace import nearly_all, within

pytestmark = pytest.mark.alone


@pytest.fixture
def held(client, generator, monkeypatch):
    """An HTTP client of a studio that starts nothing, with room for 300 waiting jobs."""
    generator.pause_queue(True)
    monkeypatch.setattr(generator.submission, "queue_limit", 300)
    return client


def test_five_hundred_submits_at_once(held, generator):
    pages: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            began = time.monotonic()
            assert held.get("/api/v1/jobs?limit=20").status_code == 200
            pages.append(time.monotonic() - began)

    def submit(number: int) -> tuple[int, float, str | None]:
        began = time.monotonic()
        answer = held.post("/api/v1/jobs", json=SMALL | {"seed": number})
        return answer.status_code, time.monotonic() - began, answer.headers.get("retry-after")

    looking = threading.Thread(target=look)
    looking.start()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(submit, range(500)))
    over.set()
    looking.join()
    assert Counter(status for status, _, _ in answers) == {202: 300, 429: 200}
    assert all(after is not None for status, _, after in answers if status == 429)
    assert generator.store.count(Filter()) == 300
    submits = [seconds for _, seconds, _ in answers]
    print(f"slowest answer {max(submits):.2f} s, slowest list meanwhile {max(pages):.2f} s")
    assert nearly_all(submits) < within(5)
    assert nearly_all(pages) < within(5)


def test_a_hundred_with_one_key_are_one_job(held, generator):
    def submit(_: int) -> tuple[int, str]:
        answer = held.post("/api/v1/jobs", json=SMALL, headers={"Idempotency-Key": "one"})
        return answer.status_code, answer.json()["id"]

    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(submit, range(100)))
    assert {status for status, _ in answers} == {202}
    assert len({job_id for _, job_id in answers}) == 1
    assert generator.store.count(Filter()) == 1
    other = held.post("/api/v1/jobs", json=SMALL | {"seed": 9}, headers={"Idempotency-Key": "one"})
    assert other.status_code == 409


def test_twenty_who_submit_cancel_and_look_see_whole_jobs(client, generator):
    failures: list[str] = []
    until = time.monotonic() + 4

    def somebody(number: int) -> None:
        mine = []
        while time.monotonic() < until:
            answer = client.post("/api/v1/jobs", json=SMALL | {"seed": number, "prompt": f"the boat of {number}"})
            mine.append(answer.json()["id"])
            client.post(f"/api/v1/jobs/{mine[-1]}/cancel")
            for job_id in mine[-3:]:
                job = client.get(f"/api/v1/jobs/{job_id}").json()
                if job["request"]["prompt"] != f"the boat of {number}" or job["request"]["seed"] != number:
                    failures.append(job_id)
            if client.get("/api/v1/jobs?limit=5").status_code != 200:
                failures.append("list")

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(somebody, range(20)))
    assert failures == []
    deadline = time.monotonic() + 100
    while generator.store.queue():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    states = {job.state for job in generator.store.find(limit=5000)}
    assert states <= {JobState.CANCELLED, JobState.SUCCEEDED}
    assert generator.alive
