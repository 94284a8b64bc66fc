"""VideoGenerator: the queue, its worker thread, and everything that a door may ask for.

One object a process, one process a data folder (file lock). Doors call its methods from any thread; the worker thread
renders one job at a time. The row in the store is the truth about a job; three things cross threads: the request down,
progress up, cancel or pause down.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shutil
import sqlite3
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from backend.core.config import ROOT, Settings
from backend.core.errors import (
    Conflict,
    DeviceLost,
    InvalidRequest,
    JobCancelled,
    NotEnoughSpace,
    NotFound,
    StudioBusy,
    StudioError,
)
from backend.core.planning import Machine, Plan, Progress, Stage, choose_model, fraction_done, make_plan
from backend.core.registry import SYNTHETIC, ModelSpec
from backend.core.schema import GenerationRequest
from backend.jobs.engine import Engine, Report, Reporter
from backend.jobs.history import copy_history, open_history
from backend.jobs.job import ACTIVE, ENDED, RETRIABLE, Artifact, Job, JobError, JobState
from backend.jobs.runner import run_job
from backend.jobs.store import Tally
from backend.library.checkpoints import Checkpoint, find_checkpoints
from backend.media.outputs import LIVE, PREVIEW, VIDEO, move_to_trash, purge_trash, restore_from_trash
from backend.media.uploads import Upload, Uploads, folder_bytes
from backend.skyreels_integration import SkyReelsEngine
from backend.synthetic import SyntheticEngine
from backend.system import logs
from backend.system.monitoring import Monitor, machine
from backend.system.supervisor import RESTART
from backend.utils import make_folders

log = logging.getLogger(__name__)
T = TypeVar("T")

PROGRESS_EVERY_S = 0.5  # how often a running job's progress is written; each write is synced
TIDY_EVERY_S = 600
COPY_EVERY_S = 3600  # of the history
LONG_AWAY_S = 7 * 24 * 3600  # no studio ran for so long, or the clock is wrong: nothing is removed for a day
DOUBT_S = 24 * 3600
STORE_RETRY_S = 5.0
WATCH_EVERY_S = 1.0
ROOM_CHECK_S = 5.0  # how often a full disk is asked whether there is room again
CATALOG_KEEP_S = 5
DISK_FULL_WORDS = ("database or disk is full", f"(os error {errno.ENOSPC})")  # of SQLite and of safetensors
AN = {"image": "an image", "video": "a video"}


@dataclass(slots=True)
class _Control:
    """What the doors want of the job that is being rendered."""

    job: Job
    cancelled: bool = False
    stopping: bool = False
    paused: bool = False
    cancelled_at: float = 0.0
    holding: bool = False  # stands still because it is paused
    heard: float = field(default_factory=time.monotonic)  # its last report
    stage: Stage = Stage.LOADING
    step: tuple[int, int] = (0, 0)  # window and step
    step_began: float = field(default_factory=time.monotonic)
    step_s: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    began: float = field(default_factory=time.monotonic)
    paused_s: float = 0.0
    written: float = 0.0
    saved_at: float | None = None
    parts: dict[Stage, float] = field(default_factory=dict)  # how much of each stage is done
    taken_up: float = 0.0  # of the whole job, done by an earlier attempt

    def hear(self, at: Report) -> None:
        """Note that the render is alive."""
        self.heard = time.monotonic()
        self.stage = at.stage
        if (at.window, at.step) != self.step:
            if at.step > 1:
                self.step_s.append(self.heard - self.step_began)
            self.step, self.step_began = (at.window, at.step), self.heard

    def note(self, at: Report) -> None:
        if at.stage is Stage.DENOISING and at.stage not in self.parts:
            self.taken_up = fraction_done(self.job.plan, {at.stage: at.part})
        if at.stage is not Stage.LOADING:
            self.parts[Stage.LOADING] = 1.0
        if at.stage is Stage.SAVING:
            self.parts |= {Stage.DENOISING: 1.0, Stage.DECODING: 1.0}
        self.parts[at.stage] = max(self.parts.get(at.stage, 0.0), at.part)


class VideoGenerator:
    """Start it once, then submit requests. `engines` maps the names in ModelSpec.engine to engines."""

    def __init__(
        self, settings: Settings, engines: Mapping[str, Engine] | None = None, on_machine: Machine | None = None
    ) -> None:
        self.settings = settings
        self.machine = on_machine or machine()
        self.engines = engines or {"synthetic": SyntheticEngine(), "skyreels": SkyReelsEngine(settings.save_every_s)}
        try:
            make_folders((settings.models, settings.outputs, settings.temp, settings.uploads))
        except OSError as error:
            raise StudioError(
                f"The data folder {settings.data} cannot be used ({error.strerror});", hint="name another with --data."
            ) from None
        self._lock_file = FileLock(settings.lock, thread_local=False)  # start and stop may come from other threads
        try:
            self._lock_file.acquire(timeout=0)
        except Timeout:
            raise StudioBusy(
                f"Another studio already uses the data folder {settings.data.name!r};",
                hint="use that one, stop it, or give this one its own folder with --data.",
            ) from None
        self.store, self.news = open_history(settings)
        self.uploads = Uploads(settings)
        self.monitor = Monitor(settings.data)
        self._changed = threading.Condition(threading.RLock())
        self._control: _Control | None = None
        self._stopping = False
        self._ended = threading.Event()
        self._log_file: logging.Handler | None = None
        self._thread: threading.Thread | None = None
        self._catalog: tuple[float, dict[str, Checkpoint]] = (0.0, {})
        self._tidied = 0.0
        self._copied = 0.0
        self._began = (time.time(), time.monotonic())
        self._doubt_s = DOUBT_S if _long_away(settings.copies, time.time()) else 0
        self._needed_bytes = 0  # of free disk, before another job is taken; 0 while nothing was wrong
        self._look_again = 0.0  # when the free disk is asked next

    # --- life ---

    def start(self) -> None:
        """Queue again what a dead process left behind, tidy up and start the worker. Again: does nothing."""
        with self._changed:
            if self._thread is not None:
                return
            self._log_file = logs.write_to_file(self.settings.log)
            for job in self.store.recover(functools.partial(logs.last_lines, self.settings.log)):
                log.warning("job %s: was running when the studio ended; now %s", job.id, job.state.value)
            self.monitor.start()
            threading.Thread(target=self._watch, name="studio-watch", daemon=True).start()
            self._thread = threading.Thread(target=self._work, name="studio-worker", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 15.0) -> None:
        """End the worker at its next report; the job that it was rendering waits again. Then release the folder."""
        with self._changed:
            self._stopping = True
            if self._control:
                self._control.stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                log.warning("the worker did not stop within %.0f s; its job is queued again at the next start", timeout)
        self._ended.set()
        if self._log_file is not None:
            logs.stop_writing(self._log_file)
        self.monitor.stop()
        self.store.close()
        self._lock_file.release()

    # --- what a door may ask for ---

    def models(self) -> list[ModelSpec]:
        """The models that can render here and now: checkpoints on disk, then the sketch."""
        return [checkpoint.spec for checkpoint in self._checkpoints().values()] + [SYNTHETIC]

    def plan(self, request: GenerationRequest) -> Plan:
        """What would happen. Raises InvalidRequest where it cannot, NotFound for an upload that is not there."""
        source = None
        for name, kind in (("image", "image"), ("end_image", "image"), ("video", "video")):
            upload_id = getattr(request, name)
            if upload_id is not None:
                upload = self._upload(upload_id, kind, name)
                source = upload.source if kind == "video" else source
        spec = choose_model(request, self.models(), self.machine)
        return make_plan(request, spec, self.machine, source, self.store.calibration(spec.id))

    def _upload(self, upload_id: str, kind: str, field: str) -> Upload:
        try:
            upload = self.uploads.get(upload_id)
        except NotFound as missing:
            raise InvalidRequest(f"{field}: {missing.message}", hint=missing.hint, field=field) from None
        if upload.kind != kind:
            raise InvalidRequest(
                f"{upload.filename} is {AN[upload.kind]};", hint=f"{field} takes {AN[kind]}.", field=field
            )
        return upload

    def submit(self, request: GenerationRequest, key: str | None = None) -> Job:
        """Queue `request`; on the disk when this returns. The same `key` within a day gives the same job.

        Raises NotEnoughSpace where its film would not fit on the disk now; one that no longer fits later waits.
        """
        plan = self.plan(request)
        self._check_space(plan)
        try:
            job = self.store.add(request, plan, key=key, limit=self.settings.queue_limit)
        except sqlite3.Error as error:
            if not _is_disk_full(error):
                raise
            raise NotEnoughSpace("The disk is full;", hint="delete films and empty the trash.") from None
        self._announce()
        return job

    def dismiss_news(self) -> None:
        """Somebody has read what was wrong with the history."""
        self.news = None

    def job(self, job_id: str) -> Job:
        return self.store.get(job_id)

    def active(self, limit: int = 50) -> list[Job]:
        """The running or paused jobs and the first waiting ones, in order."""
        return [self.job(job_id) for job_id, _ in self.store.queue()[:limit]]

    def cancel(self, job_id: str) -> Job:
        """End a job that has not ended. A running one stops at its next report."""
        with self._changed:
            if self._control and self._control.job.id == job_id:
                self._control.cancelled_at = time.monotonic()
                self._control.cancelled = True
                self._changed.notify_all()
                return self.job(job_id)
            job = self.store.move_to_state(job_id, JobState.CANCELLED)
            self._announce()
            return job

    def pause(self, job_id: str) -> Job:
        """Hold a job: a waiting one is passed over, a running one stands still at its next report."""
        with self._changed:
            job = self.store.move_to_state(job_id, JobState.PAUSED)
            if self._control and self._control.job.id == job_id:
                self._control.paused = True
            self._announce()
            return job

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on where it stood, or wait again if the process that held it has ended."""
        with self._changed:
            held = self._control is not None and self._control.job.id == job_id
            if self.job(job_id).state is not JobState.PAUSED:
                raise Conflict(f"Job {job_id} is {self.job(job_id).state.value};", hint="only a paused job can go on.")
            job = self.store.move_to_state(job_id, JobState.RUNNING if held else JobState.QUEUED)
            if held and self._control:
                self._control.paused = False
            self._announce()
            return job

    def retry(self, job_id: str) -> Job:
        """Queue a failed, cancelled or quarantined job again, last in line."""
        job = self.job(job_id)
        if job.state in ACTIVE:
            raise Conflict(f"Job {job_id} is {job.state.value};", hint="only a job that has ended can be retried.")
        job = self.store.move_to_state(job_id, JobState.QUEUED)
        self._announce()
        return job

    def move(self, job_id: str, places: int | None) -> Job:
        """Move a waiting job by `places` (negative: earlier); None: to the front."""
        return self.store.move(job_id, places)

    def delete(self, job_id: str) -> Job:
        """Into the trash with a job that has ended, its film too; `restore` brings both back for a week. What an
        unfinished film could have gone on from is gone at once.
        """
        job = self.store.set_trashed(job_id, True)
        shutil.rmtree(self.settings.temp / job.id, ignore_errors=True)
        if job.artifact:
            with contextlib.suppress(NotFound):  # somebody took the folder away already
                move_to_trash(self.settings.outputs, job_id)
        return job

    def restore(self, job_id: str) -> Job:
        job = self.job(job_id)
        if job.trashed_at is None:
            raise Conflict(f"Job {job_id} is not in the trash;", hint="there is nothing to restore.")
        if job.artifact and not (self.settings.outputs / job_id).exists():
            restore_from_trash(self.settings.outputs, job_id)
        return self.store.set_trashed(job_id, False)

    def file(self, job_id: str, name: str) -> Path:
        """A file of a finished film: `video.mp4`, `thumbnail.jpg` or `metadata.json`. Raises NotFound."""
        job = self.job(job_id)
        if job.artifact is None:
            raise _no_file(job, name)
        return _existing(job, self.settings.outputs / job.id / name)

    def preview(self, job_id: str) -> Path:
        """The film, or while it is made the MP4 of its first seconds. Raises NotFound."""
        job = self.job(job_id)
        return self.file(job_id, VIDEO) if job.artifact else _existing(job, self.settings.temp / job.id / PREVIEW)

    def live(self, job_id: str) -> Path:
        """A small moving picture, WebP, of what is being made now. Raises NotFound."""
        job = self.job(job_id)
        return _existing(job, self.settings.temp / job.id / LIVE)

    def pause_queue(self, paused: bool) -> None:
        """Claim nothing more (a running job goes on), or go on claiming; remembered over restarts."""
        self.store.set_queue_paused(paused)
        self._announce()

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Block until the job has ended. Raises TimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while (job := self.job(job_id)).state not in ENDED:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"Job {job_id} is still {job.state.value} after {timeout:g} s")
                self._changed.wait(left)
            return job

    def tallies(self) -> list[Tally]:
        return self.store.tallies()

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def alive(self) -> bool:
        """Whether the worker thread can take jobs."""
        return self._thread is not None and self._thread.is_alive()

    def is_cancelling(self, job_id: str) -> bool:
        control = self._control
        return control is not None and control.job.id == job_id and control.cancelled

    # --- the worker ---

    def _work(self) -> None:
        while True:
            if time.monotonic() - self._tidied > TIDY_EVERY_S or not self._tidied:
                self.tidy()
            with self._changed:
                if self._stopping:  # asked under the lock: a stop that came while tidying has notified already
                    return
                if not self._has_room():
                    self._changed.wait(timeout=ROOM_CHECK_S)
                    continue
                job = self._insist(self.store.claim)
                if job is None:
                    self._changed.wait(timeout=TIDY_EVERY_S)
                    continue
                self._control = _Control(job)
                self._changed.notify_all()
            try:
                self._run(job)
            finally:
                self._control = None
                logs.current_job.set(None)
                self._announce()

    def _run(self, job: Job) -> None:
        """Render one job and write how it ended: one branch for every way."""
        logs.current_job.set(job.id)
        log.info("job %s: attempt %d with %s", job.id, job.attempts, job.plan.model)
        try:
            self._check_space(job.plan)
            engine = self.engines[job.plan.engine]
            checkpoint = self._folder(job.plan)
            artifact = run_job(job, engine, checkpoint, self.uploads, self.settings, self._reporter())
        except JobCancelled:
            if self._control and self._control.cancelled:
                log.info("job %s: cancelled", job.id)
                self._insist(lambda: self.store.finish(job, JobState.CANCELLED))
            else:
                log.info("job %s: the studio stops; it waits again", job.id)
                self.store.give_back(job)
        except DeviceLost as lost:
            self._start_afresh(job, str(lost))
        except Exception as error:
            if _is_disk_full(error):
                self._wait_for_room(job)
                return
            failure = self._explained(job, error)
            self._insist(lambda: self.store.finish(job, JobState.FAILED, error=failure))
        else:
            self._succeed(job, artifact)

    def _insist(self, write: Callable[[], T]) -> T | None:
        """Write to the store, however long it takes: a full or failing disk must not end the worker. None if the studio
        is stopped meanwhile; the next start recovers the row.
        """
        while True:
            try:
                return write()
            except sqlite3.Error as error:
                log.error("the store cannot be written (%s); trying again", error)
                with self._changed:
                    if self._stopping:
                        return None
                    self._changed.wait(timeout=STORE_RETRY_S)

    def _explained(self, job: Job, error: Exception) -> JobError:
        """Why a render failed, in words that a person can act on; the log has the rest."""
        if isinstance(error, StudioError):
            log.warning("job %s: failed: %s", job.id, error)
            return JobError(error.code, str(error), error.hint)
        log.error("job %s: failed unexpectedly", job.id, exc_info=error)
        message = f"The render stopped with {type(error).__name__}: {_without_paths(error, self.settings)}"
        return JobError("internal", message, "Retry it; the log has the whole story.")

    def _succeed(self, job: Job, artifact: Artifact) -> None:
        log.info("job %s: %d frames in %.1f s", job.id, artifact.frames, artifact.render_s)
        if self._insist(lambda: self.store.finish(job, JobState.SUCCEEDED, artifact=artifact)) is False:
            log.warning("job %s: its film came after the row had ended; it is removed", job.id)
            shutil.rmtree(self.settings.outputs / job.id, ignore_errors=True)

    def _reporter(self) -> Reporter:
        control = self._control
        assert control is not None

        def report(at: Report) -> None:
            self._hold_while_paused(control)
            control.hear(at)
            if control.cancelled or control.stopping:
                raise JobCancelled(control.job.id)
            control.note(at)
            now = time.monotonic()
            # A save is written at once: a death after it is not held against the job.
            if now - control.written >= PROGRESS_EVERY_S or at.saved_at != control.saved_at:
                control.written, control.saved_at = now, at.saved_at
                with contextlib.suppress(sqlite3.Error):  # a full disk: the render itself will meet it, and say so
                    self.store.set_progress(control.job, self._progress(control, at))

        return report

    def _hold_while_paused(self, control: _Control) -> None:
        if not control.paused:
            return
        since = time.monotonic()
        control.holding = True
        with self._changed:
            while control.paused and not control.cancelled and not control.stopping:
                self._changed.wait()
        control.holding = False
        control.paused_s += time.monotonic() - since

    def _progress(self, control: _Control, at: Report) -> Progress:
        plan = control.job.plan
        done = fraction_done(plan, control.parts)
        elapsed = time.monotonic() - control.began - control.paused_s
        own, rest = done - control.taken_up, 1 - control.taken_up
        trust = min(1.0, 4 * own)  # in what was measured so far, against the forecast
        measured = elapsed * rest / own if own > 0.02 else 0.0
        total = trust * measured + (1 - trust) * max(plan.forecast.total_s * rest, elapsed)
        return Progress(
            stage=at.stage,
            window=at.window,
            windows=len(plan.windows),
            step=at.step,
            steps=plan.window_steps[max(at.window, 1) - 1],
            fraction=round(done, 4),
            eta_s=round(max(0.0, total - elapsed), 1),
            frames_ready=at.frames_ready,
            saved_at=at.saved_at,
        )

    def _check_space(self, plan: Plan) -> None:
        free, needed = self._free_bytes(), self._bytes_for(plan)
        if free < needed:
            raise NotEnoughSpace(
                f"{free / 1e9:.1f} GB of disk are free, {needed / 1e9:.1f} GB are needed (with the reserve);",
                hint="delete films and empty the trash, or move the data folder with --data.",
            )

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.settings.data).free

    def _bytes_for(self, plan: Plan) -> int:
        return plan.forecast.disk_bytes + self.settings.disk_reserve_bytes

    def _wait_for_room(self, job: Job) -> None:
        """Queue the job again, first in line, and take no other until the disk has room for it."""
        self._needed_bytes = self._bytes_for(job.plan)
        log.warning("job %s: the disk is full; it waits for %d bytes of room", job.id, self._needed_bytes)
        needed = NotEnoughSpace(
            f"Waits for room on the disk: {self._needed_bytes / 1e9:.1f} GB must be free;",
            hint="delete films and empty the trash. Then it goes on by itself.",
        )
        # Not at once, even if there is room by the numbers: what filled the disk may do so again.
        self._look_again = time.monotonic() + ROOM_CHECK_S
        self._insist(lambda: self.store.give_back(job, JobError(needed.code, str(needed), needed.hint)))

    def _has_room(self) -> bool:
        if self._needed_bytes and time.monotonic() >= self._look_again:
            self._look_again += ROOM_CHECK_S
            if self._free_bytes() >= self._needed_bytes:
                log.info("there is room on the disk again")
                self._needed_bytes = 0
        return not self._needed_bytes

    # --- a render that answers nothing ---

    def _watch(self) -> None:
        """Look after the worker, which cannot be interrupted: what does not answer is left with the process."""
        while not self._ended.wait(WATCH_EVERY_S):
            control = self._control
            if control is None or control.holding:
                continue
            silent = time.monotonic() - control.heard
            if control.cancelled and time.monotonic() - control.cancelled_at > self.settings.cancel_s:
                if self._insist(functools.partial(self.store.finish, control.job, JobState.CANCELLED)):
                    self._start_afresh(control.job, f"cancelled {self.settings.cancel_s:g} s ago, it does not end")
            elif silent > self._patience(control):
                self._start_afresh(control.job, f"nothing was heard of it for {silent:.0f} s")

    def _patience(self, control: _Control) -> float:
        if control.stage in (Stage.LOADING, Stage.SAVING):
            return self.settings.slow_hang_s
        ten_steps = 10 * statistics.median(control.step_s) if control.step_s else 0.0
        return max(self.settings.hang_s, ten_steps)

    def _start_afresh(self, job: Job, reason: str) -> None:
        """End this process; the next one goes on with the job, and sets it aside when it ended three."""
        frames = sys._current_frames()
        stack = frames.get(self._thread.ident or 0) if self._thread else None
        where = "".join(traceback.format_stack(stack)[-12:]) if stack else ""
        logs.current_job.set(job.id)
        log.error("job %s: %s; the studio starts afresh. The worker was here:\n%s", job.id, reason, where)
        end_process()

    # --- the catalog, and tidying ---

    def _checkpoints(self) -> dict[str, Checkpoint]:
        read, found = self._catalog
        if time.monotonic() - read > CATALOG_KEEP_S or not read:
            checkpoints = find_checkpoints(self.settings.model_folders)
            found = {checkpoint.spec.id: checkpoint for checkpoint in checkpoints}
            self._catalog = (time.monotonic(), found)
        return found

    def _folder(self, plan: Plan) -> Path | None:
        if plan.engine == SYNTHETIC.engine:
            return None
        checkpoint = self._checkpoints().get(plan.model)
        if checkpoint is None:
            raise StudioError(f"{plan.model_title} is no longer in models/;", hint="put it back, then retry.")
        return checkpoint.folder

    def _clear_temp(self) -> None:
        """Remove from temp/ what no job can go on from; after a failure or a cancellation it is kept a while, and only
        so much of it.
        """
        now = self._now()
        kept = []
        for entry in self.settings.temp.iterdir():
            if not entry.is_dir() or entry.is_symlink():
                if entry.name != ".gitkeep":
                    entry.unlink(missing_ok=True)
            elif not self._may_go_on(entry.name, now):
                shutil.rmtree(entry, ignore_errors=True)
            elif self.job(entry.name).state not in ACTIVE:
                kept.append(entry)
        room = self.settings.unfinished_quota_bytes
        for entry in sorted(kept, key=lambda entry: self.job(entry.name).finished_at or now, reverse=True):
            room -= folder_bytes(entry)
            if room < 0:
                shutil.rmtree(entry, ignore_errors=True)

    def _may_go_on(self, job_id: str, now: float) -> bool:
        try:
            job = self.job(job_id)
        except NotFound:
            return False
        if job.state in ACTIVE:
            return True
        recent = now - (job.finished_at or now) <= self.settings.unfinished_keep_s
        return job.state in RETRIABLE and job.trashed_at is None and recent

    def tidy(self) -> None:
        """Remove uploads that no job needs and what lay in the trash for a week; never an output. Copy the history."""
        self._tidied = time.monotonic()
        try:
            if time.monotonic() - self._began[1] >= self._doubt_s:
                for job_id in self.store.purge(self._now() - self.settings.trash_keep_s):
                    log.info("job %s: purged from the trash", job_id)
                purge_trash(self.settings.outputs, self.settings.trash_keep_s, self._now())
                self._clear_temp()
                self.uploads.sweep(self.store.uploads_in_use(), self.settings.upload_keep_s, self._now())
            if not self._copied or time.monotonic() - self._copied > COPY_EVERY_S:
                copy_history(self.store, self.settings.copies)
                self._copied = time.monotonic()
        except (OSError, sqlite3.Error):
            log.exception("tidying failed; it is tried again later")

    def _now(self) -> float:
        """Seconds since 1970, by a clock that nobody sets while the studio runs."""
        wall, monotonic = self._began
        return wall + time.monotonic() - monotonic

    def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()


def end_process() -> None:
    """Leave at once, without a word to any thread, and ask for a fresh process."""
    logging.shutdown()
    os._exit(RESTART)


def _long_away(copies: Path, now: float) -> bool:
    """Whether the last copy of the history, which is made every hour, is a week old by the clock, or of the future."""
    made = [copy.stat().st_mtime for copy in copies.glob("*.db")]
    return bool(made) and not -2 * COPY_EVERY_S <= now - max(made) <= LONG_AWAY_S


def _existing(job: Job, path: Path) -> Path:
    if job.trashed_at is not None or not path.is_file():
        raise _no_file(job, path.name)
    return path


def _no_file(job: Job, name: str) -> NotFound:
    return NotFound(f"Job {job.id} has no {name};", hint=f"it is {job.state.value}.")


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether that, or what it came from, says that nothing more can be written."""
    while error is not None:
        if isinstance(error, NotEnoughSpace) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in DISK_FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _without_paths(error: Exception, settings: Settings) -> str:
    text = str(error)
    for folder in (settings.data, ROOT, Path.home()):
        text = text.replace(str(folder), "")
    return text[:500]


# --- one generator a process ---

_shared: VideoGenerator | None = None
_shared_lock = threading.Lock()


def shared_generator(settings: Settings | None = None) -> VideoGenerator:
    """The process's one generator, started. Pages and routes get the same object."""
    global _shared
    with _shared_lock:
        if _shared is None:
            generator = VideoGenerator(settings or Settings.from_env())
            generator.start()
            _shared = generator
        return _shared


def stop_shared_generator() -> None:
    global _shared
    with _shared_lock:
        if _shared is not None:
            _shared.stop()
            _shared = None
