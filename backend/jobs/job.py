"""What a job is: a request, its plan, a state and what became of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydantic import TypeAdapter

from backend.core.planning import Plan, Progress, Stage
from backend.core.schema import GenerationRequest
from backend.media.outputs import THUMBNAIL, VIDEO


class JobState(str, Enum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"  # its render ended the process three times


S = JobState
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    S.QUEUED: frozenset({S.RUNNING, S.PAUSED, S.CANCELLED}),
    S.RUNNING: frozenset({S.PAUSED, S.SUCCEEDED, S.FAILED, S.CANCELLED, S.QUEUED, S.QUARANTINED}),
    S.PAUSED: frozenset({S.QUEUED, S.RUNNING, S.CANCELLED}),
    S.FAILED: frozenset({S.QUEUED}),
    S.CANCELLED: frozenset({S.QUEUED}),
    S.QUARANTINED: frozenset({S.QUEUED}),
    S.SUCCEEDED: frozenset(),
}
ACTIVE = (S.RUNNING, S.PAUSED, S.QUEUED)
ENDED = (S.SUCCEEDED, S.FAILED, S.CANCELLED, S.QUARANTINED)
RETRIABLE = (S.FAILED, S.CANCELLED, S.QUARANTINED)


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
    """A finished film. `video` and `thumbnail` are paths in the data folder; `render_s` is the seconds of work on it in
    all attempts, without pauses, and `stage_s` those of each stage. `ran` is by what the last attempt made it.
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
    ran: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, job_id: str, plan: Plan, size: int, **more: Any) -> Artifact:
        """What a film made by `plan` is, of `size` bytes; `more` is what only its making tells."""
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
            **{"render_s": 0.0} | more,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the store. Times are seconds since the epoch; `position` orders the queue, small first."""

    id: str
    state: JobState
    request: GenerationRequest
    plan: Plan
    created_at: float
    position: float
    attempts: int = 0
    deaths: int = 0  # each counts as `store.DEATH` or less
    started_at: float | None = None
    finished_at: float | None = None
    trashed_at: float | None = None
    favourite: bool = False
    progress: Progress | None = None
    error: JobError | None = None
    artifact: Artifact | None = None

    @property
    def title(self) -> str:
        """The prompt, or what the job does where it has none."""
        return self.request.prompt or self.request.mode.value.replace("_", " ").capitalize()

    def as_dict(self) -> dict[str, Any]:
        """The job as REST and `--json` show it."""
        progress = PROGRESS.dump_python(self.progress, mode="json") if self.progress else None
        if progress and self.state is JobState.SUCCEEDED:
            progress |= {"fraction": 1.0, "eta_s": 0.0}  # what was written last was a little less
        return {
            "id": self.id,
            "state": self.state.value,
            "request": self.request.model_dump(mode="json"),
            "plan": plan_as_dict(self.plan),
            "progress": progress,
            "attempts": self.attempts,
            "error": dataclasses.asdict(self.error) if self.error else None,
            "artifact": dataclasses.asdict(self.artifact) if self.artifact else None,
            "favourite": self.favourite,
            "trashed_at": self.trashed_at,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        }


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as REST and `--json` show it, with its sums."""
    shown: dict[str, Any] = PLAN.dump_python(plan, mode="json")
    sums = {
        "total_frames": plan.total_frames,
        "window_steps": list(plan.window_steps),
        "forwards": plan.forwards,
        "forecast_s": plan.forecast.total_s,
    }
    return shown | sums


PLAN = TypeAdapter(Plan)
PROGRESS = TypeAdapter(Progress)
ERROR = TypeAdapter(JobError)
ARTIFACT = TypeAdapter(Artifact)
