"""The worker: a thread that claims jobs from the store and runs them, and a second one that watches it.

It holds the jobs that run now, by id. What clients request (cancel, pause, resume) is set here and takes effect at
the next report of the kind's `run`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from backend.core.config import ROOT, Settings
from backend.core.errors import Conflict, DeviceLost, JobCancelled, NoDevice, StudioError
from backend.engine import Report, Reporter
from backend.jobs import disk_space, tidying
from backend.jobs.database import StoreDamaged
from backend.jobs.disk_space import DiskSpace, is_disk_full, is_of_the_disk
from backend.jobs.job import ENDED, Job, JobError, JobPlan, JobState
from backend.jobs.kind import Services
from backend.jobs.kinds import KINDS
from backend.jobs.running import RunningJob
from backend.jobs.store import Store
from backend.jobs.tidying import Tidying
from backend.system import logs
from backend.system.supervisor import RESTART

log = logging.getLogger(__name__)
T = TypeVar("T")

PROGRESS_EVERY_S = 0.5  # how often a running job's progress is written; each write is synced
STORE_RETRY_S = 5.0
WATCH_EVERY_S = 1.0


class Worker:
    """Runs the jobs of one store, one at a time. `folder_lock` is the held lock of the data folder."""

    def __init__(
        self, services: Services, store: Store, disk: DiskSpace, tidying: Tidying, folder_lock: FileLock
    ) -> None:
        self._settings = services.settings
        self._services = services
        self._store = store
        self._disk = disk
        self._tidying = tidying
        self._folder_lock = folder_lock
        self._lock_inode = services.settings.lock.stat().st_ino
        self.changed = threading.Condition(threading.RLock())  # notified when a job or the queue has changed
        self._running: dict[str, RunningJob] = {}
        self.stopping = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    # --- life ---

    def start(self) -> None:
        """Start both threads."""
        with self.changed:
            self._thread = threading.Thread(target=self._work, name="studio-worker", daemon=True)
            self._thread.start()
            threading.Thread(target=self._watch, name="studio-watch", daemon=True).start()

    def stop(self, timeout_s: float) -> None:
        """End at the next report; the job that runs then waits again."""
        with self.changed:
            self.stopping = True
            for running in self._running.values():
                running.stopping = True
            self.changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning(
                    "the worker did not stop within %.0f s; its job is queued again at the next start", timeout_s
                )
        self._ended.set()

    @property
    def started(self) -> bool:
        return self._thread is not None

    @property
    def alive(self) -> bool:
        """Whether the thread can take jobs."""
        return self._thread is not None and self._thread.is_alive()

    def announce(self) -> None:
        """Wake whoever waits for a change: the worker, and those who wait for a job."""
        with self.changed:
            self.changed.notify_all()

    def wait(self, job_id: str, timeout_s: float | None) -> Job:
        """Block until the job has ended. Raises TimeoutError after `timeout_s` seconds."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self.changed:
            while (job := self._store.get(job_id)).state not in ENDED:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"Job {job_id} is still {job.state.value} after {timeout_s:g} s")
                self.changed.wait(left)
            return job

    # --- what clients request of a running job ---

    def cancel(self, job_id: str) -> Job:
        """End a job that has not ended. A running one stops at its next report. Raises Conflict."""
        with self.changed:
            running = self._running.get(job_id)
            if running is not None:
                if not running.cancelled:
                    running.cancel()
                    with contextlib.suppress(OSError, sqlite3.Error, StudioError):  # a full disk: it takes effect still
                        self._store.request_cancel(running.job)
                self.changed.notify_all()
                return self._store.get(job_id)
            job = self._store.move_to_state(job_id, JobState.CANCELLED)
            self.changed.notify_all()
            return job

    def pause(self, job_id: str) -> Job:
        """Hold a job: a waiting one is passed over, a running one stands still at its next report, or makes room where
        another one waits. Raises Conflict.
        """
        with self.changed:
            self._check_not_cancelled(job_id)
            job = self._store.move_to_state(job_id, JobState.PAUSED)
            if running := self._running.get(job_id):
                running.paused = True
            self.changed.notify_all()
            return job

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on where it stood, or wait again if the process that held it has ended."""
        with self.changed:
            self._check_not_cancelled(job_id)
            running = self._running.get(job_id)
            state = self._store.get(job_id).state
            if state is not JobState.PAUSED:
                raise Conflict(f"Job {job_id} is {state.value};", hint="only a paused job can go on.")
            job = self._store.move_to_state(job_id, JobState.RUNNING if running else JobState.QUEUED)
            if running:
                running.paused = False
            self.changed.notify_all()
            return job

    def is_cancelling(self, job_id: str) -> bool:
        running = self._running.get(job_id)
        return running is not None and running.cancelled

    def _check_not_cancelled(self, job_id: str) -> None:
        if self.is_cancelling(job_id):
            raise Conflict(f"Job {job_id} is being cancelled;", hint="retry it when that is done.")

    # --- the thread that runs jobs ---

    def _work(self) -> None:
        self._give_way()
        while True:
            if self._tidying.is_due:
                self._tidying.tidy()
            with self.changed:
                if self.stopping:  # checked under the lock: a stop that came while tidying has notified already
                    return
                if not self._disk.has_space():
                    self.changed.wait(timeout=disk_space.CHECK_S)
                    continue
                job = self._retry_until_written(lambda: None if self.stopping else self._store.claim())
                if job is None:
                    if not self.stopping:  # it may have come while the claim was tried again
                        self.changed.wait(timeout=tidying.EVERY_S)
                    continue
                running = self._running[job.id] = RunningJob(job, KINDS[job.kind].stages)
                self.changed.notify_all()
            try:
                self._run(running)
            finally:
                with self.changed:
                    self._running.pop(job.id, None)
                logs.current_job.set(None)
                self.announce()

    def _give_way(self) -> None:
        """Lower the priority of this thread; threads and children that a job starts take it over, the pages do not."""
        if self._settings.nice:
            thread = threading.get_native_id()
            nice = min(19, os.getpriority(os.PRIO_PROCESS, thread) + self._settings.nice)
            os.setpriority(os.PRIO_PROCESS, thread, nice)

    def _run(self, running: RunningJob) -> None:
        """Run one job and write how it ended: one branch for every way."""
        job = running.job
        logs.current_job.set(job.id)
        log.info("job %s: %s, attempt %d", job.id, job.kind, job.attempts)
        try:
            artifact = self._artifact_of(running)
        except JobCancelled:
            self._requeue(running)
        except NoDevice as missing:
            log.warning("job %s: %s", job.id, missing)
            self._retry_until_written(lambda: self._store.set_queue_paused(True))
            self._requeue(running, missing)
        except DeviceLost as lost:
            self._restart_process(job, str(lost))
        except Exception as error:
            if is_disk_full(error):
                log.warning("job %s: the disk is full; it waits for space", job.id)
                self._requeue(running, self._disk.wait_for(job.plan))
                return
            failure = self._failure(job, error)
            self._retry_until_written(lambda: self._store.finish(job, JobState.FAILED, error=failure))
        else:
            self._succeed(job, artifact)

    def _artifact_of(self, running: RunningJob) -> Any:
        job = running.job
        try:
            self._disk.check(job.plan)
            self._check_device(job.plan)
            return KINDS[job.kind].run(job, self._services, self._reporter(running))
        finally:
            running.suspend()  # what follows waits for the disk at most

    def _requeue(self, running: RunningJob, why: StudioError | None = None) -> None:
        """Queue it again where it was in the line; `why` says what it waits for. If it was cancelled, also while this
        could not be written, it has ended.
        """
        job = running.job

        def write() -> bool:
            if running.cancelled:
                return self._store.finish(job, JobState.CANCELLED)
            return self._store.requeue(job, JobError.of(why.code, why.message, why.hint) if why else None)

        with self.changed:  # a cancellation comes before this is written, or finds the job in the queue
            self._retry_until_written(write)
            self._running.pop(job.id, None)
        log.info("job %s: %s", job.id, "cancelled" if running.cancelled else "it waits again")

    def _check_device(self, plan: JobPlan) -> None:
        """Raise NoDevice if the GPU that `plan` counts on is gone: the forecast would not hold by far."""
        if plan.on_gpu and not self._services.free_machine().has_gpu:
            raise NoDevice(
                "It was planned for a GPU, and none is found now; the queue is paused.",
                hint="See that the driver works, start the studio again and let the queue go on. Or make it again:"
                " then it is planned for the processor.",
            )

    def _retry_until_written(self, write: Callable[[], T]) -> T | None:
        """Write to the store, however long it takes: a full or failing disk must not end the worker. None if the studio
        is stopped meanwhile; the next start recovers the row.
        """
        while True:
            try:
                return write()
            except (sqlite3.Error, StudioError) as error:
                log.error("the store cannot be written (%s); trying again", error)
                with self.changed:
                    if self.stopping:
                        return None
                    self.changed.wait(timeout=STORE_RETRY_S)

    def _failure(self, job: Job, error: Exception) -> JobError:
        """Why a job failed, in words that a person can act on; the log has the rest."""
        if isinstance(error, StudioError):
            log.warning("job %s: failed: %s", job.id, error)
            return JobError.of(error.code, error.message, error.hint)
        if is_of_the_disk(error):
            log.warning("job %s: failed", job.id, exc_info=error)
            return JobError.of(
                "disk",
                f"The disk or the system refused a file ({_without_paths(error, self._settings)});",
                "See that the data folder can be read and written, then retry: it goes on where it stood.",
            )
        log.error("job %s: failed unexpectedly", job.id, exc_info=error)
        message = f"The {job.kind} stopped with {type(error).__name__}: {_without_paths(error, self._settings)}."
        return JobError.of("internal", message, "Retry it: it goes on from its saved work. The log has the details.")

    def _succeed(self, job: Job, artifact: Any) -> None:
        log.info("job %s: succeeded", job.id)
        write = functools.partial(self._store.finish, job, JobState.SUCCEEDED, artifact=artifact)
        if self._retry_until_written(write) is False:
            log.warning("job %s: its result came after it was cancelled; it is removed", job.id)
            shutil.rmtree(self._settings.outputs / job.id, ignore_errors=True)

    def _reporter(self, running: RunningJob) -> Reporter:
        def report(at: Report) -> None:
            self._wait_while_paused(running)
            running.heartbeat(at)
            if running.cancelled or running.stopping:
                raise JobCancelled(running.job.id)
            running.note(at)
            if running.is_due(at, PROGRESS_EVERY_S):
                # A full disk: the job itself will meet it, and say so.
                with contextlib.suppress(sqlite3.Error, StudioError):
                    self._store.set_progress(running.job, running.progress(at))

        return report

    def _wait_while_paused(self, running: RunningJob) -> None:
        """Stand still while it is paused. Raises JobCancelled where another job waits: the row stays PAUSED, and once
        resumed it goes on from its saved state in another attempt.
        """
        if not running.paused:
            return
        running.suspend()
        with self.changed:
            while running.paused and not running.cancelled and not running.stopping:
                if self._another_waits():
                    raise JobCancelled(running.job.id)
                self.changed.wait()
        running.resume()

    def _another_waits(self) -> bool:
        return not self._store.queue_paused and any(state == "queued" for _, state in self._store.queue())

    # --- the thread that watches: a job that reports nothing cannot be interrupted, only left with the process ---

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_EVERY_S):
            self._keep_history()
            if not self.alive and not self.stopping:  # what nobody thought of; its traceback is in the log
                log.error("the worker has died; the process is restarted")
                end_process()
            for running in list(self._running.values()):
                self._check_hang(running)

    def _check_hang(self, running: RunningJob) -> None:
        if running.suspended:
            return
        # In this order: of one that is cancelled just now, a short time-out is compared with a short silence.
        timeout_s, since_heartbeat_s = running.hang_timeout_s(self._settings), running.since_heartbeat_s
        if since_heartbeat_s <= timeout_s:
            return
        if not running.cancelled:
            self._restart_process(running.job, f"it reported nothing for {since_heartbeat_s:.0f} s")
        elif self._retry_until_written(functools.partial(self._store.finish, running.job, JobState.CANCELLED)):
            self._restart_process(running.job, f"cancelled, it does not end within {timeout_s:g} s")

    def _keep_history(self) -> None:
        """See that what was acknowledged still stands on the disk, and that the folder is still this studio's."""
        try:
            if not _is_file(self._settings.lock, self._lock_inode):
                log.error("the lock of the data folder was removed; it is taken again")
                self._folder_lock.release(force=True)
                self._folder_lock.acquire(timeout=0)
                self._lock_inode = self._settings.lock.stat().st_ino
            self._store.keep_files()
        except (StoreDamaged, Timeout) as error:
            if not self.stopping:
                log.error("%s; the process is restarted", error)
                end_process()
        except (OSError, sqlite3.Error, StudioError) as error:
            log.error("the history is not safe now (%s); it is looked at again", error)

    def _restart_process(self, job: Job, reason: str) -> None:
        """End this process; the next one goes on with the job, and quarantines it when it ended three."""
        frames = sys._current_frames()
        stack = frames.get(self._thread.ident or 0) if self._thread else None
        where = "".join(traceback.format_stack(stack)[-12:]) if stack else ""
        logs.current_job.set(job.id)
        log.error("job %s: %s; the process is restarted. The worker was here:\n%s", job.id, reason, where)
        end_process()


def end_process() -> None:
    """Leave at once, without a word to any thread, and ask for a fresh process."""
    logging.shutdown()
    os._exit(RESTART)


def _is_file(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except FileNotFoundError:
        return False


def _without_paths(error: Exception, settings: Settings) -> str:
    text = str(error)
    for folder in (str(settings.data), str(ROOT), os.path.expanduser("~")):
        if len(folder) > 1:  # not "/", the home of many a container's user, nor "~", where there is none
            text = text.replace(folder, "")
    return text[:500].rstrip(". ")
