"""The studio under a path of a reverse proxy, which removes the path or leaves it there; the ASGI application alone."""

from __future__ import annotations

import json
import re

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from backend.core.config import OWN_PATHS, Settings
from backend.core.errors import InvalidRequest
from backend.web.base_path import BasePath
from backend.web.guard import Guard, route_path
from backend.web.network import COOKIE
from tests.conftest import HERE, SMALL
from tests.web.test_api import png

EITHER = pytest.mark.parametrize("prefix", ["/studio", ""], ids=["left there", "removed"])


@pytest.fixture
def proxied(client):
    """`client`, whose studio has the base path /studio."""
    return TestClient(BasePath(client.app, "/studio"), base_url=HERE, follow_redirects=False)


@EITHER
@pytest.mark.parametrize(
    "path", ["/", "/gallery", "/docs", "/openapi.json", "/healthz", "/metrics", "/_stcore/health", "/api/v1/jobs"]
)
def test_pages_routes_and_docs_are_there(proxied, prefix, path):
    here, there = proxied.get(f"{prefix}{path}"), proxied.get(path)
    assert here.status_code == 200
    assert here.headers["content-type"] == there.headers["content-type"]


@EITHER
def test_what_the_page_loads_is_there(proxied, prefix):
    """By the addresses in its HTML, as a browser resolves them: relative ones, so that no prefix is lost."""
    names = re.findall(r'(?:src|href)="([^"]+\.(?:js|css|png))"', proxied.get(f"{prefix}/").text)
    assert names
    for name in names:
        assert name.startswith("./")
        assert proxied.get(f"{prefix}/{name[2:]}").headers["content-type"].startswith(("text/", "image/", "applica"))


@EITHER
def test_the_docs_page_names_addresses_with_the_path(proxied, prefix):
    names = re.findall(r"""["'](/[^"']+\.(?:js|css|json))["']""", proxied.get(f"{prefix}/docs").text)
    assert len(names) == 3
    for name in names:
        assert name.startswith("/studio/")
        assert proxied.get(name).status_code == 200
        assert proxied.get(name.removeprefix("/studio")).status_code == 200
    assert proxied.get(f"{prefix}/openapi.json").json()["servers"][0] == {"url": "/studio"}


@EITHER
def test_a_job_an_upload_its_media_ranges_and_downloads(proxied, generator, prefix):
    sent = proxied.post(f"{prefix}/api/v1/uploads?filename=a.png", content=png())
    assert sent.status_code == 201
    preview = f"/app/static/uploads/{sent.json()['id']}/preview.jpg?width=64&height=64"
    assert proxied.get(f"{prefix}{preview}").headers["content-type"] == "image/jpeg"
    job_id = proxied.post(f"{prefix}/api/v1/jobs", json=SMALL).json()["id"]
    generator.wait(job_id, timeout=100)
    video = generator.results.file(job_id).read_bytes()
    assert proxied.get(f"{prefix}/app/static/media/{job_id}/video.mp4").content == video
    part = proxied.get(f"{prefix}/app/static/media/{job_id}/video.mp4", headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, video[100:200])
    saved = proxied.get(f"{prefix}/api/v1/jobs/{job_id}/video?download=true")
    assert saved.headers["content-disposition"].startswith("attachment")
    assert saved.content == video


@pytest.mark.parametrize("query", ["", "?token=x&a=b"])
def test_the_path_alone_is_redirected_to_the_path_with_a_slash(proxied, query):
    answer = proxied.get(f"/studio{query}")
    assert (answer.status_code, answer.headers["location"]) == (308, f"/studio/{query}")
    assert answer.headers["content-security-policy"]


@EITHER
def test_redirects_stay_under_the_path(proxied, prefix):
    assert proxied.get(f"{prefix}/gallery/?search=x").headers["location"] == "/studio/gallery?search=x"


@EITHER
def test_what_is_not_there_is_told_as_ever(proxied, prefix):
    assert proxied.get(f"{prefix}/api/v1/nothing").status_code == 404
    assert proxied.put(f"{prefix}/api/v1/jobs").status_code == 405
    large = proxied.post(f"{prefix}/api/v1/plan", content=b"x" * (2**20 + 1))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")


ATTACKS = [
    {"host": "evil.example"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost.evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"x-forwarded-host": "localhost", "host": "evil.example"},
]


@EITHER
@pytest.mark.parametrize("headers", ATTACKS)
def test_other_sites_are_refused_as_ever(proxied, generator, prefix, headers):
    for path in ("/api/v1/jobs", "/api/v1/uploads", "/api/v1/queue/pause"):
        assert proxied.post(f"{prefix}{path}", json=SMALL, headers=headers).status_code == 403
    assert generator.store.count() == 0
    with (
        pytest.raises(WebSocketDisconnect),
        proxied.websocket_connect(f"ws://localhost{prefix}/_stcore/stream", headers=headers),
    ):
        pass


@EITHER
def test_streamlits_upload_route_stays_closed(proxied, prefix):
    assert proxied.put(f"{prefix}/_stcore/upload_file/session/file", files={"file": b"x"}).status_code == 403


@EITHER
def test_a_web_socket_finds_its_route(prefix):
    async def stream(websocket):
        await websocket.accept()
        await websocket.send_text(websocket.scope["path"])
        await websocket.close()

    inner = Starlette(routes=[Mount("/", routes=[WebSocketRoute("/_stcore/stream", stream)])])
    client = TestClient(BasePath(Guard(inner), "/studio"), base_url=HERE)
    with client.websocket_connect(f"ws://localhost{prefix}/_stcore/stream", headers={"origin": HERE}) as socket:
        assert socket.receive_text() == "/studio/_stcore/stream"


@EITHER
def test_open_pages_are_told_what_changes(proxied, prefix):
    with proxied.websocket_connect(f"ws://localhost{prefix}/api/v1/live", headers={"origin": HERE}) as socket:
        assert socket.receive_json()["order"] == []


async def seen(scope, receive, send):
    body = json.dumps({name: scope[name] for name in ("path", "root_path")} | {"route": route_path(scope)}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize(
    ("path", "full"),
    [
        ("/", "/a/b/"),
        ("/a", "/a/b/a"),
        ("/a/b/", "/a/b/"),
        ("/a/bc", "/a/b/a/bc"),
        ("/a/b/a/b/c", "/a/b/a/b/c"),
        ("/docs", "/a/b/docs"),
    ],
)
def test_an_address_has_the_path_once(path, full):
    client = TestClient(BasePath(seen, "/a/b"))
    assert client.get(path).json() == {"path": full, "root_path": "/a/b", "route": full.removeprefix("/a/b")}


@EITHER
def test_the_token_leaves_a_cookie_for_the_path_alone(prefix):
    client = TestClient(BasePath(Guard(seen, {"testserver"}, "secret"), "/studio"), follow_redirects=False)
    answer = client.get(f"{prefix}/gallery?token=secret")
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/gallery")
    assert answer.headers["set-cookie"].startswith(f"{COOKIE}=secret; Path=/studio/; ")
    assert "Secure" not in answer.headers["set-cookie"]


def test_the_cookie_of_an_encrypted_page_is_sent_encrypted_alone():
    client = TestClient(Guard(seen, {"testserver"}, "secret"), base_url="https://testserver", follow_redirects=False)
    assert client.get("/?token=secret").headers["set-cookie"].endswith("; Secure")


@pytest.mark.parametrize(
    ("given", "path"), [("/studio", "/studio"), ("/studio/", "/studio"), ("/a/b-c", "/a/b-c"), ("/", ""), ("", "")]
)
def test_base_paths_that_fit(given, path):
    assert Settings(base_path=given).base_path == path


@pytest.mark.parametrize(
    "given",
    ["studio", "//studio", "/a//b", "/a b", "/a?b", "/a#b", "/..", "/a/../b", "/%61", "/\u00e9", "/a;b", "http://x/y"]
    + [f"/{name}" for name in ("api", "docs", "static", "gallery", "_stcore", "app/static")],
)
def test_base_paths_that_do_not_fit_are_one_sentence(monkeypatch, given):
    monkeypatch.setenv("STUDIO_BASE_PATH", given)
    with pytest.raises(InvalidRequest, match="does not fit; use a path such as /studio"):
        Settings.from_env()


def test_no_base_path_hides_a_route_of_ours(shared_client):
    """Pages are named in app.py; Streamlit's own routes are in OWN_PATHS by hand."""
    paths = {route.path for route in shared_client.app.routes if getattr(route, "path", "")}
    paths |= set(shared_client.get("/openapi.json").json()["paths"])
    assert {path.strip("/").partition("/")[0] for path in paths} - {""} <= set(OWN_PATHS)
