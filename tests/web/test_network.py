"""T04: a studio on the network opens to its token alone, on every route."""

from __future__ import annotations

import contextlib
import errno
import os
import socket as net
import stat
import subprocess
import sys
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from backend.core.errors import StudioBusy, StudioError
from backend.web import run
from backend.web.guard import Guard
from backend.web.network import COOKIE, check_host, make_token, names_of_this_machine, read_token
from backend.web.run import bind_sockets
from tests.studio import ROOT, LiveStudio, free_port

TOKEN = "a-token-of-letters"
PATHS = ["/", "/docs", "/healthz", "/metrics", "/api/v1/jobs", "/app/static/media/x/video.mp4", "/_stcore/health"]


async def seen(request):
    return JSONResponse({"path": request.url.path, "origin": request.headers.get("origin")})


async def socket(websocket):
    await websocket.accept()
    await websocket.send_json({"host": websocket.headers["host"], "origin": websocket.headers.get("origin")})
    await websocket.close()


INNER = Starlette(
    routes=[
        WebSocketRoute("/_stcore/stream", socket),
        Mount("/", routes=[Route("/{path:path}", seen, methods=["GET", "POST", "DELETE"])]),
    ]
)


@pytest.fixture
def client():
    return TestClient(
        Guard(INNER, {"studio.local"}, TOKEN), base_url="http://studio.local:8501", follow_redirects=False
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer "},
        {"cookie": f"{COOKIE}=wrong"},
        {"cookie": f"{COOKIE}={TOKEN[:-1]}"},
        {"cookie": f"other={TOKEN}"},
        {"cookie": "\xff=;;,"},
    ],
)
def test_nothing_opens_without_the_token(client, path, method, headers):
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-security-policy"]
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {TOKEN}"}, {"cookie": f'a={{"x": 1}}; b c; {COOKIE}={TOKEN}'}]
)
def test_with_it_everything_does(client, headers):
    assert all(client.get(path, headers=headers).status_code == 200 for path in PATHS)
    assert client.post("/api/v1/jobs", headers=headers).status_code == 200
    with client.websocket_connect("ws://studio.local/_stcore/stream", headers=headers) as stream:
        assert stream.receive_json()["host"] == "localhost"


@pytest.mark.parametrize("headers", [{}, {"cookie": f"{COOKIE}=wrong"}])
@pytest.mark.parametrize("path", ["/_stcore/stream", f"/_stcore/stream?token={TOKEN}", "/api/v1/live"])
def test_a_web_socket_needs_the_cookie(client, headers, path):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"ws://studio.local{path}", headers=headers):
        pass


def test_the_address_that_was_printed_leaves_a_cookie_and_no_trace_of_the_token(client):
    answer = client.get(f"/gallery?token={TOKEN}&film=a%20b")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/gallery?film=a+b"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}={TOKEN}; Path=/")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.get("/gallery").json()["path"] == "/gallery"  # the cookie is kept


@pytest.mark.parametrize("path", ["//evil.example", "/%5C/evil.example", "///evil.example/x"])
def test_it_never_sends_to_another_host(client, path):
    answer = client.get(f"http://studio.local:8501{path}?token={TOKEN}")
    assert answer.status_code == 303
    location = answer.headers["location"]
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))


@pytest.mark.parametrize("query", ["token=", "token=wrong", "token", f"token={TOKEN}&token=wrong", "token=%ff"])
def test_a_wrong_token_in_the_address_opens_nothing(client, query):
    assert client.get(f"/?{query}").status_code == 401


def test_the_token_does_not_excuse_a_foreign_name_or_page(client):
    known = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/", headers=known | {"host": "evil.example"}).status_code == 403
    assert client.post("/api/v1/jobs", headers=known | {"origin": "http://evil.example"}).status_code == 403


def test_a_browser_is_told_in_a_page(client):
    answer = client.get("/", headers={"accept": "text/html,*/*"})
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/html")
    assert "asks for its token" in answer.text


def test_a_good_origin_is_handed_on_as_localhost():
    """Streamlit would look up this machine's address on the internet to compare it."""
    client = TestClient(Guard(INNER, {"studio.local"}), base_url="http://studio.local")
    answer = client.post("/x", headers={"origin": "http://studio.local"})
    assert answer.json()["origin"] == "http://localhost"
    with client.websocket_connect(
        "ws://studio.local/_stcore/stream", headers={"origin": "http://studio.local"}
    ) as stream:
        assert stream.receive_json() == {"host": "localhost", "origin": "http://localhost"}


def test_the_token_is_its_owners_alone(tmp_path):
    file = tmp_path / "token"
    assert read_token(file) is None
    token = make_token(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(token) >= 43
    assert read_token(file) == token
    assert make_token(file) != token


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_token_that_others_could_read_or_write_is_made_anew(tmp_path, mode):
    file = tmp_path / "token"
    make_token(file)
    file.chmod(mode)
    assert read_token(file) is None
    assert read_token(file) is None
    make_token(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "said",
    ["", "\n", "x", "a" * 42, "a" * 42 + "\n", "a" * 40 + "; x=y", "a" * 30 + " " + "a" * 30, "\xe9" * 43, "a" * 5000],
)
def test_a_token_that_is_not_as_they_are_made_is_none(tmp_path, said):
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(said, encoding="latin-1")
    assert read_token(file) is None


def test_a_token_of_another_user_is_none(tmp_path, monkeypatch):
    make_token(tmp_path / "token")
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert read_token(tmp_path / "token") is None


def test_a_link_in_the_tokens_place_is_not_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "token"
    link.symlink_to(target)
    token = make_token(target)
    assert read_token(link) is None
    assert make_token(link) != token
    assert read_token(target) == token


def test_a_pipe_in_the_tokens_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "token", 0o600)
    assert read_token(tmp_path / "token") is None
    assert make_token(tmp_path / "token") == read_token(tmp_path / "token")


@pytest.mark.parametrize("thing", ["token", "folder"])
def test_a_token_that_cannot_be_written_is_one_sentence(tmp_path, thing):
    file = tmp_path / "outputs" / "studio.token"
    if thing == "token":
        file.mkdir(parents=True)
    assert read_token(file) is None
    with pytest.raises(StudioError, match=r"outputs/studio.token, .* cannot be written \(.*\); remove what lies there"):
        make_token(file)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.com"])
def test_the_network_needs_lan(host):
    with pytest.raises(StudioError, match="add --lan"):
        check_host(host)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), net.create_server(("::1", 0), family=net.AF_INET6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
@pytest.mark.parametrize("flags", [(), ("--host", "::1")])
def test_the_studio_opens_at_the_ipv6_loopback(tmp_path, flags, monkeypatch):
    if flags:
        monkeypatch.setattr(LiveStudio, "answers", lambda studio: "The studio is open" in studio.log.read_text())
    studio = LiveStudio(tmp_path / "data", *flags)
    try:
        here = f"http://[::1]:{studio.port}"
        with httpx.Client(base_url=here, headers={"origin": here}) as client:
            assert client.get("/healthz").status_code == 200
            assert client.post("/api/v1/plan", json={"prompt": "x"}).status_code == 200
            handshake = {
                "connection": "Upgrade",
                "upgrade": "websocket",
                "sec-websocket-version": "13",
                "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
            }
            with client.stream("GET", "/_stcore/stream", headers=handshake) as answer:
                assert answer.status_code == 101
        command = [sys.executable, "-m", "backend.cli", "--data", str(studio.data), "jobs", "list"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
    finally:
        assert studio.stop() == 0


@needs_ipv6
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_that_another_program_has_at_the_ipv6_loopback_is_taken(settings, host):
    with net.create_server(("::1", 0), family=net.AF_INET6) as other:
        port = other.getsockname()[1]
        with pytest.raises(StudioBusy, match=f"Port {port} cannot be used"):
            bind_sockets(settings, host, port)


@pytest.mark.parametrize("missing", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_a_machine_without_ipv6_serves_at_127_0_0_1_alone(settings, monkeypatch, missing):
    bound = run._bound

    def without_ipv6(family, address):
        if family == net.AF_INET6:
            raise OSError(missing, os.strerror(missing))
        return bound(family, address)

    monkeypatch.setattr(run, "_bound", without_ipv6)
    (socket,) = bind_sockets(settings, "127.0.0.1", free_port())
    assert socket.getsockname()[0] == "127.0.0.1"
    socket.close()


def test_a_loopback_studio_listens_on_loopback_addresses_alone(settings):
    sockets = bind_sockets(settings, "127.0.0.1", free_port())
    assert {socket.getsockname()[0] for socket in sockets} <= {"127.0.0.1", "::1"}
    for socket in sockets:
        socket.close()


@pytest.fixture
def on_the_network(tmp_path):
    studio = LiveStudio(tmp_path / "data", "--lan")
    yield studio
    studio.stop()


def test_lan_prints_the_address_once_and_the_command_line_finds_its_way_in(on_the_network):
    studio = on_the_network
    said = studio.log.read_text()
    token = read_token(studio.data / "outputs" / "studio.token")
    assert said.count(f"/?token={token}") == 1
    assert httpx.get(f"{studio.url}/api/v1/jobs").status_code == 401
    address = next(name for name in names_of_this_machine() if name[0].isdigit() and name != "127.0.0.1")
    answer = httpx.get(f"http://{address}:{studio.port}/?token={token}", follow_redirects=False)
    assert answer.status_code == 303
    command = [sys.executable, "-m", "backend.cli", "--data", str(studio.data), "jobs", "list"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert studio.stop() == 0
    again = LiveStudio(studio.data, "--lan")
    deadline = time.monotonic() + 60
    while "For others on this network" not in again.log.read_text():
        assert time.monotonic() < deadline
    assert token not in again.log.read_text()
    assert again.stop() == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("studio.log", "The log outputs/studio.log cannot be written (Is a directory); remove what lies there"),
        ("studio.token", "outputs/studio.token, where the token is kept, cannot be written (Is a directory); remove"),
    ],
)
def test_a_folder_in_the_place_of_a_file_is_one_sentence_instead_of_a_start(tmp_path, name, words):
    (tmp_path / "outputs" / name).mkdir(parents=True)
    command = [sys.executable, "-m", "backend.cli", "--lan", "--no-browser", f"--port={free_port()}"]
    environ = os.environ | {"STUDIO_DATA": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_studio_whose_address_cannot_be_written_says_so_and_opens(tmp_path):
    (tmp_path / "data" / "outputs" / "studio.json").mkdir(parents=True)
    studio = LiveStudio(tmp_path / "data")
    try:
        deadline = time.monotonic() + 100
        while "The studio is open" not in studio.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        status = studio.stop()
    said = studio.log.read_text()
    assert "outputs/studio.json cannot be written (Is a directory): commands will not find this studio" in said
    assert "The studio is open" in said
    assert ("Traceback" in said, status) == (False, 0)
