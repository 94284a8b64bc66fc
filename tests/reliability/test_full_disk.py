"""P08: whatever cannot be written, the store stays readable, no torn file has its final name, and the job goes on."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from backend.core.config import Settings
from backend.core.errors import NotEnoughSpace
from backend.core.schema import parse_request
from backend.jobs.disk_space import ReserveFile
from backend.jobs.filters import Filter
from backend.jobs.job import JobState
from backend.synthetic import SyntheticEngine
from backend.video_generator import VideoGenerator
from tests.conftest import SMALL
from tests.reliability.faulty_disk import FaultyDisk, FullDatabase, install
from tests.studio import LiveStudio

TWO_SEGMENTS = SMALL | {"num_frames": 48, "skyreels": {"base_num_frames": 33, "overlap_history": 17}}
NEXT_JOB = "UPDATE jobs SET state = 'running'"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("backend.jobs.disk_space.CHECK_S", 0.05)
    monkeypatch.setattr("backend.jobs.worker.STORE_RETRY_S", 0.05)


def settings_of(data: Path) -> Settings:
    return Settings(data=data, shared_models=data / "none", disk_reserve_bytes=0)


def frames_of(file: Path) -> bytes:
    with av.open(str(file)) as film:
        return b"".join(frame.to_ndarray(format="rgb24").tobytes() for frame in film.decode(video=0))


def render(data: Path, disk: FaultyDisk) -> bytes:
    """The pixels of a film that is made on `disk`; everything is checked that must hold on the way."""
    settings = settings_of(data)
    generator = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
    generator.tidying.tidy()  # so that the worker has none to do, and what is written is the job's
    generator.start()
    settings.reserve_file.unlink(missing_ok=True)  # which would save the store
    try:
        generator.store._db = FullDatabase(generator.store._db, disk)
        install(disk)
        disk.armed = True
        try:
            job = generator.submit(parse_request(TWO_SEGMENTS))
        except NotEnoughSpace:
            job = generator.submit(parse_request(TWO_SEGMENTS))
        job = generator.wait(job.id, timeout=60)
        assert job.state is JobState.SUCCEEDED, (disk.fails_at, job.error)
        assert generator.store.count(Filter()) == 1
    finally:
        disk.armed = False
        install(None)
        generator.stop()
    with sqlite3.connect(settings.database) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert not [path for path in settings.temp.iterdir() if path.name not in (".gitkeep", settings.cache.name)]
    return frames_of(settings.outputs / job.id / "video.mp4")


def by_the_clock(what: str, nth: int) -> bool:
    """Whether another run may write it less often: progress, pictures while it is made, a look for the next job."""
    return "progress" in what or "preview.webp" in what or (nth > 1 and what.startswith(("os.mkdir /temp/*", NEXT_JOB)))


@pytest.mark.timeout(400)
def test_every_write_point_failed_once_ends_in_the_same_film(tmp_path):
    counted = FaultyDisk(tmp_path / "whole")
    expected = render(tmp_path / "whole", counted)
    assert len(expected) == 48 * 96 * 128 * 3
    points = [(what, nth) for what, times in counted.seen.items() for nth in range(1, times + 1)]
    assert len(points) > 30
    assert {"open", "os.rename", "os.mkdir", "fsync", "INSERT", "UPDATE"} <= {what.split()[0] for what in counted.seen}
    for number, point in enumerate(points):
        disk = FaultyDisk(tmp_path / f"{number}", point)
        assert render(tmp_path / f"{number}", disk) == expected, point
        assert disk.failed or by_the_clock(*point), point
        shutil.rmtree(tmp_path / f"{number}")


@pytest.fixture(autouse=True)
def counted_fsync(monkeypatch):
    real = os.fsync

    def fsync(handle: int) -> None:
        from tests.reliability import faulty_disk

        if faulty_disk._current is not None:
            faulty_disk._current.touch("fsync")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_film_that_does_not_fit_is_refused_before_it_is_queued(generator, a_request, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(NotEnoughSpace, match=r"^0\.0 MB of disk are free"):
        generator.submit(a_request())
    assert generator.store.count(Filter()) == 0


def test_a_job_waits_for_room_keeps_its_place_and_goes_on_by_itself(generator, a_request, monkeypatch):
    generator.pause_queue(True)
    first, second = generator.submit(a_request(seed=1)), generator.submit(a_request(seed=2))
    usage = [Usage(10**9, 10**9 - 1000, 1000)]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage[0])
    generator.pause_queue(False)
    deadline = time.monotonic() + 60
    while (job := generator.job(first.id)).error is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (job.state, job.error.code) == (JobState.QUEUED, "not_enough_space")
    assert "goes on by itself" in job.error.message
    assert [job_id for job_id, _ in generator.store.queue()] == [first.id, second.id]
    attempts = generator.job(first.id).attempts
    time.sleep(0.3)
    assert generator.job(first.id).attempts == attempts  # it is not tried over and over
    usage[0] = Usage(10**12, 0, 10**12)
    assert generator.wait(second.id, 30).state is JobState.SUCCEEDED
    assert generator.job(first.id).state is JobState.SUCCEEDED
    assert generator.job(first.id).error is None


def test_a_job_that_waits_for_room_can_be_cancelled(generator, a_request, monkeypatch):
    job = generator.submit(a_request())
    generator.wait(job.id, 30)
    generator.pause_queue(True)
    job = generator.submit(a_request(seed=5))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    generator.pause_queue(False)
    while generator.job(job.id).error is None:
        time.sleep(0.02)
    assert generator.cancel(job.id).state is JobState.CANCELLED


@pytest.fixture
def data(tmp_path) -> Iterator[Path]:
    """A data folder on a small disk of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(data: Path, but_kib: int = 0) -> Path:
    """Take all that is free but so much."""
    ballast = data / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(data).free - 1024 * but_kib))
    return ballast


def test_on_a_full_disk_a_person_can_still_make_room(data, monkeypatch):
    """Cancel, hold, delete, empty the trash: the history has its spare room."""
    monkeypatch.setattr(ReserveFile, "BYTES", 512 * 1024)  # of which a hundred must be free
    generator = VideoGenerator(settings_of(data), {"synthetic": SyntheticEngine()})
    generator.start()
    try:
        make_room_by_hand(generator, data)
    finally:
        generator.stop()


def make_room_by_hand(generator: VideoGenerator, data: Path) -> None:
    done = generator.wait(generator.submit(parse_request(SMALL)).id, 60)
    generator.pause_queue(True)
    waiting = [generator.submit(parse_request(SMALL | {"seed": seed})) for seed in range(3)]
    assert generator.settings.reserve_file.exists()
    ballast = fill(data)
    assert generator.cancel(waiting[0].id).state is JobState.CANCELLED
    assert generator.pause(waiting[1].id).state is JobState.PAUSED
    assert generator.resume(waiting[1].id).state is JobState.QUEUED
    assert not generator.settings.reserve_file.exists()
    generator.delete(done.id)
    assert generator.restore(done.id).trashed_at is None
    generator.delete(done.id)
    generator.delete(waiting[0].id)
    assert generator.empty_trash() == 2
    assert not (generator.settings.trash / done.id).exists()
    ballast.unlink()
    generator.tidying.tidy()
    assert generator.settings.reserve_file.exists()


def test_a_start_on_a_full_disk_is_tried_again_until_there_is_room(data):
    generator = VideoGenerator(settings_of(data), {"synthetic": SyntheticEngine()})
    generator.pause_queue(True)
    job = generator.submit(parse_request(SMALL))
    generator.stop()
    ballast = fill(data)
    log = data.parent / "studio.log"

    def make_room() -> None:
        while not (log.exists() and log.read_text().count("It tries again until there is room") > 1):
            time.sleep(0.1)
        ballast.unlink()

    threading.Thread(target=make_room, daemon=True).start()
    studio = LiveStudio(data)
    try:
        assert studio.api.get(f"/jobs/{job.id}").json()["state"] == "queued"
        assert "Traceback" not in log.read_text()
    finally:
        studio.stop()


@pytest.mark.parametrize("spare_kib", [8, 40])
def test_a_real_disk_that_is_full_lets_the_film_wait(data, spare_kib):
    """A tmpfs that another program fills in the middle of a render, and empties later."""
    generator = None
    try:
        engine = SyntheticEngine()
        engine.hold_at(12)
        generator = VideoGenerator(settings_of(data), {"synthetic": engine})
        generator.start()
        job = generator.submit(parse_request(TWO_SEGMENTS))
        assert engine.reached.wait(100)
        ballast = fill(data, spare_kib)
        engine.release()
        time.sleep(2)
        assert generator.job(job.id).state in (JobState.RUNNING, JobState.QUEUED)
        assert not (data / "outputs" / job.id).exists()
        ballast.unlink()
        assert generator.wait(job.id, 60).state is JobState.SUCCEEDED
        assert len(frames_of(data / "outputs" / job.id / "video.mp4")) == 48 * 96 * 128 * 3
    finally:
        if generator is not None:
            engine.release()
            generator.stop()
