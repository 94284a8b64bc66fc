import pytest
from starlette.websockets import WebSocketDisconnect

from backend.web.guard import LOOPBACK_HOSTS, Guard, host_name

FOREIGN = "http://evil.example"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:8501", "localhost"),
        ("LOCALHOST", "localhost"),
        ("[::1]:8501", "[::1]"),
        ("[::1]", "[::1]"),
        ("localhost.", "localhost."),
        ("", ""),
        ("localhost:", ""),
        ("localhost:80:80", ""),
        ("localhost:123456", ""),
        ("localhost:\xb2", ""),
        ("user@localhost:8501", ""),
        ("evil.example@localhost", ""),
        ("localhost/:8501", ""),
        (" localhost", ""),
        ("localhost evil", ""),
        ("localhost\t", ""),
        ("::1", ""),
        ("[::1", ""),
        ("[::1]x", ""),
    ],
)
def test_the_name_in_a_host_header(host, name):
    assert host_name(host) == name


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/jobs", "/docs", "/healthz", "/_stcore/health", "/app/static/media/x/video.mp4"]
)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8501",
        "localhost.evil.example",
        "",
        "127.0.0.1.nip.io",
        "evil.example@localhost",
        "localhost@evil.example",
        "localhost:80:80",
        "localhost.",
        "localhost evil.example",
        "localhost,evil.example",
        "0x7f.1",
    ],
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
        {"origin": "ftp://localhost"},
        {"origin": "file://localhost"},
        {"origin": "chrome-extension://localhost"},
        {"origin": "HTTP://localhost"},
        {"origin": "NULL"},
        {"origin": "localhost"},
        {"origin": "//localhost"},
        {"origin": "http://user@localhost"},
        {"origin": "http://localhost/"},
        {"origin": "http://localhost http://localhost"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "Cross-Site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/plan", "/api/v1/uploads", "/api/v1/queue/pause"])
def test_another_sites_page_cannot_send(client, generator, path, headers):
    answer = client.post(path, json={"prompt": "x"}, headers=headers)
    assert answer.status_code == 403
    assert generator.store.count() == 0
    assert not generator.store.queue_paused


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site"])
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/metrics", "/healthz"])
def test_another_sites_page_shows_nothing_of_ours_and_may_link_here(client, path, site):
    for mode in ("no-cors", "cors", ""):
        assert client.get(path, headers={"sec-fetch-site": site, "sec-fetch-mode": mode}).status_code == 403
    assert client.get(path, headers={"sec-fetch-site": site, "sec-fetch-mode": "navigate"}).status_code == 200


def test_the_own_page_can_send(client):
    headers = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
    assert client.post("/api/v1/plan", json={"prompt": "x"}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": FOREIGN},
        {"origin": "ftp://localhost"},
        {"origin": "null"},
        {"host": "evil.example"},
        {"host": "localhost:80:80"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_streamlits_websocket_is_guarded_too(client, headers):
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/_stcore/stream", headers=headers):
        pass
    assert closed.value.code == 1008


def scope(*headers, path="/api/v1/plan", **more):
    return {"type": "http", "method": "POST", "path": path, "headers": list(headers), **more}


LOCAL = (b"host", b"localhost:8501")


@pytest.mark.parametrize(
    "twice",
    [
        [(b"host", b"evil.example"), LOCAL],
        [LOCAL, LOCAL],
        [(b"Host", b"evil.example"), LOCAL],
        [LOCAL, (b"origin", b"http://evil.example"), (b"origin", b"http://localhost:8501")],
        [LOCAL, (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-site", b"same-origin")],
    ],
)
@pytest.mark.parametrize("kind", [{}, {"method": "GET"}, {"type": "websocket"}])
def test_a_request_with_two_of_a_header_is_refused(twice, kind):
    assert "send one" in Guard(app=None).refusal(scope(*twice, **kind))
    assert "send one" in Guard(app=None).refusal(scope(*twice[::-1], **kind))


def test_two_host_headers_are_refused_on_the_way_in(client):
    answer = client.get("/healthz", headers=[("host", "localhost"), ("host", "evil.example")])
    assert answer.status_code == 403
    assert "send one" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8501", "http://localhost:8501"),
        ("LocalHost:8501", "http://localhost:8501"),
        ("127.0.0.1:8501", "http://127.0.0.1:8501"),
        ("[::1]:8501", "http://[::1]:8501"),
        ("studio.local:8501", "http://studio.local:8501"),
        ("films.home", "https://films.home"),
        ("FILMS.home", "https://films.home"),
        ("films.home:8443", "https://films.home:8443"),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_browsers_get_in_by_every_known_name_and_behind_a_proxy(host, origin, kind):
    gate = Guard(app=None, hosts=(*LOOPBACK_HOSTS, "studio.local", "Films.Home"))
    headers = [(b"host", host.encode()), (b"origin", origin.encode()), (b"sec-fetch-site", b"same-origin")]
    assert gate.refusal(scope(*headers, type=kind)) is None


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/_stcore/upload_file/session/file",
        "/_stcore/upload_file/session/file/",
        "/_stcore/upload_file",
        "//_stcore//upload_file/session/file",
        "/gallery/_stcore/upload_file/session/file",
        "/_stcore/%75pload%5Ffile/session/file",
        "/_STCORE/UPLOAD_FILE/session/file",
        "/x/../_stcore/upload_file/session/file",
    ],
)
def test_streamlits_own_upload_route_is_closed(client, method, path):
    answer = client.request(method, f"http://localhost{path}", files={"file": b"x"} if method == "PUT" else None)
    assert answer.status_code == 403
    assert "/api/v1/uploads" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/api/v1/models", "/docs", "/healthz", "/api/v1/nothing"])
def test_every_answer_carries_the_security_headers(client, path):
    headers = client.get(path).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_only_known_hosts_are_taken():
    gate = Guard(app=None, hosts=("films.home",))
    assert gate.refusal(scope((b"host", b"films.home:8501"))) is None
    assert "localhost" in gate.refusal(scope((b"host", b"localhost")))
