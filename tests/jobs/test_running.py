"""What is told of a render while it goes on, by a clock that the test sets."""

from __future__ import annotations

import dataclasses

import pytest

from backend.core.config import Settings
from backend.core.ids import new_id
from backend.core.plan import Machine, Progress, Stage
from backend.core.planning import make_plan
from backend.core.registry import SYNTHETIC
from backend.core.schema import parse_request
from backend.engine import Report
from backend.jobs.job import Job, JobState
from backend.jobs.kinds.render import RENDER
from backend.jobs.running import RunningJob

STEPS = 10


@pytest.fixture
def render(render_clock) -> RunningJob:
    request = parse_request({"prompt": "x", "seed": 1, "num_inference_steps": STEPS})
    plan = make_plan(request, SYNTHETIC, Machine("CPU", 2, 8))
    job = Job(new_id(), JobState.RUNNING, request, plan, created_at=0.0, position=1.0, attempts=1, finished_at=None)
    return RunningJob(
        job, RENDER.stages, last_heartbeat=render_clock.now, step_began=render_clock.now, began=render_clock.now
    )


def denoise(render: RunningJob, step: int) -> Report:
    at = Report(Stage.DENOISING, step / STEPS, window=1, step=step)
    render.heartbeat(at)
    render.note(at)
    return at


@pytest.mark.parametrize(
    "stages", [(Stage.SAVING,), (Stage.ENCODING, Stage.SAVING), (Stage.LOADING, Stage.DENOISING, Stage.SAVING)]
)
def test_all_stages_before_the_last_are_done_when_it_begins(render_clock, render, stages):
    running = RunningJob(render.job, stages, began=render_clock.now)
    running.note(Report(Stage.SAVING, 0.5))
    assert running.parts[Stage.SAVING] == 0.5
    assert all(running.parts[stage] == 1.0 for stage in stages[:-1])


LIMITS = Settings(hang_timeout_s=120, slow_hang_timeout_s=1800, cancel_timeout_s=10, slow_cancel_timeout_s=180)


def test_it_may_be_silent_for_ten_of_its_usual_steps_and_longer_while_it_loads(render, render_clock):
    assert render.hang_timeout_s(LIMITS) == 1800
    for step in range(1, 8):
        render_clock.now += 3
        denoise(render, step)
    assert render.hang_timeout_s(LIMITS) == 120
    for step in range(8, 60):
        render_clock.now += 50
        denoise(render, step)
    assert render.hang_timeout_s(LIMITS) == 500
    render.heartbeat(Report(Stage.SAVING, 0.1))
    assert render.hang_timeout_s(LIMITS) == 1800


def test_a_cancelled_one_has_its_seconds_since_then_or_since_its_last_word(render, render_clock):
    render_clock.now += 60
    assert render.since_heartbeat_s == 60
    render.cancel()
    assert (render.since_heartbeat_s, render.hang_timeout_s(LIMITS)) == (
        0,
        180,
    )  # nothing interrupts the reading of weights
    render_clock.now += 8
    render.cancel()
    assert render.since_heartbeat_s == 8  # asking again does not put it off
    denoise(render, 1)
    assert (render.since_heartbeat_s, render.hang_timeout_s(LIMITS)) == (0, 10)
    render_clock.now += 4
    assert render.since_heartbeat_s == 4


def test_a_pause_is_neither_silence_nor_a_step(render, render_clock):
    for step in range(1, 4):
        render_clock.now += 3
        denoise(render, step)
    render.suspend()
    assert render.suspended
    render_clock.now += 3600
    render.resume()
    assert (render.suspended, render.since_heartbeat_s, render.paused_s) == (False, 0, 3600)
    render_clock.now += 3
    denoise(render, 4)
    assert list(render.step_s) == [3, 3, 3]


def test_it_is_written_now_and_then_and_a_save_at_once(render, render_clock):
    at = Report(Stage.DENOISING, 0.1, step=1)
    assert render.is_due(at, 0.5)
    render_clock.now += 0.4
    assert not render.is_due(at, 0.5)
    saved = Report(Stage.DENOISING, 0.1, step=1, saved_at=5.0)
    assert render.is_due(saved, 0.5)
    assert not render.is_due(saved, 0.5)
    render_clock.now += 0.5
    assert render.is_due(saved, 0.5)


def test_the_time_left_follows_what_was_measured_without_the_pauses(render, render_clock):
    for step in range(STEPS + 1):
        render_clock.now += 10 if step else 0
        at = denoise(render, step)
        if step == 5:
            render_clock.now += 1000
            render.paused_s += 1000
    told = render.progress(at)
    left = 100 / told.fraction - 100  # ten steps took ten seconds each
    assert told.eta_s == pytest.approx(left, abs=0.2)
    assert (told.stage, told.step, told.steps) == (Stage.DENOISING, STEPS, STEPS)


def test_what_an_earlier_attempt_did_is_not_taken_for_speed(render, render_clock):
    denoise(render, 8)
    render_clock.now += 10
    at = denoise(render, 9)
    told = render.progress(at)
    forecast = render.job.plan.forecast
    resumed_at = told.fraction * 8 / 9  # of nine steps eight were done before
    measured = 10 * (1 - resumed_at) / (told.fraction - resumed_at) - 10
    assert 0 < told.eta_s <= max(measured, forecast.total_s) + 0.1
    assert told.eta_s > 10 * (1 - told.fraction)  # as if the eight steps had taken no time


def test_what_is_saved_and_what_can_be_played_is_told_with_where_it_is(render):
    at = denoise(render, 4)
    told = render.progress(dataclasses.replace(at, frames_ready=7, saved_at=9.0))
    assert (told.window, told.windows, told.step, told.steps) == (1, 1, 4, STEPS)
    assert (told.frames_ready, told.saved_at) == (7, 9.0)


def test_while_it_loads_again_it_is_as_far_as_it_was(render):
    render.job = dataclasses.replace(render.job, progress=Progress(Stage.DENOISING, fraction=0.6))
    loading = Report(Stage.LOADING, 0.5)
    render.note(loading)
    assert render.progress(loading).fraction == 0.6
    assert render.progress(loading).eta_s == pytest.approx(0.4 * render.job.plan.forecast.total_s, abs=0.1)
    at = denoise(render, 7)
    assert 0.6 < render.progress(at).fraction < 0.8
