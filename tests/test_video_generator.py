import errno
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from backend.core.config import ROOT
from backend.core.errors import (
    Conflict,
    DeviceLost,
    NotEnoughMemory,
    NotEnoughSpace,
    NotFound,
    RenderFailed,
    StudioBusy,
    StudioError,
)
from backend.core.plan import Machine, Stage
from backend.core.registry import MODELS
from backend.jobs.history import copies_in, copy_history
from backend.jobs.job import JobState
from backend.jobs.kinds import render
from backend.jobs.store import CRASH, KILLED_WITH_STUDIO
from backend.media.probe import probe
from backend.media.writer import read_recipe
from backend.synthetic import SyntheticEngine
from backend.system.supervisor import AGAIN, FIRST, SUPERVISED
from backend.video_generator import VideoGenerator
from tests.pace import within

S = JobState


def test_a_job_becomes_a_film_with_its_recipe(generator, settings, a_request):
    job = generator.wait(generator.submit(a_request()).id, timeout=100)
    assert job.state is S.SUCCEEDED, job.error
    film = settings.data / job.artifact.video
    info = probe(film)
    assert (info.width, info.height, info.frames, info.fps) == (128, 96, 16, 24)
    recipe = read_recipe(film)
    assert recipe["request"]["prompt"] == "a red boat at sunset"
    assert recipe["plan"]["model"] == "synthetic"
    assert (film.parent / "metadata.json").is_file()
    assert (film.parent / "thumbnail.jpg").is_file()
    assert list(settings.temp.glob("*/")) == []


def test_a_film_like_the_last_one_is_forecast_to_take_as_long(generator, a_request):
    request = a_request(num_frames=48)
    film = generator.wait(generator.submit(request).id, timeout=100).artifact
    forecast = generator.plan(request).forecast.seconds
    for stage in (Stage.DENOISING, Stage.SAVING):
        assert film.stage_s[stage] > 0
        assert forecast[stage] == pytest.approx(film.stage_s[stage])


def test_jobs_run_in_order_one_at_a_time(generator, a_request):
    jobs = [generator.submit(a_request(seed=n)) for n in range(3)]
    ended = [generator.wait(job.id, timeout=60) for job in jobs]
    starts = [job.started_at for job in ended]
    assert starts == sorted(starts)
    assert all(after.started_at >= before.finished_at for before, after in itertools.pairwise(ended))


def test_cancel_stops_at_the_next_step(generator, engine, settings, a_request):
    engine.hold_at(step=3)
    job = generator.submit(a_request())
    assert engine.reached.wait(timeout=60)
    assert generator.cancel(job.id).state is S.RUNNING
    assert generator.is_cancelling(job.id)
    engine.release()
    assert generator.wait(job.id, timeout=60).state is S.CANCELLED
    assert not (settings.outputs / job.id).exists()
    assert not list(settings.temp.rglob("*.part"))
    generator.delete(job.id)
    assert not (settings.temp / job.id).exists()


def test_cancelling_a_waiting_job_leaves_the_running_one_alone(generator, engine, a_request):
    engine.hold_at(step=2)
    running, waiting = generator.submit(a_request()), generator.submit(a_request())
    assert engine.reached.wait(timeout=60)
    assert generator.cancel(waiting.id).state is S.CANCELLED
    engine.release()
    assert generator.wait(running.id, timeout=100).state is S.SUCCEEDED


def test_pause_holds_a_running_job_and_resume_lets_it_go_on(generator, engine, a_request):
    engine.hold_at(step=3)
    job = generator.submit(a_request())
    assert engine.reached.wait(timeout=60)
    assert generator.pause(job.id).state is S.PAUSED
    engine.release()
    with pytest.raises(TimeoutError):
        generator.wait(job.id, timeout=0.5)
    assert generator.resume(job.id).state is S.RUNNING
    assert generator.wait(job.id, timeout=100).state is S.SUCCEEDED
    assert generator.job(job.id).attempts == 1


def test_a_paused_running_job_can_be_cancelled(generator, engine, a_request):
    engine.hold_at(step=3)
    job = generator.submit(a_request())
    assert engine.reached.wait(timeout=60)
    generator.pause(job.id)
    engine.release()
    generator.cancel(job.id)
    assert generator.wait(job.id, timeout=60).state is S.CANCELLED


def test_a_paused_running_job_makes_room_for_those_that_wait(generator, engine, a_request):
    engine.hold_at(step=3)
    held = generator.submit(a_request(prompt="held"))
    assert engine.reached.wait(timeout=60)
    generator.pause(held.id)
    engine.release()
    other = generator.wait(generator.submit(a_request(prompt="other")).id, timeout=60)
    assert (other.state, generator.job(held.id).state) == (JobState.SUCCEEDED, JobState.PAUSED)
    generator.resume(held.id)
    done = generator.wait(held.id, timeout=60)
    assert (done.state, done.attempts) == (JobState.SUCCEEDED, 2)


def test_only_a_paused_job_resumes_and_only_an_ended_one_is_retried(generator, a_request):
    generator.pause_queue(True)
    job = generator.submit(a_request())
    with pytest.raises(Conflict, match="only a paused job"):
        generator.resume(job.id)
    with pytest.raises(Conflict, match="only a job that has ended"):
        generator.retry(job.id)


def test_a_paused_queue_starts_nothing_until_it_goes_on(generator, a_request):
    generator.pause_queue(True)
    job = generator.submit(a_request())
    with pytest.raises(TimeoutError):
        generator.wait(job.id, timeout=0.5)
    assert generator.job(job.id).state is S.QUEUED
    generator.pause_queue(False)
    assert generator.wait(job.id, timeout=100).state is S.SUCCEEDED


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (RenderFailed("The numbers went astray;", hint="use another seed."), "render_failed", "another seed"),
        (NotEnoughMemory("It wants 99 GB;", hint="lower the size."), "not_enough_memory", "lower the size"),
        (KeyError("surprise"), "internal", "KeyError"),
    ],
)
def test_a_failing_job_says_why_keeps_its_row_and_the_next_one_runs(generator, faults, a_request, failure, code, words):
    faults.raise_at = {12: failure}
    failed = generator.submit(a_request(num_inference_steps=12))
    good = generator.submit(a_request(num_inference_steps=10))
    job = generator.wait(failed.id, timeout=100)
    assert (job.state, job.error.code) == (S.FAILED, code)
    assert words in job.error.message + job.error.hint
    assert generator.wait(good.id, timeout=100).state is S.SUCCEEDED
    assert generator.job(failed.id) == job
    faults.raise_at = {}
    assert generator.wait(generator.retry(failed.id).id, timeout=100).state is S.SUCCEEDED


@pytest.mark.parametrize("code", ["internal", "disk"])
def test_the_reason_of_a_failure_names_no_folder_of_this_machine(generator, faults, settings, a_request, code):
    file = settings.temp / "000.mp4"
    denied = PermissionError(errno.EACCES, "Permission denied", str(file))
    faults.raise_at = {3: denied if code == "disk" else ValueError(f"{file} cannot be read")}
    error = generator.wait(generator.submit(a_request()).id, timeout=100).error
    assert error.code == code
    assert "temp/000.mp4" in error.message
    assert str(settings.data) not in error.message
    assert "goes on" in error.hint


def test_a_result_that_comes_after_its_job_was_ended_is_removed(generator, settings, a_request, monkeypatch):
    """As the watch ends one that does not heed its cancellation."""
    render_job, done = render.render_job, []

    def late(job, *rest):
        artifact = render_job(job, *rest)
        if not done:
            done.append((settings.data / artifact.video).is_file())
            generator.store.finish(job, S.CANCELLED)
        return artifact

    monkeypatch.setattr(render, "render_job", late)
    job, following = generator.submit(a_request()), generator.submit(a_request())
    assert generator.wait(following.id, timeout=100).state is S.SUCCEEDED
    assert done == [True]
    assert generator.job(job.id).state is S.CANCELLED
    assert not (settings.outputs / job.id).exists()


def test_a_film_whose_process_died_before_the_row_was_written_is_taken_over(settings, engine, a_request, monkeypatch):
    first = VideoGenerator(settings, {"synthetic": engine})
    with monkeypatch.context() as patch:
        patch.setattr(first.store, "finish", lambda *_, **__: True)  # as if the process had died before the write
        first.start()
        job = first.submit(a_request())
        while not (settings.outputs / job.id / "metadata.json").exists():
            time.sleep(0.02)
        first.stop()
    film = (settings.outputs / job.id / "video.mp4").read_bytes()
    second = VideoGenerator(settings, {"synthetic": None})  # no engine: it must not render again
    second.start()
    ended = second.wait(job.id, timeout=100)
    assert ended.state is S.SUCCEEDED, ended.error
    assert ended.artifact.frames == 16
    assert second.results.file(job.id, "video.mp4").read_bytes() == film
    second.stop()


def test_a_store_that_cannot_be_written_for_a_while_ends_no_worker(generator, a_request, monkeypatch):
    monkeypatch.setattr("backend.jobs.worker.STORE_RETRY_S", 0.05)
    finish, failures = generator.store.finish, [sqlite3.OperationalError("database or disk is full")] * 3

    def flaky(*arguments, **named):
        if failures:
            raise failures.pop()
        return finish(*arguments, **named)

    monkeypatch.setattr(generator.store, "finish", flaky)
    job = generator.wait(generator.submit(a_request()).id, timeout=100)
    assert job.state is S.SUCCEEDED
    assert failures == []
    assert generator.alive


def test_what_is_cancelled_stays_so_if_the_studio_ends_before_it_could_be_written(
    settings, engine, a_request, monkeypatch
):
    first = VideoGenerator(settings, {"synthetic": engine})

    def full(*_, **__):
        raise NotEnoughSpace("The disk is full;")

    monkeypatch.setattr(first.store, "finish", full)
    first.start()
    engine.hold_at(step=3)
    job = first.submit(a_request())
    assert engine.reached.wait(timeout=60)
    first.cancel(job.id)
    engine.release()
    first.stop()
    second = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
    second.start()
    assert (second.job(job.id).state, second.job(job.id).attempts) == (S.CANCELLED, 1)
    second.stop()


def test_what_is_being_cancelled_is_neither_paused_nor_resumed(generator, engine, a_request):
    engine.hold_at(step=3)
    job = generator.submit(a_request())
    assert engine.reached.wait(timeout=60)
    generator.cancel(job.id)
    for act in (generator.pause, generator.resume):
        with pytest.raises(Conflict, match="is being cancelled; retry it"):
            act(job.id)
    engine.release()
    assert generator.wait(job.id, timeout=60).state is S.CANCELLED


def test_what_is_cancelled_while_a_full_disk_keeps_its_row_from_being_written_has_ended(
    generator, a_request, monkeypatch
):
    """It had met the disk itself, and was to wait in the queue for room."""
    monkeypatch.setattr("backend.jobs.worker.STORE_RETRY_S", 0.05)
    give_back, finish = generator.store.requeue, generator.store.finish
    refused, room = threading.Event(), threading.Event()

    def once_there_is_room(write):
        def tried(*arguments, **named):
            if not room.is_set():
                refused.set()
                raise NotEnoughSpace("The disk is full;")
            return write(*arguments, **named)

        return tried

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(generator.store, "requeue", once_there_is_room(give_back))
    monkeypatch.setattr(generator.store, "finish", once_there_is_room(finish))
    monkeypatch.setattr("backend.jobs.kinds.render.render_job", full)
    job = generator.submit(a_request())
    assert refused.wait(60)
    generator.cancel(job.id)
    room.set()
    ended = generator.wait(job.id, timeout=60)
    assert (ended.state, ended.attempts) == (S.CANCELLED, 1)


def test_what_is_cancelled_when_the_gpu_is_lost_is_not_begun_again(generator, a_request, monkeypatch):
    ended = threading.Event()

    def lost(job, *_):
        generator.cancel(job.id)
        raise DeviceLost("The GPU stopped;")

    monkeypatch.setattr("backend.jobs.worker.end_process", ended.set)
    monkeypatch.setattr("backend.jobs.kinds.render.render_job", lost)
    job = generator.submit(a_request())
    assert ended.wait(60)
    generator.store.recover()  # as the next process does
    assert generator.job(job.id).state is S.CANCELLED


def test_too_few_frames_are_a_failure_not_a_short_film(generator, faults, settings, a_request):
    faults.extra_frames = -4
    job = generator.wait(generator.submit(a_request()).id, timeout=100)
    assert job.state is S.FAILED
    assert not (settings.outputs / job.id).exists()


def test_a_second_studio_on_the_folder_is_refused_in_a_sentence(generator, settings):
    with pytest.raises(StudioBusy, match=r"is in use by another studio.*--data"):
        VideoGenerator(settings)


def test_what_is_removed_under_a_running_studio_is_put_back(generator, settings, a_request, monkeypatch):
    """`rm outputs/studio.*`: the jobs are written anew, and the folder is still taken."""
    ended = []
    monkeypatch.setattr("backend.jobs.worker.end_process", lambda: ended.append(1))
    job = generator.wait(generator.submit(a_request()).id, timeout=100)
    for file in settings.outputs.glob("studio.*"):
        file.unlink()
    deadline = time.monotonic() + 100
    while not (settings.database.exists() and settings.lock.exists()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(StudioBusy, match="is in use by another studio"):
        VideoGenerator(settings)
    assert generator.job(job.id) == job
    assert not ended


def test_without_the_lock_the_history_itself_keeps_a_second_studio_out(generator, settings, monkeypatch):
    monkeypatch.setattr("backend.jobs.database.BUSY_S", 0.1)
    settings.lock.unlink()
    with pytest.raises(StudioBusy, match=r"studio\.db|already uses"):
        VideoGenerator(settings)


def test_a_lock_that_another_studio_took_ends_the_process(generator, settings, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr("backend.jobs.worker.end_process", ended.set)
    theirs = settings.lock.with_name("theirs.lock")
    holder = "import filelock as f, sys; l = f.FileLock(sys.argv[1]); l.acquire(); print('held'); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-u", "-c", holder, theirs], **pipes) as holding:
        assert holding.stdout.readline() == b"held\n"
        theirs.replace(settings.lock)
        assert ended.wait(100)


def test_a_history_that_was_cut_under_a_running_studio_ends_the_process(generator, settings, a_request, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr("backend.jobs.worker.end_process", ended.set)
    generator.wait(generator.submit(a_request()).id, timeout=100)
    generator.store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    generator.store._db.execute("PRAGMA cache_size = 0")
    os.truncate(settings.database, 4096)
    assert ended.wait(100)


@pytest.mark.parametrize("name", ["studio.lock", "studio.db"])
def test_a_folder_where_a_file_belongs_is_one_sentence(settings, name):
    (settings.outputs / name).mkdir(parents=True)
    with pytest.raises(StudioError, match=name):
        VideoGenerator(settings)
    (settings.outputs / name).rmdir()
    VideoGenerator(settings).stop()  # nothing is held by the attempt that failed


def test_a_stop_at_any_moment_of_the_start_is_quick(settings, monkeypatch):
    for delay in (0.0, 0.05):
        generator = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
        monkeypatch.setattr(generator.tidying, "tidy", lambda delay=delay: time.sleep(delay))
        generator.start()
        start = time.monotonic()
        generator.stop()
        assert time.monotonic() - start < within(5)
        assert not generator.alive


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_stop_while_the_store_refuses_jobs_is_quick_and_takes_none(settings, a_request, monkeypatch, waiting):
    generator = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
    claim, refused = generator.store.claim, threading.Event()

    def full_until_the_stop():
        if generator.stopping:
            return claim()
        refused.set()
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(generator.store, "claim", full_until_the_stop)
    generator.start()
    assert refused.wait(100)
    jobs = [generator.submit(a_request()) for _ in range(waiting)]
    start = time.monotonic()
    generator.stop()
    assert time.monotonic() - start < within(5)
    assert not generator.alive
    again = VideoGenerator(settings, {})
    assert [(again.job(job.id).state, again.job(job.id).attempts) for job in jobs] == [(S.QUEUED, 0)] * waiting
    again.stop()


def test_stopping_gives_a_running_job_back_and_the_next_start_finishes_it(settings, engine, a_request):
    first = VideoGenerator(settings, {"synthetic": engine})
    first.start()
    engine.hold_at(step=2)
    job = first.submit(a_request())
    assert engine.reached.wait(timeout=60)
    stopper = threading.Thread(target=first.stop)
    stopper.start()
    while not first.stopping:
        time.sleep(0.001)
    engine.release()
    stopper.join(timeout=100)
    second = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
    assert (second.job(job.id).state, second.job(job.id).crash_count) == (S.QUEUED, 0)
    second.start()
    assert second.wait(job.id, timeout=100).state is S.SUCCEEDED
    second.stop()


def test_a_paused_job_holds_up_no_stop_and_goes_on_after_the_next_start(settings, engine, a_request):
    first = VideoGenerator(settings, {"synthetic": engine})
    first.start()
    engine.hold_at(step=3)
    job = first.submit(a_request())
    assert engine.reached.wait(timeout=60)
    first.pause(job.id)
    engine.release()
    first.stop()
    assert not first.alive
    second = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
    second.start()
    assert second.job(job.id).state is S.PAUSED
    assert second.resume(job.id).state is S.QUEUED
    assert second.wait(job.id, timeout=100).state is S.SUCCEEDED
    second.stop()


def test_progress_is_told_and_never_goes_back(generator, faults, a_request):
    faults.seconds_per_step = 0.15
    job = generator.submit(a_request())
    seen = []
    while (now := generator.job(job.id)).state not in (S.SUCCEEDED, S.FAILED):
        if now.progress and (not seen or now.progress != seen[-1]):
            seen.append(now.progress)
    assert len(seen) >= 2
    fractions = [at.fraction for at in seen]
    assert fractions == sorted(fractions)
    assert all(0 <= f <= 1 for f in fractions)
    assert any(at.step > 0 and at.steps == 10 and at.windows == 1 for at in seen)
    assert all(at.eta_s is not None and at.eta_s >= 0 for at in seen)


def test_the_same_seed_gives_the_same_frames_and_another_does_not(generator, settings, a_request):
    def frames(seed):
        job = generator.wait(generator.submit(a_request(seed=seed)).id, timeout=100)
        return (settings.data / job.artifact.video).parent, job

    import av

    def pixels(folder):
        with av.open(str(folder / "video.mp4")) as film:
            return b"".join(frame.to_ndarray(format="rgb24").tobytes() for frame in film.decode(video=0))

    first, second, other = (pixels(frames(seed)[0]) for seed in (5, 5, 6))
    assert first == second
    assert first != other


def test_a_deleted_film_goes_to_the_trash_and_comes_back(generator, settings, a_request):
    job = generator.wait(generator.submit(a_request()).id, timeout=100)
    generator.delete(job.id)
    assert not (settings.outputs / job.id).exists()
    assert (settings.trash / job.id / "video.mp4").exists()
    generator.restore(job.id)
    assert generator.results.file(job.id, "video.mp4").is_file()
    with pytest.raises(Conflict, match="not in the trash"):
        generator.restore(job.id)


def test_an_emptied_trash_is_gone_for_good_from_the_copies_too(generator, settings, a_request):
    kept, gone, cancelled = (generator.submit(a_request(prompt=f"film {number}")) for number in range(3))
    generator.cancel(cancelled.id)
    for job in (kept, gone):
        generator.wait(job.id, timeout=100)
    for job in (gone, cancelled):
        generator.delete(job.id)
    assert generator.empty_trash() == 2
    assert generator.empty_trash() == 0
    assert not (settings.trash / gone.id).exists()
    assert generator.results.file(kept.id, "video.mp4").is_file()
    with pytest.raises(NotFound):
        generator.job(gone.id)
    newest = copies_in(settings.copies)[0].read_bytes()
    assert b"film 0" in newest
    assert b"film 1" not in newest


def test_jobs_that_cannot_be_read_are_looked_for_in_the_copies(settings, engine, a_request):
    generator = VideoGenerator(settings, {"synthetic": engine})  # not started
    whole = generator.submit(a_request(prompt="in the copy"))
    copy_history(generator.store, settings.copies)
    lost = generator.submit(a_request(prompt="after the copy"))
    assert generator.tidying.restore_unreadable() == (0, 0)
    generator.store._run("UPDATE jobs SET plan = '{'")
    assert set(generator.store.mark_unreadable()) == {whole.id, lost.id}
    assert generator.tidying.restore_unreadable() == (2, 1)
    assert generator.job(whole.id) == whole
    assert generator.job(lost.id).state is S.UNREADABLE
    assert generator.tidying.restore_unreadable() == (1, 0)
    generator.stop()


def test_a_film_that_cannot_go_to_the_trash_stays_in_the_gallery(generator, settings, a_request, monkeypatch):
    job = generator.wait(generator.submit(a_request()).id, timeout=100)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("backend.jobs.results.move_to_trash", full)
    with pytest.raises(StudioError, match="cannot be moved to the trash"):
        generator.delete(job.id)
    assert generator.job(job.id).trashed_at is None


def test_tidying_takes_old_uploads_and_the_old_trash_but_never_an_output(settings, a_request):

    quick = settings.model_copy(update={"upload_keep_s": 0, "trash_keep_s": 0})
    generator = VideoGenerator(quick, {"synthetic": SyntheticEngine()})
    kept = generator.uploads.receive("kept.png")
    with kept as incoming:
        incoming.write(_png())
        used = incoming.accept().id
    with generator.uploads.receive("loose.png") as incoming:
        incoming.write(_png())
        loose = incoming.accept().id
    waiting = generator.submit(a_request(mode="image_to_video", image=used))
    generator.start()
    film = generator.wait(waiting.id, timeout=100)
    gone = generator.wait(generator.submit(a_request()).id, timeout=100)
    generator.delete(gone.id)
    (settings.outputs / "notes.txt").write_text("mine")
    settings.cache.mkdir()
    (settings.cache / "kernels.json").write_text("{}")
    generator.tidying.tidy()
    assert (settings.uploads / used).exists()
    assert not (settings.uploads / loose).exists()
    assert not (settings.trash / gone.id).exists()
    assert (settings.outputs / film.id / "video.mp4").exists()
    assert (settings.outputs / "notes.txt").exists()
    assert (settings.cache / "kernels.json").exists()
    generator.stop()


def _png():
    import io

    import numpy as np
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(data, "PNG")
    return data.getvalue()


def test_what_other_programs_hold_of_the_gpu_is_not_planned_with(settings, engine, a_request, monkeypatch):
    gpu = Machine("NVIDIA H100", 16, 128.0, vram_gib=80.0)
    studio = VideoGenerator(settings, {"synthetic": engine}, gpu)
    try:
        monkeypatch.setattr(studio.catalog, "models", lambda: [*MODELS.values()])
        taken = 0.0
        monkeypatch.setattr(studio.monitor, "vram_of_others_gib", lambda: taken)
        assert studio.plan(a_request(model="auto", resolution="540p")).model == "skyreels-v2-df-14b-540p"
        taken = 60.0
        plan = studio.plan(a_request(model="auto", resolution="540p", skyreels={"base_num_frames": 97}))
        assert (plan.model, plan.placement.value) == ("skyreels-v2-df-1.3b-540p", "model_offload")
        taken = 90.0
        assert studio.free_machine.vram_gib == 1.0
    finally:
        studio.stop()


@pytest.mark.parametrize(("life", "death"), [(FIRST, KILLED_WITH_STUDIO), (AGAIN, CRASH), (None, CRASH)])
def test_what_a_death_counts_is_told_by_the_supervisor(settings, engine, a_request, monkeypatch, life, death):
    """A first child of it finds what was killed together with the supervisor before."""
    before = VideoGenerator(settings, {"synthetic": engine})
    job = before.submit(a_request())
    before.store.claim()
    before.store.set_queue_paused(True)
    before.stop()
    monkeypatch.delenv(SUPERVISED, raising=False)
    if life is not None:
        monkeypatch.setenv(SUPERVISED, life)
    after = VideoGenerator(settings, {"synthetic": engine})
    after.start()
    assert after.job(job.id).crash_count == death
    after.stop()


TWO_JOBS = """
import json, sys
from pathlib import Path
from backend.core.config import Settings
from backend.core.schema import parse_request
from backend.video_generator import VideoGenerator

generator = VideoGenerator(Settings(data=Path(sys.argv[1])))
generator.start()
request = parse_request({"prompt": "A boat", "num_frames": 17, "num_inference_steps": 10, "resolution": "64x64"})
found = []
for model in ("auto", "auto", "skyreels-v2-tiny"):
    job = generator.submit(request.model_copy(update={"model": model}))
    job = generator.wait(job.id, timeout=100)
    error = job.error and [job.error.code, job.error.message, job.error.hint]
    found.append([job.plan.model, job.state.value, error, generator.machine.has_torch])
generator.stop()
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("library", "code", "reason"),
    [
        ("torch", "raise OSError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13: cannot open"),
        ("torch", "raise ImportError('libtorch_cpu.so: undefined symbol')", "libtorch_cpu.so: undefined symbol"),
        (
            "diffusers",
            "raise RuntimeError('Failed to import diffusers.models, see below') from ImportError('no such kernel')",
            "no such kernel",
        ),
    ],
)
def test_where_torch_cannot_be_imported_automatic_makes_the_test_pattern(tmp_path, library, code, reason):
    """From the second job on; the first one, planned before anybody knew, says why and what to do."""
    broken = tmp_path / "broken" / library
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(code)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(broken.parent), str(ROOT)]), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", TWO_JOBS, str(tmp_path / "data")]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    first, second, chosen = json.loads(done.stdout.splitlines()[-1])
    assert first[:2] == ["skyreels-v2-tiny", "failed"]
    error_code, message, hint = first[2]
    assert error_code == "model_unavailable"
    assert message.startswith(f"torch, which every model needs, cannot be imported ({reason}")
    assert hint.startswith("run `python3 setup.py`, which repairs the environment")
    assert "choose Test pattern" in hint
    assert second == ["synthetic", "succeeded", None, False]
    assert chosen[:3] == first[:3]


def test_a_render_gives_way_as_much_as_is_asked_and_nothing_else_does(settings, a_request):
    niceness = {}

    class Engine(SyntheticEngine):
        def render(self, task, report):
            niceness["render"] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            child = subprocess.run(["nice"], capture_output=True, text=True, check=True)
            niceness["child"] = int(child.stdout)
            return super().render(task, report)

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    generator = VideoGenerator(settings.model_copy(update={"nice": 3}), {"synthetic": Engine()})
    generator.start()
    try:
        job = generator.wait(generator.submit(a_request()).id, timeout=100)
    finally:
        generator.stop()
    assert job.state is JobState.SUCCEEDED, job.error
    assert niceness == {"render": min(19, before + 3), "child": min(19, before + 3)}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
