"""Jobs: submitted, listed, acted on and followed; the queue and what a request would become."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import operator
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Body, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import AliasChoices, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from backend.core.derive import Variations
from backend.core.errors import InvalidRequest, StudioError
from backend.core.schema import GenerationRequest, Mode
from backend.jobs.filters import Filter
from backend.jobs.job import ENDED, Job, JobRequest, JobState, plan_as_dict
from backend.jobs.kinds import KINDS, kind_of
from backend.video_generator import VideoGenerator
from backend.web.api.common import NO_CACHE, Generator, api

EVENT_EVERY_S = 0.5
LAST = 10**9  # places later: to the end of the queue

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
    parent: Annotated[str | None, Query(max_length=100, description="the id of the job that it was made from")] = None,
) -> dict[str, Any]:
    """Queue a job of any kind, a render by default; it is on the disk when this answers. The same Idempotency-Key gives
    the same job.
    """
    parent = generator.job(parent).id if parent else None
    return generator.submit(request, idempotency_key, parent=parent).as_dict()


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


class Move(BaseModel):
    """Where a waiting job goes: one of the three."""

    model_config = ConfigDict(extra="forbid")

    before: str | None = Field(None, max_length=100, description="in front of that waiting job; null: to the end")
    places: int | None = Field(None, strict=True, ge=-(10**6), le=10**6, description="so many later; negative: earlier")
    to: Literal["front"] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Move:
        named = self.model_fields_set
        if len(named) != 1 or (named != {"before"} and self.places is None and self.to is None):
            raise InvalidRequest("The body names no place;", hint='send one of before, places and to="front".')
        return self


@api.post("/jobs/{job_id}/move", tags=["queue"])
def move_job(job_id: str, move: Move, generator: Generator) -> dict[str, Any]:
    """Move a waiting job in the queue; the others keep their order."""
    places = None if move.to else LAST if move.places is None else move.places
    return generator.move(job_id, places, move.before).as_dict()


@api.post("/jobs/{job_id}/vary", status_code=202, tags=["jobs"])
def submit_variations_of(job_id: str, wanted: Variations, generator: Generator) -> dict[str, Any]:
    """Queue variations of a render as one batch, with the seeds after its own."""
    return _as_batch(*generator.submission.vary(job_id, wanted))


class NewVariations(Variations):
    """A request and what of it varies; the first seed is its own."""

    request: GenerationRequest


@api.post("/variations", status_code=202, tags=["jobs"])
def submit_variations(wanted: NewVariations, generator: Generator) -> dict[str, Any]:
    """Queue variations of a new request as one batch: all of them or, where one cannot be, none."""
    return _as_batch(*generator.submission.variations(wanted.request, wanted))


def _as_batch(batch: str, jobs: list[Job]) -> dict[str, Any]:
    return {"batch": batch, "jobs": [job.as_dict() for job in jobs]}


@api.post("/jobs/{job_id}/promote", status_code=202, tags=["jobs"])
def promote(job_id: str, generator: Generator) -> dict[str, Any]:
    """Finish a draft from its saved state: the job that does so, which is made once unless it failed."""
    return generator.submission.promote(job_id).as_dict()


@api.get("/jobs/{job_id}/promote", tags=["plan"])
def plan_promotion(job_id: str, generator: Generator) -> dict[str, Any]:
    """What promoting a draft would take. Queues nothing."""
    return plan_as_dict(generator.submission.plan_promotion(job_id))


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


class Marks(BaseModel):
    """What a user says of a job; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    favourite: bool = False
    rating: int | None = Field(None, ge=1, le=5)
    note: str | None = Field(None, max_length=2000)
    approved: bool = Field(False, description="kept from being deleted")
    collections: list[str] = Field([], max_length=1000, description="names of those that it is in, in place of others")


@api.patch("/jobs/{job_id}", tags=["jobs"])
def mark_job(job_id: str, marks: Marks, generator: Generator) -> dict[str, Any]:
    """Set the marks that the body has; collections that are not there are made."""
    return generator.gallery.mark(job_id, marks.model_dump(exclude_unset=True)).as_dict()


def _actions(generator: VideoGenerator) -> dict[str, Callable[[str], Job]]:
    return {
        "cancel": generator.cancel,
        "pause": generator.pause,
        "resume": generator.resume,
        "retry": generator.retry,
        "restore": generator.restore,
        "favourite": lambda job_id: generator.set_favourite(job_id, True),
        "unfavourite": lambda job_id: generator.set_favourite(job_id, False),
    }


class Bulk(BaseModel):
    """One action on many jobs."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Annotated[str, Field(max_length=100)]] = Field(min_length=1, max_length=500)
    action: Literal[
        "delete", "cancel", "pause", "resume", "retry", "restore", "favourite", "unfavourite", "approve", "unapprove"
    ]


@api.post("/jobs/bulk", tags=["jobs"])
def act_on_jobs(bulk: Bulk, generator: Generator) -> dict[str, Any]:
    """Do the same to many jobs; one that refuses does not stop the others."""
    actions = _actions(generator) | {
        "delete": generator.delete,
        "approve": lambda job_id: generator.gallery.mark(job_id, {"approved": True}),
        "unapprove": lambda job_id: generator.gallery.mark(job_id, {"approved": False}),
    }
    done, refused = [], []
    for job_id in dict.fromkeys(bulk.ids):
        try:
            actions[bulk.action](job_id)
            done.append(job_id)
        except StudioError as error:
            refused.append({"id": job_id, "message": str(error)})
    return {"done": done, "refused": refused}


@api.post("/jobs/{job_id}/{action}", tags=["jobs"])
def act_on_job(job_id: str, action: str, generator: Generator) -> dict[str, Any]:
    """`cancel`, `pause`, `resume`, `retry`, `restore` from the trash, `favourite` and `unfavourite`."""
    actions = _actions(generator)
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


@api.get("/prompts", tags=["plan"])
def list_prompts(
    generator: Generator,
    search: Annotated[str, Query(max_length=1000)] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> dict[str, list[str]]:
    """The prompts of renders, each once, the one used last first, without those in the trash."""
    return {"prompts": generator.gallery.prompts(search, limit)}


@api.post("/queue/{action}", tags=["queue"])
def act_on_queue(action: str, generator: Generator) -> dict[str, Any]:
    """`pause`: claim no further job; `resume`: go on."""
    if action not in ("pause", "resume"):
        raise HTTPException(404)
    generator.pause_queue(action == "pause")
    return {"paused": generator.queue_paused, "waiting": generator.count(Filter(states=(JobState.QUEUED,)))}
