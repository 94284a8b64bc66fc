"""What all resources share: the routers that they add to, the generator, the body of errors, files with ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from backend.core.errors import InvalidRequest, NotEnoughSpace, StudioError
from backend.core.schema import explain
from backend.jobs.database import MAKE_ROOM
from backend.jobs.disk_space import is_disk_full
from backend.jobs.kinds import KINDS, unknown_kind
from backend.video_generator import VideoGenerator
from backend.web.guard import HEADERS

NO_CACHE = {"Cache-Control": "no-cache"}  # the next answer may differ


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
media = APIRouter(include_in_schema=False)  # for pages and probes


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
    if first["loc"][1:2] == ("request",) and len(first["loc"]) > 2:  # that variations are made of
        return explain([{**first, "loc": ("body", *first["loc"][2:])}])
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
