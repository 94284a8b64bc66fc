"""Rows of the jobs table: a job to columns and back, and what makes a row unreadable."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backend.core.ids import is_id
from backend.core.plan import Progress
from backend.jobs.job import Job, JobError, JobPlan, JobRequest, JobState, Unreadable, from_json, to_json
from backend.jobs.kinds import KINDS

LATEST = 253402300799.0  # the last second of the year 9999


def fault_of(row: sqlite3.Row, state: str) -> str | None:
    """Why the row makes no job in this version; None where it does."""
    try:
        job = _readable_job(row, JobState(state))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        reason = "unknown field" if first["type"] == "extra_forbidden" else first["msg"]
        return f"{field}: {reason}"[:200] if field else reason[:200]
    except (ValueError, TypeError) as error:
        return " ".join(str(error).split())[:200]
    return None if is_plausible(job) else "its id, a time or the place of its file is not possible"


def is_plausible(job: Job) -> bool:
    """Whether its id, its times and the place of its file can be."""
    times = (job.created_at, job.started_at, job.finished_at, job.trashed_at)
    own = job.artifact is None or job.id in Path(job.artifact.file).parts
    return own and is_id(job.id) and all(time is None or 0 <= time <= LATEST for time in times)


def read_again(job: Job) -> Job:
    """The job as it would come out of the table; ValueError where it would not, as with an infinite time."""
    kind = KINDS[job.kind]
    return dataclasses.replace(
        job,
        request=from_json(kind.request, to_json(job.request)),
        plan=from_json(kind.plan, to_json(job.plan)),
        artifact=from_json(kind.artifact, to_json(job.artifact)) if job.artifact else None,
    )


def documents(request: JobRequest, plan: JobPlan) -> dict[str, Any]:
    """The columns of a request and its plan: their JSON, and what jobs are searched by."""
    mode = getattr(request, "mode", None)
    return {
        "prompt": getattr(request, "prompt", None),
        "mode": mode and mode.value,
        "model": getattr(plan, "model", None),
        "request": to_json(request),
        "plan": to_json(plan),
    }


def job_of(row: sqlite3.Row) -> Job:
    """The job of a row, in state `unreadable` where this version cannot read it."""
    if row["state"] != JobState.UNREADABLE.value:
        with contextlib.suppress(ValueError, TypeError):
            return _readable_job(row, JobState(row["state"]))
    title = " ".join(str(row["prompt"] or "Unreadable job").split())
    return Job(
        state=JobState.UNREADABLE,
        request=Unreadable(str(row["request"]), title, str(row["kind"])),
        plan=Unreadable(str(row["plan"]), title, str(row["kind"])),
        error=_error_of(row),
        **_plain_columns(row),
    )


def _readable_job(row: sqlite3.Row, state: JobState) -> Job:
    """Raises ValueError or TypeError where this version cannot read the row."""
    kind = KINDS.get(row["kind"])
    if kind is None:
        raise ValueError(f"{row['kind']!r} is not a kind of job")
    return Job(
        state=state,
        request=from_json(kind.request, row["request"]),
        plan=from_json(kind.plan, row["plan"]),
        progress=from_json(Progress, row["progress"]) if row["progress"] else None,
        error=from_json(JobError, row["error"]) if row["error"] else None,
        artifact=from_json(kind.artifact, row["artifact"]) if row["artifact"] else None,
        **_plain_columns(row),
    )


PLAIN_COLUMNS = (
    *("id", "kind", "parent", "batch", "created_at", "position", "attempts", "crash_count"),
    *("started_at", "finished_at", "trashed_at", "cancel_requested_at", "rating", "note"),
)


def _plain_columns(row: sqlite3.Row) -> dict[str, Any]:
    marks = {"favourite": bool(row["favourite"]), "approved": bool(row["approved"])}
    return {name: row[name] for name in PLAIN_COLUMNS} | marks | {"collections": names_in(row["collections"])}


def names_in(text: str) -> tuple[str, ...]:
    """The names in a stored list of them, as of the collections that a job is in; none where it cannot be read."""
    try:
        names = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return ()
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def _error_of(row: sqlite3.Row) -> JobError:
    with contextlib.suppress(ValueError, TypeError):
        return from_json(JobError, row["error"])
    return JobError.of("unreadable", "This version cannot read the job. It is kept as it is;", "update the studio.")
