"""P22: nothing is asked of another host, by the pages, by the server, by a render."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.studio import ROOT, LiveStudio

# Notes every address that the process asks for; a child of its own is started with the same.
WATCH = """
import os, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        with open(os.environ["ASKED"], "a") as file:
            file.write(f"{event} {host!r}\\n")
sys.addaudithook(note)
"""
LOOPBACK = ("127.0.0.1", "localhost", "::1", "/", "None", "0.0.0.0")


@pytest.fixture
def watched(tmp_path) -> dict[str, str]:
    """The environment of a Python that notes whom it asks."""
    folder = tmp_path / "watch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WATCH)
    return {"PYTHONPATH": f"{folder}:{ROOT}", "ASKED": str(tmp_path / "asked.txt")}


def others(watched: dict[str, str]) -> list[str]:
    asked = Path(watched["ASKED"])
    lines = asked.read_text().splitlines() if asked.exists() else []
    return [line for line in lines if not any(name in line for name in LOOPBACK)]


@pytest.mark.browser
def test_a_session_on_the_pages_asks_nobody_else(tmp_path, browser, watched):
    studio = LiveStudio(tmp_path / "data", **watched)
    try:
        tab = browser.new_page()
        seen: list[str] = []
        tab.on("request", lambda request: seen.append(request.url))
        for page in ("", "queue", "gallery", "system", "docs"):
            tab.goto(f"{studio.url}/{page}")
            tab.wait_for_load_state("networkidle")
        wish = {"prompt": "a boat", "resolution": "128x96", "num_frames": 16, "num_inference_steps": 10}
        assert studio.wait_for(studio.api.post("/jobs", json=wish).json()["id"])["state"] == "succeeded"
        tab.goto(studio.url)
        tab.locator('.stage video[src*="video.mp4"]').wait_for()
        own = (studio.url, studio.url.replace("http", "ws"), "data:", "blob:")
        assert [url for url in seen if not url.startswith(own)] == []
        tab.close()
    finally:
        studio.stop()
    assert others(watched) == []
    ask = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=0.1)"
    subprocess.run([sys.executable, "-c", ask], env=os.environ | watched, capture_output=True)
    assert others(watched)  # the watch works


def test_a_film_is_made_where_there_is_no_network_at_all(tmp_path):
    alone = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("a network namespace cannot be made here")
    flags = ["--resolution", "128x96", "--num-frames", "16", "--steps", "10", "--json"]
    command = [*alone, sys.executable, "-m", "backend.cli", "--data", str(tmp_path), "generate", "--prompt", "a boat"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *flags], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["state"] == "succeeded"
