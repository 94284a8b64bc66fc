"""What jobs made: videos, other files, thumbnails, previews and recipes; the media of the pages."""

from __future__ import annotations

import contextlib
import mimetypes
from typing import Annotated, Any

from fastapi import Query, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.exceptions import HTTPException

from backend.core.errors import StudioError
from backend.core.schema import Fit
from backend.jobs.job import Job
from backend.jobs.submission import file_stem
from backend.media.fitting import MIDDLE
from backend.media.outputs import PARTIAL_VIDEO, PREVIEW
from backend.media.zip_stream import Member, stream_zip, zip_size
from backend.video_generator import VideoGenerator
from backend.web.api.common import NO_CACHE, Generator, RangeFileResponse, api, media

MEDIA_TYPES = {"video.mp4": "video/mp4", "thumbnail.jpg": "image/jpeg", PREVIEW: "image/webp"}


def _file(generator: VideoGenerator, job_id: str, name: str, *, filename: str | None = None) -> RangeFileResponse:
    return RangeFileResponse(generator.results.file(job_id, name), media_type=MEDIA_TYPES[name], filename=filename)


def _partial_video(generator: VideoGenerator, job_id: str) -> RangeFileResponse:
    return RangeFileResponse(generator.results.partial_video(job_id), media_type="video/mp4", headers=NO_CACHE)


def _preview(generator: VideoGenerator, job_id: str) -> Response:
    # Read at once: it is replaced every second, and a FileResponse sends the length of one and the bytes of the next.
    file = generator.results.preview(job_id)
    with contextlib.suppress(FileNotFoundError):  # the render has just ended
        return Response(file.read_bytes(), media_type=MEDIA_TYPES[file.name], headers=NO_CACHE)
    raise HTTPException(404)


@api.head("/jobs/{job_id}/video", include_in_schema=False)
@api.get("/jobs/{job_id}/video", tags=["videos"])
def job_video(job_id: str, generator: Generator, download: bool = False) -> FileResponse:
    """The MP4; ranges are honoured. `download=true` sends it as an attachment."""
    answer = _file(generator, job_id, "video.mp4")
    if not download:
        return answer
    job = generator.job(job_id)
    return _file(generator, job_id, "video.mp4", filename=f"{file_stem(job.title, job.id)}-{job.request.seed}.mp4")


@api.get("/jobs.zip", tags=["videos"], response_class=StreamingResponse)
def zip_of_videos(
    generator: Generator, ids: Annotated[list[str], Query(alias="id", min_length=1, max_length=500)]
) -> StreamingResponse:
    """The MP4s of finished videos as one ZIP, uncompressed, named by number and prompt."""
    ids = list(dict.fromkeys(ids))
    digits = len(str(len(ids)))
    members = []
    for number, job_id in enumerate(ids, 1):
        stem = file_stem(generator.job(job_id).title, job_id)
        members.append(Member.of(f"{number:0{digits}}-{stem}.mp4", generator.results.file(job_id, "video.mp4")))
    headers = {"Content-Length": str(zip_size(members)), "Content-Disposition": 'attachment; filename="videos.zip"'}
    return StreamingResponse(stream_zip(members), media_type="application/zip", headers=headers)


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


# --- media for the pages: a path under /app/static/, since Streamlit passes such a string on as a URL ---


@media.get("/app/static/media/{job_id}/{name}")
def media_of_a_page(job_id: str, name: str, generator: Generator) -> Response:
    if name == PARTIAL_VIDEO:
        return _partial_video(generator, job_id)
    if name == PREVIEW:
        return _preview(generator, job_id)
    if name not in ("video.mp4", "thumbnail.jpg"):
        raise HTTPException(404)
    return _file(generator, job_id, name)


@media.get("/app/static/uploads/{upload_id}/preview.jpg")
def preview_of_an_upload(
    upload_id: str,
    generator: Generator,
    width: Annotated[int, Query(ge=16, le=1920)],
    height: Annotated[int, Query(ge=16, le=1920)],
    fit: Fit = Fit.CROP,
    position: Annotated[float, Query(ge=0, le=1)] = MIDDLE,
) -> FileResponse:
    return FileResponse(generator.uploads.preview(upload_id, width, height, fit, position), media_type="image/jpeg")
