"""T10: clients that say little, slowly or without end hold neither the studio nor its upload slots."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn

from backend.media.uploads import Uploads
from backend.web import guard, timeouts
from backend.web.api import uploads
from tests.studio import free_port
from tests.web.test_api import png

pytestmark = pytest.mark.alone

HEADERS_S, BODY_S, IDLE_S = 4.0, 8.0, 1.0


@pytest.fixture
def port(client, monkeypatch):
    """The web server on a real socket, as `run_server` opens it, with shorter timeouts."""
    monkeypatch.setattr(timeouts, "HEADERS_S", HEADERS_S)
    monkeypatch.setattr(uploads, "UPLOAD_IDLE_S", IDLE_S)
    monkeypatch.setattr(guard, "BODY_S", BODY_S)
    slots, client.app.state.upload_slots = client.app.state.upload_slots, asyncio.Semaphore(2)  # one a loop
    port = free_port()
    config = uvicorn.Config(
        client.app, http=timeouts.HeaderTimeoutProtocol, port=port, lifespan="off", log_level="error", ws_max_size=2**20
    )
    server = uvicorn.Server(config)
    serving = threading.Thread(target=server.run)
    serving.start()
    while not server.started:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    serving.join(20)
    client.app.state.upload_slots = slots


def connected(port: int, said: bytes) -> socket.socket:
    wire = socket.create_connection(("127.0.0.1", port), timeout=100)
    wire.sendall(said)
    return wire


def upload_head(port: int, content_type: str = "video/mp4") -> bytes:
    lines = (
        f"POST /api/v1/uploads?filename=a.mp4 HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {500 * 2**20}\r\n\r\n"
    )
    return lines.encode()


def healthy(port: int) -> float:
    """Seconds until the studio says that it is well."""
    began = time.monotonic()
    assert httpx.get(f"http://localhost:{port}/healthz", timeout=100).status_code == 200
    return time.monotonic() - began


def is_at_ease(port: int, held_s: float) -> bool:
    """Whether it says so in good time to one of three who ask together, while others hold it for `held_s`: were it held
    up by them, all three would wait.
    """
    with ThreadPoolExecutor(3) as pool:
        return min(pool.map(healthy, [port] * 3)) < held_s / 2


def test_headers_that_never_end_are_not_waited_for(port):
    wires = [connected(port, said) for said in (b"", b"GET / HTTP/1.1\r\nX: ") for _ in range(100)]
    began, at_ease = time.monotonic(), []
    while time.monotonic() < began + HEADERS_S - 0.5:
        for wire in wires[100:]:
            with contextlib.suppress(ConnectionError):
                wire.sendall(b"a")
        at_ease.append(is_at_ease(port, HEADERS_S))
        time.sleep(0.2)
    assert any(at_ease)
    closed = 0
    for wire in wires:
        wire.settimeout(HEADERS_S + 100)
        try:
            closed += wire.recv(100) == b""
        except ConnectionResetError:
            closed += 1
        wire.close()
    assert closed == 200


def test_a_body_that_does_not_come_is_not_waited_for(port):
    head = f"POST /api/v1/plan HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 30\r\n\r\n".encode()
    wires = [connected(port, head + b'{"prompt": ') for _ in range(50)]
    assert is_at_ease(port, BODY_S)
    for wire in wires:
        wire.settimeout(BODY_S + 100)
        answer = b"".join(iter(lambda wire=wire: wire.recv(10_000), b""))  # until it is closed
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"nosniff" in answer
        assert b"send it again" in answer
        wire.close()


def test_a_flood_of_connections_leaves_room_for_others(port, monkeypatch):
    monkeypatch.setattr(timeouts, "CONNECTIONS_OF_ONE", 20)
    wires = [connected(port, b"") for _ in range(60)]
    time.sleep(0.3)
    gone = 0
    for wire in wires:
        wire.settimeout(0.05)
        try:
            gone += wire.recv(10) == b""
        except ConnectionResetError:
            gone += 1
        except TimeoutError:
            pass
    assert gone == 40
    for wire in wires:
        wire.close()
    time.sleep(0.2)
    assert is_at_ease(port, HEADERS_S)


def test_who_asks_on_a_connection_too_many_is_told_to_try_again_later(port, monkeypatch):
    monkeypatch.setattr(timeouts, "CONNECTIONS_OF_ONE", 20)
    monkeypatch.setattr(timeouts, "SILENT_S", 100.0)
    silent = [connected(port, b"") for _ in range(20)]
    large = b"x" * 2**20  # of which the server reads nothing before it answers
    head = f"POST /api/v1/plan HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {len(large)}\r\n\r\n".encode()
    for wire in [connected(port, head + large) for _ in range(40)]:
        answer = b"".join(iter(lambda wire=wire: wire.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 5\r\n" in answer
        assert b"nosniff" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "busy"
        wire.close()
    for wire in silent:
        wire.close()
    assert httpx.Client(transport=httpx.HTTPTransport(retries=0)).get(f"http://localhost:{port}/healthz").is_success


def test_refused_clients_that_stay_are_left_after_a_while(port, monkeypatch):
    monkeypatch.setattr(timeouts, "CONNECTIONS_OF_ONE", 0)
    monkeypatch.setattr(timeouts, "LINGER_S", 0.5)
    wire = connected(port, b"GET / HTTP/1.1\r\n")
    assert wire.recv(12) == b"HTTP/1.1 503"
    with pytest.raises(ConnectionError):
        send_for_ever(wire)


def send_for_ever(wire) -> None:
    """Once the buffers of both ends are full, this goes on only where somebody reads."""
    while True:
        wire.sendall(b"x" * 2**20)


def test_more_refused_clients_than_it_answers_are_let_go_at_once(port, monkeypatch):
    monkeypatch.setattr(timeouts, "CONNECTIONS_OF_ONE", 0)
    monkeypatch.setattr(timeouts, "REFUSED", 0)
    wire = connected(port, b"")
    with contextlib.suppress(ConnectionResetError):
        assert wire.recv(100) == b""


def test_who_asks_again_in_time_keeps_the_connection(port):
    with httpx.Client(base_url=f"http://localhost:{port}") as client:
        until = time.monotonic() + 2 * HEADERS_S
        wires, late, last = set(), 0, time.monotonic()
        while time.monotonic() < until:
            answer = client.get("/healthz")
            wires.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
            late, last = late + (time.monotonic() - last > 0.8 * HEADERS_S), time.monotonic()
            time.sleep(HEADERS_S / 3)
    assert len(wires) <= 1 + late


@pytest.mark.parametrize("kind", ["silent", "dripping", "form"])
def test_uploads_that_come_too_slowly_give_their_slot_to_others(port, kind, generator):
    if kind == "form":
        head = upload_head(port, "multipart/form-data; boundary=x")
        head += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    else:
        head = upload_head(port)

    def hold(_: int) -> bytes:
        wire = connected(port, head + b"\0")
        wire.settimeout(0.1)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if answer := wire.recv(4096):
                    return answer
                return b"closed"
            except TimeoutError:
                if kind != "silent":
                    wire.sendall(b"\0")
        return b"held for a minute"

    with ThreadPoolExecutor(11) as pool:
        slow = [pool.submit(hold, number) for number in range(10)]
        time.sleep(0.3)
        began = time.monotonic()
        url = f"http://localhost:{port}/api/v1/uploads?filename=cat.png"
        answer = pool.submit(httpx.post, url, content=png(), timeout=60).result()
        took = time.monotonic() - began
        assert answer.status_code == 201, answer.text
        said = Counter(wire.result().partition(b"\r\n")[0] for wire in slow)
    assert list(said) == [b"HTTP/1.1 422 Unprocessable Entity"]
    assert took < 10 / 2 * IDLE_S + 5
    assert is_at_ease(port, HEADERS_S)
    assert [path.name for path in generator.settings.uploads.iterdir() if path.name[0] != "."] == [answer.json()["id"]]
    assert list((generator.settings.uploads / ".parts").iterdir()) == []


@pytest.mark.parametrize("form", [False, True])
def test_an_upload_without_end_is_refused_at_the_limit(port, form, generator, monkeypatch):
    monkeypatch.setattr(uploads, "FORM_BYTES", 1000)
    monkeypatch.setattr(generator, "settings", generator.settings.model_copy(update={"upload_limit_bytes": 100_000}))
    generator.uploads = Uploads(generator.settings)
    url = f"http://localhost:{port}/api/v1/uploads?filename=a.mp4"
    noise = b"\0" * 2_000_000
    sent = {"files": {"file": ("a.mp4", noise)}} if form else {"content": noise}
    answer = httpx.post(url, timeout=100, **sent)
    assert answer.status_code == 422
    assert "larger than" in answer.json()["error"]["message"]


HANDSHAKE = (
    b"GET /_stcore/stream HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize(
    ("said", "status", "body"),
    [(b"no HTTP at all\r\n\r\n", b"400", b"Invalid HTTP request received."), (HANDSHAKE, b"403", b"")],
)
def test_what_the_server_itself_refuses_has_no_content_of_the_studio(port, said, status, body):
    with connected(port, said) as wire:
        head, _, rest = b"".join(iter(lambda: wire.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == status
    assert rest == body
