"""The ZIP of videos over REST."""

import io
import zipfile

from tests.web.test_api import finished, submit


def test_videos_come_as_one_zip(client, generator):
    jobs = [
        finished(client, generator, seed=seed, prompt=prompt) for seed, prompt in ((1, "A red boat!"), (2, "\u6d77"))
    ]
    ids = [job["id"] for job in jobs]
    answer = client.get("/api/v1/jobs.zip", params={"id": [*ids, ids[0]]})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="videos.zip"'
    assert int(answer.headers["content-length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["1-a-red-boat.mp4", f"2-{ids[1]}.mp4"]
        for name, job_id in zip(archive.namelist(), ids, strict=True):
            assert archive.read(name) == client.get(f"/api/v1/jobs/{job_id}/video").content


def test_a_zip_of_what_is_not_there_is_refused_before_it_begins(client, generator):
    job_id = finished(client, generator)["id"]
    generator.pause_queue(True)
    waiting = submit(client, seed=2)["id"]
    for ids, status in (([job_id, "nope"], 404), ([job_id, waiting], 404), ([], 422), (["x"] * 501, 422)):
        answer = client.get("/api/v1/jobs.zip", params={"id": ids})
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
