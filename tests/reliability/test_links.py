"""Folders of the data folder that are links to another disk: the same limits, the same clean-up, one place a video."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.core.config import Settings
from backend.core.errors import NotEnoughSpace, NotFound, StudioError
from backend.core.schema import parse_request
from backend.jobs.disk_space import DiskSpace
from backend.jobs.job import JobState
from backend.library.downloads import Downloads
from backend.library.loras import LoraLibrary
from backend.media.uploads import Uploads
from backend.synthetic import SyntheticEngine
from backend.video_generator import VideoGenerator
from tests.conftest import SMALL
from tests.lora_files import write_lora
from tests.tiny_checkpoints import build_checkpoint
from tests.web.test_api import png

LINKED = {
    "outputs": ("outputs",),
    "the trash": ("outputs/.trash",),
    "uploads": ("uploads",),
    "models": ("models",),
    "the trash of models": ("models/.trash",),
    "temp": ("temp",),
    "outputs and its trash": ("outputs", "outputs/.trash"),
    "all": ("outputs", "uploads", "models", "temp"),
}
LATER = 8 * 24 * 3600.0


@pytest.fixture(params=LINKED.values(), ids=LINKED)
def linked(request, settings: Settings, other_disk: Path) -> Settings:
    """Settings of a data folder some of whose folders are links to another file system."""
    settings.data.mkdir()
    for name in request.param:
        link = settings.data / name
        link.parent.mkdir(parents=True, exist_ok=True)
        # The trash of a folder that is a link already goes back to the first file system.
        place = link.parent.parent if link.parent.is_symlink() else other_disk
        target = (place / f"real {name.replace('/', ' ')}").absolute()
        target.mkdir()
        link.symlink_to(target)
    return settings


@pytest.fixture
def studio(linked: Settings) -> Iterator[VideoGenerator]:
    generator = VideoGenerator(linked, {"synthetic": SyntheticEngine()})
    generator.start()
    yield generator
    generator.stop()


def places(settings: Settings, job_id: str) -> list[str]:
    return [folder.name for folder in (settings.outputs, settings.trash) if (folder / job_id).exists()]


def test_a_video_is_made_deleted_restored_and_purged(studio, linked):
    picture = studio.uploads.add(_written(linked.data / "a.png", png()))
    request = parse_request(SMALL | {"mode": "image_to_video", "image": picture.id})
    job = studio.wait(studio.submit(request).id, timeout=100)
    assert job.state is JobState.SUCCEEDED, job.error
    assert places(linked, job.id) == ["outputs"]
    studio.results.delete(job.id)
    assert places(linked, job.id) == [".trash"]
    studio.results.restore(job.id)
    assert places(linked, job.id) == ["outputs"]
    assert studio.results.file(job.id, "video.mp4").stat().st_size == job.artifact.bytes
    studio.results.delete(job.id)
    assert studio.tidying.empty_trash() == 1
    assert places(linked, job.id) == []
    assert not [path for folder in (linked.outputs, linked.trash, linked.temp) for path in folder.glob(".*.*")]


def test_uploads_are_counted_swept_and_kept_while_they_are_needed(studio, linked):
    needed, other = (studio.uploads.add(_written(linked.data / "a.png", png())) for _ in range(2))
    size = sum(path.stat().st_size for path in linked.uploads.rglob("*") if path.is_file())
    small = Uploads(linked.model_copy(update={"uploads_quota_bytes": size, "upload_limit_bytes": 1}))
    with pytest.raises(NotEnoughSpace, match="Uploads take"), small.receive("b.png"):
        pass
    assert studio.uploads.sweep({needed.id}, 0, time.time() + LATER) == [other.id]
    assert studio.uploads.get(needed.id) == needed
    with pytest.raises(NotFound):
        studio.uploads.get(other.id)


def test_the_trash_is_purged_by_age(studio, linked):
    job = studio.wait(studio.submit(parse_request(SMALL)).id, timeout=100)
    studio.results.delete(job.id)
    studio.tidying._doubt_s = 0
    studio.tidying.tidy()
    assert places(linked, job.id) == [".trash"]
    studio.tidying.now = lambda: time.time() + LATER
    studio.tidying.tidy()
    assert places(linked, job.id) == []


def test_models_and_loras_go_to_the_trash_and_come_back(linked):
    build_checkpoint(linked.models / "random-df", "df")
    downloads = Downloads(linked)
    downloads.remove("random-df")
    assert not (linked.models / "random-df").exists()
    assert [one.spec.id for one in downloads.trashed()] == ["random-df"]
    downloads.restore("random-df")
    assert ((linked.models / "random-df").exists(), downloads.trashed()) == (True, [])
    downloads.remove("random-df", for_good=True)
    assert not (linked.models / "random-df").exists()
    loras = LoraLibrary([linked.models], linked.models_trash, 0)
    loras.add(write_lora(linked.data / "grain.safetensors"))
    loras.remove("grain")
    assert loras.trashed() == ["grain"]
    loras.restore("grain")
    assert (loras.get("grain").name, loras.trashed()) == ("grain", [])
    assert not [path for folder in (linked.models, linked.models_trash) for path in folder.rglob(".*.*")]


class Killed(BaseException):
    """The process died here."""


@pytest.mark.parametrize("act", ["delete", "restore"])
def test_a_process_that_dies_while_a_video_changes_disks_has_it_in_one_place_after_the_next_start(
    settings, other_disk, monkeypatch, act
):
    settings.outputs.mkdir(parents=True)
    settings.trash.symlink_to(other_disk)
    studio = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
    studio.start()
    job = studio.wait(studio.submit(parse_request(SMALL)).id, timeout=100)
    if act == "restore":
        studio.results.delete(job.id)
    rename = Path.rename

    def dying(path: Path, target: Path) -> Path:
        if path.name.endswith(".part"):
            raise Killed  # the source has no name any more, and the copy none yet
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(Killed):
            getattr(studio.results, act)(job.id)
    studio.stop()
    assert places(settings, job.id) == []
    again = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
    try:
        assert places(settings, job.id) == [".trash" if act == "delete" else "outputs"]
        again.results.restore(job.id)
        assert places(settings, job.id) == ["outputs"]
        assert again.results.file(job.id, "video.mp4").stat().st_size == job.artifact.bytes
    finally:
        again.stop()


@pytest.mark.parametrize("act", ["delete", "restore"])
def test_a_full_disk_leaves_the_video_where_it_is_and_says_so(settings, other_disk, monkeypatch, act):
    settings.outputs.mkdir(parents=True)
    settings.trash.symlink_to(other_disk)
    studio = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
    studio.start()
    try:
        job = studio.wait(studio.submit(parse_request(SMALL)).id, timeout=100)
        if act == "restore":
            studio.results.delete(job.id)
        before = places(settings, job.id)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfile", full)
            with pytest.raises(StudioError, match="No space left on device"):
                getattr(studio.results, act)(job.id)
        assert places(settings, job.id) == before
        assert (studio.job(job.id).trashed_at is not None) == (act == "restore")
    finally:
        studio.stop()


def test_the_space_of_every_disk_that_a_video_needs_counts(settings, monkeypatch):
    settings.outputs.mkdir(parents=True)
    free = {settings.data: 5, settings.outputs: 3}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 0, free[folder]))
    assert DiskSpace(settings)._free() == 3


@pytest.mark.parametrize("name", ["outputs", "uploads", "temp", "models"])
def test_a_link_to_a_disk_that_is_away_is_one_sentence(settings, name):
    settings.data.mkdir()
    (settings.data / name).symlink_to("/a disk that is away")
    with pytest.raises(StudioError, match=f"{name} in the data folder .* link to nowhere; connect the disk"):
        VideoGenerator(settings, {"synthetic": SyntheticEngine()})


def _written(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    return file
