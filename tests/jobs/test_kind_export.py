"""A finished video is exported as a job: in every format, with progress, cancel and clean-up, and its parent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import av
import pytest
from PIL import Image

from backend.core.config import ROOT
from backend.core.errors import InvalidRequest, JobCancelled, NotEnoughSpace
from backend.core.plan import Source, Stage
from backend.jobs.history import open_history
from backend.jobs.job import JobState
from backend.jobs.kinds import KINDS
from backend.jobs.kinds import export as export_kind
from backend.jobs.kinds.export import ExportRequest
from backend.media.export import ExportFormat
from backend.video_generator import VideoGenerator

MOVING = {"mp4": "mp4", "webm": "webm", "av1": "mp4", "gif": "gif", "prores": "mov"}


@pytest.fixture
def video(generator, a_request):
    job = generator.submit(a_request(num_frames=64))
    assert generator.wait(job.id, 100).state is JobState.SUCCEEDED
    return job


@pytest.fixture
def export(generator, video):
    def make(**fields):
        request = ExportRequest(**{"job": video.id} | fields)
        job = generator.wait(generator.submit(request).id, 100)
        assert job.state is JobState.SUCCEEDED, job.error
        return job, generator.results.file(job.id)

    return make


@pytest.mark.parametrize("format", MOVING)
def test_a_moving_format_has_the_size_rate_and_count_of_the_video(export, video, format):
    job, path = export(format=format)
    assert path.name == f"export.{MOVING[format]}"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert [stream.width, stream.height, len(frames)] == [128, 96, 64]
        assert container.duration / 1e6 == pytest.approx(64 / 24, abs=0.03)
    assert (job.artifact.frames, job.artifact.fps, job.artifact.bytes) == (64, 24, path.stat().st_size)
    assert (job.kind, job.parent, job.title) == ("export", video.id, job.request.title)
    assert job.as_dict()["artifact"]["file"] == f"outputs/{job.id}/{path.name}"


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_a_slow_video_stays_slow(generator, export, a_request, format):
    slow = generator.submit(a_request(fps=12))
    generator.wait(slow.id, 100)
    job, path = export(job=slow.id, format=format)
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 16
        assert container.duration / 1e6 == pytest.approx(16 / 12, abs=0.03)
    assert (job.artifact.frames, job.artifact.fps) == (16, 12)


def test_a_width_scales_in_the_shape_of_the_video(export):
    _, path = export(format="gif", width=64)
    with Image.open(path) as image:
        assert (image.size, image.n_frames) == ((64, 48), 64)


def test_frames_and_stills_are_pictures(export):
    _, archive = export(format="frames")
    assert len(zipfile.ZipFile(archive).namelist()) == 64
    first, last, end = (Image.open(export(format="still", frame=frame)[1]) for frame in (0, 63, -1))
    assert first.size == last.size == (128, 96)
    assert first.tobytes() != last.tobytes()
    assert end.tobytes() == last.tobytes()


def test_an_upload_is_exported_too(generator, video):
    upload = generator.uploads.add(generator.results.file(video.id), "boat.mp4")
    job = generator.wait(generator.submit(ExportRequest(video=upload.id, format="webm")).id, 100)
    assert (job.state, job.artifact.frames) == (JobState.SUCCEEDED, 64)
    assert upload.id in generator.store.uploads_in_use()


def test_what_cannot_be_exported_is_refused(generator, video, export, a_request):
    still, _ = export(format="still")
    generator.pause_queue(True)
    waiting = generator.submit(a_request())
    for fields, said in (
        ({"job": waiting.id}, r"has no video \(render, queued\); name a finished render"),
        ({"job": still.id}, r"has no video \(export, succeeded\); name a finished render"),
        ({"job": "0" * 20}, "There is no job"),
        ({"video": "0" * 20}, "There is no upload"),
        ({"job": video.id, "format": "still", "frame": 64}, "frame=64 is not in the video, which has 64 frames; use 0"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            generator.plan(ExportRequest(**fields))
    generator.delete(video.id)
    with pytest.raises(InvalidRequest, match="is not there; restore it"):
        generator.plan(ExportRequest(job=video.id))


@pytest.mark.parametrize("fields", [{}, {"job": "0" * 20, "video": "1" * 20}, {"job": "0" * 20, "frame": 3}])
def test_a_request_names_one_source_and_a_frame_only_of_a_still(fields):
    with pytest.raises(ValueError, match=r"send one of them|leave it out"):
        ExportRequest(**fields)


@pytest.mark.parametrize("format", [one for one in ExportFormat if one is not ExportFormat.STILL])
def test_a_cancelled_export_leaves_nothing(generator, video, settings, format):
    request = ExportRequest(job=video.id, format=format)
    generator.pause_queue(True)
    job = generator.submit(request)

    def cancel_at_encoding(at):
        if at.stage is Stage.ENCODING and at.part > 0.3:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        export_kind.run(job, generator._services, cancel_at_encoding)
    assert not (settings.temp / job.id).exists()
    assert not (settings.outputs / job.id).exists()


def test_the_worker_cancels_an_export_at_its_next_report(generator, video, settings, monkeypatch):
    """The cancellation comes while it encodes."""
    original = export_kind.export_video

    def cancelled_first(format, read, shape, target, report):
        generator.cancel(job.id)
        return original(format, read, shape, target, report)

    monkeypatch.setattr(export_kind, "export_video", cancelled_first)
    generator.pause_queue(True)
    job = generator.submit(ExportRequest(job=video.id, format="webm"))
    generator.pause_queue(False)
    assert generator.wait(job.id, 100).state is JobState.CANCELLED
    assert not (settings.temp / job.id).exists()
    assert generator.retry(job.id).state is JobState.QUEUED
    monkeypatch.setattr(export_kind, "export_video", original)
    assert generator.wait(job.id, 100).state is JobState.SUCCEEDED


KILLED = """
import os, signal, sys
from backend.core.config import Settings
from backend.core.plan import Source, Stage
from backend.jobs.running import RunningJob
from backend.video_generator import VideoGenerator
from pathlib import Path

heartbeat = RunningJob.heartbeat
def killed(self, at):
    heartbeat(self, at)
    if at.stage is Stage.ENCODING and at.part > 0.3:
        os.kill(os.getpid(), signal.SIGKILL)
RunningJob.heartbeat = killed
data = Path(sys.argv[1])
generator = VideoGenerator(Settings(data=data, shared_models=data / "none", disk_reserve_bytes=0))
generator.pause_queue(False)
generator.start()
generator.wait(sys.argv[2], 100)
"""


def test_a_killed_export_is_made_again_and_leaves_nothing_else(generator, video, settings):
    generator.pause_queue(True)
    job = generator.submit(ExportRequest(job=video.id, format="webm"))
    generator.stop()
    command = [sys.executable, "-c", KILLED, str(settings.data), job.id]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (settings.outputs / job.id).exists()
    again = VideoGenerator(settings)
    again.start()
    try:
        assert again.wait(job.id, 100).state is JobState.SUCCEEDED
    finally:
        again.stop()
    assert not (settings.temp / job.id).exists()
    assert sorted(path.name for path in (settings.outputs / job.id).iterdir()) == ["export.webm", "metadata.json"]
    recipe = json.loads((settings.outputs / job.id / "metadata.json").read_text())
    assert (recipe["kind"], recipe["parent"], recipe["request"]["job"]) == ("export", video.id, video.id)


def test_a_finished_export_whose_row_was_not_written_is_not_made_again(generator, export, video):
    job, path = export(format="still")
    made = path.stat().st_mtime_ns
    assert KINDS["export"].run(job, generator._services, lambda at: None) == job.artifact
    assert path.stat().st_mtime_ns == made


def test_an_export_is_found_by_its_recipe_where_the_history_is_gone(generator, export, video, settings):
    job, _ = export(format="still", frame=3)
    generator.stop()
    settings.database.unlink()
    shutil.rmtree(settings.copies)
    store, notice = open_history(settings)
    found = store.get(job.id)
    store.close()
    assert "2 videos in outputs/ were added" in notice
    assert (found.kind, found.state, found.parent, found.title) == ("export", job.state, video.id, job.title)
    assert (found.request, found.plan, found.artifact) == (job.request, job.plan, job.artifact)
    assert found.created_at == job.created_at


def test_an_export_that_does_not_fit_on_the_disk_is_refused(generator, video, monkeypatch):
    """A frame needs less than all of them."""
    generator.pause_queue(True)
    frames, still = (ExportRequest(job=video.id, format=format) for format in ("frames", "still"))
    room = generator.plan(frames).forecast.disk_bytes - 1
    monkeypatch.setattr(generator._disk, "_free", lambda: room)
    assert generator.submit(still).state is JobState.QUEUED
    with pytest.raises(NotEnoughSpace):
        generator.submit(frames)


def test_an_export_goes_to_the_trash_and_comes_back(generator, export):
    job, path = export(format="still")
    generator.delete(job.id)
    assert not Path(path).exists()
    generator.restore(job.id)
    assert generator.results.file(job.id).is_file()


@pytest.mark.parametrize(
    ("source", "width", "size"),
    [
        ((960, 540), 480, (480, 270)),
        ((961, 541), None, (960, 540)),
        ((960, 540), 101, (100, 56)),
        ((540, 960), 3840, (3840, 6826)),
        ((1920, 1080), 7680, (7680, 4320)),
        ((64, 1920), 3840, "gives 3840x115200 pixels; use 16 to 273."),
        ((162, 92), 16, "gives 16x9 pixels; use 29 to 7643."),
    ],
)
def test_sizes_keep_the_shape_of_the_video_or_are_refused(source, width, size):
    video = Source(*source, 24, 24.0)
    if isinstance(size, tuple):
        assert export_kind._size(video, width) == size
    else:
        with pytest.raises(InvalidRequest, match=size):
            export_kind._size(video, width)


def test_a_large_export_counts_the_memory_of_its_frames():
    small, large = (export_kind._forecast(ExportFormat.WEBM, *size, 24) for size in ((960, 540), (3840, 6826)))
    assert small.peak_gib < 0.5
    assert 3.5 < large.peak_gib < 5  # measured: 3.1 GiB by the encoder, 1.3 by the studio
