"""P12, P13, P15: many at once are answered quickly, counted rightly and never mixed up."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.jobs.filters import Filter
from backend.jobs.job import JobState
from tests.conftest import SMALL
from tests.pace import nearly_all, within
from tests.studio import LiveStudio

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


@pytest.fixture
def full_house(tmp_path) -> Iterator[LiveStudio]:
    """A studio in a process of its own that starts nothing, with room for 300 waiting jobs."""
    studio = LiveStudio(tmp_path / "data", STUDIO_QUEUE_LIMIT="300")
    studio.api.post("/queue/pause")
    yield studio
    studio.stop()


def test_five_hundred_connections_at_once_are_each_answered(full_house):
    """All are open before the first request is sent on one of them."""

    async def submit(number: int, all_open: asyncio.Barrier) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", full_house.port)
        body = json.dumps(SMALL | {"seed": number}).encode()
        head = (
            f"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost:{full_house.port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        await all_open.wait()
        writer.write(head.encode() + body)
        answer, _, rest = (await reader.read()).partition(b"\r\n\r\n")  # raises where the connection is reset
        writer.close()
        assert json.loads(rest)
        return answer.split(b" ")[1], answer.lower()

    async def submit_all() -> list[tuple[bytes, bytes]]:
        all_open = asyncio.Barrier(500)
        return await asyncio.gather(*(submit(number, all_open) for number in range(500)))

    with ThreadPoolExecutor(1) as thread:  # a browser that an earlier test opened has an event loop in this one
        answers = thread.submit(asyncio.run, submit_all()).result()
    assert Counter(status for status, _ in answers) == {b"202": 300, b"429": 200}
    assert all(b"\r\nretry-after: " in head for status, head in answers if status == b"429")
    assert len(full_house.jobs(limit=500)) == 300


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
