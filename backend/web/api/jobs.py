"""Jobs: submitted, listed, acted on and followed; the queue and what a request would become."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import operator
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import AliasChoices, BaseModel, ConfigDict, Discriminator, Field, Tag
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from backend.core.schema import Mode
from backend.jobs.job import ENDED, Job, JobRequest, JobState, plan_as_dict
from backend.jobs.kinds import KINDS, kind_of
from backend.jobs.store import Filter
from backend.web.api.common import NO_CACHE, Generator, api

EVENT_EVERY_S = 0.5


if TYPE_CHECKING:
    JobBody = JobRequest
else:  # the request of any kind, by its field `kind`
    tagged = [Annotated[kind.request, Tag(name)] for name, kind in KINDS.items()]
    JobBody = Annotated[functools.reduce(operator.or_, tagged), Discriminator(kind_of)]
Changes = Annotated[dict[str, Any] | None, Body(description="fields that differ from the request of that job")]


@api.post("/jobs", status_code=202, tags=["jobs"])
def submit(
    request: JobBody,
    generator: Generator,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> dict[str, Any]:
    """Queue a job of any kind, a render by default; it is on the disk when this answers. The same Idempotency-Key gives
    the same job.
    """
    return generator.submit(request, idempotency_key).as_dict()


@api.post("/jobs/{job_id}/again", status_code=202, tags=["jobs"])
def submit_again(job_id: str, generator: Generator, changes: Changes = None) -> dict[str, Any]:
    """Queue the request of a render again, with a new seed and the changes of the body."""
    return generator.submission.again(job_id, changes or {}).as_dict()


@api.post("/jobs/{job_id}/extend", status_code=202, tags=["jobs"])
def submit_extension(job_id: str, generator: Generator, changes: Changes = None) -> dict[str, Any]:
    """Queue a video that continues a finished one, with the changes of the body."""
    return generator.submission.extend(job_id, changes or {}).as_dict()


@api.post("/jobs/{job_id}/edit", status_code=202, tags=["jobs"])
def submit_edited(job_id: str, generator: Generator, changes: Changes = None) -> dict[str, Any]:
    """Queue the request of a render with the changes of the body, seed included; a job that still waits is replaced."""
    return generator.submission.edit(job_id, changes or {}).as_dict()


class Variations(BaseModel):
    """`count` further seeds, or one variation for each of `values` of one field."""

    model_config = ConfigDict(extra="forbid")

    count: int | None = Field(None, strict=True, description="how many further seeds, each the next one; 1 by default")
    field: str | None = Field(None, max_length=100, description="a setting that is varied instead of the seed")
    values: list[Any] = Field([], description="a value of that setting for each variation")


@api.post("/jobs/{job_id}/vary", status_code=202, tags=["jobs"])
def submit_variations(job_id: str, wanted: Variations, generator: Generator) -> dict[str, Any]:
    """Queue variations of a render as one batch."""
    batch, jobs = generator.submission.vary(job_id, wanted.count, wanted.field, wanted.values)
    return {"batch": batch, "jobs": [job.as_dict() for job in jobs]}


class JobQuery(BaseModel):
    """Which jobs, and how many: `state` may be repeated; `before` is the `next` of the page before."""

    state: list[JobState] = []
    kind: str | None = Field(None, max_length=100)
    parent: str | None = Field(None, max_length=100)
    batch: str | None = Field(None, max_length=100)
    search: str = Field("", max_length=1000)
    mode: Mode | None = None
    model: str | None = None
    favourite: bool = False
    trashed: bool = False
    ended_since: float | None = Field(None, description="seconds since the epoch")
    before: str | None = None
    limit: int = Field(50, ge=1, le=500)

    def filter(self) -> Filter:
        fields = self.model_dump(exclude={"state", "limit"})
        return Filter(**fields | {"states": self.state, "mode": self.mode and self.mode.value})


@api.get("/jobs", tags=["jobs"])
def list_jobs(generator: Generator, query: Annotated[JobQuery, Query()]) -> dict[str, Any]:
    """The newest jobs first, or those in the trash; `next` is the value of `before` that goes on, null at the end."""
    jobs = generator.jobs(query.filter(), limit=query.limit + 1)
    more = len(jobs) > query.limit
    page = jobs[: query.limit]
    return {"jobs": [job.as_dict() for job in page], "next": page[-1].id if more else None}


@api.get("/jobs/{job_id}", tags=["jobs"])
def show_job(job_id: str, generator: Generator) -> dict[str, Any]:
    return generator.job(job_id).as_dict()


@api.delete("/jobs/{job_id}", tags=["jobs"])
def delete_job(job_id: str, generator: Generator) -> dict[str, Any]:
    """Move an ended job and its video to the trash, where they stay for a week."""
    return generator.delete(job_id).as_dict()


@api.post("/jobs/{job_id}/{action}", tags=["jobs"])
def act_on_job(job_id: str, action: str, generator: Generator) -> dict[str, Any]:
    """`cancel`, `pause`, `resume`, `retry`, `restore` from the trash, `favourite` and `unfavourite`."""
    actions: dict[str, Callable[[str], Job]] = {
        "cancel": generator.cancel,
        "pause": generator.pause,
        "resume": generator.resume,
        "retry": generator.retry,
        "restore": generator.restore,
        "favourite": lambda job_id: generator.set_favourite(job_id, True),
        "unfavourite": lambda job_id: generator.set_favourite(job_id, False),
    }
    if action not in actions:
        raise HTTPException(404)
    return actions[action](job_id).as_dict()


@api.delete("/trash", tags=["jobs"])
def empty_trash(generator: Generator) -> dict[str, int]:
    """Remove for good what is in the trash, videos and recipes; `removed` says how many jobs."""
    return {"removed": generator.empty_trash()}


@api.get("/jobs/{job_id}/events", tags=["jobs"])
async def job_events(job_id: str, generator: Generator) -> StreamingResponse:
    """Server-sent events: the job whenever it has changed, until it has ended."""
    await run_in_threadpool(generator.job, job_id)

    async def events() -> AsyncIterator[str]:
        shown = None
        while not generator.stopping:
            job = await run_in_threadpool(generator.job, job_id)
            if job != shown:
                shown = job
                yield f"data: {json.dumps(job.as_dict())}\n\n"
            if job.state in ENDED:
                return
            await asyncio.sleep(EVENT_EVERY_S)

    return StreamingResponse(events(), media_type="text/event-stream", headers=NO_CACHE)


@api.post("/plan", tags=["plan"])
def plan(request: JobBody, generator: Generator) -> dict[str, Any]:
    """What a request would become: size, frames, windows, steps and forecast. Queues nothing."""
    return plan_as_dict(generator.plan(request))


class Wording(BaseModel):
    """A prompt to make longer, for `model`; another `variation` may say it another way (`take` in 0.1)."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str = "auto"
    variation: int = Field(0, strict=True, ge=0, le=2**31 - 1, validation_alias=AliasChoices("variation", "take"))
    by_rules: bool = Field(False, strict=True, description="not by a language model, even if one is here")


@api.post("/prompts/expand", tags=["plan"])
def expand_prompt(wording: Wording, generator: Generator) -> dict[str, Any]:
    """The prompt made longer: by a language model in models/ if one is there, else by rules. To be read before use."""
    found = generator.expand(wording.prompt, wording.model, variation=wording.variation, by_rules=wording.by_rules)
    return dataclasses.asdict(found)


@api.post("/queue/{action}", tags=["queue"])
def act_on_queue(action: str, generator: Generator) -> dict[str, Any]:
    """`pause`: claim no further job; `resume`: go on."""
    if action not in ("pause", "resume"):
        raise HTTPException(404)
    generator.pause_queue(action == "pause")
    return {"paused": generator.queue_paused, "waiting": generator.count(Filter(states=(JobState.QUEUED,)))}
