"""P05, P06, P09, P10: a render that hangs, heeds no cancellation or loses its GPU is left with the process."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from backend.core.errors import DeviceLost, NotEnoughSpace
from backend.core.planning import Machine, Stage
from backend.core.schema import parse_request
from backend.jobs.job import JobState
from backend.jobs.store import DEATH
from backend.synthetic import SyntheticEngine
from backend.system import logs
from backend.system.supervisor import RESTART
from backend.video_generator import VideoGenerator
from tests.conftest import SMALL
from tests.pace import within
from tests.studio import ROOT

pytestmark = pytest.mark.alone

SCALE = 100  # the limits of these tests are those of the studio divided by this


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def studio(settings, monkeypatch):
    """A studio with scaled limits whose engine can hang; `ends` collects when it would have ended its process."""
    ends: list[float] = []
    monkeypatch.setattr("backend.video_generator.WATCH_EVERY_S", 0.02)
    settings = dataclasses.replace(settings, hang_s=120 / SCALE, slow_hang_s=1800 / SCALE, cancel_s=10 / SCALE)
    engine = SyntheticEngine()
    generator = VideoGenerator(settings, {"synthetic": engine})

    def end() -> None:
        ends.append(time.monotonic())
        generator._ended.set()

    monkeypatch.setattr("backend.video_generator.end_process", end)
    generator.start()
    yield generator, engine, ends
    engine.release()
    generator.stop()


def wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_render_that_hangs_is_found_in_time_and_the_log_says_where(studio):
    generator, engine, ends = studio
    engine.hold_at(5)
    job = generator.submit(parse_request(SMALL))
    assert engine.reached.wait(60)
    began = time.monotonic()
    wait_for(lambda: ends)
    assert 0.8 * 120 / SCALE < ends[0] - began < 2 * 120 / SCALE
    assert generator.job(job.id).state is JobState.RUNNING  # the next process counts a death and goes on
    said = logs.last_lines(generator.settings.log, job.id)
    assert "nothing was heard of it" in said[-1]
    assert "_suffer" in said[-1]


def test_slow_steps_are_no_hang(studio):
    generator, engine, ends = studio
    engine.faults.seconds_per_step = 0.4  # longer than a third of the limit
    job = generator.wait(generator.submit(parse_request(SMALL)).id, 60)
    assert job.state is JobState.SUCCEEDED
    assert ends == []


def test_ten_times_the_usual_step_is_waited_for(studio):
    generator, engine, _ = studio
    engine.hold_at(8)
    engine.faults.seconds_per_step = 0.2
    generator.submit(parse_request(SMALL))
    assert engine.reached.wait(60)
    render = generator._render
    assert 1.9 < render.patience_s(generator.settings) < 3.5


def test_a_paused_render_is_no_hang(studio):
    generator, engine, ends = studio
    engine.hold_at(3)
    job = generator.submit(parse_request(SMALL))
    assert engine.reached.wait(60)
    generator.pause(job.id)
    engine.release()
    wait_for(lambda: generator._render.holding)
    time.sleep(3 * 120 / SCALE)
    assert ends == []
    generator.resume(job.id)
    assert generator.wait(job.id, 20).state is JobState.SUCCEEDED


def test_a_cancellation_that_is_not_heeded_ends_the_process_and_the_job(studio):
    generator, engine, ends = studio
    engine.hold_at(5)
    job = generator.submit(parse_request(SMALL))
    assert engine.reached.wait(60)
    began = time.monotonic()
    generator.cancel(job.id)
    assert time.monotonic() - began < within(0.3)

    def ended():
        generator.cancel(job.id)  # asking again and again does not put it off
        return ends

    wait_for(ended, 5)
    assert ends[0] - began < 3 * 10 / SCALE + within(0.5)
    assert generator.job(job.id).state is JobState.CANCELLED


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_replaced_with_the_process(studio, monkeypatch):
    generator, _, ends = studio

    def gone() -> bool:
        raise OSError("the disk is gone")

    monkeypatch.setattr(generator._room, "is_there", gone)
    generator.submit(parse_request(SMALL))
    wait_for(lambda: ends)
    assert "the worker has died" in generator.settings.log.read_text()


def test_a_render_that_is_over_and_waits_for_the_disk_is_not_ended_with_the_process(studio, monkeypatch):
    generator, _, ends = studio
    monkeypatch.setattr("backend.video_generator.STORE_RETRY_S", 0.05)
    finish, refused, room = generator.store.finish, threading.Event(), threading.Event()

    def full(job, state, **named):
        if state is JobState.SUCCEEDED and not room.is_set():
            refused.set()
            raise NotEnoughSpace("The disk is full;")
        return finish(job, state, **named)

    monkeypatch.setattr(generator.store, "finish", full)
    job = generator.submit(parse_request(SMALL))
    assert refused.wait(60)
    generator.cancel(job.id)
    time.sleep(3 * 10 / SCALE)
    room.set()
    assert generator.wait(job.id, 60).state is JobState.SUCCEEDED
    assert ends == []


def test_a_cancellation_while_weights_are_read_or_blocks_compiled_is_waited_for(studio, monkeypatch):
    generator, engine, ends = studio
    limit = within(1)
    generator.settings = dataclasses.replace(generator.settings, cancel_s=limit, hang_s=100 * limit)
    engine.hold_at(1)
    job = generator.submit(parse_request(SMALL))
    assert engine.reached.wait(60)
    generator._render.stage = Stage.LOADING
    generator.cancel(job.id)
    time.sleep(1.5 * limit)
    assert ends == []
    finish = generator.store.finish

    def late(*args, **kwargs):
        if threading.current_thread() is generator._thread:
            time.sleep(limit / 4)  # the watch looks at it on its way to the end, many times
        return finish(*args, **kwargs)

    monkeypatch.setattr(generator.store, "finish", late)
    engine.release()
    assert generator.wait(job.id, 20).state is JobState.CANCELLED
    wait_for(lambda: generator._render is None)
    assert ends == []


def test_a_lost_gpu_ends_the_process_and_the_job_goes_on(studio):
    generator, engine, ends = studio
    engine.faults.raise_at = {5: DeviceLost("The GPU stopped with 'CUDA error: unspecified launch failure';")}
    job = generator.submit(parse_request(SMALL))
    wait_for(lambda: ends)
    assert generator.job(job.id).state is JobState.RUNNING


def test_without_the_gpu_that_a_job_was_planned_for_the_queue_pauses_and_nothing_fails(settings):
    engine = SyntheticEngine()
    with_gpu = VideoGenerator(settings, {"synthetic": engine}, Machine("NVIDIA H100", 8, 64, vram_gib=80))
    job = with_gpu.submit(parse_request(SMALL))
    with_gpu.store._change("UPDATE jobs SET plan = json_set(plan, '$.on_gpu', json('true'))")
    with_gpu.stop()
    without = VideoGenerator(settings, {"synthetic": engine}, Machine("CPU, 2 cores", 2, 8))
    without.start()
    wait_for(lambda: without.store.queue_paused)
    wait_for(lambda: without.job(job.id).error)
    waiting = without.job(job.id)
    assert (waiting.state, waiting.error.code) == (JobState.QUEUED, "no_device")
    assert "planned for a GPU" in waiting.error.message
    without.stop()
    back = VideoGenerator(settings, {"synthetic": engine}, Machine("NVIDIA H100", 8, 64, vram_gib=80))
    back.start()
    back.pause_queue(False)
    assert back.wait(job.id, 20).state is JobState.SUCCEEDED
    back.stop()


# --- in processes of their own, under the supervisor ---

FAULTY = """
import os, signal, sys, time
from pathlib import Path
from backend.core.config import Settings
from backend.core.errors import DeviceLost
from backend.synthetic import Faults, SyntheticEngine
from backend.system.supervisor import RESTART
from backend.video_generator import VideoGenerator

class Deadly(SyntheticEngine):
    def render(self, task, report):
        word = task.request.prompt.split()[0]
        self.deadly = word == "deadly"
        self.faults.raise_at = {5: DeviceLost("The GPU stopped;")} if word == "sticky" else {}
        if word == "once":
            mark = task.work / "was-here"
            self.faults.raise_at = {} if mark.exists() else {5: DeviceLost("The GPU stopped;")}
            mark.touch()
        yield from super().render(task, report)

    def _suffer(self, step):
        if self.deadly and step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._suffer(step)

data = Path(sys.argv[1])
settings = Settings(data=data, shared_models=data / "none", disk_reserve_bytes=0)
generator = VideoGenerator(settings, {"synthetic": Deadly()})
generator.start()
while generator.store.queue():
    time.sleep(0.02)
generator.stop()
"""


SUPERVISE = (
    sys.executable,
    "-c",
    "import sys; from backend.system.supervisor import supervise; sys.exit(supervise(sys.argv[1:]))",
)


def run_supervised(data: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    command = [*SUPERVISE, sys.executable, str(script), str(data)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=120)


TOLD_BEFORE_THERE_IS_A_CHILD = """
import os, signal, subprocess, sys
from backend.system import supervisor

start = subprocess.Popen

def told_first(*arguments, **named):
    os.kill(os.getpid(), signal.SIGTERM)
    return start(*arguments, **named)

supervisor.subprocess.Popen = told_first
sys.exit(supervisor.supervise([sys.executable, "-c", "import time; time.sleep(300)"]))
"""


def test_a_signal_while_the_child_is_started_reaches_it():
    done = subprocess.run([sys.executable, "-c", TOLD_BEFORE_THERE_IS_A_CHILD], cwd=ROOT, timeout=100)
    assert done.returncode == 128 + signal.SIGTERM


def queue(settings, *prompts: str) -> list[str]:
    generator = VideoGenerator(settings, {"synthetic": SyntheticEngine()})  # not started
    ids = [generator.submit(parse_request(SMALL | {"prompt": prompt})).id for prompt in prompts]
    generator.stop()
    return ids


def outcomes(settings, ids) -> list:
    generator = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
    jobs = [generator.job(job_id) for job_id in ids]
    generator.stop()
    return jobs


def test_a_deadly_job_is_set_aside_after_three_processes_and_the_others_are_made(settings, tmp_path):
    ids = queue(settings, "a boat", "deadly boat", *["a boat"] * 4)
    done = run_supervised(settings.data, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("it starts again") == 3
    jobs = outcomes(settings, ids)
    assert [job.state.value for job in jobs] == ["succeeded", "quarantined", *["succeeded"] * 4]
    assert (jobs[1].deaths, jobs[1].attempts) == (3 * DEATH, 3)
    assert any("attempt 3" in line for line in jobs[1].error.log)
    gap = jobs[2].started_at - jobs[1].started_at
    print(f"the next job began {gap:.1f} s after the last attempt of the deadly one")
    assert gap < 10


def test_a_lost_gpu_costs_a_process_and_no_job(settings, tmp_path):
    ids = queue(settings, "once a boat", "a boat")
    done = run_supervised(settings.data, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("asked for a fresh process") == 1
    first, second = outcomes(settings, ids)
    assert (first.state, first.attempts) == (JobState.SUCCEEDED, 2)
    assert second.state is JobState.SUCCEEDED


SLEEPER = "import os, time; open(os.environ['PIDS'], 'a').write(f'{os.getpid()}\\n'); time.sleep(60)"


@pytest.fixture
def sleeper(tmp_path):
    """A supervised process that sleeps; `pids` has its ids, one for each start."""
    pids = tmp_path / "pids"
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PIDS": str(pids)}
    command = [*SUPERVISE, sys.executable, "-c", SLEEPER]
    process = subprocess.Popen(command, env=environ, cwd=ROOT, stderr=subprocess.DEVNULL)

    def started() -> list[int]:
        return [int(line) for line in pids.read_text().split()] if pids.exists() else []

    wait_for(started)
    yield process, started
    process.kill()
    process.wait()


def test_a_killed_studio_starts_again(sleeper):
    process, started = sleeper
    for count in (1, 2):
        os.kill(started()[-1], signal.SIGKILL)
        wait_for(lambda count=count: len(started()) == count + 1)
    assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_supervisor_ends_both(sleeper, number):
    process, started = sleeper
    process.send_signal(number)
    assert process.wait(10) in (1, 128 + number)
    assert not psutil.pid_exists(started()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_who_kills_the_supervisor_kills_the_studio(sleeper):
    process, started = sleeper
    process.kill()
    process.wait()
    wait_for(lambda: not psutil.pid_exists(started()[-1]))


def test_a_process_that_ends_by_itself_is_not_started_again():
    command = [*SUPERVISE, sys.executable, "-c", "exit(3)"]
    assert subprocess.run(command, cwd=ROOT, timeout=20).returncode == 3
    assert RESTART != 3


def test_the_log_is_json_with_the_job_and_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "my-own-secret")
    handler = logs.write_to_file(tmp_path / "log")
    logger = __import__("logging").getLogger("backend.test")
    token = logs.current_job.set("the-job")
    try:
        logger.warning("fetching with %s and hf_abcdefghijklmn", "my-own-secret")
        try:
            raise ValueError("my-own-secret")
        except ValueError:
            logger.exception("broken")
    finally:
        logs.current_job.reset(token)
        logs.stop_writing(handler)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines[0]["message"] == "fetching with *** and ***"
    assert {line["job"] for line in lines} == {"the-job"}
    assert "ValueError: ***" in lines[1]["traceback"]
    assert logs.last_lines(tmp_path / "log", "the-job") == ("WARNING fetching with *** and ***", "ERROR broken")
    assert logs.last_lines(tmp_path / "log", "another") == ()
    assert logs.last_lines(tmp_path / "none", "the-job") == ()
