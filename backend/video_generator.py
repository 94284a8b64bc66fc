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
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from backend.core.config import GIB, ROOT, Settings
from backend.core.errors import (
    Conflict,
    DeviceLost,
    FolderTaken,
    InvalidRequest,
    JobCancelled,
    ModelUnavailable,
    NoDevice,
    NotFound,
    StudioError,
    mention,
)
from backend.core.inputs import INPUTS, Input, MediaKind
from backend.core.planning import Machine, Plan, PlannedLora, choose_model, make_plan
from backend.core.prompts import Expansion, expand
from backend.core.registry import MODELS, SYNTHETIC, ModelSpec
from backend.core.schema import GenerationRequest, parse_request
from backend.jobs import room, tidying
from backend.jobs.engine import Engine, Report, Reporter
from backend.jobs.history import copy_history, metadata_of, open_history
from backend.jobs.job import ACTIVE, ENDED, Artifact, Job, JobError, JobState
from backend.jobs.render import Render
from backend.jobs.room import Room, Spare, is_disk_full, is_of_the_disk
from backend.jobs.runner import run_job
from backend.jobs.store import DEATH, WITH_ALL, StoreDamaged, Tally
from backend.jobs.tidying import Tidying
from backend.library.checkpoints import Checkpoint, look_for_checkpoints
from backend.library.downloads import Downloads
from backend.library.instruct import find_instruct_models, rewrite
from backend.library.loras import Lora, Shelf
from backend.media.outputs import LIVE, PREVIEW, VIDEO, move_to_trash, restore_from_trash
from backend.media.uploads import Upload, Uploads
from backend.skyreels_integration import SkyReelsEngine
from backend.synthetic import SyntheticEngine
from backend.system import logs
from backend.system.monitoring import Monitor, machine
from backend.system.supervisor import FIRST, RESTART, SUPERVISED
from backend.utils import make_folders

log = logging.getLogger(__name__)
T = TypeVar("T")

PROGRESS_EVERY_S = 0.5  # how often a running job's progress is written; each write is synced
STORE_RETRY_S = 5.0
WATCH_EVERY_S = 1.0
CATALOG_KEEP_S = 5


class VideoGenerator:
    """Start it once, then submit requests. `engines` maps the names in ModelSpec.engine to engines."""

    def __init__(
        self, settings: Settings, engines: Mapping[str, Engine] | None = None, on_machine: Machine | None = None
    ) -> None:
        self.settings = settings
        self.machine = on_machine or machine()
        self.engines = engines or {
            "synthetic": SyntheticEngine(),
            "skyreels": SkyReelsEngine(settings.save_every_s, settings.cache, settings.compile_blocks),
        }
        try:
            make_folders((settings.models, settings.outputs, settings.temp, settings.uploads))
        except OSError as error:
            raise StudioError(
                f"The data folder {settings.data} cannot be used ({error.strerror});", hint="name another with --data."
            ) from None
        self._lock_file = FileLock(settings.lock, thread_local=False)  # start and stop may come from other threads
        try:
            self._lock_file.acquire(timeout=0)
            self._lock_inode = settings.lock.stat().st_ino
        except Timeout:
            raise FolderTaken(
                f"Another studio already uses the data folder {settings.data.name!r}, or a command that renders;",
                hint="use that one, wait for it or stop it, or name another folder with --data.",
            ) from None
        except OSError as error:  # a full disk too, which `is_disk_full` finds in the chain
            way_out = "it must be a file that this user may write; remove what is there."
            if error.errno == errno.EROFS:
                way_out = "make the data folder writable, or name another with --data."
            raise StudioError(
                f"The lock outputs/{settings.lock.name} cannot be taken ({error.strerror});", hint=way_out
            ) from None
        spare = Spare(settings.spare)
        try:
            self.store, self.news = open_history(settings, spare.give_up)
        except BaseException:
            self._lock_file.release()
            raise
        self.uploads = Uploads(settings)
        self.monitor = Monitor(settings.data)
        self._changed = threading.Condition(threading.RLock())
        self._render: Render | None = None
        self._stopping = False
        self._ended = threading.Event()
        self._log_file: logging.Handler | None = None
        self._thread: threading.Thread | None = None
        self._catalog: tuple[float, dict[str, Checkpoint]] = (0.0, {})
        self._left_out: dict[Path, str] = {}
        self._room = Room(settings)
        self.downloads = Downloads(settings)
        self.loras = Shelf(settings.model_folders, settings.models_trash, settings.disk_reserve_bytes)
        self.tidying = Tidying(settings, self.store, self.uploads, self.downloads, spare)

    # --- life ---

    def start(self) -> None:
        """Queue again what a dead process left behind, tidy up and start the worker. Again: does nothing."""
        with self._changed:
            if self._thread is not None:
                return
            self._log_file = logs.write_to_file(self.settings.log)
            # A first child of the supervisor finds what was killed together with the supervisor before.
            death = WITH_ALL if os.environ.get(SUPERVISED) == FIRST else DEATH
            for job in self.store.recover(functools.partial(logs.last_lines, self.settings.log), death=death):
                log.warning("job %s: was running when the studio ended; now %s", job.id, job.state.value)
            self.monitor.start()
            self.downloads.start()
            self._thread = threading.Thread(target=self._work, name="studio-worker", daemon=True)
            self._thread.start()
            threading.Thread(target=self._watch, name="studio-watch", daemon=True).start()

    def stop(self, timeout: float = 15.0) -> None:
        """End the worker at its next report; the job that it was rendering waits again. Then release the folder."""
        with self._changed:
            self._stopping = True
            if self._render:
                self._render.stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                log.warning("the worker did not stop within %.0f s; its job is queued again at the next start", timeout)
        self.downloads.stop()
        self._ended.set()
        if self._log_file is not None:
            logs.stop_writing(self._log_file)
        self.monitor.stop()
        if self._thread is not None:
            with contextlib.suppress(OSError, sqlite3.Error, StudioError):  # a full disk, or none any more
                copy_history(self.store, self.settings.copies)
        self.store.close()
        self._lock_file.release()

    # --- what a door may ask for ---

    @property
    def free_machine(self) -> Machine:
        """This computer without what other programs hold of its GPU's memory."""
        if not self.machine.has_gpu:
            return self.machine
        return replace(self.machine, vram_gib=max(1.0, self.machine.vram_gib - self.monitor.vram_of_others_gib()))

    def models(self) -> list[ModelSpec]:
        """The models that can render here and now: checkpoints on disk, then the sketch."""
        return [checkpoint.spec for checkpoint in self.checkpoints()] + [SYNTHETIC]

    def checkpoints(self) -> list[Checkpoint]:
        """The models that are here, with their folders."""
        return list(self._catalogued().values())

    def left_out(self) -> dict[str, str]:
        """The folders in models/ that look like a model and cannot be used, each with the reason."""
        self._catalogued()
        return {folder.name: reason for folder, reason in self._left_out.items()}

    def catalog(self, all: bool = False) -> list[tuple[ModelSpec, bool]]:
        """The models that are here; with `all`, also those that can be fetched, which are not."""
        here = self.models()
        ids = {spec.id for spec in here}
        others = [spec for spec in MODELS.values() if all and spec.repo_id and spec.id not in ids]
        return [(spec, True) for spec in here] + [(spec, False) for spec in others]

    def remove_model(self, model_id: str, *, for_good: bool = False) -> None:
        """Into the trash of models, or away at once. Raises NotFound, or Conflict if a film needs it now."""
        if any(job.plan.model == model_id for job in self.active()):
            raise Conflict(f"A film that waits or renders needs {model_id};", hint="let it finish, or cancel it.")
        self.downloads.remove(model_id, for_good=for_good)
        self._catalog = (0.0, {})

    def restore_model(self, model_id: str) -> None:
        """Back from the trash. Raises NotFound or Conflict."""
        self.downloads.restore(model_id)
        self._catalog = (0.0, {})

    def remove_lora(self, name: str, *, for_good: bool = False) -> None:
        """Into the trash of models, or away at once. Raises NotFound, or Conflict if a film needs it now."""
        if any(name == lora.name for job in self.active() for lora in job.plan.loras):
            raise Conflict(f"A film that waits or renders needs {name};", hint="let it finish, or cancel it.")
        self.loras.remove(name, for_good=for_good)

    def model_for(self, request: GenerationRequest) -> ModelSpec:
        """The model that `request` would use. Raises InvalidRequest where there is none."""
        return self._model_for(request, self._loras(request))

    def _model_for(self, request: GenerationRequest, loras: list[Lora]) -> ModelSpec:
        chosen = choose_model(request, self.models(), self.free_machine)
        if request.model != "auto" or all(lora.misfit(chosen) is None for lora in loras):
            return chosen
        able = [spec for spec in self.models() if request.mode in spec.modes]
        fitting = [spec for spec in able if all(lora.misfit(spec) is None for lora in loras)]
        best = choose_model(request, fitting, self.free_machine)
        return best if best in fitting else min(fitting, key=lambda spec: spec.weights_gib, default=chosen)

    def plan(self, request: GenerationRequest) -> Plan:
        """What would happen. Raises InvalidRequest where it cannot, NotFound for an upload that is not there."""
        source = None
        for row in INPUTS.values():
            upload_id = getattr(request, row.name)
            if upload_id is not None:
                upload = self._upload(upload_id, row)
                source = upload.source if row.name == "video" else source
        loras = self._loras(request)
        spec = self._model_for(request, loras)
        for lora in loras:
            lora.require(spec)
        plan = make_plan(request, spec, self.free_machine, source, self.store.calibration(spec.id))
        planned = tuple(PlannedLora(lora.name) for lora in loras)
        peak = plan.forecast.peak_gib + sum(lora.bytes for lora in loras) / GIB
        return replace(plan, loras=planned, forecast=replace(plan.forecast, peak_gib=round(peak, 2)))

    def _loras(self, request: GenerationRequest) -> list[Lora]:
        try:
            return [self.loras.get(use.name) for use in request.loras]
        except NotFound as missing:
            raise InvalidRequest(missing.message, hint=missing.hint, field="loras") from None

    def expand(self, prompt: str, model: str = "auto", *, take: int = 0, by_rules: bool = False) -> Expansion:
        """`prompt` made longer for `model`: by a language model in models/ if one is there, else, or if the model knows
        the painted world only, by rules. Queues nothing; another `take` may say it another way.

        Raises InvalidRequest for a prompt that is empty or too long or a model that is not here, ModelUnavailable if
        the language model gives nothing.
        """
        request = parse_request({"prompt": prompt, "model": model})
        painted = self.model_for(request).painted
        writers = [] if painted or by_rules else find_instruct_models(self.settings.model_folders)
        return rewrite(writers[-1], prompt, take) if writers else expand(prompt, painted=painted, take=take)

    def _upload(self, upload_id: str, row: Input) -> Upload:
        try:
            upload = self.uploads.get(upload_id)
        except NotFound as missing:
            raise InvalidRequest(
                [mention(row.name), f": {missing.message}"], hint=missing.hint, field=row.name
            ) from None
        if upload.kind != row.kind.value:
            is_a = MediaKind(upload.kind).noun
            raise InvalidRequest(
                f"{upload.filename} is {is_a};",
                hint=[mention(row.name), f" takes {row.kind.noun}."],
                field=row.name,
            )
        return upload

    def submit(self, request: GenerationRequest, key: str | None = None) -> Job:
        """Queue `request`; on the disk when this returns. The same `key` gives the same job.

        Raises NotEnoughSpace where its film would not fit on the disk now; one that no longer fits later waits.
        """
        plan = self.plan(request)
        planned = tuple(PlannedLora(lora.name, self.loras.sha256(lora)) for lora in self._loras(request))
        plan = replace(plan, loras=planned)
        self._room.check(plan)
        job = self.store.add(request, plan, key=key, limit=self.settings.queue_limit)
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
            if self._render and self._render.job.id == job_id:
                if not self._render.cancelled:
                    self._render.cancel()
                    with contextlib.suppress(OSError, sqlite3.Error, StudioError):  # a full disk: it is heeded still
                        self.store.note_cancelled(self._render.job)
                self._changed.notify_all()
                return self.job(job_id)
            job = self.store.move_to_state(job_id, JobState.CANCELLED)
            self._announce()
            return job

    def pause(self, job_id: str) -> Job:
        """Hold a job: a waiting one is passed over, a running one stands still at its next report."""
        with self._changed:
            self._check_not_cancelled(job_id)
            job = self.store.move_to_state(job_id, JobState.PAUSED)
            if self._render and self._render.job.id == job_id:
                self._render.paused = True
            self._announce()
            return job

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on where it stood, or wait again if the process that held it has ended."""
        with self._changed:
            self._check_not_cancelled(job_id)
            held = self._render is not None and self._render.job.id == job_id
            if self.job(job_id).state is not JobState.PAUSED:
                raise Conflict(f"Job {job_id} is {self.job(job_id).state.value};", hint="only a paused job can go on.")
            job = self.store.move_to_state(job_id, JobState.RUNNING if held else JobState.QUEUED)
            if held and self._render:
                self._render.paused = False
            self._announce()
            return job

    def _check_not_cancelled(self, job_id: str) -> None:
        if self.is_cancelling(job_id):
            raise Conflict(f"Job {job_id} is being cancelled;", hint="retry it when that is done.")

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
        if job.artifact:
            try:
                move_to_trash(self.settings.outputs, job_id)
            except NotFound:
                pass  # somebody took the folder away already
            except OSError as error:
                self.store.set_trashed(job_id, False)
                raise StudioError(
                    f"The film cannot be moved to the trash ({error.strerror});",
                    hint="see that outputs/ can be written.",
                ) from error
        shutil.rmtree(self.settings.temp / job.id, ignore_errors=True)
        return job

    def restore(self, job_id: str) -> Job:
        job = self.job(job_id)
        if job.trashed_at is None:
            raise Conflict(f"Job {job_id} is not in the trash;", hint="there is nothing to restore.")
        if job.artifact and not (self.settings.outputs / job_id).exists():
            restore_from_trash(self.settings.outputs, job_id)
        return self.store.set_trashed(job_id, False)

    def empty_trash(self) -> int:
        """Remove for good what is in the trash, films and all; how many jobs."""
        return self.tidying.empty_trash()

    def file(self, job_id: str, name: str) -> Path:
        """A file of a finished film: `video.mp4` or `thumbnail.jpg`. Raises NotFound."""
        job = self.job(job_id)
        if job.artifact is None:
            raise _no_file(job, name)
        return _existing(job, self.settings.outputs / job.id / name)

    def metadata(self, job_id: str) -> dict[str, Any]:
        """The recipe of a finished film, from its sidecar or from the film itself. Raises NotFound."""
        video = self.file(job_id, VIDEO)
        return metadata_of(video.parent)

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
        render = self._render
        return render is not None and render.job.id == job_id and render.cancelled

    # --- the worker ---

    def _work(self) -> None:
        while True:
            if self.tidying.is_due:
                self.tidying.tidy()
            with self._changed:
                if self._stopping:  # asked under the lock: a stop that came while tidying has notified already
                    return
                if not self._room.is_there():
                    self._changed.wait(timeout=room.CHECK_S)
                    continue
                job = self._insist(lambda: None if self._stopping else self.store.claim())
                if job is None:
                    if not self._stopping:  # it may have come while the claim was tried again
                        self._changed.wait(timeout=tidying.EVERY_S)
                    continue
                self._render = Render(job)
                self._changed.notify_all()
            try:
                self._run(job)
            finally:
                with self._changed:
                    self._render = None
                logs.current_job.set(None)
                self._announce()

    def _run(self, job: Job) -> None:
        """Render one job and write how it ended: one branch for every way."""
        logs.current_job.set(job.id)
        log.info("job %s: attempt %d with %s", job.id, job.attempts, job.plan.model)
        try:
            artifact = self._rendered(job)
        except JobCancelled:
            self._put_back(job)
        except NoDevice as missing:
            log.warning("job %s: %s", job.id, missing)
            self._insist(lambda: self.store.set_queue_paused(True))
            self._put_back(job, missing)
        except DeviceLost as lost:
            self._start_afresh(job, str(lost))
        except Exception as error:
            if is_disk_full(error):
                log.warning("job %s: the disk is full; it waits for room", job.id)
                self._put_back(job, self._room.wait_for(job.plan))
                return
            failure = self._explained(job, error)
            self._insist(lambda: self.store.finish(job, JobState.FAILED, error=failure))
        else:
            self._succeed(job, artifact)

    def _rendered(self, job: Job) -> Artifact:
        assert self._render is not None
        try:
            self._room.check(job.plan)
            self._check_device(job.plan)
            engine = self.engines[job.plan.engine]
            checkpoint = self._folder(job.plan)
            loras = tuple(self._planned_lora(planned) for planned in job.plan.loras)
            return run_job(job, engine, checkpoint, self.uploads, self.settings, self._reporter(), loras)
        finally:
            self._render.hold()  # what follows waits for the disk at most

    def _put_back(self, job: Job, why: StudioError | None = None) -> None:
        """Queue it again where it was in the line; `why` tells what it waits for. If it was cancelled, also while this
        could not be written, it has ended.
        """
        with self._changed:  # a cancellation comes before this is written, or finds the job in the queue
            render = self._render
            assert render is not None

            def write() -> bool:
                if render.cancelled:
                    return self.store.finish(job, JobState.CANCELLED)
                return self.store.give_back(job, JobError.of(why.code, why.message, why.hint) if why else None)

            self._insist(write)
            self._render = None
        log.info("job %s: %s", job.id, "cancelled" if render.cancelled else "it waits again")

    def _check_device(self, plan: Plan) -> None:
        """Raise NoDevice if the GPU that `plan` counts on is gone: the forecast would not hold by far."""
        if plan.on_gpu and not self.machine.has_gpu:
            raise NoDevice(
                "It was planned for a GPU, and none is found now; the queue is paused.",
                hint="See that the driver works, start the studio again and let the queue go on. Or make it again:"
                " then it is planned for the processor.",
            )

    def _insist(self, write: Callable[[], T]) -> T | None:
        """Write to the store, however long it takes: a full or failing disk must not end the worker. None if the studio
        is stopped meanwhile; the next start recovers the row.
        """
        while True:
            try:
                return write()
            except (sqlite3.Error, StudioError) as error:
                log.error("the store cannot be written (%s); trying again", error)
                with self._changed:
                    if self._stopping:
                        return None
                    self._changed.wait(timeout=STORE_RETRY_S)

    def _explained(self, job: Job, error: Exception) -> JobError:
        """Why a render failed, in words that a person can act on; the log has the rest."""
        if isinstance(error, StudioError):
            log.warning("job %s: failed: %s", job.id, error)
            return JobError.of(error.code, error.message, error.hint)
        if is_of_the_disk(error):
            log.warning("job %s: failed", job.id, exc_info=error)
            return JobError.of(
                "disk",
                f"The disk or the system refused a file ({_without_paths(error, self.settings)});",
                "See that the data folder can be read and written, then retry: it goes on where it stood.",
            )
        log.error("job %s: failed unexpectedly", job.id, exc_info=error)
        message = f"The render stopped with {type(error).__name__}: {_without_paths(error, self.settings)}."
        return JobError.of("internal", message, "Retry it; the log has the whole story.")

    def _succeed(self, job: Job, artifact: Artifact) -> None:
        log.info("job %s: %d frames in %.1f s", job.id, artifact.frames, artifact.render_s)
        if self._insist(lambda: self.store.finish(job, JobState.SUCCEEDED, artifact=artifact)) is False:
            log.warning("job %s: its film came after the row had ended; it is removed", job.id)
            shutil.rmtree(self.settings.outputs / job.id, ignore_errors=True)

    def _reporter(self) -> Reporter:
        render = self._render
        assert render is not None

        def report(at: Report) -> None:
            self._hold_while_paused(render)
            render.hear(at)
            if render.cancelled or render.stopping:
                raise JobCancelled(render.job.id)
            render.note(at)
            if render.is_due(at, PROGRESS_EVERY_S):
                # A full disk: the render itself will meet it, and say so.
                with contextlib.suppress(sqlite3.Error, StudioError):
                    self.store.set_progress(render.job, render.progress(at))

        return report

    def _hold_while_paused(self, render: Render) -> None:
        if not render.paused:
            return
        render.hold()
        with self._changed:
            while render.paused and not render.cancelled and not render.stopping:
                self._changed.wait()
        render.go_on()

    # --- a render that answers nothing ---

    def _watch(self) -> None:
        """Look after the worker, which cannot be interrupted: what does not answer is left with the process."""
        while not self._ended.wait(WATCH_EVERY_S):
            self._keep_history()
            if not self.alive and not self._stopping:  # what nobody thought of; its traceback is in the log
                log.error("the worker has died; the studio starts afresh")
                end_process()
            render = self._render
            if render is None or render.holding:
                continue
            # In this order: of one that is cancelled just now, little patience is compared with little silence.
            patience_s, silent_s = render.patience_s(self.settings), render.silent_s
            if silent_s <= patience_s:
                continue
            if not render.cancelled:
                self._start_afresh(render.job, f"nothing was heard of it for {silent_s:.0f} s")
            elif self._insist(functools.partial(self.store.finish, render.job, JobState.CANCELLED)):
                self._start_afresh(render.job, f"cancelled, it does not end within {patience_s:g} s")

    def _keep_history(self) -> None:
        """See that what was acknowledged still stands on the disk, and that the folder is still this studio's."""
        try:
            if not _is_file(self.settings.lock, self._lock_inode):
                log.error("the lock of the data folder was removed; it is taken again")
                self._lock_file.release(force=True)
                self._lock_file.acquire(timeout=0)
                self._lock_inode = self.settings.lock.stat().st_ino
            self.store.keep_files()
        except (StoreDamaged, Timeout) as error:
            if not self._stopping:
                log.error("%s; the studio starts afresh", error)
                end_process()
        except (OSError, sqlite3.Error, StudioError) as error:
            log.error("the history is not safe now (%s); it is looked at again", error)

    def _start_afresh(self, job: Job, reason: str) -> None:
        """End this process; the next one goes on with the job, and sets it aside when it ended three."""
        frames = sys._current_frames()
        stack = frames.get(self._thread.ident or 0) if self._thread else None
        where = "".join(traceback.format_stack(stack)[-12:]) if stack else ""
        logs.current_job.set(job.id)
        log.error("job %s: %s; the studio starts afresh. The worker was here:\n%s", job.id, reason, where)
        end_process()

    # --- the catalog ---

    def _catalogued(self) -> dict[str, Checkpoint]:
        read, found = self._catalog
        if time.monotonic() - read > CATALOG_KEEP_S or not read:
            checkpoints, left_out = look_for_checkpoints(self.settings.model_folders)
            for folder in left_out.keys() - self._left_out.keys():
                log.warning("checkpoint %s is left out: %s", folder, left_out[folder])
            found, self._left_out = {checkpoint.spec.id: checkpoint for checkpoint in checkpoints}, left_out
            self._catalog = (time.monotonic(), found)
        return found

    def _folder(self, plan: Plan) -> Path | None:
        if plan.engine == SYNTHETIC.engine:
            return None
        checkpoint = self._catalogued().get(plan.model)
        if checkpoint is None:
            raise StudioError(f"{plan.model_title} is no longer in models/;", hint="put it back, then retry.")
        return checkpoint.folder

    def _planned_lora(self, planned: PlannedLora) -> Lora:
        """The very file that the job was submitted with."""
        try:
            lora = self.loras.get(planned.name)
        except NotFound as missing:
            raise ModelUnavailable(missing.message, hint=f"put it back, then retry: {missing.hint}") from None
        if self.loras.sha256(lora) != planned.sha256:
            raise ModelUnavailable(
                f"The LoRA {planned.name} is another file than when this film was submitted;",
                hint="put that one back and retry, or use these settings anew.",
            )
        return lora

    def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()


def end_process() -> None:
    """Leave at once, without a word to any thread, and ask for a fresh process."""
    logging.shutdown()
    os._exit(RESTART)


def _existing(job: Job, path: Path) -> Path:
    if job.trashed_at is not None or not path.is_file():
        raise _no_file(job, path.name)
    return path


def _no_file(job: Job, name: str) -> NotFound:
    if job.artifact is None or job.trashed_at is not None:
        where = "in the trash" if job.trashed_at is not None else job.state.value
        return NotFound(f"Job {job.id} has no {name};", hint=f"it is {where}.")
    return NotFound(
        f"{name} of job {job.id} is no longer in outputs/;", hint="put it back, or make the film again and delete this."
    )


def _is_file(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except FileNotFoundError:
        return False


def _without_paths(error: Exception, settings: Settings) -> str:
    text = str(error)
    for folder in (settings.data, ROOT, Path.home()):
        text = text.replace(str(folder), "")
    return text[:500].rstrip(". ")


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
