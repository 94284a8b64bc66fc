"""P14: a clock that jumps by a year changes no order, no estimate and no time limit, and removes nothing."""

from __future__ import annotations

import os
import time

import pytest

from backend.core.schema import parse_request
from backend.jobs.job import JobState
from backend.synthetic import SyntheticEngine
from backend.video_generator import VideoGenerator
from tests.conftest import SMALL

YEAR = 365.25 * 24 * 3600
REAL = time.time


@pytest.fixture(params=[YEAR, -YEAR], ids=["ahead", "back"])
def jump(request, monkeypatch):
    def jump() -> None:
        monkeypatch.setattr(time, "time", lambda: REAL() + request.param)
        monkeypatch.setattr(time, "time_ns", lambda: int((REAL() + request.param) * 1e9))

    return jump


def started(settings) -> VideoGenerator:
    generator = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
    generator.start()
    return generator


def with_things_to_lose(settings) -> tuple[VideoGenerator, str, str, str]:
    """A studio with a film in the trash, an upload that nobody needs and a failed job that can go on."""
    from tests.test_video_generator import _png

    generator = started(settings)
    film = generator.wait(generator.submit(parse_request(SMALL)).id, 30)
    generator.delete(film.id)
    with generator.uploads.receive("loose.png") as incoming:
        incoming.write(_png())
        upload = incoming.accept().id
    engine = generator.engines["synthetic"]
    engine.faults.raise_at = {5: KeyError("x")}
    failed = generator.wait(generator.submit(parse_request(SMALL | {"seed": 2})).id, 30)
    engine.faults.raise_at = {}
    (settings.temp / failed.id).mkdir(exist_ok=True)
    return generator, film.id, upload, failed.id


def all_there(settings, film: str, upload: str, failed: str) -> bool:
    return all(path.exists() for path in (settings.trash / film, settings.uploads / upload, settings.temp / failed))


def test_nothing_is_removed_while_it_runs(settings, jump):
    generator, *things = with_things_to_lose(settings)
    jump()
    generator.tidying.tidy()
    assert all_there(settings, *things)
    generator.stop()


def test_nothing_is_removed_by_the_next_start(settings, jump):
    generator, *things = with_things_to_lose(settings)
    generator.stop()
    jump()
    again = started(settings)
    again.tidying.tidy()
    assert all_there(settings, *things)
    again.stop()


def test_after_a_day_of_doubt_old_things_go(settings, jump, monkeypatch):
    generator, film, *_ = with_things_to_lose(settings)
    generator.stop()
    os.utime(settings.trash / film, (REAL() - 30 * 86400,) * 2)
    monkeypatch.setattr(time, "time", lambda: REAL() + YEAR)
    again = started(settings)
    again.tidying.tidy()
    assert (settings.trash / film).exists()
    wall, monotonic = again.tidying._began
    again.tidying._began = (wall, monotonic - 86401)
    again.tidying.tidy()
    assert not (settings.trash / film).exists()
    again.stop()


def test_order_and_estimates_do_not_follow_the_clock(generator, engine, a_request, jump):
    engine.hold_at(6)
    engine.faults.seconds_per_step = 0.05
    first = generator.submit(a_request(seed=1))
    assert engine.reached.wait(60)
    second = generator.submit(a_request(seed=2))
    jump()
    third = generator.submit(a_request(seed=3))
    engine.release()
    seen = []
    while (job := generator.job(first.id)).state is JobState.RUNNING:
        seen.append(job.progress.eta_s if job.progress else 0)
        time.sleep(0.05)
    assert max(seen) < 60
    ended = [generator.wait(job.id, 30) for job in (first, second, third)]
    assert [job.state for job in ended] == [JobState.SUCCEEDED] * 3
    assert ended[1].started_at <= ended[2].started_at
    assert all(job.artifact.render_s < 60 for job in ended)
    assert [job.id for job in generator.store.find()] == [third.id, second.id, first.id]


def test_a_key_is_remembered(settings, a_request, jump):
    generator = started(settings)
    first = generator.submit(a_request(seed=1), "mine")
    jump()
    assert generator.submit(a_request(seed=1), "mine").id == first.id
    generator.stop()
    again = started(settings)
    assert again.submit(a_request(seed=1), "mine").id == first.id
    again.stop()


def test_a_copy_of_an_hour_ago_is_no_reason_for_doubt(settings):
    generator = started(settings)
    while not list(settings.copies.glob("*.db")):
        time.sleep(0.02)
    generator.stop()
    for copy in settings.copies.glob("*.db"):
        os.utime(copy, (REAL() - 3600,) * 2)
    again = started(settings)
    assert again.tidying._doubt_s == 0
    again.stop()
