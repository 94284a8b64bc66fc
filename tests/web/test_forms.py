"""The draft and the presets over REST; uploads that a draft names stay."""

import os
import time
from urllib.parse import quote

import pytest

from tests.jobs.test_forms import FORM
from tests.web.test_api import png

DAY = 24 * 3600


def test_a_draft_over_rest(client):
    assert client.get("/api/v1/draft").json() == {"form": None, "version": 0, "saved_at": None}
    kept = client.put("/api/v1/draft", json={"form": FORM})
    assert kept.status_code == 200
    assert kept.json() == client.get("/api/v1/draft").json()
    assert (kept.json()["form"], kept.json()["version"]) == (FORM, 1)
    assert client.put("/api/v1/draft", json={"form": None}).json()["form"] is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"form": []}',
        b'{"form": "x"}',
        b'{"form": {}, "version": 1}',
        b'{"form": {"x": NaN}}',
        b'{"form": {"x": 1e999}}',
        b'{"form": {"x": "\\ud800"}}',
        b'{"form": {"\\ud800": 1}}',
        b'{"form": ' + b'{"x": ' * 300 + b"1" + b"}" * 301,
        b'{"form": {"x": "' + b"a" * 2**18 + b'"}}',
    ],
)
def test_a_draft_that_is_no_form_is_422(client, body):
    for path in ("/api/v1/draft", "/api/v1/presets/x"):
        answer = client.put(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "invalid_request"
    assert client.get("/api/v1/draft").json()["version"] == 0
    assert client.get("/api/v1/presets").json() == {"presets": []}


@pytest.mark.parametrize("name", ["night", "24 fps / 16:9?", "100 %", "\u591c", "a//b", "a/"])
def test_presets_over_rest(client, name):
    path = f"/api/v1/presets/{quote(name, safe='')}"
    preset = {"name": name, "form": FORM, "is_default": True}
    assert client.put(path, json={"form": FORM, "is_default": True}).json() == preset
    assert client.get("/api/v1/presets").json() == {"presets": [preset]}
    assert client.put(path, json={"form": {}, "is_default": 1}).status_code == 422
    assert client.delete(path).json() == {"removed": name}
    assert client.delete(path).status_code == 404


def test_an_upload_that_the_draft_names_is_not_cleaned_up(client, generator, settings):
    kept, other = (client.post("/api/v1/uploads?filename=a.png", content=png()).json()["id"] for _ in range(2))
    client.put("/api/v1/draft", json={"form": {"image": kept}})
    long_ago = time.time() - 2 * DAY
    for upload_id in (kept, other):
        os.utime(settings.uploads / upload_id / "upload.json", (long_ago, long_ago))
    generator.tidying.tidy()
    assert client.get(f"/api/v1/uploads/{kept}").status_code == 200
    assert client.get(f"/api/v1/uploads/{other}").status_code == 404
    client.put("/api/v1/draft", json={"form": {}})
    generator.tidying.tidy()
    assert client.get(f"/api/v1/uploads/{kept}").status_code == 404
