"""Cards, marks, collections, and prompts over REST."""

import json
from urllib.parse import quote

import pytest

from tests.web.test_api import finished, submit

CARD = """id title width height seconds fps frames favourite draft model model_title mode parent batch finished_at bytes
seed collections rating approved"""


def test_the_cards_are_those_of_the_finished_videos(client, generator):
    first, second = (finished(client, generator, seed=seed) for seed in (1, 2))
    generator.pause_queue(True)
    submit(client, seed=3)
    answer = client.get("/api/v1/videos", params={"limit": 1}).json()
    assert set(answer) == {"videos", "total", "next"}
    [card] = answer["videos"]
    assert set(card) == set(CARD.split())
    assert (card["id"], answer["total"]) == (second["id"], 2)
    expected = {name: second["artifact"][name] for name in ("width", "height", "frames", "fps", "bytes")}
    assert {name: card[name] for name in expected} == expected
    assert (card["title"], card["seed"], card["model"]) == (second["title"], 2, second["plan"]["model"])
    following = client.get("/api/v1/videos", params={"limit": 1, "cursor": answer["next"]}).json()
    assert [card["id"] for card in following["videos"]] == [first["id"]]
    assert following["next"] is None
    client.delete(f"/api/v1/jobs/{first['id']}")
    assert [card["id"] for card in client.get("/api/v1/videos").json()["videos"]] == [second["id"]]
    assert [card["id"] for card in client.get("/api/v1/videos?trashed=true").json()["videos"]] == [first["id"]]


@pytest.mark.parametrize(
    "query",
    ["sort=oldest", "shape=landscape", "search=boat", "mode=text_to_video", "approved=false", "since=0", "limit=1000"],
)
def test_filters_that_match(client, generator, query):
    finished(client, generator)
    assert client.get(f"/api/v1/videos?{query}").json()["total"] == 1


@pytest.mark.parametrize(
    "query",
    [
        "sort=best",
        "shape=round",
        "mode=dance",
        "limit=0",
        "limit=1001",
        "cursor=x",
        "since=-1",
        "until=nan",
        "since=1e99",
    ],
)
def test_a_filter_that_does_not_fit_is_422(client, query):
    answer = client.get(f"/api/v1/videos?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


def test_marks_over_rest(client, generator):
    job_id = finished(client, generator)["id"]
    marks = {"favourite": True, "rating": 4, "note": "calm\nsea", "approved": True, "collections": ["sea"]}
    job = client.patch(f"/api/v1/jobs/{job_id}", json=marks).json()
    assert {name: job[name] for name in marks} == marks
    assert client.patch(f"/api/v1/jobs/{job_id}", json={"rating": None}).json()["rating"] is None
    job = client.get(f"/api/v1/jobs/{job_id}").json()
    assert {name: job[name] for name in marks} == marks | {"rating": None}
    assert client.get("/api/v1/videos?collection=sea&approved=true").json()["videos"][0]["id"] == job_id
    assert client.patch("/api/v1/jobs/nope", json={"rating": 1}).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"rating": 0},
        {"rating": 6},
        {"rating": "5"},
        {"rating": True},
        {"rating": 2.5},
        {"favourite": None},
        {"favourite": 1},
        {"approved": "yes"},
        {"note": "a" * 2001},
        {"note": "\ud800"},
        {"collections": "sea"},
        {"collections": [""]},
        {"collections": ["\ud800"]},
        {"mood": 1},
        [],
    ],
)
def test_marks_that_do_not_fit_are_422_and_change_nothing(client, generator, body):
    generator.pause_queue(True)
    job = submit(client)
    content = json.dumps(body).encode()
    answer = client.patch(f"/api/v1/jobs/{job['id']}", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert client.get(f"/api/v1/jobs/{job['id']}").json() == job


@pytest.mark.parametrize("name", ["sea", "A / B?", "\u6d77"])
def test_collections_over_rest(client, generator, name):
    job_id = finished(client, generator)["id"]
    path = f"/api/v1/collections/{quote(name, safe='')}"
    one = {"name": name, "count": 1, "cover": job_id}
    assert client.put(path, json={"add": [job_id]}).json() == one
    assert client.get("/api/v1/collections").json() == {"collections": [one]}
    assert client.put(path, json={"add": ["nope"]}).status_code == 404
    assert client.put(path, json={"put": []}).status_code == 422
    assert client.patch(path, json={"name": "x/y"}).json() == one | {"name": "x/y"}
    assert client.patch(path, json={"name": "z"}).status_code == 404
    assert client.delete("/api/v1/collections/x%2Fy").json() == {"removed": "x/y"}
    assert client.get("/api/v1/collections").json() == {"collections": []}
    assert client.get(f"/api/v1/jobs/{job_id}").json()["collections"] == []


def test_prompts_over_rest(client, generator):
    generator.pause_queue(True)
    for prompt in ("a boat", "a kite", "a boat"):
        submit(client, prompt=prompt)
    assert client.get("/api/v1/prompts").json() == {"prompts": ["a boat", "a kite"]}
    assert client.get("/api/v1/prompts?search=kite&limit=1").json() == {"prompts": ["a kite"]}
    assert client.get("/api/v1/prompts?limit=0").status_code == 422
