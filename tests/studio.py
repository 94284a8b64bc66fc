"""The real thing, for tests: the studio in a process of its own, and a Chromium to put in front of it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSER_TIMEOUT_MS = 60_000  # for what a page must show; a busy machine takes long


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class LiveStudio:
    """`python -m backend.cli`, or another `command`, on a free port and a data folder of its own."""

    command: tuple[str, ...] = (sys.executable, "-m", "backend.cli")

    def __init__(self, data: Path, *flags: str, port: int | None = None, **further: str) -> None:
        self.port = port or free_port()
        self.url = f"http://localhost:{self.port}"
        self.data = data
        self.log = data.parent / "studio.log"
        environ = os.environ | {"PYTHONPATH": str(ROOT), "STUDIO_DATA": str(data)} | further
        command = [*self.command, "--port", str(self.port), "--no-browser", *flags]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=data.parent, env=environ, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        # A connection for each request: one that waits may be closed by the studio just when the next one is sent.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.api = httpx.Client(base_url=f"{self.url}/api/v1", timeout=100, limits=limits)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthz", timeout=2).status_code in (200, 401)
        return False

    def memory_mib(self) -> float:
        (studio,) = psutil.Process(self.process.pid).children()
        return studio.memory_info().rss / 2**20

    def jobs(self, **wanted: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.get("/jobs", params=wanted).json()["jobs"]
        return found

    def wait_for_new(self, known: list[dict[str, Any]]) -> dict[str, Any]:
        """The job that comes after those `known`. A press is asked about here, for the page's note of it goes away."""
        ids = {job["id"] for job in known}
        deadline = time.monotonic() + 100
        while not (new := [job for job in self.jobs(limit=500) if job["id"] not in ids]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        [job] = new
        return job

    def wait_for_draft(self, prompt: str) -> dict[str, Any]:
        """The form that the studio keeps, once it has this prompt."""
        deadline = time.monotonic() + 100
        while ((form := self.api.get("/draft").json()["form"]) or {}).get("prompt") != prompt:
            assert time.monotonic() < deadline, form
            time.sleep(0.1)
        return dict(form)

    def wait_for(self, job_id: str, timeout_s: float = 200) -> dict[str, Any]:
        job: dict[str, Any]
        deadline = time.monotonic() + timeout_s
        while (job := self.api.get(f"/jobs/{job_id}").json())["state"] in ("queued", "running", "paused"):
            assert time.monotonic() < deadline, job
            time.sleep(0.1)
        return job

    def upload(self, file: Path) -> dict[str, Any]:
        answer = self.api.post("/uploads", params={"filename": file.name}, content=file.read_bytes())
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()


def chromium() -> str | None:
    """The path of a Chromium: $CHROMIUM, the system's, or the one that Playwright fetched."""
    for name in (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"):
        if name and (path := shutil.which(name)):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None
