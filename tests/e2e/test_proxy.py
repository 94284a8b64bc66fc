"""The studio behind a real nginx, under a path that nginx removes or leaves there; a person with a real Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import wait_for_page
from tests.e2e.test_browser import plays, press, set_length, stage_video, write_prompt
from tests.studio import BROWSER_TIMEOUT_MS, ROOT, LiveStudio, free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx here (Debian: apt install nginx-light)")

LARGE = 300 * 2**20  # bytes
# The example of the documentation, of which the ports are ours.
LOCATION = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "usage.md").read_text(), re.DOTALL)[1]
CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; {location} }}
}}
"""


class Proxy:
    """An nginx in front of a studio; `scheme` is what it says of the connection of the browser."""

    def __init__(self, folder: Path, studio: LiveStudio, *, removes_path: bool, scheme: str = "$scheme") -> None:
        folder.mkdir()
        self.port = free_port()
        self.url = f"http://localhost:{self.port}/studio"
        studio_url = f"http://127.0.0.1:{studio.port}{'/' if removes_path else ''}"
        location = LOCATION.replace("http://127.0.0.1:8501;", f"{studio_url};").replace("$scheme", scheme)
        assert studio_url in location
        file = folder / "nginx.conf"
        file.write_text(CONFIGURATION.format(folder=folder, port=self.port, location=location))
        assert NGINX
        self.process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(file)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (folder / "pid").is_file() or not (folder / "pid").read_text().strip():
            assert self.process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def behind(tmp_path_factory) -> Iterator[LiveStudio]:
    studio = LiveStudio(tmp_path_factory.mktemp("behind") / "data", "--base-path", "/studio")
    yield studio
    studio.stop()


@pytest.fixture(scope="module", params=[False, True], ids=["left there", "removed"])
def proxy(request, behind, tmp_path_factory) -> Iterator[Proxy]:
    proxy = Proxy(tmp_path_factory.mktemp("nginx") / "nginx", behind, removes_path=request.param)
    yield proxy
    proxy.stop()


@pytest.mark.browser
def test_a_person_makes_watches_and_saves_a_video(browser, behind, proxy, tmp_path, photo):
    """The page needs its WebSocket, its scripts and a range of the video; nothing is asked of an address beside."""
    context = browser.new_context(viewport={"width": 1440, "height": 960})
    tab = context.new_page()
    tab.set_default_timeout(BROWSER_TIMEOUT_MS)
    beside: list[str] = []  # and what was not there, but for the addresses at which Streamlit tries to find its server
    own = (f"{proxy.url}/", proxy.url.replace("http", "ws") + "/", "data:", "blob:")
    tried = re.compile(r"/studio/\w+/_stcore/")
    tab.on("response", lambda it: beside.append(it.url) if it.status >= 400 and not tried.search(it.url) else None)
    tab.on("request", lambda request: None if request.url.startswith(own) else beside.append(request.url))
    try:
        tab.goto(f"{proxy.url}/")
        wait_for_page(tab)
        behind.api.put("/draft", json={"form": None})
        tab.locator('input[aria-label="First frame"]').set_input_files(photo)
        picture = tab.locator('img[src*="/app/static/uploads/"]').first
        picture.wait_for()
        tab.wait_for_function("i => i.complete && i.naturalWidth > 0", arg=picture.element_handle())
        write_prompt(tab, "snow begins to fall")
        set_length(tab, 40)
        before = behind.jobs()
        press(tab.get_by_role("button", name=re.compile("^Generate")))
        job = behind.wait_for_new(before)
        assert plays(stage_video(tab, job["id"]))
        assert behind.wait_for(job["id"])["state"] == "succeeded"
        tab.goto(f"{proxy.url}/gallery")
        tab.get_by_role("gridcell", name="snow begins").first.click()
        viewer = tab.get_by_role("dialog", name="snow begins")
        assert plays(viewer.locator("video"))
        with tab.expect_download() as download:
            press(viewer.get_by_role("link", name="Download"))
        assert download.value.path().read_bytes() == behind.api.get(f"/jobs/{job['id']}/video").content
        tab.reload()
        wait_for_page(tab)
        tab.goto(f"{proxy.url}/docs")
        expect(tab.get_by_text("/api/v1/jobs", exact=True).first).to_be_visible()
    finally:
        context.close()
    assert beside == []


def test_a_large_upload_ranges_and_redirects_pass(behind, proxy, clip):
    """The clip with a box of free space behind it, which every player skips (ISO/IEC 14496-12, 8.1.2)."""
    film = clip.read_bytes()
    free = LARGE - len(film)

    def pieces() -> Iterator[bytes]:
        yield film + free.to_bytes(4, "big") + b"free"
        for sent in range(8, free, 2**20):
            yield bytes(min(2**20, free - sent))

    with httpx.Client(base_url=proxy.url, timeout=300) as client:
        length = {"content-length": str(LARGE)}
        answer = client.post("/api/v1/uploads", params={"filename": "a.mp4"}, content=pieces(), headers=length)
        assert (answer.status_code, answer.json().get("bytes")) == (201, LARGE), answer.text
        job = client.post("/api/v1/jobs", json={"prompt": "x", "num_frames": 16, "resolution": "128x96"}).json()
        behind.wait_for(job["id"])
        whole = client.get(f"/app/static/media/{job['id']}/video.mp4")
        ranges = [
            client.get(f"/api/v1/jobs/{job['id']}/video", headers={"range": f"bytes={n}-{n + 999}"}) for n in (0, 1000)
        ]
        assert [part.status_code for part in ranges] == [206, 206]
        assert b"".join(part.content for part in ranges) == whole.content[:2000]
        assert client.get("/gallery/").headers.get("location") == "/studio/gallery"
        at_port = httpx.get(proxy.url, follow_redirects=True)
        assert (str(at_port.url), at_port.status_code) == (f"{proxy.url}/", 200)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example", "x-forwarded-host": "localhost"},
    ],
)
def test_other_sites_are_refused_behind_the_proxy_too(behind, proxy, headers):
    before = len(behind.jobs())
    answer = httpx.post(f"{proxy.url}/api/v1/jobs", json={"prompt": "x"}, headers=headers)
    assert answer.status_code == 403
    assert len(behind.jobs()) == before


@pytest.mark.parametrize("trusted", [True, False])
def test_only_a_named_proxy_says_that_the_connection_is_encrypted(tmp_path, trusted):
    """It says so in both cases; the cookie of the token is Secure where it is believed."""
    flags = ("--trusted-proxy", "127.0.0.1") if trusted else ()
    studio = LiveStudio(tmp_path / "data", "--lan", "--base-path", "/studio", *flags)
    proxy = Proxy(tmp_path / "nginx", studio, removes_path=True, scheme="https")
    try:
        token = (studio.data / "outputs" / "studio.token").read_text().strip()
        answer = httpx.get(f"{proxy.url}/?token={token}")
        assert answer.status_code == 303
        assert answer.headers["set-cookie"].endswith("; Secure") is trusted
    finally:
        proxy.stop()
        studio.stop()


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_further_host_name_opens_the_studio(tmp_path, by):
    flags = ("--allow-host", "studio.example", "--allow-host", "films.example") if by == "flag" else ()
    variable = {} if flags else {"STUDIO_ALLOWED_HOSTS": "studio.example, Films.example"}
    studio = LiveStudio(tmp_path / "data", *flags, **variable)
    try:
        status = {
            name: httpx.get(f"{studio.url}/healthz", headers={"host": name}).status_code
            for name in ("studio.example", "films.example:8443", "localhost", "evil.example", "x.films.example")
        }
        refused = httpx.get(f"{studio.url}/healthz", headers={"host": "evil.example"}).json()["error"]["message"]
    finally:
        studio.stop()
    assert list(status.values()) == [200, 200, 200, 403, 403]
    assert "--allow-host NAME (STUDIO_ALLOWED_HOSTS)" in refused
