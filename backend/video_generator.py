"""VideoGenerator: the one object that pages, REST and command line hold. It delegates; the rooms below do the work.

One object a process, one process a data folder (file lock). Its methods may be called from any thread. The row in the
store is the truth about a job; three things cross threads: the request down, progress up, cancel or pause down.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import threading
from collections.abc import Mapping
from typing import Any

from backend.core.config import Settings
from backend.core.errors import Conflict, StudioError
from backend.core.plan import Machine
from backend.core.prompts import Expansion
from backend.core.registry import ModelSpec
from backend.core.schema import GenerationRequest, parse_request
from backend.engine import Engine
from backend.jobs.disk_space import DiskSpace, ReserveFile
from backend.jobs.feed import Feed
from backend.jobs.filters import ALL, Filter
from backend.jobs.folder_lock import lock_data_folder
from backend.jobs.forms import Forms
from backend.jobs.gallery import Gallery
from backend.jobs.history import copy_history, open_history
from backend.jobs.job import Job, JobRequest, JobState
from backend.jobs.kind import Services
from backend.jobs.kinds import render
from backend.jobs.model_stats import ModelStats, calibration, model_stats
from backend.jobs.results import Results
from backend.jobs.store import CRASH, KILLED_WITH_STUDIO
from backend.jobs.submission import Submission
from backend.jobs.tidying import Tidying
from backend.jobs.worker import Worker
from backend.library.catalog import Catalog
from backend.library.downloads import Downloads
from backend.library.instruct import expand_prompt
from backend.library.loras import LoraLibrary, is_same_name
from backend.media.uploads import Uploads
from backend.skyreels_integration import SkyReelsEngine
from backend.synthetic import SyntheticEngine
from backend.system import logs
from backend.system.monitoring import Monitor, machine, without_broken_torch
from backend.system.supervisor import FIRST, SUPERVISED

log = logging.getLogger(__name__)


class VideoGenerator:
    """Start it once, then submit requests. `engines` maps the names in ModelSpec.engine to engines."""

    def __init__(
        self, settings: Settings, engines: Mapping[str, Engine] | None = None, on_machine: Machine | None = None
    ) -> None:
        self.settings, self._machine = settings, on_machine or machine()
        self.engines = engines or {
            "synthetic": SyntheticEngine(),
            "skyreels": SkyReelsEngine(settings.save_every_s, settings.cache, settings.compile_blocks),
        }
        self._folder_lock = lock_data_folder(settings)
        reserve = ReserveFile(settings.reserve_file)
        try:
            self.store, self.startup_notice = open_history(settings, reserve.release)
        except BaseException:
            self._folder_lock.release()
            raise
        self.uploads = Uploads(settings)
        self.monitor = Monitor(settings.data)
        self.downloads = Downloads(settings)
        self.loras = LoraLibrary(settings.model_folders, settings.models_trash, settings.disk_reserve_bytes)
        self.forms = Forms(settings)
        self.feed = Feed(settings, self.store, self.forms.draft, self.downloads)
        self.tidying = Tidying(settings, self.store, self.forms, self.uploads, self.downloads, reserve)
        self.catalog = Catalog(settings)
        self._services = Services(
            settings=settings,
            uploads=self.uploads,
            loras=self.loras,
            catalog=self.catalog,
            engines=self.engines,
            free_machine=lambda: self.free_machine,
            calibration=lambda model: calibration(self.store, model),
            find_job=self.store.get,
        )
        self.gallery = Gallery(self.store)
        self.results = Results(settings, self.store)
        self._disk = DiskSpace(settings)
        self._worker = Worker(self._services, self.store, self._disk, self.tidying, self._folder_lock)
        self.submission = Submission(self._services, self.store, self.results, self._disk, self._worker)
        self._log_file: logging.Handler | None = None

    # --- life ---

    def start(self) -> None:
        """Queue again what a dead process left, and start the worker. Called again it does nothing."""
        with self._worker.changed:
            if self._worker.started:
                return
            self._log_file = logs.write_to_file(self.settings.log)
            # A first child of the supervisor finds what was killed together with the supervisor before.
            crash = KILLED_WITH_STUDIO if os.environ.get(SUPERVISED) == FIRST else CRASH
            for job in self.store.recover(functools.partial(logs.last_lines, self.settings.log), crash=crash):
                log.warning("job %s: was running when the studio ended; now %s", job.id, job.state.value)
            self.monitor.start()
            self.downloads.start()
            self._worker.start()

    def stop(self, timeout: float = 15.0) -> None:
        """End the worker at its next report; the job that it was running waits again. Then release the folder."""
        started = self._worker.started
        self._worker.stop(timeout)
        self.downloads.stop()
        if self._log_file is not None:
            logs.stop_writing(self._log_file)
        self.monitor.stop()
        if started:
            with contextlib.suppress(OSError, sqlite3.Error, StudioError):  # a full disk, or none any more
                copy_history(self.store, self.settings.copies)
        self.store.close()
        self._folder_lock.release()

    @property
    def stopping(self) -> bool:
        return self._worker.stopping

    @property
    def alive(self) -> bool:
        """Whether the worker thread can take jobs."""
        return self._worker.alive

    # --- models ---

    @property
    def machine(self) -> Machine:
        """This computer; without torch once torch has failed to import in this process."""
        return without_broken_torch(self._machine)

    @property
    def free_machine(self) -> Machine:
        """This computer without what other programs hold of its GPU's memory."""
        return self.monitor.without_others(self.machine)

    def models(self) -> list[ModelSpec]:
        """The models that can render here and now: checkpoints on disk, then the fallback that needs none."""
        return self.catalog.models()

    def remove_model(self, model_id: str, *, for_good: bool = False) -> None:
        """Into the trash of models, or away at once. Raises NotFound, or Conflict if a job needs it now."""
        if any(getattr(job.plan, "model", None) == model_id for job in self.active()):
            raise Conflict(f"A job that waits or runs needs {model_id};", hint="let it finish, or cancel it.")
        self.downloads.remove(model_id, for_good=for_good)
        self.catalog.forget()

    def restore_model(self, model_id: str) -> None:
        """Back from the trash. Raises NotFound or Conflict."""
        self.downloads.restore(model_id)
        self.catalog.forget()

    def remove_lora(self, name: str, *, for_good: bool = False) -> None:
        """Into the trash of models, or away at once. Raises NotFound, or Conflict if a job needs it now."""
        if any(is_same_name(name, lora.name) for job in self.active() for lora in getattr(job.plan, "loras", ())):
            raise Conflict(f"A job that waits or runs needs {name};", hint="let it finish, or cancel it.")
        self.loras.remove(name, for_good=for_good)

    def model_for(self, request: GenerationRequest) -> ModelSpec:
        """The model that `request` would use. Raises InvalidRequest where there is none."""
        return render.model_for(request, self._services)

    def expand(self, prompt: str, model: str = "auto", *, variation: int = 0, by_rules: bool = False) -> Expansion:
        """`prompt` made longer for `model`, as `expand_prompt` does. Raises InvalidRequest for what no render takes."""
        spec = self.model_for(parse_request({"prompt": prompt, "model": model}))
        folders = () if by_rules else self.settings.model_folders
        return expand_prompt(prompt, spec, folders, variation)

    # --- jobs: in ---

    def plan(self, request: JobRequest) -> Any:
        """The plan of a request, of its kind. Raises InvalidRequest where it cannot be met."""
        return self.submission.plan(request)

    def submit(self, request: JobRequest, key: str | None = None, *, parent: str | None = None) -> Job:
        """Queue `request`; on the disk when this returns. See `Submission.submit`."""
        return self.submission.submit(request, key, parent=parent)

    def cancel(self, job_id: str) -> Job:
        """End a job that has not ended. A running one stops at its next report. Raises Conflict."""
        return self._worker.cancel(job_id)

    def pause(self, job_id: str) -> Job:
        """Hold a job: a waiting one is passed over, a running one stands still at its next report. Raises Conflict."""
        return self._worker.pause(job_id)

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on where it stood, or wait again if the process that held it has ended."""
        return self._worker.resume(job_id)

    def is_cancelling(self, job_id: str) -> bool:
        return self._worker.is_cancelling(job_id)

    def retry(self, job_id: str) -> Job:
        """Queue a failed, cancelled or quarantined job again, last in line. Raises Conflict."""
        return self.submission.retry(job_id)

    def move(self, job_id: str, places: int | None, before: str | None = None) -> Job:
        """Move a waiting job by `places` (negative: earlier; None: to the front), or in front of the job `before`."""
        return self.store.move(job_id, places, before)

    def pause_queue(self, paused: bool) -> None:
        """Claim nothing more (a running job goes on), or go on claiming; remembered over restarts."""
        self.store.set_queue_paused(paused)
        self._worker.announce()

    def set_favourite(self, job_id: str, favourite: bool) -> Job:
        return self.store.set_favourite(job_id, favourite)

    def delete(self, job_id: str) -> Job:
        """Move a job that has ended to the trash, with its result, where they stay for a week. Raises Conflict."""
        return self.results.delete(job_id)

    def restore(self, job_id: str) -> Job:
        """Bring a job and its result back from the trash. Raises Conflict."""
        return self.results.restore(job_id)

    def empty_trash(self) -> int:
        """Remove for good what is in the trash; how many jobs."""
        return self.tidying.empty_trash()

    # --- jobs: out ---

    def job(self, job_id: str) -> Job:
        return self.store.get(job_id)

    def jobs(self, wanted: Filter = ALL, *, limit: int = 50, offset: int = 0) -> list[Job]:
        """Jobs that match, the newest first."""
        return self.store.find(wanted, limit=limit, offset=offset)

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state, those in the trash too."""
        return self.store.counts()

    def count(self, wanted: Filter = ALL) -> int:
        return self.store.count(wanted)

    def queue(self) -> list[tuple[str, str]]:
        """Id and state of every job that has not ended, in order; cheap enough for every poll."""
        return self.store.queue()

    @property
    def queue_paused(self) -> bool:
        return self.store.queue_paused

    def active(self, limit: int = 50) -> list[Job]:
        """The running or paused jobs and the first waiting ones, in order."""
        return [self.job(job_id) for job_id, _ in self.store.queue()[:limit]]

    def model_stats(self) -> list[ModelStats]:
        return model_stats(self.store)

    def dismiss_notice(self) -> None:
        """Somebody has read what was wrong with the history."""
        self.startup_notice = None

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Block until the job has ended. Raises TimeoutError after `timeout` seconds."""
        return self._worker.wait(job_id, timeout)


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
