"""The command line asks its own studio directly; only downloads go through a proxy."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from backend.core.config import Settings
from backend.doctor import studio_answers
from backend.library import fetch
from backend.web.client import RemoteStudio, key, running_studio
from backend.web.network import make_token

PROXY_VARIABLES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


class Recorder:
    """An HTTP server on this machine that answers every GET with `body` and keeps the headers that it was sent."""

    def __init__(self, body: dict[str, object]) -> None:
        self.seen: list[dict[str, str]] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                recorder.seen.append({name.lower(): value for name, value in self.headers.items()})
                answer = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def proxy(monkeypatch) -> Iterator[Recorder]:
    """A proxy that all variables name, and that no host is excepted from."""
    recorder = Recorder({"status": "the proxy"})
    for name in PROXY_VARIABLES:
        monkeypatch.setenv(name, recorder.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield recorder
    recorder.stop()


@pytest.fixture
def studio() -> Iterator[Recorder]:
    recorder = Recorder({"status": "ok", "jobs": []})
    yield recorder
    recorder.stop()


def test_the_token_goes_to_the_studio_and_never_to_a_proxy(tmp_path, proxy, studio):
    settings = Settings(data=tmp_path)
    settings.outputs.mkdir()
    token = make_token(settings.token)
    settings.address.write_text(json.dumps({"url": studio.url}))

    assert running_studio(settings) == studio.url
    assert RemoteStudio(studio.url, key(settings)).jobs([], 1) == []

    assert [headers["authorization"] for headers in studio.seen] == [f"Bearer {token}"] * 2
    assert proxy.seen == []


def test_the_doctor_asks_the_studio_directly(proxy, studio):
    other = Recorder({"status": "ok"})
    assert studio_answers(other.port)
    other.stop()
    assert proxy.seen == []


def test_downloads_go_through_the_proxy(proxy, monkeypatch):
    monkeypatch.setattr("huggingface_hub.set_client_factory", lambda factory: None)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://hub.example")
    answer = fetch.Hub({})._client().get("http://hub.example/api/models/x")
    assert answer.json() == {"status": "the proxy"}
    assert len(proxy.seen) == 1


def test_a_client_that_trusts_the_environment_would_reach_the_proxy(proxy, studio):
    """The recording itself works: with `trust_env` the same request arrives at the proxy."""
    httpx.get(f"{studio.url}/healthz", timeout=30)
    assert len(proxy.seen) == 1
    assert studio.seen == []
