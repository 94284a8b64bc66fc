import errno
import io
import json
import os
import re
import shutil
import time
import unicodedata
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from backend.jobs.kinds import unknown_kind
from tests.lora_files import write_lora
from tests.pace import within
from tests.tiny_checkpoints import build_checkpoint

SMALL = {
    "prompt": "a red boat at sunset",
    "resolution": "128x96",
    "num_frames": 16,
    "num_inference_steps": 10,
    "seed": 1,
}


def submit(client, **wish):
    answer = client.post("/api/v1/jobs", json=SMALL | wish)
    assert answer.status_code == 202, answer.text
    return answer.json()


def finished(client, generator, **wish):
    job = submit(client, **wish)
    generator.wait(job["id"], timeout=100)
    return client.get(f"/api/v1/jobs/{job['id']}").json()


def png(width=64, height=48):
    data = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(data, "PNG")
    return data.getvalue()


def test_a_job_from_submit_to_film(client, generator):
    job = submit(client)
    assert job["state"] == "queued"
    assert job["plan"]["total_frames"] == 16
    generator.wait(job["id"], timeout=100)
    done = client.get(f"/api/v1/jobs/{job['id']}").json()
    assert done["state"] == "succeeded"
    assert done["artifact"]["frames"] == 16
    film = client.get(f"/api/v1/jobs/{job['id']}/video")
    assert film.headers["content-type"] == "video/mp4"
    assert film.content[4:8] == b"ftyp"
    assert len(film.content) == done["artifact"]["bytes"]
    assert client.get(f"/api/v1/jobs/{job['id']}/thumbnail").content[:2] == b"\xff\xd8"
    assert client.get(f"/api/v1/jobs/{job['id']}/metadata").json()["request"]["prompt"] == SMALL["prompt"]


def test_films_are_served_in_ranges(client, generator):
    job = finished(client, generator)
    whole = client.get(f"/api/v1/jobs/{job['id']}/video").content
    for url in (f"/api/v1/jobs/{job['id']}/video", f"/app/static/media/{job['id']}/video.mp4"):
        part = client.get(url, headers={"range": "bytes=100-199"})
        assert part.status_code == 206
        assert part.content == whole[100:200]
        assert part.headers["content-range"] == f"bytes 100-199/{len(whole)}"
        for asked, status in ((f"bytes={len(whole)}-", 416), ("bytes=9-1", 400), ("lines=1-2", 400), ("x", 400)):
            answer = client.get(url, headers={"range": asked})
            assert answer.status_code == status
            assert answer.json()["error"]["code"] == "bad_range"
            assert asked in answer.json()["error"]["message"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert (status != 416) or answer.headers["content-range"] == f"bytes */{len(whole)}"


PREVIEW_ROUTES = ("/api/v1/jobs/{}/preview", "/app/static/media/{}/partial.mp4")
LIVE_ROUTES = ("/api/v1/jobs/{}/live", "/app/static/media/{}/preview.webp")


def test_a_film_is_seen_while_it_is_made(client, generator, engine, settings):
    engine.hold_at(step=3)
    job_id = submit(client)["id"]
    assert engine.reached.wait(timeout=60)
    work = settings.temp / job_id
    (work / "preview.webp").unlink(missing_ok=True)  # the engine has given its first look already
    for route in PREVIEW_ROUTES + LIVE_ROUTES:
        missing = client.get(route.format(job_id))
        assert missing.status_code == 404
        assert job_id in missing.json()["error"]["message"]
    for so_far in (b"the first second of it", b"the first two seconds"):
        (work / "partial.mp4").write_bytes(so_far)
        (work / "preview.webp").write_bytes(so_far[::-1])
        for route in PREVIEW_ROUTES:
            answer = client.get(route.format(job_id))
            assert (answer.content, answer.headers["content-type"]) == (so_far, "video/mp4")
            assert answer.headers["cache-control"] == "no-cache"
            part = client.get(route.format(job_id), headers={"range": "bytes=4-8"})
            assert (part.status_code, part.content) == (206, so_far[4:9])
        for route in LIVE_ROUTES:
            answer = client.get(route.format(job_id))
            assert (answer.content, answer.headers["content-type"]) == (so_far[::-1], "image/webp")
            assert answer.headers["cache-control"] == "no-cache"
    assert client.head(PREVIEW_ROUTES[0].format(job_id)).status_code == 200
    assert client.head(LIVE_ROUTES[0].format(job_id)).status_code == 200
    engine.release()
    generator.wait(job_id, timeout=100)
    film = client.get(f"/api/v1/jobs/{job_id}/video").content
    assert [client.get(route.format(job_id)).content for route in PREVIEW_ROUTES] == [film, film]
    still = client.get(f"/api/v1/jobs/{job_id}/thumbnail").content
    for answer in (client.get(route.format(job_id)) for route in LIVE_ROUTES):  # for who asks a moment too late
        assert (answer.content, answer.headers["content-type"]) == (still, "image/jpeg")
    client.delete(f"/api/v1/jobs/{job_id}")
    assert [client.get(route.format(job_id)).status_code for route in PREVIEW_ROUTES + LIVE_ROUTES] == [404] * 4


def test_the_trash_can_be_emptied(client, generator, a_request):
    job = generator.wait(generator.submit(a_request()).id, timeout=100)
    client.delete(f"/api/v1/jobs/{job.id}")
    assert client.delete("/api/v1/trash").json() == {"removed": 1}
    assert client.get(f"/api/v1/jobs/{job.id}").status_code == 404
    assert client.delete("/api/v1/trash").json() == {"removed": 0}


def test_a_full_disk_is_507_and_another_fault_of_it_is_not(client, generator, monkeypatch):
    def refuse(number):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(generator, "empty_trash", lambda: refuse(errno.ENOSPC))
    answer = client.delete("/api/v1/trash")
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "not_enough_space")
    monkeypatch.setattr(generator, "empty_trash", lambda: refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):  # which the server answers with 500
        client.delete("/api/v1/trash")


def test_what_a_cancelled_job_in_the_trash_left_is_not_served(client, generator, settings):
    client.post("/api/v1/queue/pause")
    job_id = submit(client)["id"]
    work = settings.temp / job_id
    work.mkdir()
    (work / "partial.mp4").write_bytes(b"the first second")
    (work / "preview.webp").write_bytes(b"a look")
    client.post(f"/api/v1/jobs/{job_id}/cancel")
    routes = [route.format(job_id) for route in PREVIEW_ROUTES + LIVE_ROUTES]
    assert [client.get(route).status_code for route in routes] == [200] * 4
    client.delete(f"/api/v1/jobs/{job_id}")
    assert [client.get(route).status_code for route in routes] == [404] * 4
    assert [client.get(route.format("0" * 20)).status_code for route in PREVIEW_ROUTES + LIVE_ROUTES] == [404] * 4


def test_a_download_is_an_attachment(client, generator):
    job = finished(client, generator)
    header = client.get(f"/api/v1/jobs/{job['id']}/video?download=true").headers["content-disposition"]
    assert header == 'attachment; filename="a-red-boat-at-sunset-1.mp4"'


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"fps": 99}, "fps"),
        ({"prompt": ""}, "prompt"),
        ({"model": "nope"}, "model"),
        ({"frames": 64}, "frames"),
        ({"num_frames": None, "seconds": 170}, "seconds"),
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/plan"])
def test_a_bad_wish_is_422_and_nothing_is_queued(client, generator, path, wish, field):
    answer = client.post(path, json=SMALL | wish)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["field"] == field
    assert error["message"]
    assert generator.store.count() == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b"[" * 100_000,
        b'{"seed": 1' + b"0" * 5000 + b"}",
    ],
)
def test_a_body_that_is_no_request_is_422(client, body):
    answer = client.post("/api/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "invalid_request"
    assert "JSON" in error["message"]
    assert "; send " in error["message"]


@pytest.mark.parametrize(
    "path",
    ["/api/v1/jobs/nope", "/api/v1/jobs/nope/video", "/api/v1/nothing", "/api/v1/uploads/..%2f..%2fetc", "/api/v2"],
)
def test_what_is_not_there_is_404_json(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/api/v1/jobs"), ("PATCH", "/api/v1/plan"), ("GET", "/api/v1/plan")]
)
def test_a_wrong_method_is_405_json(client, method, path):
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert "another method" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/videos", "/api"])
def test_what_does_not_exist_yet_is_no_page(client, path):
    assert client.get(path).status_code == 404
    assert client.head(path).status_code == 404


def test_a_film_answers_head(client, generator):
    job = finished(client, generator)
    answer = client.head(f"/api/v1/jobs/{job['id']}/video")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")


@pytest.mark.parametrize("headers", [{"content-length": str(2**20 + 1)}, {"transfer-encoding": "chunked"}])
def test_only_uploads_may_be_large(client, generator, headers):
    answer = client.post("/api/v1/jobs", content=iter([b"{}"]), headers=headers | {"content-type": "application/json"})
    assert answer.status_code == 413
    assert generator.store.count() == 0


def test_an_upload_that_stalls_gives_its_place_back(client, settings, monkeypatch):
    monkeypatch.setattr("backend.web.api.uploads.UPLOAD_IDLE_S", 0.2)

    def slow():
        yield png()[:50]
        time.sleep(1)
        yield b"late"

    assert client.post("/api/v1/uploads?filename=cat.png", content=slow()).status_code == 422
    assert client.post("/api/v1/uploads?filename=cat.png", content=png()).status_code == 201


def test_the_plan_says_what_it_will_be(client):
    plan = client.post("/api/v1/plan", json={"prompt": "x", "num_frames": 100, "fps": 25}).json()
    assert (plan["num_frames"], plan["fps"], plan["width"], plan["height"]) == (100, 25, 960, 540)
    assert plan["forecast_s"] == plan["forecast"]["total_s"] > 0


def test_one_key_one_job(client, generator):
    jobs = [client.post("/api/v1/jobs", json=SMALL, headers={"idempotency-key": "k"}).json()["id"] for _ in range(2)]
    assert len(set(jobs)) == 1
    other = client.post("/api/v1/jobs", json=SMALL | {"prompt": "z"}, headers={"idempotency-key": "k"})
    assert other.status_code == 409
    assert generator.store.count() == 1


def test_uploads_raw_and_multipart(client):
    raw = client.post("/api/v1/uploads?filename=cat.png", content=png())
    assert raw.status_code == 201, raw.text
    assert (raw.json()["kind"], raw.json()["width"], raw.json()["height"]) == ("image", 64, 48)
    form = client.post("/api/v1/uploads", files={"file": ("dog.png", png(80, 60), "image/png")})
    assert form.status_code == 201, form.text
    assert form.json()["width"] == 80
    assert client.get(f"/api/v1/uploads/{raw.json()['id']}").json() == raw.json()
    preview = client.get(f"/app/static/uploads/{raw.json()['id']}/preview.jpg?width=96&height=64")
    assert Image.open(io.BytesIO(preview.content)).size == (96, 64)


@pytest.mark.parametrize("content", [b"", b"no picture at all", png()[:60]])
def test_a_bad_upload_is_refused_and_leaves_nothing(client, settings, content):
    answer = client.post("/api/v1/uploads?filename=cat.png", content=content)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"]
    assert [p for p in settings.uploads.rglob("*") if p.is_file() and p.name != ".gitkeep"] == []


def test_a_form_without_a_file_is_refused(client):
    assert client.post("/api/v1/uploads", files={"other": ("x.png", png())}).status_code == 422


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        ("multipart/form-data; boundary=x", b"nothing of a form"),
        ("multipart/form-data; boundary=x; charset=klingon", b"nothing of a form"),
    ],
)
def test_a_form_that_is_none_is_refused_with_the_way_out(client, kind, body):
    answer = client.post("/api/v1/uploads", content=body, headers={"content-type": kind})
    assert answer.status_code == 422
    assert "; send one file, in the field file, or as raw body." in answer.json()["error"]["message"]


def test_a_form_with_two_files_is_refused_with_the_way_out(client):
    answer = client.post("/api/v1/uploads", files={"file": ("a.png", png()), "other": ("b.png", png())})
    assert answer.status_code == 422
    assert "; send one file, in the field file, or as raw body." in answer.json()["error"]["message"]


SPOILED = {
    "width": ["a", 0, -5, 10**400, None, 1.5, True, "64"],
    "frames": [0, "1"],
    "kind": ["song", [], None],
    "fps": ["x", float("nan"), float("inf"), -1, None],
    "filename": [None, 7],
    "id": ["../x", "0" * 20],
}


@pytest.mark.parametrize(
    "spoil",
    [
        *(lambda record, k=k, v=v: json.dumps(record | {k: v}) for k, values in SPOILED.items() for v in values),
        lambda record: json.dumps(record | {"kind": "video"}),  # which has no rate
        lambda record: json.dumps(record | {"kind": "video", "fps": 1e-300}),
        lambda record: json.dumps({name: value for name, value in record.items() if name != "height"}),
        *(lambda record, said=said: said for said in ("", "{", "[]", "null", "7", "[" * 100_000, "\x00" * 200)),
    ],
)
def test_a_spoiled_record_of_an_upload_is_explained(client, settings, spoil):
    upload = client.post("/api/v1/uploads?filename=cat.png", content=png()).json()
    record = settings.uploads / upload["id"] / "upload.json"
    record.write_text(spoil(upload))
    for path in (
        f"/api/v1/uploads/{upload['id']}",
        f"/app/static/uploads/{upload['id']}/preview.jpg?width=96&height=64",
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert "is damaged; send the file again." in answer.json()["error"]["message"]
    for mode, field in (("image_to_video", "image"), ("video_extension", "video")):
        answer = client.post("/api/v1/jobs", json=SMALL | {"mode": mode, field: upload["id"]})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
        assert "is damaged; send the file again." in answer.json()["error"]["message"]


@pytest.mark.parametrize("file", ["upload.json", "media"])
@pytest.mark.parametrize("make", [None, Path.mkdir])
def test_an_upload_without_its_files_is_explained(client, settings, file, make):
    upload_id = client.post("/api/v1/uploads?filename=cat.png", content=png()).json()["id"]
    (settings.uploads / upload_id / file).unlink()
    if make:
        make(settings.uploads / upload_id / file)
    answer = client.get(f"/app/static/uploads/{upload_id}/preview.jpg?width=96&height=64")
    assert answer.status_code == 404
    assert "is damaged; send the file again." in answer.json()["error"]["message"]


def test_an_uploaded_picture_becomes_a_film(client, generator):
    image = client.post("/api/v1/uploads?filename=cat.png", content=png()).json()["id"]
    job = finished(client, generator, mode="image_to_video", image=image)
    assert job["state"] == "succeeded", job["error"]


def test_a_picture_is_no_video(client):
    image = client.post("/api/v1/uploads?filename=cat.png", content=png()).json()["id"]
    answer = client.post("/api/v1/jobs", json=SMALL | {"mode": "video_extension", "video": image})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["field"] == "video"
    way_out = "video takes a video: send an MP4, MOV, AVI or MKV there, or give this file as image."
    assert error["message"] == f"cat.png is a picture; {way_out}"


def test_acting_on_jobs(client, generator):
    client.post("/api/v1/queue/pause")
    job = submit(client)
    url = f"/api/v1/jobs/{job['id']}"
    assert client.post(f"{url}/pause").json()["state"] == "paused"
    assert client.post(f"{url}/resume").json()["state"] == "queued"
    assert client.delete(url).status_code == 409
    assert client.post(f"{url}/cancel").json()["state"] == "cancelled"
    assert client.post(f"{url}/cancel").status_code == 409
    assert client.post(f"{url}/retry").json()["state"] == "queued"
    assert client.post(f"{url}/explode").status_code == 404
    assert client.post("/api/v1/queue/resume").json()["paused"] is False
    assert generator.wait(job["id"], timeout=100).state.value == "succeeded"
    assert client.delete(url).status_code == 200
    assert client.get(f"{url}/video").status_code == 404
    assert client.post(f"{url}/restore").status_code == 200
    assert client.get(f"{url}/video").status_code == 200


def test_the_list_goes_on(client, generator):
    client.post("/api/v1/queue/pause")
    ids = [submit(client)["id"] for _ in range(5)]
    first = client.get("/api/v1/jobs?limit=3").json()
    rest = client.get(f"/api/v1/jobs?limit=3&before={first['next']}").json()
    assert [job["id"] for job in first["jobs"] + rest["jobs"]] == ids[::-1]
    assert rest["next"] is None
    assert client.get("/api/v1/jobs?state=running").json()["jobs"] == []
    assert client.get("/api/v1/jobs?limit=0").status_code == 422


def test_the_list_has_what_ended_since_a_time(client, generator):
    client.post("/api/v1/queue/pause")
    ids = [client.post(f"/api/v1/jobs/{submit(client)['id']}/cancel").json()["id"] for _ in range(2)]
    submit(client)
    ended = [client.get(f"/api/v1/jobs/{job_id}").json()["finished_at"] for job_id in ids]
    found = [client.get(f"/api/v1/jobs?ended_since={at}").json()["jobs"] for at in (*ended, ended[1] + 1)]
    assert [[job["id"] for job in jobs] for jobs in found] == [ids[::-1], ids[1:], []]


def test_events_tell_the_job_until_it_ends(client):
    job = submit(client)
    with client.stream("GET", f"/api/v1/jobs/{job['id']}/events") as answer:
        states = [json.loads(line[6:])["state"] for line in answer.iter_lines() if line.startswith("data: ")]
    assert states[-1] == "succeeded"


def test_models_and_system(client):
    [pattern] = [spec for spec in client.get("/api/v1/models").json()["models"] if spec["id"] == "synthetic"]
    assert pattern["modes"] == ["image_to_video", "text_to_video", "video_extension"]
    system = client.get("/api/v1/system").json()
    assert system["machine"]["cores"] >= 1
    assert system["now"]["disk_free_gib"] > 0


def test_no_answer_names_a_path_of_this_machine(client, generator, settings):
    job = finished(client, generator)
    for path in (
        "/api/v1/jobs",
        f"/api/v1/jobs/{job['id']}",
        f"/api/v1/jobs/{job['id']}/metadata",
        "/api/v1/models",
        "/api/v1/system",
        "/api/v1/system/history",
    ):
        assert str(settings.data) not in client.get(path).text


def test_the_docs_ask_nobody_else(client):
    assert client.get("/docs").status_code == 200
    assert "http" not in client.get("/docs").text.replace("http://www.w3.org", "")


def test_the_page_and_the_api_answer_on_one_port(client):
    assert "<title>Streamlit</title>" in client.get("/").text
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.alone
def test_submitting_is_quick_while_a_job_runs(client, generator, engine):
    engine.hold_at(step=2)
    submit(client)
    assert engine.reached.wait(timeout=60)
    took = []
    for _ in range(40):
        start = time.perf_counter()
        submit(client)
        took.append(time.perf_counter() - start)
    engine.release()
    assert sorted(took)[37] < within(0.1)


def test_a_short_prompt_is_made_longer_for_a_model(client):
    def expand(**wording):
        return client.post("/api/v1/prompts/expand", json=wording)

    found = expand(prompt="A boat", model="synthetic").json()
    assert found["prompt"].endswith(found["added"][-1])
    assert (found["by"], len(found["added"])) == ("rules", 4)
    other = expand(prompt="A boat", model="synthetic", variation=1).json()["prompt"]
    assert other != found["prompt"]
    assert expand(prompt="A boat", model="synthetic", take=1).json()["prompt"] == other  # its name in version 0.1
    assert expand(prompt="A boat", take=1, variation=1).status_code == 422
    for wrong in ({"prompt": ""}, {"prompt": "x" * 5000}, {"prompt": "x", "model": "nope"}, {}, {"prompt": 1}):
        answer = expand(**wrong)
        assert answer.status_code == 422, wrong
        assert answer.json()["error"]["message"].rstrip().endswith("."), answer.text


def test_models_that_can_be_fetched_are_listed_and_fetching_is_refused_in_words(client, generator, monkeypatch):
    listed = client.get("/api/v1/models", params={"all": True}).json()["models"]
    absent = [spec["id"] for spec in listed if not spec["present"]]
    assert len(absent) >= 8
    assert [spec["id"] for spec in client.get("/api/v1/models").json()["models"]] == ["synthetic"]
    monkeypatch.setattr(generator.downloads, "_next", lambda: None)  # nobody goes to the hub
    answer = client.post("/api/v1/downloads", json={"model": absent[0]})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    for action, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "queued")):
        assert client.post(f"/api/v1/downloads/{absent[0]}/{action}").json()["state"] == state
    assert client.get("/api/v1/downloads").json() == {"downloads": []}
    for method, path, status in (
        ("POST", f"/downloads/{absent[0]}/pause", 404),
        ("POST", f"/downloads/{absent[0]}/delete", 404),
        ("DELETE", "/models/nope", 404),
        ("DELETE", "/models/..%2f..", 404),
        ("POST", "/models/nope/restore", 404),
    ):
        assert client.request(method, f"/api/v1{path}").status_code == status, path
    for wrong in ({"model": "evil/repository"}, {"model": "x" * 500}, {}, {"model": 1}):
        assert client.post("/api/v1/downloads", json=wrong).status_code in (404, 422), wrong


def test_a_model_tells_how_it_suits_this_machine_and_where_its_licence_is(client, generator):
    answer = client.get("/api/v1/models", params={"all": True}).json()
    rows = {row["id"]: row for row in answer["models"]}
    released, wan, pattern = rows["skyreels-v2-df-1.3b-540p"], rows["wan2.1-t2v-1.3b"], rows["synthetic"]
    assert released["card_url"] == "https://huggingface.co/Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers"
    assert released["licence_url"] == released["card_url"]
    assert wan["licence_url"] == "https://www.apache.org/licenses/LICENSE-2.0"
    assert (pattern["card_url"], pattern["licence_url"], pattern["download_bytes"]) == (None, None, None)
    assert 14e9 < released["download_bytes"] < 17e9  # 14.6 GiB of weights
    assert (released["bytes"], released["removable"], released["trashed"]) == (None, False, False)
    assert released["fits"] is ("needs" not in released["fit"])
    assert {"total_s", "low_s", "high_s", "peak_gib"} < set(released["forecast"])
    assert (released["forecast"]["width"], released["forecast"]["height"]) == (960, 540)
    assert answer["recommended"]["model"] in rows
    assert answer["recommended"]["why"].endswith(".")
    assert (answer["automatic"], answer["trashed"], answer["offline"]) == ("synthetic", [], False)
    assert answer["disk_free_bytes"] > 0
    assert set(client.get("/api/v1/models").json()) == {"models", "refused"}


def test_a_model_in_the_trash_is_told_by_its_title_and_comes_back(client, generator):
    folder = build_checkpoint(generator.settings.models / "Mine", "df")
    everything = {"all": True}

    def row():
        return next(one for one in client.get("/api/v1/models").json()["models"] if one["id"] == "mine")

    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert (row()["removable"], row()["bytes"]) == (True, size)
    client.delete("/api/v1/models/mine")
    [gone] = client.get("/api/v1/models", params=everything).json()["trashed"]
    assert gone["id"] == "mine"
    client.post("/api/v1/models/mine/restore")
    assert (row()["title"], row()["trashed"]) == (gone["title"], False)


def test_models_are_listed_while_the_disk_of_their_folder_is_away(client, generator):
    shutil.rmtree(generator.settings.models)
    answer = client.get("/api/v1/models", params={"all": True})
    assert (answer.status_code, answer.json()["disk_free_bytes"] > 0) == (200, True)


def test_a_forecast_of_a_model_follows_its_renders(client, generator):
    def forecast():
        return client.get("/api/v1/models").json()["models"][-1]["forecast"]

    before = forecast()
    finished(client, generator)
    assert forecast() != before


def test_a_lora_tells_its_trigger_words_and_which_models_it_fits(client, generator, tmp_path):
    build_checkpoint(generator.settings.models / "Mine", "df")
    file = write_lora(tmp_path / "paper.safetensors", metadata={"modelspec.trigger_phrase": "paper theatre, cut  out"})
    client.post("/api/v1/loras", params={"filename": file.name}, content=file.read_bytes())
    answer = client.get("/api/v1/loras").json()
    [lora] = answer["loras"]
    assert lora["trigger_words"] == ["paper theatre", "cut out"]
    assert lora["fits"] == {"mine": None, "synthetic": "Test pattern (no AI) has no layers to change"}
    assert (lora["removable"], answer["trashed"]) == (True, [])
    client.delete("/api/v1/loras/paper")
    assert client.get("/api/v1/loras").json()["trashed"] == ["paper"]


def test_a_model_that_a_film_needs_is_not_removed(client, generator):
    generator.pause_queue(True)
    submit(client, model="synthetic")
    answer = client.delete("/api/v1/models/synthetic")
    assert (answer.status_code, "A job that waits" in answer.json()["error"]["message"]) == (409, True)


def test_a_lora_comes_is_listed_goes_and_comes_back(client, generator, tmp_path):
    file = write_lora(tmp_path / "grain.safetensors", rank=4)
    large = write_lora(tmp_path / "large.safetensors", rank=1024)
    assert large.stat().st_size > 2**20  # more than any other body may have
    for name in (file, large):
        answer = client.post("/api/v1/loras", params={"filename": name.name}, content=name.read_bytes())
        assert (answer.status_code, answer.json()["id"], answer.json()["kind"]) == (201, name.stem, "lora")
    assert client.post("/api/v1/loras", params={"filename": file.name}, content=file.read_bytes()).status_code == 409
    (generator.settings.models / "loras/evil.pt").write_bytes(b"x")
    listed = client.get("/api/v1/loras").json()
    assert [(lora["name"], lora["ranks"]) for lora in listed["loras"]] == [("grain", [4]), ("large", [1024])]
    assert "can run code" in listed["refused"]["evil.pt"]
    assert client.delete("/api/v1/loras/grain").json() == {"removed": "grain"}
    assert client.delete("/api/v1/loras/grain").status_code == 404
    assert client.post("/api/v1/loras/grain/restore").json() == {"restored": "grain"}
    assert client.delete("/api/v1/loras/grain", params={"for_good": True}).status_code == 200
    assert client.post("/api/v1/loras/grain/restore").status_code == 404


@pytest.mark.parametrize(
    "name",
    [
        "x (1)",
        "[a] {b}",
        "\N{FILM FRAMES} caf\u00e9",
        "x" * 243,
        "..dots",
        "  spaces  ",
        "CON",
        "50% #?&+",
        "a:b:0.5",
    ],
)
def test_a_lora_of_any_name_has_its_address(client, generator, tmp_path, name):
    content = write_lora(tmp_path / "x.safetensors").read_bytes()
    filename, path = f"{name}.SAFETENSORS", f"/api/v1/loras/{quote(name, safe='')}"
    assert client.post("/api/v1/loras", params={"filename": filename}, content=content).json()["id"] == name
    assert [lora["name"] for lora in client.get("/api/v1/loras").json()["loras"]] == [name]
    assert client.delete(path).json() == {"removed": name}
    assert generator.loras.trashed() == [name]
    assert client.post(f"{path}/restore").json() == {"restored": name}
    body = {"prompt": "x", "model": "synthetic", "loras": [{"name": name}]}
    answer = client.post("/api/v1/plan", json=body)
    assert f"The LoRA {name} does not fit: Test pattern" in answer.json()["error"]["message"]
    decomposed = quote(unicodedata.normalize("NFD", name), safe="")  # as macOS writes it
    assert client.delete(f"/api/v1/loras/{decomposed}", params={"for_good": True}).status_code == 200


@pytest.mark.parametrize("encoded", [True, False])
def test_a_lora_in_a_subfolder_has_its_address(client, generator, encoded):
    name, folder = "styles/film noir/grain", generator.settings.models / "loras"
    write_lora(folder / f"{name}.safetensors")
    assert [lora["name"] for lora in client.get("/api/v1/loras").json()["loras"]] == [name]
    body = {"prompt": "x", "model": "synthetic", "loras": [{"name": name}]}
    answer = client.post("/api/v1/plan", json=body)
    assert f"The LoRA {name} does not fit: Test pattern" in answer.json()["error"]["message"]
    path = f"/api/v1/loras/{quote(name, safe='' if encoded else '/')}"
    assert client.delete(path).json() == {"removed": name}
    assert client.post(f"{path}/restore").json() == {"restored": name}
    assert client.delete(path, params={"for_good": True}).status_code == 200
    for wrong in ("..%2F..%2Fsecret", "styles%2F..%2F..%2Fsecret", "%2Fetc%2Fpasswd", ""):
        assert client.delete(f"/api/v1/loras/{wrong}").status_code in (404, 405)


def test_what_is_left_out_of_a_lora_is_in_its_notes(client, tmp_path):
    file = write_lora(tmp_path / "x.safetensors")
    save_file(load_file(file) | {"text_encoder.a.lora_A.weight": torch.zeros(2, 2)}, file)
    client.post("/api/v1/loras", params={"filename": file.name}, content=file.read_bytes())
    (lora,) = client.get("/api/v1/loras").json()["loras"]
    assert lora["notes"] == ["1 tensor for a text encoder is left out."]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.safetensors", b"PK\x03\x04" + b"0" * 40, "is a pickle with another name"),
        ("x.safetensors", b"", "cut short or damaged"),
        ("../x.safetensors", b"x", "is no name for a LoRA"),
        ("", b"x", "is no name for a LoRA"),
        ("x.pt", b"PK\x03\x04" + b"0" * 40, "is a pickle"),
    ],
)
def test_what_is_no_lora_is_refused_and_leaves_nothing(client, generator, name, content, words):
    answer = client.post("/api/v1/loras", params={"filename": name}, content=content)
    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"]
    folder = generator.settings.models / "loras"
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize("route", ["uploads", "loras"])
def test_a_file_that_says_it_is_too_large_is_refused_at_once(client, route):
    answer = client.post(
        f"/api/v1/{route}", params={"filename": "a.png"}, content=b"x", headers={"content-length": "9" * 13}
    )
    assert (answer.status_code, "is larger than" in answer.json()["error"]["message"]) == (422, True)


@pytest.mark.parametrize(
    ("route", "body", "headers", "words"),
    [
        ("plan", b'{"prompt": "x"}', {"content-type": "text/plain"}, "Content-Type: application/json"),
        ("jobs", b'{"prompt": "x"}', {"content-type": "application/x-www-form-urlencoded"}, "Content-Type"),
        ("downloads", b"{}", {"content-type": "application/json"}, "model is missing; send it."),
        ("plan", b'{"prompt": "x", "skyreels": null}', {"content-type": "application/json"}, "skyreels=null is no obj"),
        ("plan", b'{"prompt": null}', {"content-type": "application/json"}, "prompt=null"),
        ("plan", b'"x"', {"content-type": "application/json"}, "not said to be JSON|no JSON object"),
    ],
)
def test_a_body_that_is_no_wish_is_told_what_is_missing(client, route, body, headers, words):
    answer = client.post(f"/api/v1/{route}", content=body, headers=headers)
    assert answer.status_code == 422
    assert re.search(words, answer.json()["error"]["message"]), answer.json()


def test_a_film_whose_sidecar_is_damaged_tells_its_recipe_and_one_that_is_gone_says_so(client, generator):
    job = finished(client, generator)
    folder = generator.settings.outputs / job["id"]
    whole = client.get(f"/api/v1/jobs/{job['id']}/metadata").json()
    (folder / "metadata.json").write_text("{broken")
    told = client.get(f"/api/v1/jobs/{job['id']}/metadata").json()
    assert told["request"] == whole["request"]
    assert told["artifact"]["bytes"] == whole["artifact"]["bytes"]
    (folder / "video.mp4").unlink()
    for what in ("video", "metadata"):
        answer = client.get(f"/api/v1/jobs/{job['id']}/{what}")
        assert (answer.status_code, "is no longer in outputs/; put it back" in answer.text) == (404, True)


def test_a_folder_that_is_no_model_is_named_with_the_reason(client, generator):
    folder = build_checkpoint(generator.settings.models / "mine", "df")
    (folder / "vae/config.json").write_text("{nothing")
    (build_checkpoint(generator.settings.models / "other", "df") / "vae/config.json").write_text("{}")
    refused = client.get("/api/v1/models").json()["refused"]
    assert refused["mine"] == "one of its JSON files is damaged; download it again"
    assert refused["other"] == "one of its JSON files lacks 'temperal_downsample'; download it again"


def test_a_job_of_another_kind_is_planned_queued_and_fetched(client, generator):
    video = finished(client, generator)
    body = {"kind": "export", "job": video["id"], "format": "gif", "width": 64}
    plan = client.post("/api/v1/plan", json=body).json()
    assert (plan["width"], plan["height"], plan["frames"]) == (64, 48, 16)
    answer = client.post("/api/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    generator.wait(answer.json()["id"], timeout=100)
    export = client.get(f"/api/v1/jobs/{answer.json()['id']}").json()
    assert (export["kind"], export["parent"], export["state"]) == ("export", video["id"], "succeeded")
    file = client.get(f"/api/v1/jobs/{export['id']}/file")
    assert file.headers["content-type"] == "image/gif"
    assert file.headers["content-disposition"] == 'attachment; filename="a-red-boat-at-sunset.gif"'
    with Image.open(io.BytesIO(file.content)) as image:
        assert (image.size, image.n_frames) == ((64, 48), 16)
    assert client.get(f"/api/v1/jobs/{video['id']}/file").headers["content-type"] == "video/mp4"
    for path in ("video", "video?download=true", "thumbnail", "preview"):
        missing = client.get(f"/api/v1/jobs/{export['id']}/{path}")
        assert missing.status_code == 404
        assert "is of the kind export and has no" in missing.json()["error"]["message"]
    refused = client.post(f"/api/v1/jobs/{export['id']}/again").json()["error"]["message"]
    assert refused == f"Job {export['id']} is of the kind export; name a job that renders a video."
    kinds = {kind: client.get("/api/v1/jobs", params={"kind": kind}).json()["jobs"] for kind in ("render", "export")}
    assert {kind: [job["id"] for job in jobs] for kind, jobs in kinds.items()} == {
        "render": [video["id"]],
        "export": [export["id"]],
    }
    of_video = client.get("/api/v1/jobs", params={"parent": video["id"]}).json()["jobs"]
    assert [job["id"] for job in of_video] == [export["id"]]
    assert client.get(f"/api/v1/jobs/{export['id']}/metadata").json()["kind"] == "export"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "hologram"}, f"kind='hologram' is not a kind of job; {unknown_kind('').hint}"),
        ({"kind": "export", "job": "x"}, "job="),
        (
            {"kind": "export", "job": "0" * 20, "width": 3},
            "width=3 is below the least that is possible; use 16 to 7680.",
        ),
        ({"kind": "export", "prompt": "x"}, "prompt is not a field of a request; the fields are kind, job, video"),
        ({"kind": "export"}, "job or video says what is exported; send one of them."),
        ({"kind": "export", "job": "0" * 20}, "There is no job"),
        ({"kind": "render", "prompt": "x", "fps": 99}, "fps=99 is above the most that is possible; use 8 to 30."),
    ],
)
def test_what_is_wrong_with_a_request_of_a_kind_is_said_in_its_terms(client, body, said):
    answer = client.post("/api/v1/jobs", json=body)
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]


def test_jobs_are_made_from_a_job_and_name_it(client, generator):
    video = finished(client, generator)
    generator.pause_queue(True)
    made = {}
    for how, changes in (("again", {}), ("extend", {"num_frames": 24}), ("edit", {"fps": 12})):
        answer = client.post(f"/api/v1/jobs/{video['id']}/{how}", json=changes)
        assert answer.status_code == 202, answer.text
        made[how] = answer.json()
        assert made[how]["parent"] == video["id"]
    assert made["again"]["request"] == video["request"] | {"seed": made["again"]["request"]["seed"]}
    assert made["again"]["request"]["seed"] != video["request"]["seed"]
    assert made["extend"]["request"]["mode"] == "video_extension"
    assert made["extend"]["plan"]["source_frames"] == 16
    assert generator.uploads.get(made["extend"]["request"]["video"]).filename == "a-red-boat-at-sunset.mp4"
    assert (made["edit"]["request"]["fps"], made["edit"]["request"]["seed"]) == (12, 1)
    varied = client.post(f"/api/v1/jobs/{video['id']}/vary", json={"field": "guidance_scale", "values": [3, 7]}).json()
    assert [job["request"]["guidance_scale"] for job in varied["jobs"]] == [3, 7]
    assert {job["batch"] for job in varied["jobs"]} == {varied["batch"]}
    listed = client.get("/api/v1/jobs", params={"batch": varied["batch"]}).json()["jobs"]
    assert len(listed) == 2
    assert client.post(f"/api/v1/jobs/{video['id']}/vary", json={"count": 99}).status_code == 422
    assert client.post(f"/api/v1/jobs/{video['id']}/again", json={"steps": 3}).status_code == 422


def test_an_extension_that_is_refused_leaves_no_upload(client, generator):
    video = finished(client, generator)
    for changes in ({"fps": 9999}, {"nope": 1}, {"model": "nobody"}):
        assert client.post(f"/api/v1/jobs/{video['id']}/extend", json=changes).status_code == 422
    assert [path for path in generator.settings.uploads.iterdir() if path.name.isalnum()] == []


@pytest.mark.parametrize("state", ["queued", "paused"])
def test_editing_a_job_that_waits_replaces_it(client, generator, state):
    generator.pause_queue(True)
    waiting = submit(client)
    if state == "paused":
        generator.pause(waiting["id"])
    edited = client.post(f"/api/v1/jobs/{waiting['id']}/edit", json={"prompt": "a ship"}).json()
    assert (edited["request"]["prompt"], edited["parent"]) == ("a ship", None)
    assert client.get(f"/api/v1/jobs/{waiting['id']}").json()["state"] == "cancelled"


def test_variations_are_queued_all_or_none(client, generator):
    generator.pause_queue(True)
    waiting = submit(client)
    body = {"field": "model", "values": ["synthetic", "no-such-model"]}
    answer = client.post(f"/api/v1/jobs/{waiting['id']}/vary", json=body)
    assert answer.status_code == 422
    assert "no-such-model" in answer.text
    assert [job_id for job_id, _ in generator.store.queue()] == [waiting["id"]]


def test_a_job_that_runs_is_not_edited(client, generator, engine):
    engine.hold_at(step=3)
    running = submit(client)
    assert engine.reached.wait(60)
    answer = client.post(f"/api/v1/jobs/{running['id']}/edit", json={"prompt": "a ship"})
    assert answer.status_code == 409
    assert "is running; cancel it first, or use `again`" in answer.text
    assert [job_id for job_id, _ in generator.store.queue()] == [running["id"]]


@pytest.mark.parametrize("how", ["again", "edit", "extend", "vary"])
def test_nothing_is_made_from_a_job_that_cannot_be_read(client, generator, how):
    generator.pause_queue(True)
    job = submit(client)
    generator.store._run("UPDATE jobs SET request = json_set(request, '$.mood', 'calm') WHERE id = ?", job["id"])
    generator.store.mark_unreadable()
    answer = client.post(f"/api/v1/jobs/{job['id']}/{how}", json={})
    assert answer.status_code == 409
    assert "is unreadable; name a job that renders a video" in answer.text


def test_bodies_of_0_1_without_a_kind_are_renders(client, generator):
    job = submit(client)
    assert (job["kind"], job["parent"]) == ("render", None)
    assert "kind" not in job["request"]


def test_variations_of_a_new_request_come_as_a_batch(client, generator):
    generator.pause_queue(True)
    body = {"request": SMALL, "count": 3, "draft_steps": 4}
    answer = client.post("/api/v1/variations", json=body)
    assert answer.status_code == 202, answer.text
    found = answer.json()
    assert [job["request"]["seed"] for job in found["jobs"]] == [1, 2, 3]
    assert {(job["batch"], job["request"]["draft_steps"]) for job in found["jobs"]} == {(found["batch"], 4)}
    assert {(job["plan"]["draft_steps"], tuple(job["plan"]["window_steps"])) for job in found["jobs"]} == {(4, (4,))}
    listed = client.get("/api/v1/jobs", params={"batch": found["batch"]}).json()["jobs"]
    assert [job["id"] for job in listed] == [job["id"] for job in reversed(found["jobs"])]
    swept = client.post("/api/v1/variations", json={"request": SMALL, "field": "fps", "values": [8, 12]}).json()
    assert [(job["request"]["fps"], job["request"]["seed"]) for job in swept["jobs"]] == [(8, 1), (12, 1)]
    prompts = client.post("/api/v1/variations", json={"request": SMALL, "prompts": ["a ship", "a raft"]}).json()
    assert [job["title"] for job in prompts["jobs"]] == ["a ship", "a raft"]


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"request": SMALL, "count": 99}, "count", "ask for 1 to 12"),
        ({"request": SMALL, "count": "3"}, "count", "count"),
        ({"request": SMALL, "field": "model", "values": ["synthetic", "nobody"]}, "model", "nobody"),
        ({"request": SMALL | {"fps": 99}, "count": 2}, "fps", "fps=99 is above the most that is possible; use 8 to 30"),
        ({"request": SMALL | {"fpz": 9}, "count": 2}, "fpz", "did you mean fps?"),
        ({"request": {"num_frames": 24}, "count": 2}, "prompt", "prompt is missing"),
        ({"request": SMALL, "count": 2, "draft_steps": 10}, "draft_steps", "is not below the 10 steps"),
        ({"request": SMALL, "draft_steps": 0}, "draft_steps", "use 1 to 49"),
        (
            {"request": SMALL, "prompts": ["a", "b"], "count": 2},
            "count",
            "another setting is to vary; leave out count or prompts",
        ),
        ({"count": 2}, "request", "request is missing; send it"),
        ({"request": SMALL, "size": 2}, "size", "is not a field of a request"),
    ],
)
def test_variations_that_cannot_be_made_queue_nothing(client, generator, body, field, said):
    answer = client.post("/api/v1/variations", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (422, field)
    assert said in error["message"]
    assert generator.count() == 0


def test_a_draft_is_planned_rendered_and_promoted(client, generator):
    draft = finished(client, generator, draft_steps=3)
    assert (draft["artifact"]["draft_steps"], draft["artifact"]["frames"]) == (3, 16)
    path = f"/api/v1/jobs/{draft['id']}/promote"
    generator.pause_queue(True)
    planned = client.get(path)
    assert (planned.status_code, planned.json()["done_steps"]) == (200, 3)
    assert generator.queue() == []
    answer = client.post(path)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["parent"], job["request"]) == (draft["id"], draft["request"] | {"draft_steps": None})
    assert client.post(path).json()["id"] == job["id"]
    refused = client.post(f"/api/v1/jobs/{job['id']}/promote")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert "is no draft; name one that was made with draft_steps" in refused.json()["error"]["message"]
    assert client.post(f"/api/v1/jobs/{'0' * 20}/promote").status_code == 404
    varied = client.post(f"/api/v1/jobs/{job['id']}/vary", json={"count": 2, "draft_steps": 3}).json()
    assert [(one["request"]["seed"], one["plan"]["draft_steps"]) for one in varied["jobs"]] == [(2, 3), (3, 3)]
