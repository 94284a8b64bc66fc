"""A film grows in segments on the disk, and goes on from there in the next attempt."""

from __future__ import annotations

import errno
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from backend.core.errors import DeviceLost, JobCancelled, ModelUnavailable, NotEnoughMemory, RenderFailed
from backend.core.plan import Machine, Source, Stage
from backend.core.planning import make_plan
from backend.core.registry import SYNTHETIC
from backend.engine import Inputs, Report, Task
from backend.finishing.fit import fit_frames
from backend.jobs.job import Job, JobState
from backend.jobs.kinds.render import render_job
from backend.media.outputs import read_metadata
from backend.media.uploads import Uploads
from backend.synthetic import Faults, SyntheticEngine
from tests.media_files import write_film
from tests.pace import within

MACHINE = Machine("CPU, 2 cores", 2, 8.0)
LONG = {"num_frames": 60, "skyreels": {"base_num_frames": 25, "overlap_history": 5}}  # 25, 20 and 15 frames


class Reports(list):
    """Remembers; raises JobCancelled at the first report that `cancel_at` holds for."""

    def __init__(self, cancel_at=lambda report: False):
        self.cancel_at = cancel_at

    def __call__(self, report):
        self.append(report)
        if self.cancel_at(report):
            raise JobCancelled


@pytest.fixture
def job(settings, a_request, tmp_path):
    def make(source=False, spec=SYNTHETIC, **wishes):
        found = None
        if source:
            clip = tmp_path / "clip.mp4"
            ramp = np.linspace(0, 1, 128)[:, None] * [250, 120, 30]
            frames = np.stack([np.tile(np.roll(ramp, n, 0), (96, 1, 1)) for n in range(30)]).astype(np.uint8)
            write_film(clip, [frames], fps=24, width=128, height=96)
            settings.uploads.mkdir(parents=True, exist_ok=True)
            with Uploads(settings).receive("clip.mp4") as incoming:
                incoming.write(clip.read_bytes())
                upload = incoming.accept()
            wishes |= {"mode": "video_extension", "video": upload.id}
            found = Source(128, 96, 30, 24.0)
        request = a_request(**LONG | wishes)
        plan = make_plan(request, spec, MACHINE, found)
        return Job("0" * 19 + "1", JobState.RUNNING, request, plan, created_at=0.0, position=1.0)

    return make


@pytest.fixture
def run(settings):
    for folder in (settings.outputs, settings.temp, settings.uploads):
        folder.mkdir(parents=True, exist_ok=True)

    def render(job, report=None, faults=None):
        engine = SyntheticEngine(faults)
        return render_job(job, engine, None, Uploads(settings), settings, Reports() if report is None else report)

    return render


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as film:
        return [frame.to_ndarray() for frame in film.decode(video=0)]


def frames_rgb(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as film:
        return [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]


def same(a: Path, b: Path) -> bool:
    return all(np.array_equal(*pair) for pair in zip(pictures(a), pictures(b), strict=True))


@pytest.mark.parametrize("source", [False, True])
@pytest.mark.parametrize("step", [1, 2, 9, 10, 15, 20, 21, 29])
def test_a_cancelled_job_goes_on_and_makes_the_same_film(job, run, settings, tmp_path, step, source):
    wish = job(source)
    video = settings.data / run(wish).video
    video.parent.rename(tmp_path / "unbroken")

    def at_step(report):
        return report.stage is Stage.DENOISING and 10 * (report.window - 1) + report.step == step

    with pytest.raises(JobCancelled):
        run(wish, Reports(at_step))
    kept = sorted(path.name for path in (settings.temp / wish.id).glob("*.mp4"))
    assert not video.exists()
    reports = Reports()
    run(wish, reports)
    assert same(video, tmp_path / "unbroken" / "video.mp4")
    assert [path.name for path in settings.temp.iterdir()] == []
    first = next(r for r in reports if r.stage is Stage.DENOISING)
    finished = sum(stop - start for start, stop in wish.plan.segments[: sum(name[0] == "0" for name in kept)])
    assert first.part > finished / 60 - 0.1
    assert ("source.mp4" in kept) == source
    if source:
        assert not any(r.stage is Stage.LOADING and r.part > 0 for r in reports), "the source was encoded again"


SMALL_MODEL = replace(SYNTHETIC, any_size=False, max_pixels=96 * 64)
SIZES = [("128x96", "enlarge"), ("90x64", "crop")]


@pytest.mark.parametrize(("resolution", "method"), SIZES)
def test_rendered_frames_are_finished_on_their_way_into_segments(job, run, settings, resolution, method):
    wish = job(spec=SMALL_MODEL, resolution=resolution)
    assert [step.method for step in wish.plan.finishing_steps] == [method]
    artifact = run(wish)
    assert f"{artifact.width}x{artifact.height}" == resolution
    rendered = SyntheticEngine().render(Task(wish.request, wish.plan, Inputs()), Reports())
    expected = np.concatenate([fit_frames(chunk, artifact.width, artifact.height) for chunk in rendered])[:60]
    shown = np.stack(frames_rgb(settings.data / artifact.video))
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("step", [9, 15, 25])
def test_a_cancelled_job_goes_on_and_is_finished_the_same(job, run, settings, tmp_path, step):
    wish = job(spec=SMALL_MODEL, resolution="128x96")
    video = settings.data / run(wish).video
    video.parent.rename(tmp_path / "unbroken")
    with pytest.raises(JobCancelled):
        run(wish, Reports(lambda at: at.stage is Stage.DENOISING and 10 * (at.window - 1) + at.step == step))
    run(wish)
    assert same(video, tmp_path / "unbroken" / "video.mp4")


def test_the_film_so_far_can_be_watched(job, run, settings):
    wish, seen = job(), []
    preview = settings.temp / wish.id / "partial.mp4"

    def look(report):
        if report.stage is Stage.DENOISING:
            seen.append((report.frames_ready, len(pictures(preview)) if preview.exists() else 0))

    run(wish, look)
    assert seen[0] == (0, 0)
    assert list(dict.fromkeys(seen)) == [(0, 0), (25, 25), (45, 45)]


def test_a_look_at_what_is_made_has_the_shape_of_the_film(job, settings, tmp_path):
    class Engine:
        def render(self, task, report):
            report(Report(Stage.DENOISING, 0.5, 1, 1, np.zeros((3, 96, 160, 3), np.uint8)))
            with Image.open(settings.temp / wish.id / "preview.webp") as look:
                sizes.append(look.size)
            raise JobCancelled

    for folder in (settings.outputs, settings.temp):
        folder.mkdir(parents=True, exist_ok=True)
    sizes = []
    for resolution, orientation in (("960x540", "landscape"), ("540p", "portrait")):
        wish = job(resolution=resolution, orientation=orientation)
        with pytest.raises(JobCancelled):
            render_job(wish, Engine(), None, Uploads(settings), settings, Reports())
    assert sizes == [(160, 90), (90, 160)]


def test_a_film_that_was_finished_but_not_published_needs_no_engine(job, run, settings, monkeypatch):
    wish = job()

    def died(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("backend.jobs.kinds.render.publish", died)
        with pytest.raises(KeyboardInterrupt):
            run(wish)
    artifact = run(wish, faults=Faults(raise_at={n: AssertionError("drawn again") for n in range(1, 31)}))
    assert len(pictures(settings.data / artifact.video)) == 60
    assert (settings.outputs / wish.id / "thumbnail.jpg").is_file()


def test_a_damaged_segment_fails_once_and_the_next_attempt_begins_anew(job, run, settings):
    wish = job()
    with pytest.raises(JobCancelled):
        run(wish, Reports(lambda report: report.window == 3))
    segment = settings.temp / wish.id / "000.mp4"
    segment.write_bytes(segment.read_bytes()[:700])
    with pytest.raises(RenderFailed, match="cannot be read"):
        run(wish)
    assert not (settings.temp / wish.id).exists()
    assert len(pictures(settings.data / run(wish).video)) == 60


def test_what_other_versions_made_is_not_gone_on_from(job, run, settings):
    wish = job()
    with pytest.raises(JobCancelled):
        run(wish, Reports(lambda report: report.window == 2))
    stamp = settings.temp / wish.id / "environment.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"torch": "1.0"}))
    reports = Reports()
    run(wish, reports)
    assert min(r.window for r in reports if r.stage is Stage.DENOISING) == 1


def test_the_seconds_of_all_attempts_count(job, run, settings):
    wish = job()
    with pytest.raises(JobCancelled):
        run(wish, Reports(lambda report: report.window == 2))
    file = settings.temp / wish.id / "timings.json"
    before = json.loads(file.read_text())
    assert before["denoising"] > 0
    file.write_text(json.dumps(before | {"denoising": before["denoising"] + 100}))
    artifact = run(wish)
    assert 100 < artifact.stage_s[Stage.DENOISING] < artifact.render_s < 190
    assert artifact.render_s == pytest.approx(sum(artifact.stage_s.values()), abs=0.01)


class Telling(SyntheticEngine):
    def render(self, task, report):
        report(Report(Stage.LOADING, 0.5, runtime={"device": f"the {task.first_frame}th frame on"}))
        yield from super().render(task, report)


def test_by_what_a_film_was_made_is_kept_with_it(job, settings, run):
    wish, reports = job(), Reports()
    artifact = render_job(wish, Telling(), None, Uploads(settings), settings, reports)
    assert artifact.runtime == {"device": "the 0th frame on"}
    assert read_metadata(settings.outputs / wish.id)["artifact"]["runtime"] == artifact.runtime
    assert all(report.runtime is None for report in reports)
    shutil.rmtree(settings.outputs / wish.id)
    assert run(wish).runtime == {}


@pytest.mark.alone
def test_a_pause_does_not_count(job, run):
    held = []

    def report(at):
        if at.step == 5 and not held:
            held.append(time.sleep(2))

    artifact = run(job(num_frames=16, skyreels={}), report)
    assert held
    assert artifact.render_s < within(1.5)


@pytest.mark.parametrize(("extra", "ends"), [(-1, "made 59 frames of 61"), (3, None)])
def test_too_few_frames_are_a_failure_and_more_are_left(job, run, settings, extra, ends):
    wish = job()
    faults = Faults(extra_frames=extra - (wish.plan.render_frames - 60) if extra < 0 else extra)
    if ends is None:
        assert len(pictures(settings.data / run(wish, faults=faults).video)) == 60
        return
    with pytest.raises(RenderFailed, match=ends):
        run(wish, faults=faults)


def test_the_poster_is_the_frame_a_third_into_what_is_new(job, run, settings):
    from PIL import Image

    wish = job(source=True)
    film = settings.data / run(wish).video
    with Image.open(film.with_name("thumbnail.jpg")) as poster, av.open(str(film)) as container:
        wanted = list(container.decode(video=0))[30 + 20].to_ndarray(format="rgb24")
        assert np.abs(np.asarray(poster).astype(int) - wanted).mean() < 8


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO, errno.ENOSPC])
def test_what_the_disk_refuses_at_the_end_costs_nothing_that_was_made(job, run, settings, monkeypatch, number):
    wish = job()
    with monkeypatch.context() as patch:

        def refuse(*_, **__):
            raise OSError(number, "refused")

        patch.setattr("backend.jobs.kinds.render.publish", refuse)
        for _ in range(2):  # a disk that refuses says nothing about what was saved
            with pytest.raises(OSError, match="refused"):
                run(wish)
    reports = Reports()
    assert run(wish, reports).frames == 60
    assert not [at for at in reports if at.stage is Stage.DENOISING]


def fail_to_publish(run, wish, monkeypatch, reports=None):
    def broken(*_, **__):
        raise ValueError("nobody expected this")

    with monkeypatch.context() as patch:
        patch.setattr("backend.jobs.kinds.render.publish", broken)
        with pytest.raises(ValueError, match="nobody expected"):
            run(wish, reports)


def test_an_unexpected_error_in_the_last_stage_costs_nothing_that_was_made(job, run, monkeypatch):
    wish, reports = job(), Reports()
    fail_to_publish(run, wish, monkeypatch)
    assert run(wish, reports).frames == 60
    assert not [at for at in reports if at.stage is Stage.DENOISING]


def test_a_saved_state_that_fails_twice_is_begun_anew(job, run, settings, monkeypatch):
    wish = job()
    fail_to_publish(run, wish, monkeypatch)
    assert (settings.temp / wish.id / "002.mp4").exists()
    second = Reports()
    fail_to_publish(run, wish, monkeypatch, second)
    assert not [at for at in second if at.stage is Stage.DENOISING]
    assert not (settings.temp / wish.id).exists()
    third = Reports()
    assert run(wish, third).frames == 60
    assert [at for at in third if at.stage is Stage.DENOISING]


def test_two_failures_at_different_saved_states_keep_the_work(job, run, settings, monkeypatch):
    wish = job()
    for number in (1, 2):
        faults = Faults(raise_at={9 * (number + 1): ValueError("nobody expected this")})
        with pytest.raises(ValueError, match="nobody expected"):
            run(wish, faults=faults)
        assert (settings.temp / wish.id / f"{number - 1:03}.mp4").exists()
    assert run(wish).frames == 60


INNOCENT = [
    JobCancelled(),
    NotEnoughMemory("It wants 99 GB;", hint="lower the size."),
    DeviceLost("The GPU stopped;"),
    ModelUnavailable("The folder is gone;", hint="put it back."),
]


@pytest.mark.parametrize("error", INNOCENT, ids=lambda error: type(error).__name__)
def test_what_is_no_fault_of_the_saved_state_may_end_it_again_and_again(job, run, settings, error):
    wish = job()
    for _ in range(3):
        with pytest.raises(type(error)):
            run(wish, faults=Faults(raise_at={18: error}))
        assert (settings.temp / wish.id / "000.mp4").exists()


class Saving(SyntheticEngine):
    """Fails in the first window, after it has saved how far it is."""

    def __init__(self, saved: bytes) -> None:
        super().__init__()
        self.saved = saved

    def render(self, task, report):
        (task.work / "state.safetensors").write_bytes(self.saved)
        raise ValueError("nobody expected this")


@pytest.mark.parametrize(("second", "kept"), [(b"step 2 of 10", True), (None, False)])
def test_what_the_engine_saved_is_part_of_the_state_that_failed(job, run, settings, second, kept):
    """Until the first segment is whole, it is all of it."""
    wish = job()
    with pytest.raises(ValueError, match="nobody expected"):
        render_job(wish, Saving(b"step 1"), None, Uploads(settings), settings, Reports())
    state = settings.temp / wish.id / "state.safetensors"
    assert state.read_bytes() == b"step 1"
    engine = Saving(second) if second else SyntheticEngine(Faults(raise_at={1: ValueError("nobody expected this")}))
    with pytest.raises(ValueError, match="nobody expected"):
        render_job(wish, engine, None, Uploads(settings), settings, Reports())
    assert state.exists() == kept


def test_a_work_folder_that_is_removed_meanwhile_is_made_again(job, run, settings):
    wish = job(num_frames=16, skyreels={})
    gone = []

    def report(at):
        if at.stage is Stage.DENOISING and not gone:
            shutil.rmtree(settings.temp / wish.id)
            gone.append(at)

    assert run(wish, report).frames == 16
    assert gone


def _folder_in_place_of(name):
    def spoil(work):
        (work / name).unlink()
        (work / name).mkdir()

    return spoil


def _file_in_place_of_all(work):
    shutil.rmtree(work)
    work.write_text("")


SPOILED = {
    "a file for the folder": _file_in_place_of_all,
    "versions that are no text": lambda work: (work / "environment.json").write_bytes(b"\xff\xfe\x00"),
    "a folder for versions": _folder_in_place_of("environment.json"),
    "a folder for a segment": _folder_in_place_of("000.mp4"),
    "no poster": lambda work: (work / "thumbnail.jpg").unlink(),
    "endless seconds": lambda work: (work / "timings.json").write_text('{"denoising": 4e691}'),
}


@pytest.mark.parametrize("how", SPOILED)
def test_whatever_is_spoiled_in_its_folder_the_second_attempt_is_whole(job, run, settings, how):
    wish = job()
    with pytest.raises(JobCancelled):
        run(wish, Reports(lambda report: report.frames_ready >= 45))
    SPOILED[how](settings.temp / wish.id)
    try:
        artifact = run(wish, Reports())
    except Exception:
        artifact = run(wish, Reports())
    assert artifact.frames == 60
    assert 0 < artifact.render_s < 60
