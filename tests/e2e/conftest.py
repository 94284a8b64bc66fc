"""The real thing: the studio in a process of its own, a real Chromium in front of it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LiveStudio:
    """`python -m backend.cli` on a free port and a data folder of its own, with further flags and variables."""

    def __init__(self, data: Path, *flags: str, **further: str) -> None:
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self.data = data
        self.log = data.parent / "studio.log"
        environ = os.environ | {"PYTHONPATH": str(ROOT), "STUDIO_DATA": str(data)} | further
        command = [sys.executable, "-m", "backend.cli", "--port", str(self.port), "--no-browser", *flags]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=data.parent, env=environ, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        self.api = httpx.Client(base_url=f"{self.url}/api/v1", timeout=30)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthz", timeout=2).status_code in (200, 401)
        return False

    def memory_mib(self) -> float:
        (studio,) = psutil.Process(self.process.pid).children()
        return studio.memory_info().rss / 2**20

    def jobs(self, **wanted) -> list[dict]:
        return self.api.get("/jobs", params=wanted).json()["jobs"]

    def wait_for(self, job_id: str, timeout_s: float = 100) -> dict:
        deadline = time.monotonic() + timeout_s
        while (job := self.api.get(f"/jobs/{job_id}").json())["state"] in ("queued", "running", "paused"):
            assert time.monotonic() < deadline, job
            time.sleep(0.1)
        return job

    def upload(self, file: Path) -> dict:
        answer = self.api.post("/uploads", params={"filename": file.name}, content=file.read_bytes())
        assert answer.status_code == 201, answer.text
        return answer.json()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=20)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> Iterator[LiveStudio]:
    studio = LiveStudio(tmp_path_factory.mktemp("live") / "data")
    yield studio
    studio.stop()


def chromium() -> str | None:
    """The path of a Chromium: $CHROMIUM, the system's, or the one that Playwright fetched."""
    for name in (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"):
        if name and (path := shutil.which(name)):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


@pytest.fixture(scope="session")
def browser():
    path = chromium()
    if path is None:
        pytest.skip("no Chromium here; `python3 test_system.py --suite` says how to get one")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_tab(browser, live):
    """Open a page of the studio in a fresh session; at the end, nothing must have been asked of another host."""
    outside: list[str] = []
    contexts = []

    def open_tab(path: str = "", *, width: int = 1440, height: int = 960, theme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        own = (live.url, live.url.replace("http", "ws"), "data:", "blob:")
        tab.on("request", lambda request: None if request.url.startswith(own) else outside.append(request.url))
        tab.goto(f"{live.url}/{path}")
        tab.wait_for_selector(".st-key-band")
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    live.api.post("/queue/resume")  # a test that failed half-way must not hold up the next
    assert outside == []
