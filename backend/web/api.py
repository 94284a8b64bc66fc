"""The REST API under /api/v1, and the media of the pages. Handlers only translate; VideoGenerator does the work."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import mimetypes
import operator
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from fastapi import APIRouter, Body, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import AliasChoices, BaseModel, ConfigDict, Discriminator, Field, Tag
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from backend.core.errors import InvalidRequest, NotEnoughSpace, StudioError, UploadRefused
from backend.core.schema import Fit, Mode, explain
from backend.jobs.database import MAKE_ROOM
from backend.jobs.disk_space import is_disk_full
from backend.jobs.job import ENDED, Job, JobRequest, JobState, plan_as_dict
from backend.jobs.kinds import KINDS, kind_of, unknown_kind
from backend.jobs.store import Filter
from backend.jobs.submission import file_stem
from backend.media.outputs import PARTIAL_VIDEO, PREVIEW
from backend.media.uploads import Upload
from backend.video_generator import VideoGenerator
from backend.web.guard import HEADERS
from backend.web.metrics import CONTENT_TYPE as METRICS_TYPE
from backend.web.metrics import render_metrics

MEDIA_TYPES = {"video.mp4": "video/mp4", "thumbnail.jpg": "image/jpeg"}
NO_CACHE = {"Cache-Control": "no-cache"}  # the next answer may differ
EVENT_EVERY_S = 0.5
UPLOAD_IDLE_S = 60.0
UPLOAD_LEAST_RATE = 128 * 1024  # bytes a second, on average: no client may hold a slot by sending slowly
FORM_BYTES = 2**20  # what a form may have around its file
LORA_LIMIT = 8 * 2**30  # bytes


def the_generator(request: Request) -> VideoGenerator:
    generator: VideoGenerator = request.app.state.generator
    return generator


class Failure(BaseModel):
    """What went wrong: a word for programs, a sentence with the way out, and the field that it is about."""

    code: str
    message: str
    field: str | None
    parts: list[str | dict[str, str | None]] | None = Field(
        None,
        description="the message in pieces, if it names fields: text, and {field, value} for each field, for clients"
        " that call fields by other names",
    )


class ErrorAnswer(BaseModel):
    """The body of every answer from 400 on."""

    error: Failure


Generator = Annotated[VideoGenerator, Depends(the_generator)]
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 403, 404, 409, 413, 422, 429, 500, 503, 507)
}
api = APIRouter(prefix="/api/v1", responses=ERRORS)
media = APIRouter(include_in_schema=False)


# --- jobs ---


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

    count: int = Field(1, strict=True, description="how many; their seeds follow one another")
    field: str | None = Field(None, max_length=100, description="a field of the request, instead of the seed")
    values: list[Any] = Field([], description="a value of that field for each variation")


@api.post("/jobs/{job_id}/vary", status_code=202, tags=["jobs"])
def submit_variations(job_id: str, wanted: Variations, generator: Generator) -> dict[str, Any]:
    """Queue variations of a render as one batch."""
    batch, jobs = generator.submission.vary(job_id, wanted.count, wanted.field, wanted.values)
    return {"batch": batch, "jobs": [job.as_dict() for job in jobs]}


@api.get("/jobs", tags=["jobs"])
def list_jobs(
    generator: Generator,
    state: Annotated[list[JobState] | None, Query()] = None,
    kind: Annotated[str | None, Query(max_length=100)] = None,
    parent: Annotated[str | None, Query(max_length=100)] = None,
    batch: Annotated[str | None, Query(max_length=100)] = None,
    search: Annotated[str, Query(max_length=1000)] = "",
    mode: Mode | None = None,
    model: str | None = None,
    favourite: bool = False,
    trashed: bool = False,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: str | None = None,
) -> dict[str, Any]:
    """The newest jobs first, or those in the trash; `next` is the value of `before` that goes on, null at the end."""
    wanted = Filter(
        states=state or (),
        kind=kind,
        parent=parent,
        batch=batch,
        search=search,
        mode=mode and mode.value,
        model=model,
        favourite=favourite,
        trashed=trashed,
        before=before,
    )
    jobs = generator.jobs(wanted, limit=limit + 1)
    more = len(jobs) > limit
    return {"jobs": [job.as_dict() for job in jobs[:limit]], "next": jobs[limit - 1].id if more else None}


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


class RangeFileResponse(FileResponse):
    """File response with ranges, whose errors have the API's JSON body instead of plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = False

        async def sender(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refused = True
                sent = Headers(scope=scope).get("range", "")[:80]
                message_text = f"The range {sent!r} is not in this file; ask for bytes=FIRST-LAST, or for all of it."
                answer = error_response(message["status"], "bad_range", message_text)
                if whole := Headers(raw=message["headers"]).get("content-range"):
                    answer.headers["content-range"] = whole
                await answer(scope, receive, send)
            elif not refused:
                await send(message)

        await super().__call__(scope, receive, sender)


def _file(generator: VideoGenerator, job_id: str, name: str, *, filename: str | None = None) -> RangeFileResponse:
    return RangeFileResponse(generator.results.file(job_id, name), media_type=MEDIA_TYPES[name], filename=filename)


def _partial_video(generator: VideoGenerator, job_id: str) -> RangeFileResponse:
    return RangeFileResponse(generator.results.partial_video(job_id), media_type="video/mp4", headers=NO_CACHE)


def _preview(generator: VideoGenerator, job_id: str) -> Response:
    # Read at once: it is replaced every second, and a FileResponse sends the length of one and the bytes of the next.
    return Response(generator.results.preview(job_id).read_bytes(), media_type="image/webp", headers=NO_CACHE)


@api.head("/jobs/{job_id}/video", include_in_schema=False)
@api.get("/jobs/{job_id}/video", tags=["videos"])
def job_video(job_id: str, generator: Generator, download: bool = False) -> FileResponse:
    """The MP4; ranges are honoured. `download=true` sends it as an attachment."""
    answer = _file(generator, job_id, "video.mp4")
    if not download:
        return answer
    job = generator.job(job_id)
    return _file(generator, job_id, "video.mp4", filename=f"{file_stem(job.title, job.id)}-{job.request.seed}.mp4")


@api.head("/jobs/{job_id}/file", include_in_schema=False)
@api.get("/jobs/{job_id}/file", tags=["videos"])
def job_file(job_id: str, generator: Generator) -> FileResponse:
    """What a finished job of any kind made, as an attachment; ranges are honoured."""
    job, path = generator.job(job_id), generator.results.file(job_id)
    filename = f"{file_stem(_named(job, generator), job.id)}{path.suffix}"
    media_type = getattr(job.artifact, "media_type", None) or mimetypes.guess_type(path)[0]
    return RangeFileResponse(path, media_type=media_type or "application/octet-stream", filename=filename)


def _named(job: Job, generator: VideoGenerator) -> str:
    """The title of a video, also for what was made from it."""
    with contextlib.suppress(StudioError):
        return generator.job(job.parent).title if job.parent and job.kind != "render" else job.title
    return job.title


@api.head("/jobs/{job_id}/thumbnail", include_in_schema=False)
@api.get("/jobs/{job_id}/thumbnail", tags=["videos"])
def job_thumbnail(job_id: str, generator: Generator) -> FileResponse:
    return _file(generator, job_id, "thumbnail.jpg")


@api.head("/jobs/{job_id}/preview", include_in_schema=False)
@api.get("/jobs/{job_id}/preview", tags=["videos"])
def job_preview(job_id: str, generator: Generator) -> FileResponse:
    """The partial video, an MP4, while the rest renders; then the finished video; ranges are honoured."""
    return _partial_video(generator, job_id)


@api.head("/jobs/{job_id}/live", include_in_schema=False)
@api.get("/jobs/{job_id}/live", tags=["videos"])
def job_live(job_id: str, generator: Generator) -> Response:
    """A small moving picture, WebP, of what is being made now."""
    return _preview(generator, job_id)


@api.get("/jobs/{job_id}/metadata", tags=["videos"])
def job_metadata(job_id: str, generator: Generator) -> dict[str, Any]:
    """The recipe of the video."""
    return generator.results.metadata(job_id)


# --- everything else ---


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


@api.post("/uploads", status_code=201, tags=["uploads"])
async def upload(request: Request, generator: Generator, filename: str = "") -> dict[str, Any]:
    """Store a picture or a video: the raw body, or the multipart field `file`. Streamed to disk, then decoded."""
    limit = generator.settings.upload_limit_bytes + FORM_BYTES
    _check_length(request, limit)
    slots: asyncio.Semaphore = request.app.state.upload_slots
    async with slots:
        request = Request(request.scope, _keeps_coming(request, limit))
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            try:
                form = await request.form(max_files=1, max_fields=4)
            except (UnicodeError, LookupError):
                raise InvalidRequest("The form's charset is not known;", hint="use utf-8.") from None
            except HTTPException as error:
                reason = f"The form cannot be read ({error.detail.rstrip('.')});"
                raise InvalidRequest(reason, hint="send one file, in the field file, or as raw body.") from None
            part = form.get("file")
            if not isinstance(part, UploadFile):
                raise InvalidRequest("The form has no field named file;", hint="send the file in it, or as raw body.")
            chunks = _chunks_of(part)
            filename = filename or part.filename or ""
        else:
            chunks = request.stream()
        return dataclasses.asdict(await _receive(generator, filename, chunks))


def _keeps_coming(request: Request, limit_bytes: int) -> Receive:
    """How to receive the body of a request that must not stop coming, or come too slowly, or be too large."""
    began, came = time.monotonic(), 0

    async def receive() -> Message:
        nonlocal came
        left_s = UPLOAD_IDLE_S + came / UPLOAD_LEAST_RATE - (time.monotonic() - began)
        try:
            with anyio.fail_after(min(UPLOAD_IDLE_S, left_s)):
                message = await request.receive()
        except TimeoutError:
            raise InvalidRequest("The upload came too slowly;", hint="send the file again.", field="file") from None
        came += len(message.get("body", b""))
        if came > limit_bytes:
            raise _too_large(limit_bytes)
        return message

    return receive


def _check_length(request: Request, limit_bytes: int) -> None:
    """Raise UploadRefused for a body that says beforehand that it is too large."""
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit_bytes:
        raise _too_large(limit_bytes)


def _too_large(limit_bytes: int) -> UploadRefused:
    return UploadRefused(
        f"The upload is larger than {limit_bytes // 2**20} MiB;", hint="make it smaller or shorter.", field="file"
    )


async def _chunks_of(part: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await part.read(2**20):
        yield chunk


async def _receive(generator: VideoGenerator, filename: str, chunks: AsyncIterator[bytes]) -> Upload:
    with generator.uploads.receive(filename) as incoming:
        try:
            async for chunk in chunks:
                await run_in_threadpool(incoming.write, chunk)
        except ClientDisconnect:
            raise InvalidRequest("The upload was cut off;", hint="send the file again.") from None
        return await run_in_threadpool(incoming.accept)


@api.get("/uploads/{upload_id}", tags=["uploads"])
def show_upload(upload_id: str, generator: Generator) -> dict[str, Any]:
    return dataclasses.asdict(generator.uploads.get(upload_id))


@api.get("/models", tags=["models"])
def models(generator: Generator, all: bool = False) -> dict[str, Any]:
    """The models that can render here and now, and why other folders in models/ cannot; with `all`, also those that can
    be fetched.
    """
    found = [spec.as_dict() | {"present": present} for spec, present in generator.catalog.list(downloads=all)]
    return {"models": found, "refused": generator.catalog.rejected()}


@api.delete("/models/{model_id}", tags=["models"])
def remove_model(model_id: str, generator: Generator, for_good: bool = False) -> dict[str, str]:
    """Move a model to the trash, where it stays for a week; with `for_good` it is gone at once."""
    generator.remove_model(model_id, for_good=for_good)
    return {"removed": model_id}


@api.post("/models/{model_id}/restore", tags=["models"])
def restore_model(model_id: str, generator: Generator) -> dict[str, str]:
    """Bring a model back from the trash."""
    generator.restore_model(model_id)
    return {"restored": model_id}


@api.get("/loras", tags=["models"])
def list_loras(generator: Generator) -> dict[str, Any]:
    """The LoRAs in models/loras, and why other files there are none."""
    found, refused = generator.loras.all()
    return {"loras": [lora.as_dict() for lora in found], "refused": refused}


@api.post("/loras", status_code=201, tags=["models"])
async def add_lora(request: Request, generator: Generator, filename: str = "") -> dict[str, Any]:
    """Keep a LoRA: its safetensors file as the raw body. Streamed to disk, then checked."""
    _check_length(request, LORA_LIMIT)
    slots: asyncio.Semaphore = request.app.state.upload_slots
    async with slots:
        body = Request(request.scope, _keeps_coming(request, LORA_LIMIT)).stream()
        with generator.loras.receive(filename) as incoming:
            try:
                async for chunk in body:
                    await run_in_threadpool(incoming.write, chunk)
            except ClientDisconnect:
                raise InvalidRequest("The upload was cut off;", hint="send the file again.") from None
            lora = await run_in_threadpool(incoming.accept)
    return lora.as_dict() | {"id": lora.name, "kind": "lora"}


@api.delete("/loras/{name}", tags=["models"])
def remove_lora(name: str, generator: Generator, for_good: bool = False) -> dict[str, str]:
    """Move a LoRA to the trash, where it stays for a week; with `for_good` it is gone at once."""
    generator.remove_lora(name, for_good=for_good)
    return {"removed": name}


@api.post("/loras/{name}/restore", tags=["models"])
def restore_lora(name: str, generator: Generator) -> dict[str, str]:
    """Bring a LoRA back from the trash."""
    generator.loras.restore(name)
    return {"restored": name}


class DownloadRequest(BaseModel):
    """The id of a model that is to be fetched."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=200)


@api.post("/downloads", status_code=202, tags=["models"])
def download(request: DownloadRequest, generator: Generator) -> dict[str, Any]:
    """Download a model of the registry from the hub; a second call resumes it."""
    return generator.downloads.add(request.model).as_dict()


@api.get("/downloads", tags=["models"])
def list_downloads(generator: Generator) -> dict[str, Any]:
    """The models on their way here."""
    return {"downloads": [download.as_dict() for download in generator.downloads.current()]}


@api.post("/downloads/{model_id}/{action}", tags=["models"])
def act_on_download(model_id: str, action: str, generator: Generator) -> dict[str, Any]:
    """`pause`, `resume`, or `cancel`, which throws away what was fetched."""
    queue = generator.downloads
    actions = {"pause": queue.pause, "resume": queue.resume, "cancel": queue.cancel}
    if action not in actions:
        raise HTTPException(404)
    return actions[action](model_id).as_dict()


@api.get("/system", tags=["system"])
def system(generator: Generator) -> dict[str, Any]:
    """The machine, how busy it is, and how the jobs went."""
    return {
        "machine": dataclasses.asdict(generator.machine),
        "now": dataclasses.asdict(generator.monitor.sample()),
        "queue_paused": generator.queue_paused,
        "news": generator.startup_notice,
        "models": [dataclasses.asdict(stats) for stats in generator.model_stats()],
    }


METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
not_found = APIRouter(include_in_schema=False)


@not_found.api_route("/api/{path:path}", methods=METHODS)
@not_found.api_route("/api", methods=METHODS)
@not_found.api_route("/v1/{path:path}", methods=METHODS)
def nothing_here(request: Request) -> Response:
    """Without this, an unknown address would fall through to Streamlit, which answers every path with its page."""
    known = any(getattr(route, "path_regex", re.compile("$^")).match(request.scope["path"]) for route in api.routes)
    raise HTTPException(405 if known else 404)


# --- media for the pages: a path under /app/static/, since Streamlit passes such a string on as a URL ---


@media.get("/app/static/media/{job_id}/{name}")
def page_media(job_id: str, name: str, generator: Generator) -> Response:
    if name == PARTIAL_VIDEO:
        return _partial_video(generator, job_id)
    if name == PREVIEW:
        return _preview(generator, job_id)
    if name not in ("video.mp4", "thumbnail.jpg"):
        raise HTTPException(404)
    return _file(generator, job_id, name)


@media.get("/app/static/uploads/{upload_id}/preview.jpg")
def page_upload_preview(
    upload_id: str,
    generator: Generator,
    width: Annotated[int, Query(ge=16, le=1920)],
    height: Annotated[int, Query(ge=16, le=1920)],
    fit: Fit = Fit.CROP,
) -> FileResponse:
    return FileResponse(generator.uploads.preview(upload_id, width, height, fit), media_type="image/jpeg")


@media.get("/metrics")
def metrics(generator: Generator) -> Response:
    """For Prometheus."""
    return Response(render_metrics(generator), media_type=METRICS_TYPE)


@media.get("/healthz")
def healthz(generator: Generator) -> dict[str, str]:
    """200 while the worker lives."""
    if not generator.alive:
        raise HTTPException(503)
    return {"status": "ok"}


# --- errors: always {"error": {code, message, field}}, never a traceback ---


def error_response(status: int, code: str, message: str) -> JSONResponse:
    return error_body(status, {"code": code, "message": message, "field": None})


def error_body(status: int, error: dict[str, Any]) -> JSONResponse:
    headers = {"Retry-After": "30"} if status in (429, 503) else None
    return JSONResponse({"error": error}, status, headers=headers)


def _explained(errors: Sequence[Any]) -> InvalidRequest:
    """What is wrong with a body; of a job, in the terms of its kind, which pydantic puts into the path."""
    first = errors[0]
    if first["type"] == "union_tag_invalid":
        return unknown_kind(str(first["ctx"]["tag"]))
    if len(first["loc"]) > 1 and (kind := KINDS.get(str(first["loc"][1]))):
        return explain([{**first, "loc": ("body", *first["loc"][2:])}], kind.request)
    return explain(errors)


def install_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(StudioError)
    async def studio_error(_: Request, error: StudioError) -> JSONResponse:
        return error_body(error.status, error.as_dict())

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_body(422, _explained(error.errors()).as_dict())

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # FastAPI's, where the parser itself gave up on the body
            reason = "The body cannot be read: it is not UTF-8, nested too deeply, or has too long a number;"
            spoiled = InvalidRequest(reason, hint="send a JSON object with the request's fields.")
            return error_response(spoiled.status, spoiled.code, str(spoiled))
        reasons = {
            404: f"There is nothing at {request.scope['path'][:100]!r}.",
            405: "This address takes another method.",
        }
        message = reasons.get(error.status_code, str(error.detail))
        return error_response(error.status_code, f"http_{error.status_code}", message)

    @app.exception_handler(OSError)
    async def refused_by_the_disk(_: Request, error: OSError) -> JSONResponse:
        if not is_disk_full(error):
            raise error
        return error_response(NotEnoughSpace.status, NotEnoughSpace.code, f"The disk is full; {MAKE_ROOM}")

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        message = f"The studio met a {type(error).__name__}; its log has the whole story."
        response = error_response(500, "internal", message)
        # Starlette answers this one outside of Guard, which gives all others their headers.
        response.headers.update({name.decode(): value.decode() for name, value in HEADERS})
        return response
