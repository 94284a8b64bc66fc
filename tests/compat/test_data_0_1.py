"""A data folder of version 0.1 opens: everything is in place, and its unfinished video goes on from its saved step."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
from pathlib import Path

import pytest

from backend.cli import main as cli
from backend.core.config import ROOT, Settings
from backend.core.errors import NewerData
from backend.core.plan import Stage
from backend.jobs.filters import Filter
from backend.jobs.history import open_history
from backend.jobs.job import JobState
from backend.jobs.kinds import render
from backend.jobs.migrations import SCHEMA_VERSION, migrate_recipe, stored_version
from backend.video_generator import VideoGenerator

ARCHIVE = Path(__file__).parent / "data-0.1.tar.gz"
WAITING = 4


@pytest.fixture
def data(tmp_path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "data"


@pytest.fixture
def expect(data) -> dict:
    return json.loads((data.parent / "expect.json").read_text())


@pytest.fixture
def settings(data) -> Settings:
    return Settings(data=data, shared_models=ROOT / "models", disk_reserve_bytes=0)


def test_everything_is_in_place(settings, expect):
    store, notice = open_history(settings)
    assert notice is None
    assert {job.id: job.state.value for job in store.find(limit=100)} == expect["states"]
    assert {job.id for job in store.find(Filter(states=(JobState.SUCCEEDED,)))} == set(expect["videos"])
    assert [job.id for job in store.find(Filter(favourite=True))] == expect["favourite"]
    assert [job.id for job in store.find(Filter(trashed=True))] == expect["trash"]
    assert store.queue_paused == expect["queue_paused"]
    assert {job.kind for job in store.find(limit=100)} == {"render"}
    in_use = store.uploads_in_use()
    assert in_use == {folder.name for folder in settings.uploads.iterdir() if folder.name != ".parts"}
    cancelled = store.get(expect["cancelled"])
    assert cancelled.progress.fraction == expect["fraction"]
    assert store.get(expect["videos"][0]).artifact.runtime["device"]
    store.close()


def test_the_older_store_is_kept_beside_the_copies(settings):
    assert stored_version(settings.database) == 1
    open_history(settings)[0].close()
    assert stored_version(settings.database) == SCHEMA_VERSION
    kept = settings.copies / f"before-schema-{SCHEMA_VERSION}.db"
    with sqlite3.connect(kept) as database:
        assert database.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone() == (WAITING,)
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
    database.close()
    again, notice = open_history(settings)
    assert notice is None
    assert again.count(Filter(states=(JobState.QUEUED,))) == WAITING
    again.close()


def test_it_opens_from_a_copy_of_version_0_1_where_the_store_is_damaged(settings):
    copies = {copy.name: copy.read_bytes() for copy in settings.copies.iterdir()}
    settings.database.write_bytes(b"nothing")
    store, notice = open_history(settings)
    assert "put together from the copy studio-000003.db" in notice
    assert store.count(Filter(states=(JobState.QUEUED,))) == WAITING
    assert {name: (settings.copies / name).read_bytes() for name in copies} == copies
    store.close()


def test_videos_are_found_by_their_recipes_where_nothing_else_is_left(settings, expect):
    settings.database.unlink()
    shutil.rmtree(settings.copies)
    store, notice = open_history(settings)
    assert "6 videos in outputs/ were added" in notice
    assert {job.id for job in store.find()} == set(expect["videos"])
    store.close()


def test_every_video_tells_its_recipe(settings, expect, capsys):
    for job_id in expect["videos"]:
        cli.inspect_video(settings.outputs / job_id / "video.mp4")
        recipe = json.loads(capsys.readouterr().out)
        assert recipe["schema_version"] == SCHEMA_VERSION
        assert recipe["job"] == job_id
        assert recipe["request"]["seed"] in range(1, 6)


def test_the_recipe_of_a_newer_version_is_refused_in_a_sentence():
    with pytest.raises(NewerData, match=rf"newer version of the studio \(schema {SCHEMA_VERSION + 1}; this version"):
        migrate_recipe({"schema_version": SCHEMA_VERSION + 1, "request": {}})


@pytest.mark.parametrize("version", ["2", None, 2.5, [2]])
def test_a_recipe_of_no_version_that_ever_was_is_refused_as_well(version):
    with pytest.raises(NewerData, match="written by a newer version"):
        migrate_recipe({"schema_version": version, "request": {}})


@pytest.mark.usefixtures("one_thread")
def test_the_cancelled_video_goes_on_from_its_saved_step(settings, expect, monkeypatch):
    generator = VideoGenerator(settings)
    job_id, reports = expect["cancelled"], []
    render_job = render.render_job

    def watched(job, engine, checkpoint, uploads, settings, report, loras):
        def remember(at):
            reports.append(at)
            report(at)

        return render_job(job, engine, checkpoint, uploads, settings, remember, loras)

    monkeypatch.setattr(render, "render_job", watched)
    for waiting in generator.jobs(Filter(states=(JobState.QUEUED,))):
        generator.cancel(waiting.id)
    generator.pause_queue(False)
    generator.retry(job_id)
    generator.start()
    job = generator.wait(job_id, 200)
    generator.stop()
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.artifact.frames == 97
    assert [step.method for step in job.plan.finishing_steps] == ["enlarge"]
    first = next(at for at in reports if at.stage is Stage.DENOISING or at.stage is Stage.DECODING)
    assert first.part > 0.4 or first.window == 2
