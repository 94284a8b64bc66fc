"""How jobs come into the queue: a request of any kind, or one that is made from an earlier job, its parent."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from backend.core import derive
from backend.core.derive import Variations
from backend.core.errors import Conflict, StudioError, mention
from backend.core.ids import new_id
from backend.core.inputs import ANY_UPLOAD
from backend.core.model_choice import Suitability, suitability
from backend.core.plan import Plan
from backend.core.registry import ModelSpec
from backend.core.schema import GenerationRequest, parse_request
from backend.jobs.disk_space import DiskSpace
from backend.jobs.filters import Filter
from backend.jobs.job import ACTIVE, Job, JobPlan, JobRequest, JobState, RenderJob
from backend.jobs.kind import Services
from backend.jobs.kinds import KINDS
from backend.jobs.kinds.render import model_for, plan_promotion
from backend.jobs.results import Results
from backend.jobs.store import Store
from backend.jobs.worker import Worker

NO_CHANGES: Mapping[str, Any] = {}
PROMOTED_MOST = 500  # jobs made from one draft that are looked at
DRAFT_STEPS = mention("draft_steps")


class Submission:
    """Plans and queues requests for one store."""

    def __init__(self, services: Services, store: Store, results: Results, disk: DiskSpace, worker: Worker) -> None:
        self._services, self._store, self._results = services, store, results
        self._disk, self._worker = disk, worker
        self._promoting = threading.Lock()  # a second press at the same moment finds the job of the first
        self.queue_limit = services.settings.queue_limit  # waiting jobs; one more is refused

    def plan(self, request: JobRequest) -> Any:
        """The plan of a request, of its kind. Raises InvalidRequest where it cannot be met."""
        return KINDS[request.kind].make_plan(request, self._services)

    def suitability(self, spec: ModelSpec) -> Suitability:
        """How well a model, installed or not, suits this computer, with a forecast by its earlier renders."""
        return suitability(spec, self._services.free_machine(), self._services.calibration(spec.id))

    def automatic_model(self) -> ModelSpec | None:
        """The model that renders a video from text which names none; None where there is none."""
        with contextlib.suppress(StudioError):
            return model_for(parse_request({"prompt": "-"}), self._services)
        return None

    def submit(
        self, request: JobRequest, key: str | None = None, *, parent: str | None = None, batch: str | None = None
    ) -> Job:
        """Queue `request`; on the disk when this returns. The same `key` gives the same job; `parent` is the job that
        it was made from, and jobs of one `batch` belong together.

        Raises InvalidRequest, and NotEnoughSpace where its result would not fit on the disk now; one that no longer
        fits later waits.
        """
        request, plan = self._prepare(request)
        made_from = parent or getattr(request, "parent", None)  # of a kind whose request names a job
        job = self._store.add(request, plan, key=key, parent=made_from, batch=batch, limit=self.queue_limit)
        self._worker.announce()
        return job

    def _prepare(self, request: JobRequest) -> tuple[JobRequest, JobPlan]:
        """The request as it is stored, and its final plan, whose result fits on the disk."""
        kind = KINDS[request.kind]
        plan: JobPlan = kind.finalize(self.plan(request), self._services)
        self._disk.check(plan)
        return kind.complete(request, self._services), plan

    def again(self, job_id: str, changes: Mapping[str, Any] = NO_CHANGES) -> Job:
        """Queue the request of a render again, with a new seed and `changes`. Raises Conflict, InvalidRequest."""
        job = self._render(job_id)
        return self.submit(derive.again(job.request, changes), parent=job_id)

    def extend(self, job_id: str, changes: Mapping[str, Any] = NO_CHANGES) -> Job:
        """Queue a video that continues a finished one. Raises Conflict, InvalidRequest, NotFound."""
        request = self.extension_of(job_id, changes)
        try:
            return self.submit(request, parent=job_id)
        except StudioError:
            self._services.uploads.remove(str(request.video))
            raise

    def extension_of(self, job_id: str, changes: Mapping[str, Any] = NO_CHANGES) -> GenerationRequest:
        """The request that continues a finished video, which becomes an upload. Raises Conflict, NotFound."""
        job = self._render(job_id)
        if job.plan.draft_steps is not None:
            raise Conflict(f"Job {job_id} is a draft;", hint="promote it, then extend the finished video.")
        derive.extend(job.request, ANY_UPLOAD, changes)  # refused before a large file is copied
        upload = self._services.uploads.add(self._results.file(job_id), f"{file_stem(job.title, job_id)}.mp4")
        return derive.extend(job.request, upload.id, changes)

    def retry(self, job_id: str) -> Job:
        """Queue a failed, cancelled or quarantined job again, last in line. Raises Conflict."""
        job = self._store.get(job_id)
        if job.state in ACTIVE:
            raise Conflict(f"Job {job_id} is {job.state.value};", hint="only a job that has ended can be retried.")
        job = self._store.move_to_state(job_id, JobState.QUEUED)
        self._worker.announce()
        return job

    def edit(self, job_id: str, changes: Mapping[str, Any]) -> Job:
        """Queue the request of a render with `changes`, seed included; a job that still waits is replaced.

        Raises Conflict for one that runs, InvalidRequest.
        """
        job = self._render(job_id)
        if job.state is JobState.RUNNING:
            raise Conflict(f"Job {job_id} is running;", hint="cancel it first, or use `again`.")
        return self.replace(job_id, derive.edit(job.request, changes))

    def replace(self, job_id: str, request: GenerationRequest) -> Job:
        """Queue `request`, made from that of the render `job_id`, which is cancelled if it still waits.

        Raises InvalidRequest, NotFound.
        """
        job = self._render(job_id)
        waits = job.state in (JobState.QUEUED, JobState.PAUSED)
        edited = self.submit(request, parent=job.parent if waits else job_id)
        if waits:
            self._worker.cancel(job_id)
        return edited

    def vary(self, job_id: str, wanted: Variations) -> tuple[str, list[Job]]:
        """Queue variations of a render as one batch, with the seeds after its own. Raises Conflict; as `variations`."""
        return self._submit_batch(derive.vary(self._render(job_id).request, wanted), job_id)

    def variations(self, request: GenerationRequest, wanted: Variations) -> tuple[str, list[Job]]:
        """Queue variations of a new request as one batch; the first seed is its own.

        The id of the batch and its jobs. Nothing is queued before all are planned, and then all are queued or none.
        Raises InvalidRequest, NotEnoughSpace, QueueFull.
        """
        completed = KINDS[request.kind].complete(request, self._services)
        return self._submit_batch(derive.vary(completed, wanted, first=0), None)

    def _submit_batch(self, requests: Sequence[GenerationRequest], parent: str | None) -> tuple[str, list[Job]]:
        planned, batch = [self._prepare(request) for request in requests], new_id()
        jobs = self._store.add_batch(planned, batch, parent=parent, limit=self.queue_limit)
        self._worker.announce()
        return batch, jobs

    def promote(self, job_id: str) -> Job:
        """Queue what finishes a draft and goes on from its state; where such a job was made already and has not failed,
        return that. Raises Conflict, NotFound, NotEnoughSpace, QueueFull.
        """
        with self._promoting:
            draft = self._draft(job_id)
            request = derive.promote(draft.request)
            made = self._store.find(Filter((*ACTIVE, JobState.SUCCEEDED), "render", parent=job_id), limit=PROMOTED_MOST)
            for job in made:
                if job.request == request and job.plan.model == draft.plan.model:
                    return job
            plan = plan_promotion(draft, self._services)
            self._disk.check(plan)
            job = self._store.add(request, plan, parent=job_id, batch=draft.batch, limit=self.queue_limit)
        self._worker.announce()
        return job

    def plan_promotion(self, job_id: str) -> Plan:
        """The plan that `promote` would have. Raises Conflict, NotFound."""
        return plan_promotion(self._draft(job_id), self._services)

    def _draft(self, job_id: str) -> RenderJob:
        """Raises NotFound, and Conflict for what is no finished draft."""
        job = self._render(job_id)
        if job.plan.draft_steps is None:
            raise Conflict(f"Job {job_id} is no draft;", hint=["name one that was made with ", DRAFT_STEPS, "."])
        if job.trashed_at is not None:
            raise Conflict(f"The draft {job_id} is in the trash;", hint="restore it first.")
        if job.state is not JobState.SUCCEEDED:
            hint = "wait until it is done." if job.state in ACTIVE else "retry it first."
            raise Conflict(f"The draft {job_id} is {job.state.value};", hint=hint)
        return job

    def _render(self, job_id: str) -> RenderJob:
        """Raises NotFound, and Conflict for a job of another kind or one that this version cannot read."""
        job = self._store.get(job_id)
        if job.kind != "render" or job.state is JobState.UNREADABLE:
            what = "unreadable" if job.state is JobState.UNREADABLE else f"of the kind {job.kind}"
            raise Conflict(f"Job {job_id} is {what};", hint="name a job that renders a video.")
        return job


def file_stem(text: str, otherwise: str) -> str:
    """A file name without its suffix, of small letters and digits.

    >>> file_stem("A red boat, at sunset!", "video"), file_stem("\\U0001f642", "video")
    ('a-red-boat-at-sunset', 'video')
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:48].strip("-") or otherwise
