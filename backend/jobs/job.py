"""What a job is: a request of some kind, its plan, a state and what became of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Generic, Protocol

from pydantic import TypeAdapter
from typing_extensions import TypeVar

from backend.core.plan import Forecast, Plan, Progress, Stage
from backend.core.schema import GenerationRequest
from backend.media.outputs import THUMBNAIL, VIDEO


class JobState(str, Enum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"  # it ended the process three times
    UNREADABLE = "unreadable"  # this version cannot read its row, which is kept as it is


S = JobState
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    S.QUEUED: frozenset({S.RUNNING, S.PAUSED, S.CANCELLED}),
    S.RUNNING: frozenset({S.PAUSED, S.SUCCEEDED, S.FAILED, S.CANCELLED, S.QUEUED, S.QUARANTINED}),
    S.PAUSED: frozenset({S.QUEUED, S.RUNNING, S.CANCELLED}),
    S.FAILED: frozenset({S.QUEUED}),
    S.CANCELLED: frozenset({S.QUEUED}),
    S.QUARANTINED: frozenset({S.QUEUED}),
    S.SUCCEEDED: frozenset(),
    S.UNREADABLE: frozenset(),
}
ACTIVE = (S.RUNNING, S.PAUSED, S.QUEUED)
ENDED = (S.SUCCEEDED, S.FAILED, S.CANCELLED, S.QUARANTINED, S.UNREADABLE)
RETRIABLE = (S.FAILED, S.CANCELLED, S.QUARANTINED)


class JobRequest(Protocol):
    """What the request of every kind of job has; each is a frozen pydantic model. One that names another job, as an
    export does, also has `parent`, the id of that job.
    """

    @property
    def kind(self) -> str: ...
    @property
    def title(self) -> str:
        """What the job is called in lists."""

    def model_dump(self, *, mode: str = ...) -> dict[str, Any]: ...


class JobPlan(Protocol):
    """What the plan of every kind of job has."""

    @property
    def forecast(self) -> Forecast: ...
    @property
    def on_gpu(self) -> bool: ...
    @property
    def windows(self) -> Sequence[object]: ...
    @property
    def window_steps(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: what happened with the way out, and the way out alone; `log` has its last lines where it ended
    the process.
    """

    code: str
    message: str
    hint: str = ""
    log: tuple[str, ...] = ()

    @classmethod
    def of(cls, code: str, what: str, hint: str, log: tuple[str, ...] = ()) -> JobError:
        """`what` happened and, in `hint`, the way out."""
        return cls(code, f"{what} {hint}".strip(), hint, log)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished video. `video` and `thumbnail` are paths in the data folder; `render_s` is the seconds of work on it
    in all attempts, without pauses, and `stage_s` those of each stage. `runtime` says on what the last attempt ran:
    device, precision, kernels; and where it went on, if it did. `draft_steps` is how many steps a draft made.
    """

    video: str
    thumbnail: str
    width: int
    height: int
    frames: int
    fps: int
    bytes: int
    model: str
    engine: str
    render_s: float
    stage_s: dict[Stage, float] = field(default_factory=dict)
    runtime: dict[str, str] = field(default_factory=dict)
    draft_steps: int | None = None

    @property
    def file(self) -> str:
        """The path of the result in the data folder."""
        return self.video

    @classmethod
    def of(cls, job_id: str, plan: Plan, size: int, **more: Any) -> Artifact:
        """The artifact of a video made by `plan`, of `size` bytes; `more` is what is known only after the render."""
        return cls(
            video=f"outputs/{job_id}/{VIDEO}",
            thumbnail=f"outputs/{job_id}/{THUMBNAIL}",
            width=plan.width,
            height=plan.height,
            frames=plan.total_frames,
            fps=plan.fps,
            bytes=size,
            model=plan.model,
            engine=plan.engine,
            draft_steps=plan.draft_steps,
            **{"render_s": 0.0} | more,
        )


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A request or a plan that this version cannot read, as its text is stored."""

    text: str
    title: str = "Unreadable job"
    kind: str = ""
    forecast: ClassVar[Forecast] = Forecast({}, 0.0, 0)
    on_gpu: ClassVar[bool] = False
    windows: ClassVar[tuple[object, ...]] = ()
    window_steps: ClassVar[tuple[int, ...]] = ()

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        return {"unreadable": self.text}


R = TypeVar("R", bound=JobRequest, default=Any)
P = TypeVar("P", bound=JobPlan, default=Any)
A = TypeVar("A", default=Any)


@dataclass(frozen=True, slots=True)
class Job(Generic[R, P, A]):
    """One row of the store. Times are seconds since the epoch; `position` orders the queue, small first. `parent` is
    the job that this one was made from, `batch` names jobs that were submitted together. `R`, `P` and `A` are request,
    plan and artifact of its kind.
    """

    id: str
    state: JobState
    request: R
    plan: P
    created_at: float
    position: float
    kind: str = "render"
    parent: str | None = None
    batch: str | None = None
    attempts: int = 0
    crash_count: int = 0  # each crash counts as `store.CRASH` or less
    started_at: float | None = None
    finished_at: float | None = None
    trashed_at: float | None = None
    cancel_requested_at: float | None = None
    favourite: bool = False
    rating: int | None = None  # 1 to 5
    note: str | None = None
    approved: bool = False  # kept from being deleted
    collections: tuple[str, ...] = ()  # names
    progress: Progress | None = None
    error: JobError | None = None
    artifact: A | None = None

    @property
    def title(self) -> str:
        """The prompt, or what the job does where it has none."""
        return self.request.title

    def as_dict(self) -> dict[str, Any]:
        """The job as REST and `--json` show it."""
        progress = as_json(self.progress) if self.progress else None
        if progress and self.state is JobState.SUCCEEDED:
            progress |= {"fraction": 1.0, "eta_s": 0.0}  # what was written last was a little less
        return {
            "id": self.id,
            "kind": self.kind,
            "parent": self.parent,
            "batch": self.batch,
            "title": self.title,
            "state": self.state.value,
            "request": as_json(self.request),
            "plan": plan_as_dict(self.plan),
            "progress": progress,
            "attempts": self.attempts,
            "error": dataclasses.asdict(self.error) if self.error else None,
            "artifact": as_json(self.artifact) if self.artifact else None,
            "favourite": self.favourite,
            "rating": self.rating,
            "note": self.note,
            "approved": self.approved,
            "collections": list(self.collections),
            "trashed_at": self.trashed_at,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        }


RenderJob = Job[GenerationRequest, Plan, Artifact]


def plan_as_dict(plan: JobPlan) -> dict[str, Any]:
    """The plan as REST and `--json` show it, with its sums."""
    shown: dict[str, Any] = as_json(plan)
    if isinstance(plan, Plan):
        shown |= {
            "total_frames": plan.total_frames,
            "decoded_frames": plan.decoded_frames,
            "window_steps": list(plan.window_steps),
            "forwards": plan.forwards,
        }
    if "forecast" in shown:  # that of an unreadable plan has no parts
        shown["forecast"]["total_s"] = plan.forecast.total_s
    return shown | {"forecast_s": plan.forecast.total_s}


def as_json(value: Any) -> Any:
    """A pydantic model or data class as a JSON object."""
    return _adapter(type(value)).dump_python(value, mode="json")


def to_json(value: Any) -> str:
    """A pydantic model or data class as JSON text, as the store keeps it."""
    if isinstance(value, Unreadable):
        return value.text
    return _adapter(type(value)).dump_json(value).decode()


def from_json(kind: type[A], text: str) -> A:
    """The inverse of `to_json`. Raises pydantic's ValidationError, a ValueError."""
    value: A = _adapter(kind).validate_json(text)
    return value


def from_dict(kind: type[A], document: Any) -> A:
    """The inverse of `as_json`. Raises pydantic's ValidationError, a ValueError."""
    value: A = _adapter(kind).validate_python(document)
    return value


_adapters: dict[object, TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """The adapter of a type; making one takes milliseconds."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]
