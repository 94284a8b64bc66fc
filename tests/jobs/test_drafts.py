"""Drafts and what promotes them, from the request to the trash, with the engine that needs no weights."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import threading
from dataclasses import replace

import av
import numpy as np
import pytest

from backend.core.derive import Variations
from backend.core.errors import Conflict, InvalidRequest, NotFound, QueueFull
from backend.core.plan import Stage
from backend.core.registry import SYNTHETIC
from backend.engine import STATE
from backend.jobs.filters import Filter
from backend.jobs.job import JobState
from backend.jobs.kinds import render
from backend.jobs.model_stats import calibration
from backend.media.outputs import METADATA, TRASH
from backend.media.writer import read_recipe
from backend.video_generator import VideoGenerator
from tests.media_files import write_film

S = JobState
LONG = {"num_frames": 60, "skyreels": {"base_num_frames": 25, "overlap_history": 5}}  # windows of 25, 20 and 15 frames


def finished(generator, job):
    job = generator.wait(job.id, timeout=100)
    assert job.state is S.SUCCEEDED, job.error
    return job


@pytest.fixture
def make(generator, a_request):
    """Render a request to its end."""
    return lambda **wish: finished(generator, generator.submit(a_request(**wish)))


@pytest.fixture
def promote(generator):
    return lambda draft: finished(generator, generator.submission.promote(draft.id))


def frames(settings, job):
    with av.open(str(settings.data / job.artifact.video)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def packets(settings, job):
    """The encoded frames of a video, without what its container says about it."""
    with av.open(str(settings.data / job.artifact.video)) as video:
        return [bytes(packet) for packet in video.demux(video=0)]


def state_of(settings, draft):
    return settings.outputs / draft.id / STATE


# --- a draft ---


def test_a_draft_is_delivered_and_marked_as_one(generator, settings, make):
    draft = make(draft_steps=3)
    assert (draft.request.draft_steps, draft.plan.draft_steps, draft.artifact.draft_steps) == (3, 3, 3)
    assert draft.plan.num_inference_steps == 10
    assert (draft.progress.windows, draft.progress.steps) == (1, 3)
    recipe = read_recipe(settings.data / draft.artifact.video)
    assert (recipe["request"]["draft_steps"], recipe["plan"]["draft_steps"]) == (3, 3)
    assert generator.results.metadata(draft.id)["artifact"]["draft_steps"] == 3
    assert state_of(settings, draft).is_file()
    assert list(settings.temp.glob("*/")) == []
    assert make().artifact.draft_steps is None


def test_a_draft_of_several_windows_shows_the_first_and_says_so(settings, make):
    draft = make(draft_steps=3, **LONG)
    assert (draft.artifact.frames, len(frames(settings, draft))) == (25, 25)
    assert (draft.progress.windows, draft.progress.steps) == (1, 3)
    assert (draft.plan.num_frames, draft.plan.total_frames, len(draft.plan.windows)) == (60, 25, 3)
    assert "The draft shows 25 of the 60 new frames: those that are in the first window." in draft.plan.notes
    assert make(draft_steps=3).plan.notes == ()


def test_a_draft_of_an_extension_begins_with_its_source(generator, settings, make, promote, tmp_path):
    clip = tmp_path / "clip.mp4"
    write_film(clip, [np.full((30, 96, 128, 3), 90, np.uint8)], fps=24, width=128, height=96)
    wish = {"mode": "video_extension", "video": generator.uploads.add(clip).id} | LONG
    draft, whole = make(draft_steps=3, **wish), make(**wish)
    assert draft.artifact.frames == len(frames(settings, draft)) == 30 + 20
    assert packets(settings, promote(draft)) == packets(settings, whole)


def test_a_draft_is_enlarged_as_its_video_will_be(settings, make, monkeypatch):
    """By the finishing steps of its plan, on a model that renders less than is delivered."""
    from backend.library.catalog import Catalog

    small = replace(SYNTHETIC, any_size=False, max_pixels=64 * 48)
    monkeypatch.setattr(Catalog, "models", lambda catalog: [small])
    draft = make(draft_steps=3, model="synthetic")
    assert draft.plan.enlarged
    assert (draft.plan.render_width, draft.plan.width) == (64, 128)
    assert frames(settings, draft).shape == (16, 96, 128, 3)


@pytest.mark.parametrize("steps", [10, 11, 49])
def test_a_draft_that_would_be_the_whole_video_is_refused(generator, a_request, steps):
    with pytest.raises(InvalidRequest) as refused:
        generator.submit(a_request(draft_steps=steps))
    said = f"draft_steps={steps} is not below the 10 steps of the finished video; use 1 to 9, or leave it out."
    assert (str(refused.value), refused.value.field) == (said, "draft_steps")


@pytest.mark.parametrize("steps", [0, 50, "3", True])
def test_bounds_of_a_draft_are_those_of_a_request(a_request, steps):
    with pytest.raises(InvalidRequest, match="use 1 to 49"):
        a_request(draft_steps=steps)


def test_a_draft_is_not_extended(generator, make):
    draft = make(draft_steps=3)
    with pytest.raises(Conflict, match="is a draft; promote it, then extend the finished video"):
        generator.submission.extend(draft.id)


# --- promoting it ---


@pytest.mark.parametrize("wish", [{}, LONG], ids=["a window", "windows"])
def test_a_promoted_draft_is_the_video_that_was_never_stopped(generator, settings, make, promote, wish):
    whole, draft = make(**wish), make(draft_steps=3, **wish)
    video = promote(draft)
    assert packets(settings, video) == packets(settings, whole)
    assert video.request == whole.request
    assert (video.parent, video.plan.done_steps, video.plan.draft_steps) == (draft.id, 3, None)
    assert video.artifact.runtime == {"resumed": "window 1, step 4"}
    assert video.plan.notes == ()
    recipe = read_recipe(settings.data / video.artifact.video)
    assert (recipe["parent"], recipe["plan"]["done_steps"]) == (draft.id, 3)
    assert len(frames(settings, generator.job(draft.id))) == draft.artifact.frames, "the draft can still be played"


def test_steps_that_the_draft_made_are_not_made_again(generator, engine, faults, make):
    draft = make(draft_steps=3)
    faults.raise_at = {step: AssertionError(f"step {step} is made again") for step in (1, 2, 3)}
    engine.hold_at(step=4)
    job = generator.submission.promote(draft.id)
    assert engine.reached.wait(60)
    engine.release()
    assert finished(generator, job).progress.steps == 10


def test_the_plan_counts_the_rest(generator, make):
    draft = make(draft_steps=3)
    planned = generator.submission.plan_promotion(draft.id)
    job = generator.submission.promote(draft.id)
    assert (job.plan.done_steps, job.plan.window_steps, job.plan.forwards) == (3, (10,), 14)
    assert replace(planned, forecast=job.plan.forecast) == job.plan


def test_promoting_twice_gives_one_job_until_it_fails(generator, make):
    generator_promote = generator.submission.promote
    draft = make(draft_steps=3)
    generator.pause_queue(True)
    first = generator_promote(draft.id)
    assert generator_promote(draft.id).id == first.id
    generator.pause(first.id)
    assert generator_promote(draft.id).id == first.id
    generator.cancel(first.id)
    second = generator_promote(draft.id)
    assert second.id != first.id
    generator.pause_queue(False)
    finished(generator, second)
    assert generator_promote(draft.id).id == second.id
    generator.delete(second.id)
    third = generator_promote(draft.id)
    assert third.id != second.id
    assert finished(generator, third).artifact.runtime["resumed"] == "window 1, step 4"


def test_many_who_promote_at_once_get_one_job(generator, make):
    draft, found = make(draft_steps=3), []
    generator.pause_queue(True)
    press = lambda: found.append(generator.submission.promote(draft.id).id)  # noqa: E731
    threads = [threading.Thread(target=press) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found))) == (8, 1)


def test_other_jobs_that_were_made_from_the_draft_are_not_what_promotes_it(generator, make):
    draft = make(draft_steps=3)
    again = generator.submission.again(draft.id, {"draft_steps": None})
    longer = generator.submission.edit(draft.id, {"draft_steps": 5})
    assert (longer.plan.draft_steps, longer.plan.done_steps) == (5, 0)
    assert generator.submission.promote(draft.id).id not in (again.id, longer.id)


def refusals(generator, make, engine, a_request):
    """What cannot be promoted, and why."""
    yield make(), "is no draft; name one that was made with draft_steps"
    trashed = make(draft_steps=3)
    generator.delete(trashed.id)
    yield trashed, "is in the trash; restore it first"
    generator.pause_queue(True)
    waiting = generator.submit(a_request(draft_steps=3))
    yield waiting, "is queued; wait until it is done"
    generator.cancel(waiting.id)
    yield waiting, "is cancelled; retry it first"


def test_what_is_no_finished_draft_is_refused_with_the_way_out(generator, make, engine, a_request):
    for job, words in refusals(generator, make, engine, a_request):
        for ask in (generator.submission.promote, generator.submission.plan_promotion):
            with pytest.raises(Conflict, match=words):
                ask(job.id)
    with pytest.raises(NotFound):
        generator.submission.promote("0" * 20)


def test_a_draft_whose_model_is_gone_is_refused(generator, make, monkeypatch):
    draft = make(draft_steps=3)
    monkeypatch.setattr(type(generator.catalog), "models", lambda catalog: [])
    with pytest.raises(Conflict, match="is no longer in models/; put it back, or make another draft"):
        generator.submission.promote(draft.id)


def test_a_promoted_draft_keeps_the_model_that_made_it(generator, make, monkeypatch):
    """Though automatic would take another one by now."""
    draft = make(draft_steps=3)
    assert draft.request.model == "auto"
    better = replace(SYNTHETIC, id="better", title="Better", denoises=True)
    monkeypatch.setattr(type(generator.catalog), "models", lambda catalog: [better, SYNTHETIC])
    plan = generator.submission.promote(draft.id).plan
    assert (plan.model, plan.forecast.guess[Stage.LOADING]) == ("synthetic", 0.0)


# --- its state on the disk ---


def forget_state(settings, draft):
    state_of(settings, draft).unlink()


def change_versions(settings, draft):
    """As an update of a library does, seen from the other side."""
    file = settings.outputs / draft.id / METADATA
    recipe = json.loads(file.read_text())
    file.write_text(json.dumps(recipe | {"versions": recipe["versions"] | {"av": "0"}}))


def spoil(settings, draft):
    state_of(settings, draft).write_bytes(b"not a state")


@pytest.mark.parametrize("harm", [forget_state, change_versions])
def test_without_its_state_a_draft_is_made_from_the_first_step_and_the_plan_says_so(
    generator, settings, make, promote, harm
):
    whole, draft = make(), make(draft_steps=3)
    harm(settings, draft)
    video = promote(draft)
    assert packets(settings, video) == packets(settings, whole)
    assert video.plan.done_steps == 0
    assert video.plan.notes == (
        "The state of the draft is gone, or of another version of the studio: all steps are made again.",
    )
    assert video.artifact.runtime == {}


@pytest.mark.parametrize("harm", [forget_state, change_versions, spoil])
def test_a_state_that_is_lost_while_its_job_waits_costs_the_steps_alone(generator, settings, make, caplog, harm):
    whole, draft = make(), make(draft_steps=3)
    generator.pause_queue(True)
    job = generator.submission.promote(draft.id)
    assert job.plan.done_steps == 3
    harm(settings, draft)
    generator.pause_queue(False)
    with caplog.at_level(logging.WARNING):
        video = finished(generator, job)
    assert packets(settings, video) == packets(settings, whole)
    assert video.artifact.runtime == {}
    assert harm is spoil or "is gone; all steps are made again" in caplog.text
    assert calibration(generator.store, "synthetic").renders == 2, "its time says nothing about its guess"


def test_a_draft_that_could_not_be_published_is_whole_after_a_retry(generator, settings, a_request, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(render, "publish", refused)
        failed = generator.wait(generator.submit(a_request(draft_steps=3)).id, timeout=100)
    assert failed.state is S.FAILED
    draft = finished(generator, generator.retry(failed.id))
    files = {path.name for path in (settings.outputs / draft.id).iterdir()}
    assert files == {"video.mp4", "thumbnail.jpg", METADATA, STATE}


def test_the_state_goes_to_the_trash_with_the_draft_and_from_there_for_good(generator, settings, make):
    draft = make(draft_steps=3)
    generator.pause_queue(True)
    job = generator.submission.promote(draft.id)
    generator.delete(draft.id)
    assert not state_of(settings, draft).exists()
    assert (settings.outputs / TRASH / draft.id / STATE).is_file()
    generator.pause_queue(False)
    assert finished(generator, job).artifact.runtime["resumed"] == "window 1, step 4"
    generator.restore(draft.id)
    assert state_of(settings, draft).is_file()
    generator.delete(draft.id)
    generator.empty_trash()
    assert list(settings.data.rglob(STATE)) == []
    assert generator.wait(job.id).state is S.SUCCEEDED


def test_clean_up_leaves_a_draft_its_state(generator, settings, make, monkeypatch):
    draft = make(draft_steps=3)
    years = 10 * 365 * 24 * 3600
    monkeypatch.setattr(generator.tidying, "_began", (generator.tidying.now() + years, 0.0))
    generator.tidying.tidy()
    assert state_of(settings, draft).is_file()


@pytest.fixture
def started(settings, engine):
    """A studio on the data folder, stopped at the end."""

    @contextlib.contextmanager
    def start():
        generator = VideoGenerator(settings, {"synthetic": engine})
        generator.start()
        try:
            yield generator
        finally:
            generator.stop()

    return start


def lose_the_history(settings):
    """It is put together from the recipes of the videos at the next start."""
    for file in (*settings.outputs.glob("studio.db*"), settings.copies):
        shutil.rmtree(file) if file.is_dir() else file.unlink()


@pytest.mark.parametrize("between", [lambda settings: None, lose_the_history], ids=["kept", "lost"])
def test_a_draft_is_promoted_after_a_restart_also_without_its_history(settings, started, a_request, between):
    with started() as generator:
        whole = finished(generator, generator.submit(a_request()))
        draft = finished(generator, generator.submit(a_request(draft_steps=3)))
    between(settings)
    with started() as generator:
        video = finished(generator, generator.submission.promote(draft.id))
    assert (video.parent, video.plan.done_steps) == (draft.id, 3)
    assert video.artifact.runtime["resumed"] == "window 1, step 4"
    assert packets(settings, video) == packets(settings, whole)


def test_the_median_of_a_model_is_that_of_whole_renders(generator, make, promote):
    whole = make()
    promote(make(draft_steps=3))
    [stats] = generator.model_stats()
    assert (stats.succeeded, stats.median_s) == (3, whole.artifact.render_s)


# --- batches ---


def test_variations_of_a_new_request_begin_with_its_own_seed(generator, a_request):
    generator.pause_queue(True)
    batch, jobs = generator.submission.variations(a_request(seed=7), Variations(count=3, draft_steps=4))
    assert [job.request.seed for job in jobs] == [7, 8, 9]
    assert {(job.batch, job.parent, job.plan.draft_steps) for job in jobs} == {(batch, None, 4)}
    assert [job.id for job in generator.jobs(Filter(batch=batch))] == [job.id for job in reversed(jobs)]
    assert [job_id for job_id, _ in generator.queue()] == [job.id for job in jobs]


def test_variations_of_a_random_seed_follow_the_one_that_is_drawn(generator, a_request):
    generator.pause_queue(True)
    _, jobs = generator.submission.variations(a_request(seed=-1), Variations(count=2))
    assert jobs[1].request.seed == jobs[0].request.seed + 1
    _, swept = generator.submission.variations(a_request(seed=-1), Variations(prompts=("a boat", "a ship")))
    assert swept[0].request.seed == swept[1].request.seed >= 0
    assert [job.request.prompt for job in swept] == ["a boat", "a ship"]


def test_variations_of_a_picture_have_its_shape(generator, a_request, tmp_path):
    from PIL import Image

    picture = tmp_path / "tall.png"
    Image.new("RGB", (64, 128), "red").save(picture)
    generator.pause_queue(True)
    request = a_request(
        mode="image_to_video", image=generator.uploads.add(picture).id, resolution="540p", model="synthetic"
    )
    _, jobs = generator.submission.variations(request, Variations(count=2))
    assert {(job.plan.width, job.plan.height) for job in jobs} == {(540, 960)}


@pytest.mark.parametrize("limit", [0, 2])
def test_a_batch_that_the_queue_cannot_take_is_not_queued_in_part(generator, a_request, limit):
    generator.pause_queue(True)
    generator.submission.queue_limit = limit
    with pytest.raises(QueueFull, match="is the limit"):
        generator.submission.variations(a_request(), Variations(count=3))
    assert generator.queue() == []


def test_drafts_of_a_batch_are_promoted_in_the_order_that_was_given(generator, a_request):
    batch, jobs = generator.submission.variations(a_request(), Variations(count=3, draft_steps=3))
    drafts = [finished(generator, job) for job in jobs]
    generator.pause_queue(True)
    chosen = [generator.submission.promote(draft.id) for draft in (drafts[2], drafts[0])]
    assert [job_id for job_id, _ in generator.queue()] == [job.id for job in chosen]
    assert {job.batch for job in chosen} == {batch}
