"""The time left of a running job: it follows the work, and says why where it grows. By a clock that the test sets."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator

import pytest

from backend.core.ids import new_id
from backend.core.plan import Forecast, Machine, Progress, Stage
from backend.core.planning import make_plan
from backend.core.registry import SYNTHETIC
from backend.core.schema import parse_request
from backend.engine import Report
from backend.jobs.job import Job, JobState
from backend.jobs.kinds.render import RENDER
from backend.jobs.running import RunningJob

STEPS = 50
FORECAST = Forecast({Stage.LOADING: 10.0, Stage.DENOISING: 100.0, Stage.DECODING: 20.0, Stage.SAVING: 0.5}, 1.0, 1)


class Simulation:
    """A render whose true seconds are those of FORECAST times `slowness`, a function of the fraction that is done."""

    def __init__(self, clock, slowness: Callable[[float], float], forecast: Forecast = FORECAST) -> None:
        request = parse_request({"prompt": "x", "seed": 1})
        plan = dataclasses.replace(make_plan(request, SYNTHETIC, Machine("CPU", 2, 8)), forecast=forecast)
        job = Job(new_id(), JobState.RUNNING, request, plan, created_at=0.0, position=1.0, attempts=1)
        self.clock, self.slowness = clock, slowness
        self.running = RunningJob(job, RENDER.stages, began=clock.now)
        self.worked_s = 0.0
        self.told: list[tuple[float, Progress]] = []

    def report(self, stage: Stage, part: float, step: int = 0) -> None:
        at = Report(stage, part, window=1, step=step)
        self.running.heartbeat(at)
        self.running.note(at)
        self.told.append((self.worked_s, self.running.progress(at)))

    def work(self, seconds: float, stage: Stage, part: float, step: int = 0) -> None:
        """Some work, within which it reports as an engine does before every block."""
        for _ in range(4):
            passed_s = seconds / 4 * self.slowness(self.told[-1][1].fraction)
            self.clock.now += passed_s
            self.worked_s += passed_s
            self.report(stage, part, step)

    def run(self) -> Iterator[int]:
        """Yields the number of each step before it is made."""
        seconds = FORECAST.seconds
        self.report(Stage.LOADING, 0.0)
        for part in (0.25, 0.5, 0.75, 1.0):
            self.work(seconds[Stage.LOADING] / 4, Stage.LOADING, part)
        for step in range(STEPS):
            yield step
            self.report(Stage.DENOISING, step / STEPS, step + 1)
            self.work(seconds[Stage.DENOISING] / STEPS, Stage.DENOISING, step / STEPS, step + 1)
        self.report(Stage.DENOISING, 1.0, STEPS)
        for chunk in range(10):
            self.report(Stage.DECODING, chunk / 10)
            self.work(seconds[Stage.DECODING] / 10, Stage.DECODING, chunk / 10)
        self.report(Stage.SAVING, 0.5)
        self.work(seconds[Stage.SAVING] / 2, Stage.SAVING, 0.5)

    def check(self) -> None:
        """What is promised of every render."""
        lowest = float("inf")
        for worked_s, progress in self.told:
            if progress.eta_reason is None:
                assert progress.eta_s <= 1.15 * lowest + 1e-9, worked_s
            lowest = min(lowest, progress.eta_s)

    def reasons(self) -> set[str | None]:
        return {progress.eta_reason for _, progress in self.told}


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.1])
def test_a_steady_render_needs_no_reason(render_clock, factor):
    render = Simulation(render_clock, lambda done: factor)
    list(render.run())
    render.check()
    assert render.reasons() == {None}
    for worked_s, progress in render.told:
        assert progress.eta_s == pytest.approx(render.worked_s - worked_s, rel=0.1, abs=1.0) or progress.fraction < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_uneven_steps_keep_the_promise(render_clock, seed):
    noise = random.Random(seed)
    render = Simulation(render_clock, lambda done: noise.lognormvariate(0, 0.5))
    list(render.run())
    render.check()
    unexplained = [told.eta_reason is None for _, told in render.told]
    assert sum(unexplained) > 0.8 * len(unexplained)


@pytest.mark.parametrize("slower", [1.5, 3.0, 10.0])
def test_a_machine_that_becomes_busy_is_the_reason_why_the_time_left_grows(render_clock, slower):
    render = Simulation(render_clock, lambda done: slower if done > 0.5 else 1.0)
    list(render.run())
    render.check()
    assert any("the machine is busy" in reason for reason in render.reasons() if reason)
    later = [(worked_s, told) for worked_s, told in render.told if told.stage is Stage.DENOISING and told.step > 40]
    for worked_s, told in later:  # ten steps after the change it is right again
        assert told.eta_s == pytest.approx(render.worked_s - worked_s, rel=0.35)


def test_a_few_seconds_more_at_the_end_are_not_told(render_clock):
    render = Simulation(render_clock, lambda done: 3.0 if done > 0.94 else 1.0)
    list(render.run())
    render.check()
    assert render.reasons() == {None}


def test_a_machine_that_was_busy_for_a_while_is_no_reason_later(render_clock):
    render = Simulation(render_clock, lambda done: 4.0 if 0.3 < done < 0.5 else 1.0)
    list(render.run())
    render.check()
    assert any("busy" in reason for reason in render.reasons() if reason)
    assert render.told[-1][1].eta_reason is None


@pytest.mark.parametrize("rough", [False, True])
@pytest.mark.parametrize("factor", [2.0, 5.0])
def test_a_render_that_is_slower_than_forecast_says_so_at_once(render_clock, factor, rough):
    forecast = dataclasses.replace(FORECAST, low_s=30.0, high_s=500.0) if rough else FORECAST
    render = Simulation(render_clock, lambda done: factor, forecast)
    list(render.run())
    render.check()
    assert "it is slower than forecast" in render.reasons()
    for worked_s, told in render.told:
        if told.fraction > 0.3:
            assert told.eta_s == pytest.approx(render.worked_s - worked_s, rel=0.1, abs=5.0)


def test_loading_that_takes_long_is_said(render_clock):
    render = Simulation(render_clock, lambda done: 1.0)
    steps = render.run()
    render.report(Stage.LOADING, 0.0)
    render_clock.now += 60
    render.report(Stage.LOADING, 0.1)
    assert render.told[-1][1].eta_reason == "loading takes longer than forecast"
    list(steps)
    assert render.told[-1][1].eta_reason is None


def test_a_step_that_hangs_is_said(render_clock):
    render = Simulation(render_clock, lambda done: 1.0)
    for step in render.run():
        if step == 20:
            break
    render.report(Stage.DENOISING, 20 / STEPS, 20)
    render_clock.now += 60
    render.report(Stage.DENOISING, 20 / STEPS, 20)
    assert render.told[-1][1].eta_reason == "this step takes longer than those before"


def test_a_pause_does_not_count(render_clock):
    render = Simulation(render_clock, lambda done: 1.0)
    for step in render.run():
        if step in (10, 30):
            render.running.suspend()
            render_clock.now += 3600
            render.running.resume()
    render.check()
    assert render.reasons() == {None}
    assert max(told.eta_s for _, told in render.told) == pytest.approx(130.5)
