"""Uploads: pictures and clips received as a stream, within limits of size and time."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from backend.core.errors import InvalidRequest, UploadRefused
from backend.media.uploads import Upload
from backend.video_generator import VideoGenerator
from backend.web.api.common import Generator, api

UPLOAD_IDLE_S = 60.0
UPLOAD_LEAST_RATE = 128 * 1024  # bytes a second, on average: no client may hold a slot by sending slowly
FORM_BYTES = 2**20  # what a form may have around its file


@api.post("/uploads", status_code=201, tags=["uploads"])
async def upload(request: Request, generator: Generator, filename: str = "") -> dict[str, Any]:
    """Store a picture or a video: the raw body, or the multipart field `file`. Streamed to disk, then decoded."""
    limit = generator.settings.upload_limit_bytes + FORM_BYTES
    check_length(request, limit)
    slots: asyncio.Semaphore = request.app.state.upload_slots
    async with slots:
        request = Request(request.scope, keeps_coming(request, limit))
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


def keeps_coming(request: Request, limit_bytes: int) -> Receive:
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


def check_length(request: Request, limit_bytes: int) -> None:
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
