"""What the studio costs beside the videos: submitting, lists of many jobs, and pages that are open.

    python -m benchmarks.server [--tabs 1 25 50]

A studio in a process of its own, called over HTTP on this machine, with the test pattern, without weights. An open page
is what Streamlit's own protocol takes it for: a WebSocket that runs the Create page and then runs it again as often
as the page says. Claims: a submit is answered within 50 ms, a list of 10,000 jobs within 100 ms, and a video takes no
tenth longer while 25 pages look on.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from backend.core.ids import new_id
from backend.jobs.job import JobState
from backend.jobs.store import Store
from benchmarks.record import record
from tests.studio import LiveStudio

JOBS = 10_000
REQUEST = {"prompt": "A red boat drifts left", "model": "synthetic", "resolution": "64x64", "num_frames": 16}
LONG_REQUEST = REQUEST | {"resolution": "640x360", "num_frames": 1000, "num_inference_steps": 50}


def timed(call: Callable[[int], Any], times: int) -> dict[str, float]:
    """Milliseconds: the median, and what 99 of 100 stay below."""
    found = []
    for number in range(times):
        began = time.perf_counter()
        call(number)
        found.append(1000 * (time.perf_counter() - began))
    return {"median_ms": round(statistics.median(found), 1), "p99_ms": round(statistics.quantiles(found, n=100)[-1], 1)}


def submits(data: Path) -> dict[str, float]:
    studio = LiveStudio(data, STUDIO_QUEUE_LIMIT="1000")
    try:
        studio.api.post("/queue/pause").raise_for_status()
        return timed(lambda seed: studio.api.post("/jobs", json=REQUEST | {"seed": seed}).raise_for_status(), 300)
    finally:
        studio.stop()


def lists(data: Path) -> dict[str, Any]:
    """Of a history of 10,000 jobs: the newest page of it, one that a word is searched in, and all of it counted."""
    studio = LiveStudio(data)
    job_id = studio.api.post("/jobs", json=REQUEST).json()["id"]
    studio.wait_for(job_id)
    studio.stop()
    store = Store(data / "outputs" / "studio.db")
    ended = dataclasses.replace(store.get(job_id), state=JobState.CANCELLED, artifact=None)
    last = job_id
    for number in range(JOBS):
        last = new_id(after=last)
        request = ended.request.model_copy(update={"prompt": f"Video {number} of a red boat", "seed": number})
        assert store.import_job(dataclasses.replace(ended, id=last, request=request, position=number + 2.0))
    store.close()
    studio = LiveStudio(data)
    try:
        queries: dict[str, dict[str, Any]] = {
            "the newest 50": {"limit": 50},
            "a word searched": {"limit": 50, "search": "9876"},
            "far back": {"limit": 50, "offset": JOBS - 50},
        }

        def listed(wanted: dict[str, Any]) -> dict[str, float]:
            return timed(lambda _: studio.jobs(**wanted), 100)

        found = {what: listed(wanted) for what, wanted in queries.items()}
        assert [job["request"]["seed"] for job in studio.jobs(search="9876")] == [9876]
        return {"jobs": JOBS} | found
    finally:
        studio.stop()


class Tab:
    """A page in a browser, as the server sees it."""

    def __init__(self, stream: ClientConnection) -> None:
        self.stream = stream
        self.parts: dict[str, float] = {}  # of the page, that must run again, with their intervals in seconds
        self.polls_ms: list[float] = []

    async def run(self, fragment_id: str = "") -> None:
        """Have the page, or a part of it, run."""
        message = BackMsg()
        message.rerun_script.fragment_id = fragment_id
        message.rerun_script.is_auto_rerun = bool(fragment_id)
        await self.stream.send(message.SerializeToString())
        again: dict[str, float] = {}
        while True:
            reply = ForwardMsg.FromString(await self.stream.recv(decode=False))
            kind = reply.WhichOneof("type")
            if kind == "auto_rerun":
                again[reply.auto_rerun.fragment_id] = reply.auto_rerun.interval
            elif kind == "script_finished" and reply.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                if reply.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:  # the whole page: with new parts
                    self.parts = again
                return

    async def poll(self, until: Callable[[], bool], after: float) -> None:
        """Poll again and again; `after` (0 to 1) of the first pause, since nobody opens all pages at once."""
        await asyncio.sleep(after * min(self.parts.values()))
        while not until():
            await asyncio.sleep(min(self.parts.values()))
            began = time.perf_counter()
            for fragment_id in list(self.parts):
                if fragment_id in self.parts:
                    await self.run(fragment_id)
            self.polls_ms.append(1000 * (time.perf_counter() - began))


async def with_tabs(studio: LiveStudio, count: int) -> dict[str, float]:
    """A video, while so many pages look on: how long it takes, and how long a page waits for an answer."""
    address = studio.url.replace("http", "ws") + "/_stcore/stream"
    streams = [await connect(address, origin=Origin(studio.url), max_size=None) for _ in range(count)]
    tabs = [Tab(stream) for stream in streams]
    for tab in tabs:
        await tab.run()
    server = psutil.Process(studio.process.pid)
    process = max([server, *server.children(recursive=True)], key=lambda one: one.memory_info().rss)
    before = sum(process.cpu_times()[:2])
    job_id = (await asyncio.to_thread(studio.api.post, "/jobs", json=LONG_REQUEST)).json()["id"]
    ended = asyncio.create_task(asyncio.to_thread(studio.wait_for, job_id))
    await asyncio.gather(*(tab.poll(ended.done, number / count) for number, tab in enumerate(tabs)))
    job = await ended
    for stream in streams:
        await stream.close()
    polls = [ms for tab in tabs for ms in tab.polls_ms]
    found = {"video_s": job["finished_at"] - job["started_at"], "cpu_s": sum(process.cpu_times()[:2]) - before}
    if polls:
        found |= {
            "polls": len(polls),
            "median_ms": statistics.median(polls),
            "p95_ms": statistics.quantiles(polls, n=20)[-1],
        }
    return {name: round(value, 1) for name, value in found.items()}


def tabs(data: Path, counts: list[int]) -> dict[str, Any]:
    studio = LiveStudio(data)
    try:
        asyncio.run(with_tabs(studio, 1))  # warms up
        return {str(count): asyncio.run(with_tabs(studio, count)) for count in [0, *counts]}
    finally:
        studio.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tabs", type=int, nargs="*", default=[1, 25, 50])
    counts = parser.parse_args().tabs
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in (("submit", submits), ("lists", lists), ("tabs", lambda data: tabs(data, counts))):
            data = Path(folder) / name / "data"
            data.mkdir(parents=True)
            found[name] = measure(data)
            print(name, found[name], file=sys.stderr)
    record("server", found)


if __name__ == "__main__":
    main()
