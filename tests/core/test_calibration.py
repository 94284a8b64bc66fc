"""The forecast learns from renders of all lengths on a machine whose speed changes: simulated, without a clock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from backend.core.calibration import NOT_CALIBRATED, UNCERTAINTY, Timing, calibrate
from backend.core.plan import Forecast, Machine, Stage
from backend.core.planning import make_plan
from backend.core.registry import MODELS
from backend.core.schema import parse_request

MODEL = MODELS["skyreels-v2-df-1.3b-540p"]
MACHINE = Machine("CPU, 8 cores", 8, 64)
JOBS, CHANGE_AT = 40, 20


class SimulatedMachine:
    """Takes for each stage a fixed time and a multiple of the guess; `speed` 1/3 takes three times as long."""

    def __init__(self, fixed_s: float, noise: float, seed: int) -> None:
        self.speed, self.fixed_s, self.noise = 1.0, fixed_s, noise
        self.random = random.Random(seed)
        self.history: list[Timing] = []

    def forecast(self, num_frames: int) -> Forecast:
        request = parse_request({"prompt": "x", "seed": 1, "num_frames": num_frames})
        return make_plan(request, MODEL, MACHINE, calibration=calibrate(self.history)).forecast

    def taken(self, guess: dict[Stage, float]) -> dict[Stage, float]:
        fixed = {Stage.LOADING: 4.0, Stage.DENOISING: self.fixed_s, Stage.DECODING: self.fixed_s / 10}
        pace = {Stage.DENOISING: 0.02, Stage.DECODING: 0.05}
        return {stage: (fixed.get(stage, 0.2) + pace.get(stage, 0.0) * guess[stage]) / self.speed for stage in guess}

    def render(self, num_frames: int) -> None:
        guess = self.forecast(num_frames).guess
        taken = {stage: s * self.random.lognormvariate(0, self.noise) for stage, s in self.taken(guess).items()}
        self.history.insert(0, Timing(guess, taken))


@pytest.mark.parametrize("change", [3.0, 1 / 3])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_the_forecast_of_64_frames_holds_over_40_mixed_jobs_and_a_change_of_speed(change, share, noise):
    work = SimulatedMachine(0.0, 0.0, 0)
    fixed_s = share * work.taken(work.forecast(64).guess)[Stage.DENOISING]
    for seed in range(5):
        machine = SimulatedMachine(fixed_s, noise, seed)
        lengths = [machine.random.randint(16, 200) for _ in range(JOBS)]
        for number, num_frames in enumerate(lengths):
            if number == CHANGE_AT:
                machine.speed = change
            forecast = machine.forecast(64)
            true_s = sum(machine.taken(forecast.guess).values())
            if number >= len(UNCERTAINTY) and not CHANGE_AT <= number < CHANGE_AT + 3:
                assert forecast.total_s == pytest.approx(true_s, rel=0.35), (seed, number, lengths[:number])
                assert (forecast.low_s, forecast.high_s) == (None, None)
            elif 0 < number < CHANGE_AT:
                assert forecast.low_s < true_s < forecast.high_s
            machine.render(num_frames)


def test_short_renders_do_not_poison_the_forecast_of_a_long_one():
    machine = SimulatedMachine(fixed_s=60.0, noise=0.0, seed=1)
    for num_frames in (64, 16, 17, 24, 16, 18, 16, 20, 16):
        machine.render(num_frames)
    for num_frames in (16, 64, 97):
        forecast = machine.forecast(num_frames)
        assert forecast.total_s == pytest.approx(sum(machine.taken(forecast.guess).values()), rel=0.1)


def test_one_render_on_a_busy_machine_does_not_turn_the_forecast():
    machine = SimulatedMachine(fixed_s=20.0, noise=0.0, seed=1)
    for num_frames in (64, 32, 97, 64, 48):
        machine.render(num_frames)
    before_s = machine.forecast(64).total_s
    machine.speed = 1 / 6
    machine.render(64)
    assert machine.forecast(64).total_s == pytest.approx(before_s, rel=0.05)
    machine.render(64)
    machine.render(64)
    assert machine.forecast(64).total_s == pytest.approx(6 * before_s, rel=0.05)


def test_three_short_renders_are_enough_to_see_that_the_machine_became_slower():
    machine = SimulatedMachine(fixed_s=0.0, noise=0.0, seed=1)
    for num_frames in (16, 97, 32, 120, 20, 64, 17, 97, 200, 200, 200):
        machine.render(num_frames)
    machine.speed = 1 / 3
    for _ in range(3):
        machine.render(16)
    forecast = machine.forecast(200)
    assert forecast.total_s == pytest.approx(sum(machine.taken(forecast.guess).values()), rel=0.05)


def test_a_range_is_given_until_five_renders_are_known_and_narrows():
    machine = SimulatedMachine(fixed_s=0.0, noise=0.0, seed=1)
    widths = []
    for _ in range(5):
        forecast = machine.forecast(64)
        assert forecast.low_s < forecast.total_s < forecast.high_s
        widths.append(forecast.high_s / forecast.low_s)
        machine.render(64)
    assert widths == sorted(widths, reverse=True)
    assert machine.forecast(64).low_s is machine.forecast(64).high_s is None


GUESS = {Stage.LOADING: 5.0, Stage.DENOISING: 10.0}


@pytest.mark.parametrize(
    "history",
    [
        list,
        lambda: [Timing({}, {Stage.DENOISING: 3.0})],
        lambda: [Timing(GUESS, {})],
        lambda: [Timing({Stage.DENOISING: 0.0}, {Stage.DENOISING: 3.0}), Timing(GUESS, {Stage.DENOISING: 0.0})],
    ],
    ids=["nothing", "no guess", "no seconds", "zeros"],
)
def test_a_history_that_says_nothing_leaves_the_guess(history: Callable[[], list[Timing]]):
    assert calibrate(history()) == NOT_CALIBRATED
    assert calibrate(history()).seconds(GUESS) == GUESS


def test_renders_of_one_length_are_forecast_as_they_were():
    same = [Timing(GUESS, {Stage.DENOISING: 30.0, Stage.LOADING: 1.0})] * 6
    assert calibrate(same).seconds(GUESS) == pytest.approx({Stage.LOADING: 1.0, Stage.DENOISING: 30.0})
