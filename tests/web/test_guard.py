import pytest
from starlette.websockets import WebSocketDisconnect

from backend.web.guard import Guard, host_name

FOREIGN = "http://evil.example"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:8501", "localhost"),
        ("LOCALHOST", "localhost"),
        ("[::1]:8501", "[::1]"),
        ("[::1]", "[::1]"),
        ("", ""),
    ],
)
def test_the_name_in_a_host_header(host, name):
    assert host_name(host) == name


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/jobs", "/docs", "/healthz", "/_stcore/health", "/app/static/media/x/video.mp4"]
)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8501", "localhost.evil.example", "", "127.0.0.1.nip.io"]
)
def test_a_foreign_host_name_is_refused_everywhere(client, path, host):
    answer = client.get(path, headers={"host": host})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "forbidden"


@pytest.mark.parametrize("host", ["localhost:8501", "127.0.0.1:8501", "[::1]:8501"])
def test_the_own_names_are_let_in(client, host):
    assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": FOREIGN},
        {"origin": "null"},
        {"origin": "http://[::1"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/plan", "/api/v1/uploads", "/api/v1/queue/pause"])
def test_another_sites_page_cannot_send(client, generator, path, headers):
    answer = client.post(path, json={"prompt": "x"}, headers=headers)
    assert answer.status_code == 403
    assert generator.store.count() == 0
    assert not generator.store.queue_paused


def test_the_own_page_can_send(client):
    headers = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
    assert client.post("/api/v1/plan", json={"prompt": "x"}, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{"origin": FOREIGN}, {"host": "evil.example"}])
def test_streamlits_websocket_is_guarded_too(client, headers):
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/_stcore/stream", headers=headers):
        pass
    assert closed.value.code == 1008


@pytest.mark.parametrize("path", ["/", "/api/v1/models", "/docs", "/healthz", "/api/v1/nothing"])
def test_every_answer_carries_the_security_headers(client, path):
    headers = client.get(path).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_only_known_hosts_are_taken():
    gate = Guard(app=None, hosts=("films.home",))
    scope = {"type": "http", "method": "GET", "headers": [(b"host", b"films.home:8501")]}
    assert gate.refusal(scope) is None
    assert "localhost" in gate.refusal(scope | {"headers": [(b"host", b"localhost")]})
