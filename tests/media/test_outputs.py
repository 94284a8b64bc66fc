"""A film is in the gallery whole or not at all, and out of it only when somebody says so."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend import durable
from backend.core.errors import Conflict, NotFound, RenderFailed, UploadRefused
from backend.core.ids import new_id
from backend.media import guard
from backend.media.outputs import (
    METADATA,
    THUMBNAIL,
    TRASH,
    VIDEO,
    move_to_trash,
    publish,
    purge_trash,
    read_metadata,
    restore_from_trash,
    write_metadata,
)
from backend.media.probe import MediaInfo, probe
from backend.media.writer import read_recipe, write_poster
from tests.media_files import write_film

EXPECTED = MediaInfo("video", 96, 64, 10, 24.0)
DAY = 24 * 3600.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    frames = np.full((10, 64, 96, 3), 128, np.uint8)
    write_film(folder / VIDEO, [frames], fps=24, width=96, height=64, recipe={}, title="")
    write_poster(folder / THUMBNAIL, frames[0])
    write_metadata(folder, {"prompt": "ein Boot, größer als 🌊"})
    return folder


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    work = tmp_path / "temp" / "job"
    work.mkdir(parents=True)
    for path in finished.iterdir():
        os.link(path, work / path.name)
    return work


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    return outputs


@pytest.fixture
def name(work: Path, outputs: Path) -> str:
    """A published film."""
    name = new_id()
    publish(work, outputs, name, expect=EXPECTED)
    return name


def test_publish(work: Path, outputs: Path):
    name = new_id()
    folder = publish(work, outputs, name, expect=EXPECTED)
    assert folder == outputs / name
    assert {path.name for path in folder.iterdir()} == {VIDEO, THUMBNAIL, METADATA}
    assert not work.exists()
    assert read_metadata(folder) == {"prompt": "ein Boot, größer als 🌊"}


@pytest.mark.parametrize("change", [{"frames": 11}, {"fps": 25.0}, {"width": 98}, {"height": 62}, {"kind": "image"}])
def test_a_film_that_is_not_as_planned_is_not_published(work: Path, outputs: Path, change: dict[str, object]):
    with pytest.raises(RenderFailed, match="10 frames of 96x64 at 24 fps, not"):
        publish(work, outputs, new_id(), expect=replace(EXPECTED, **change))
    assert list(outputs.iterdir()) == []
    assert (work / VIDEO).exists()


def test_a_torn_film_is_not_published(work: Path, outputs: Path):
    data = (work / VIDEO).read_bytes()
    (work / VIDEO).unlink()
    (work / VIDEO).write_bytes(data[: len(data) // 2])
    with pytest.raises(RenderFailed, match=r"cannot be read back: video\.mp4"):
        publish(work, outputs, new_id(), expect=EXPECTED)
    assert list(outputs.iterdir()) == []


def test_a_finished_film_is_waited_for_longer_than_an_upload(work: Path, outputs: Path, tmp_path: Path, monkeypatch):
    """On a machine that is busy, or starved: the render took minutes."""
    child = tmp_path / "python"
    child.write_text("#!/bin/sh\nexec sleep 30\n")
    child.chmod(0o755)
    monkeypatch.setattr(guard.sys, "executable", str(child))
    monkeypatch.setattr("backend.media.outputs.RENDER_ANSWER_TIMEOUT_S", 0.2)
    with pytest.raises(RenderFailed, match=r"video\.mp4 takes too long"):
        publish(work, outputs, new_id(), expect=EXPECTED)
    assert (work / VIDEO).exists()
    assert guard.RENDER_ANSWER_TIMEOUT_S >= 10 * guard.ANSWER_TIMEOUT_S


@pytest.mark.parametrize("left", [None, b"", b"half"])
def test_a_film_whose_poster_is_spoiled_is_not_published(work: Path, outputs: Path, left: bytes | None):
    whole = (work / THUMBNAIL).read_bytes()
    (work / THUMBNAIL).unlink()
    if left is not None:
        (work / THUMBNAIL).write_bytes(whole[: len(whole) // 2] if left == b"half" else left)
    with pytest.raises(RenderFailed, match="poster"):
        publish(work, outputs, new_id(), expect=EXPECTED)
    assert list(outputs.iterdir()) == []


def test_a_film_may_be_longer_than_an_upload(tmp_path: Path, outputs: Path):
    """A source of 600 seconds and what continues it."""
    frames = np.zeros((700, 64, 64, 3), np.uint8)
    write_film(tmp_path / VIDEO, [frames], fps=1, width=64, height=64, recipe={"seed": 1}, title="")
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / VIDEO).rename(work / VIDEO)
    write_poster(work / THUMBNAIL, frames[0])
    with pytest.raises(UploadRefused, match="700 seconds long; cut it to 600"):
        probe(work / VIDEO)
    folder = publish(work, outputs, new_id(), expect=MediaInfo("video", 64, 64, 700, 1.0))
    assert read_recipe(folder / VIDEO) == {"seed": 1}


def test_nothing_is_overwritten(work: Path, outputs: Path):
    name = new_id()
    (outputs / name).mkdir()
    (outputs / name / VIDEO).write_bytes(b"the first attempt's film")
    with pytest.raises(Conflict):
        publish(work, outputs, name, expect=EXPECTED)
    assert (outputs / name / VIDEO).read_bytes() == b"the first attempt's film"
    assert (work / VIDEO).exists()


def test_files_are_on_the_disk_before_the_name_is(work: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch):
    name, synced = new_id(), []
    real = durable.sync
    monkeypatch.setattr(
        durable, "sync", lambda path: (synced.append((path.name, (outputs / name).exists())), real(path))
    )
    publish(work, outputs, name, expect=EXPECTED)
    before = {path for path, published in synced if not published}
    assert before == {VIDEO, THUMBNAIL, METADATA, "job"}
    assert ("outputs", True) in synced


@pytest.mark.parametrize("k", range(1, 7))
def test_whichever_sync_fails_no_half_film_stands_there(work: Path, outputs: Path, monkeypatch, k: int):
    name, calls = new_id(), []
    real = durable.sync

    def failing(path: Path) -> None:
        calls.append(path)
        if len(calls) == k:
            raise OSError(28, "No space left on device")
        real(path)

    monkeypatch.setattr(durable, "sync", failing)
    with pytest.raises(OSError, match="No space"):
        publish(work, outputs, name, expect=EXPECTED)
    assert not (outputs / name).exists() or {p.name for p in (outputs / name).iterdir()} == {VIDEO, THUMBNAIL, METADATA}


@pytest.mark.parametrize("content", [None, "", "{", "[]", "\xff"])
def test_metadata_that_cannot_be_read(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / METADATA).write_text(content, encoding="latin-1")
    with pytest.raises(NotFound, match="no metadata"):
        read_metadata(tmp_path)


def test_trash_and_back(outputs: Path, name: str):
    move_to_trash(outputs, name)
    assert not (outputs / name).exists()
    assert (outputs / TRASH / name / VIDEO).exists()
    restore_from_trash(outputs, name)
    assert (outputs / name / VIDEO).exists()
    with pytest.raises(NotFound):
        restore_from_trash(outputs, name)


def test_the_trash_keeps_films_from_the_day_they_went_in(outputs: Path, name: str):
    os.utime(outputs / name, (0, 0))
    move_to_trash(outputs, name)
    now = time.time()
    assert purge_trash(outputs, 7 * DAY, now + 6.9 * DAY) == []
    assert purge_trash(outputs, 7 * DAY, now + 7.1 * DAY) == [name]
    assert list((outputs / TRASH).iterdir()) == []


def test_purging_touches_nothing_else(outputs: Path, name: str, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("!")
    trash = outputs / TRASH
    trash.mkdir()
    (trash / "notes").mkdir()
    (trash / new_id()).symlink_to(elsewhere)
    inside = trash / new_id()
    inside.mkdir()
    (inside / "link").symlink_to(elsewhere)
    assert purge_trash(outputs, 0, now=4e9) == [inside.name]
    assert (elsewhere / "precious").exists()
    assert (outputs / name / VIDEO).exists()
    assert (trash / "notes").exists()


def test_no_trash_is_an_empty_trash(outputs: Path):
    assert purge_trash(outputs, 0, now=4e9) == []


def test_what_was_thrown_away_twice(outputs: Path, name: str):
    move_to_trash(outputs, name)
    (outputs / name).mkdir()
    (outputs / name / VIDEO).write_bytes(b"another")
    with pytest.raises(Conflict):
        restore_from_trash(outputs, name)
    with pytest.raises(Conflict):
        move_to_trash(outputs, name)
    assert (outputs / name / VIDEO).exists()
    assert (outputs / TRASH / name / VIDEO).exists()


@pytest.mark.parametrize("bad", ["", "..", ".trash", "../temp/job", "a" * 19, "/etc"])
def test_names_that_are_no_job(work: Path, outputs: Path, bad: str):
    for act in (move_to_trash, restore_from_trash):
        with pytest.raises(NotFound):
            act(outputs, bad)
    with pytest.raises(NotFound):
        publish(work, outputs, bad, expect=EXPECTED)
    assert (work / VIDEO).exists()


def test_a_link_is_no_film(outputs: Path, work: Path):
    name = new_id()
    (outputs / name).symlink_to(work)
    with pytest.raises(NotFound):
        move_to_trash(outputs, name)
    assert (work / VIDEO).exists()
