"""The order of the queue, and one action on many jobs, over REST."""

import json

import pytest

from tests.web.test_api import finished, submit


@pytest.fixture
def waiting(client, generator):
    generator.pause_queue(True)
    return [submit(client, seed=seed)["id"] for seed in range(4)]


def order(generator):
    return [job_id for job_id, _ in generator.queue()]


@pytest.mark.parametrize(
    ("moved", "body", "expected"),
    [
        (3, {"before": 1}, [0, 3, 1, 2]),
        (0, {"before": 3}, [1, 2, 0, 3]),
        (1, {"before": None}, [0, 2, 3, 1]),
        (3, {"to": "front"}, [3, 0, 1, 2]),
        (1, {"places": 1}, [0, 2, 1, 3]),
        (3, {"places": -2}, [0, 3, 1, 2]),
        (0, {"places": 1000}, [1, 2, 3, 0]),
        (2, {"places": 0}, [0, 1, 2, 3]),
    ],
)
def test_a_waiting_job_is_moved(client, generator, waiting, moved, body, expected):
    if isinstance(body.get("before"), int):
        body = {"before": waiting[body["before"]]}
    answer = client.post(f"/api/v1/jobs/{waiting[moved]}/move", json=body)
    assert (answer.status_code, answer.json()["id"]) == (200, waiting[moved])
    assert order(generator) == [waiting[number] for number in expected]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"before": None, "to": "front"},
        {"places": 1, "to": "front"},
        {"places": None},
        {"to": None},
        {"to": "end"},
        {"places": 1.5},
        {"places": "1"},
        {"places": 10**7},
        {"before": 3},
        {"after": "x"},
    ],
)
def test_a_move_to_nowhere_is_422(client, generator, waiting, body):
    answer = client.post(f"/api/v1/jobs/{waiting[0]}/move", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert order(generator) == waiting


def test_only_a_waiting_job_is_moved_and_only_before_one(client, generator, waiting):
    client.post(f"/api/v1/jobs/{waiting[0]}/pause")
    for moved, before in ((waiting[0], waiting[1]), (waiting[1], waiting[0])):
        answer = client.post(f"/api/v1/jobs/{moved}/move", json={"before": before})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
        assert waiting[0] in answer.json()["error"]["message"]
    assert client.post("/api/v1/jobs/nope/move", json={"to": "front"}).status_code == 404
    assert client.post(f"/api/v1/jobs/{waiting[1]}/move", json={"before": "nope"}).status_code == 404


def test_one_action_on_many_jobs(client, generator, waiting):
    def bulk(action, *ids):
        answer = client.post("/api/v1/jobs/bulk", json={"ids": ids, "action": action})
        assert answer.status_code == 200
        return answer.json()

    answer = bulk("cancel", waiting[0], "nope", waiting[1], waiting[0])
    assert answer["done"] == waiting[:2]
    assert answer["refused"] == [
        {"id": "nope", "message": "There is no job 'nope'; `jobs list` shows those there are."},
    ]
    assert order(generator) == waiting[2:]
    assert bulk("retry", *waiting[:1])["done"] == waiting[:1]
    answer = bulk("delete", *waiting)
    assert answer["done"] == waiting[1:2]
    assert [refused["id"] for refused in answer["refused"]] == [waiting[0], *waiting[2:]]
    assert all("cancel it first" in refused["message"] for refused in answer["refused"])
    assert bulk("restore", waiting[1])["done"] == waiting[1:2]
    assert bulk("favourite", *waiting)["done"] == waiting
    assert all(generator.job(job_id).favourite for job_id in waiting)
    assert bulk("unfavourite", *waiting[:2])["done"] == waiting[:2]
    assert [generator.job(job_id).favourite for job_id in waiting] == [False, False, True, True]
    assert bulk("pause", waiting[3])["done"] == waiting[3:]
    assert bulk("resume", waiting[3])["done"] == waiting[3:]
    assert bulk("approve", waiting[3])["refused"][0]["message"].endswith("only a finished video can be approved.")
    assert bulk("unapprove", waiting[3])["done"] == waiting[3:]


@pytest.mark.parametrize(
    "body",
    [
        {"ids": [], "action": "cancel"},
        {"ids": ["x"] * 501, "action": "cancel"},
        {"ids": ["x"], "action": "dance"},
        {"ids": ["x"]},
        {"ids": "x", "action": "cancel"},
        {"ids": [1], "action": "cancel"},
        {"ids": ["\ud800"], "action": "cancel"},
    ],
)
def test_what_is_no_action_on_jobs_is_422(client, body):
    answer = client.post(
        "/api/v1/jobs/bulk", content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422


def test_an_approved_video_is_deleted_only_after_its_approval_is_taken_away(client, generator):
    job_id = finished(client, generator)["id"]
    assert client.patch(f"/api/v1/jobs/{job_id}", json={"approved": True}).json()["approved"] is True
    refused = client.delete(f"/api/v1/jobs/{job_id}")
    assert refused.status_code == 409
    message = refused.json()["error"]["message"]
    assert message == f"The video {job_id} is approved; take the approval away first, then delete it."
    bulk = client.post("/api/v1/jobs/bulk", json={"ids": [job_id], "action": "delete"}).json()
    assert bulk == {"done": [], "refused": [{"id": job_id, "message": message}]}
    assert client.get(f"/api/v1/jobs/{job_id}/video").status_code == 200
    client.patch(f"/api/v1/jobs/{job_id}", json={"approved": False})
    assert client.delete(f"/api/v1/jobs/{job_id}").status_code == 200
