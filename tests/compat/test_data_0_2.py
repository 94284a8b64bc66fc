"""A data folder of version 0.2 (schema 2, before jobs had marks) opens: everything is in place, and can be marked.

Made by the code of 0.2 with placeholder videos: three videos, an extension, an export, one in the trash, a batch that
waits, one cancelled and one held; the queue is paused.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from pathlib import Path

import pytest

from backend.core.config import ROOT, Settings
from backend.jobs.filters import Filter
from backend.jobs.gallery import Gallery, VideoFilter
from backend.jobs.history import open_history
from backend.jobs.job import JobState
from backend.jobs.migrations import SCHEMA_VERSION, stored_version
from backend.jobs.recipe import recipe_of

ARCHIVE = Path(__file__).parent / "data-0.2.tar.gz"


@pytest.fixture
def settings(tmp_path) -> Settings:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return Settings(data=tmp_path / "data", shared_models=ROOT / "models", disk_reserve_bytes=0)


@pytest.fixture
def expect(settings) -> dict:
    return json.loads((settings.data.parent / "expect.json").read_text())


@pytest.fixture
def store(settings):
    assert stored_version(settings.database) == 2
    store, notice = open_history(settings)
    assert notice is None
    yield store
    store.close()


def test_everything_is_in_place(store, settings, expect):
    ended = {job.id: job.state for job in store.find(Filter(states=(JobState.SUCCEEDED,)))}
    assert set(ended) == {*expect["videos"], expect["export"]}
    assert [job.id for job in store.find(Filter(favourite=True))] == [expect["favourite"]]
    assert [job.id for job in store.find(Filter(trashed=True))] == [expect["trash"]]
    assert store.queue() == [(expect["held"], "paused"), *((job_id, "queued") for job_id in expect["waiting"])]
    assert {job.id for job in store.find(Filter(batch=expect["batch"]))} == set(expect["waiting"])
    assert store.get(expect["cancelled"]).state is JobState.CANCELLED
    assert store.get(expect["extension"]).parent == expect["videos"][0]
    assert store.queue_paused
    assert store.uploads_in_use() == {folder.name for folder in settings.uploads.iterdir() if folder.name != ".parts"}


def test_no_job_has_marks_and_each_can_be_given_some(store, expect):
    gallery = Gallery(store)
    for job in store.find(limit=100):
        assert (job.rating, job.note, job.approved, job.collections) == (None, None, False, ())
    assert gallery.collections() == []
    assert {card["id"] for card in gallery.page(VideoFilter()).cards} == set(expect["videos"])
    job = gallery.mark(expect["favourite"], {"rating": 5, "approved": True, "collections": ["best"]})
    assert (job.favourite, job.rating, job.approved, job.collections) == (True, 5, True, ("best",))


def test_the_older_store_is_kept_beside_the_copies(store, settings):
    assert stored_version(settings.database) == SCHEMA_VERSION
    with sqlite3.connect(settings.copies / f"before-schema-{SCHEMA_VERSION}.db") as kept:
        assert kept.execute("PRAGMA user_version").fetchone() == (2,)
        assert kept.execute("SELECT count(*) FROM jobs").fetchone()[0] == store.count() + 1
    kept.close()


def test_it_opens_from_a_copy_of_version_0_2_where_the_store_is_damaged(settings, expect):
    settings.database.write_bytes(b"nothing")
    store, notice = open_history(settings)
    assert "put together from the copy studio-" in notice
    assert len(store.queue()) == len(expect["waiting"]) + 1
    assert set(expect["videos"]) <= {job.id for job in store.find()}
    store.close()


def test_every_recipe_can_be_read(settings, expect):
    for job_id in [*expect["videos"], expect["export"]]:
        assert recipe_of(settings.outputs / job_id)["schema_version"] == SCHEMA_VERSION
