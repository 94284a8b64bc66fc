"""P05, P06, P09, P10: a render that hangs, heeds no cancellation or loses its GPU is left with the process."""

from __future__ import annotations

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
from backend.core.plan import Machine, Stage
from backend.core.schema import parse_request
from backend.jobs.job import JobState
from backend.jobs.running import RunningJob
from backend.jobs.store import CRASH
from backend.synthetic import SyntheticEngine
from backend.system import logs
from backend.system.supervisor import RESTART
from backend.video_generator import VideoGenerator
from tests.conftest import SMALL
from tests.studio import ROOT

pytestmark = pytest.mark.alone


class Watched(VideoGenerator):
    """A studio that is looked after a hundred times a second, by a clock that the test sets; `ended` when it would have
    ended its process.
    """

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.rounds = 0
        self.worker, keep_history = self._worker, self._worker._keep_history

        def counted() -> None:
            self.rounds += 1
            keep_history()

        self.worker._keep_history = counted

    @property
    def running(self) -> RunningJob:
        (running,) = self.worker._running.values()
        return running

    @property
    def ended(self) -> bool:
        return self.worker._ended.is_set()

    def is_looked_at(self) -> None:
        """Wait until the watch has gone round."""
        seen = self.rounds
        wait_for(lambda: self.rounds >= seen + 2)


@pytest.fixture
def studio(settings, engine, monkeypatch, render_clock):
    monkeypatch.setattr("backend.jobs.worker.WATCH_EVERY_S", 0.01)
    settings = settings.model_copy(
        update={
            "hang_timeout_s": 120,
            "slow_hang_timeout_s": 1800,
            "cancel_timeout_s": 10,
            "slow_cancel_timeout_s": 180,
        }
    )
    studio = Watched(settings, {"synthetic": engine})
    monkeypatch.setattr("backend.jobs.worker.end_process", lambda: studio.worker._ended.set())
    studio.start()
    yield studio
    engine.release()
    studio.stop()


def wait_for(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def steps_take(engine, render_clock, monkeypatch):
    """Set how many seconds the render's steps take."""
    suffer = engine._suffer

    def set_to(seconds: float) -> None:
        def take(step: int) -> None:
            render_clock.now += seconds
            suffer(step)

        monkeypatch.setattr(engine, "_suffer", take)

    return set_to


def held_at(studio, engine, step: int):
    """A job of `studio` that stands still in that step."""
    engine.hold_at(step)
    job = studio.submit(parse_request(SMALL))
    assert engine.reached.wait(60)
    return job


def test_a_render_that_hangs_is_found_in_time_and_the_log_says_where(studio, engine, render_clock):
    job = held_at(studio, engine, 5)
    render_clock.now += 119
    studio.is_looked_at()
    assert not studio.ended
    render_clock.now += 2
    wait_for(lambda: studio.ended)
    assert studio.job(job.id).state is JobState.RUNNING  # the next process counts a death and goes on
    said = logs.last_lines(studio.settings.log, job.id)
    assert "it reported nothing for 121 s" in said[-1]
    assert "_suffer" in said[-1]


def test_ten_times_the_usual_step_is_waited_for(studio, engine, render_clock, steps_take):
    steps_take(100)  # which is no hang, nor are ten of them
    held_at(studio, engine, 8)
    render_clock.now += 890
    studio.is_looked_at()
    assert not studio.ended
    render_clock.now += 20
    wait_for(lambda: studio.ended)


def test_a_paused_render_is_no_hang(studio, engine, render_clock):
    job = held_at(studio, engine, 3)
    studio.pause(job.id)
    engine.release()
    wait_for(lambda: studio.running.suspended)
    render_clock.now += 3600
    studio.is_looked_at()
    assert not studio.ended
    studio.resume(job.id)
    assert studio.wait(job.id, 60).state is JobState.SUCCEEDED
    assert not studio.ended


def test_a_cancellation_that_is_not_heeded_ends_the_process_and_the_job(studio, engine, render_clock):
    job = held_at(studio, engine, 5)
    studio.cancel(job.id)
    render_clock.now += 9
    studio.cancel(job.id)  # asking again does not put it off
    studio.is_looked_at()
    assert not studio.ended
    render_clock.now += 2
    wait_for(lambda: studio.ended)
    assert studio.job(job.id).state is JobState.CANCELLED


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_replaced_with_the_process(studio, monkeypatch):
    def gone() -> bool:
        raise OSError("the disk is gone")

    monkeypatch.setattr(studio._disk, "has_space", gone)
    studio.submit(parse_request(SMALL))
    wait_for(lambda: studio.ended)
    assert "the worker has died" in studio.settings.log.read_text()


def test_a_render_that_is_over_and_waits_for_the_disk_is_not_ended_with_the_process(studio, monkeypatch, render_clock):
    monkeypatch.setattr("backend.jobs.worker.STORE_RETRY_S", 0.05)
    finish, refused, room = studio.store.finish, threading.Event(), threading.Event()

    def full(job, state, **named):
        if state is JobState.SUCCEEDED and not room.is_set():
            refused.set()
            raise NotEnoughSpace("The disk is full;")
        return finish(job, state, **named)

    monkeypatch.setattr(studio.store, "finish", full)
    job = studio.submit(parse_request(SMALL))
    assert refused.wait(60)
    studio.cancel(job.id)
    render_clock.now += 3600
    studio.is_looked_at()
    room.set()
    assert studio.wait(job.id, 60).state is JobState.SUCCEEDED
    assert not studio.ended


def test_a_cancellation_while_weights_are_read_is_waited_for(studio, engine, render_clock):
    job = held_at(studio, engine, 1)
    studio.running.stage = Stage.LOADING
    studio.cancel(job.id)
    render_clock.now += 179
    studio.is_looked_at()
    assert not studio.ended
    engine.release()
    assert studio.wait(job.id, 60).state is JobState.CANCELLED
    assert not studio.ended


def test_a_lost_gpu_ends_the_process_and_the_job_goes_on(studio, engine):
    engine.faults.raise_at = {5: DeviceLost("The GPU stopped with 'CUDA error: unspecified launch failure';")}
    job = studio.submit(parse_request(SMALL))
    wait_for(lambda: studio.ended)
    assert studio.job(job.id).state is JobState.RUNNING


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
    assert (jobs[1].crash_count, jobs[1].attempts) == (3 * CRASH, 3)
    assert any("attempt 3" in line for line in jobs[1].error.log)
    gap = jobs[2].started_at - jobs[1].started_at
    print(f"the next job began {gap:.1f} s after the last attempt of the deadly one")
    assert gap < 10


def test_a_lost_gpu_costs_a_process_and_no_job(settings, tmp_path):
    ids = queue(settings, "once a boat", "a boat")
    done = run_supervised(settings.data, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("requested a fresh process") == 1
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
    assert process.wait(100) in (1, 128 + number)
    assert not psutil.pid_exists(started()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_who_kills_the_supervisor_kills_the_studio(sleeper):
    process, started = sleeper
    process.kill()
    process.wait()
    wait_for(lambda: not psutil.pid_exists(started()[-1]))


def test_a_process_that_ends_by_itself_is_not_started_again():
    command = [*SUPERVISE, sys.executable, "-c", "exit(3)"]
    assert subprocess.run(command, cwd=ROOT, timeout=100).returncode == 3
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
