"""The kind `export`: a finished video, or an uploaded one, in another format, or one frame of it."""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backend.core.config import GIB
from backend.core.errors import InvalidRequest, NotFound, StudioError, Words, mention
from backend.core.inputs import INPUTS
from backend.core.plan import Forecast, Source, Stage
from backend.core.schema import UPLOAD_ID, Fit
from backend.engine import Report, Reporter
from backend.jobs.job import Artifact, Job, JobState, as_json, from_dict
from backend.jobs.kind import Kind, Services
from backend.jobs.recipe import make_recipe, metadata_recipe
from backend.media.export import FORMATS, ExportFormat, Shape, export_video
from backend.media.fitting import Frames
from backend.media.outputs import move_result, write_metadata
from backend.media.reader import read_frames

WIDTH = (16, 7680)  # pixels; both sides come out even
SIDES = (16, 8192)  # pixels that every format can have
MOST_PIXELS = 7680 * 4320
BYTES_PER_PIXEL = 170  # of memory: chunks of frames here, and the frames that the encoder holds
Id = Annotated[str, Field(pattern=rf"^{UPLOAD_ID}$")]


class ExportRequest(BaseModel):
    """A video in another format: that of `job`, a finished render, or the upload `video`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["export"] = Field("export", exclude=True)
    job: Id | None = Field(None, description="id of the job whose video is exported")
    video: Id | None = Field(None, description="id of an uploaded video, instead of a job")
    format: ExportFormat = Field(ExportFormat.MP4, description="what the file becomes")
    width: int | None = Field(
        None,
        strict=True,
        ge=WIDTH[0],
        le=WIDTH[1],
        description="pixels, rounded down to an even number; the height follows. The video's own if left out",
    )
    frame: int = Field(0, strict=True, description="of a still: which frame, from 0; -1 is the last one")

    @model_validator(mode="after")
    def _one_source(self) -> ExportRequest:
        if (self.job is None) == (self.video is None):
            reason: Words = [mention("job"), " or ", mention("video"), " says what is exported;"]
            raise InvalidRequest(reason, hint="send one of them.", field="job")
        if self.frame and self.format is not ExportFormat.STILL:
            hint: Words = ["leave it out, or use ", mention("format", "still"), "."]
            raise InvalidRequest("is only for a still;", hint=hint, field="frame", value=self.frame)
        return self

    @property
    def parent(self) -> str | None:
        """The job whose video is exported."""
        return self.job

    @property
    def title(self) -> str:
        """What its job is called in lists."""
        return f"Export as {FORMATS[self.format].title}"


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """The shape of the file: pixels, frames, frames per second; `start` is the first frame that is read."""

    format: ExportFormat
    width: int
    height: int
    frames: int
    fps: float
    start: int
    forecast: Forecast
    on_gpu: ClassVar[bool] = False
    windows: ClassVar[tuple[object, ...]] = ()
    window_steps: ClassVar[tuple[int, ...]] = ()


@dataclass(frozen=True, slots=True)
class ExportArtifact:
    """An exported file: `file` is its path in the data folder, `export_s` the seconds that it took."""

    file: str
    media_type: str
    width: int
    height: int
    frames: int
    fps: float
    bytes: int
    export_s: float


ExportJob = Job[ExportRequest, ExportPlan, ExportArtifact]


def plan_export(request: ExportRequest, services: Services) -> ExportPlan:
    """Size, count and rate of the file. Raises InvalidRequest for a job without a video or a frame beyond its end."""
    _, source = _source(request, services)
    width, height = _size(source, request.width)
    start, frames = 0, source.frames
    if request.format is ExportFormat.STILL:
        start, frames = _still(request.frame, source.frames), 1
    return ExportPlan(
        format=request.format,
        width=width,
        height=height,
        frames=frames,
        fps=source.fps,
        start=start,
        forecast=_forecast(request.format, width, height, frames),
    )


def _source(request: ExportRequest, services: Services) -> tuple[Path, Source]:
    """The video that is exported, and its shape."""
    if request.video is not None:
        upload = services.upload(request.video, INPUTS["video"])
        return services.uploads.file(upload.id), upload.source
    made = _finished_video(request, services)
    path = services.settings.data / made.video
    if not path.is_file():
        raise InvalidRequest(
            f"The video of job {request.job} is not there;", hint="restore it, or name another.", field="job"
        )
    return path, Source(made.width, made.height, made.frames, float(made.fps))


def _finished_video(request: ExportRequest, services: Services) -> Artifact:
    """What the job of the request made. Raises InvalidRequest where that is no video."""
    try:
        job = services.find_job(str(request.job))
    except NotFound as missing:
        raise InvalidRequest(missing.message, hint=missing.hint, field="job") from None
    if job.state is not JobState.SUCCEEDED or not isinstance(job.artifact, Artifact):
        raise InvalidRequest(
            f"Job {job.id} has no video ({job.kind}, {job.state.value});", hint="name a finished render.", field="job"
        )
    return job.artifact


def _size(source: Source, width: int | None) -> tuple[int, int]:
    """Width and height, both even, in the shape of the source. Raises InvalidRequest for a `width` that gives a side
    which not every format can have.

    >>> _size(Source(960, 540, 64, 24.0), 480), _size(Source(961, 541, 64, 24.0), None)
    ((480, 270), (960, 540))
    """
    if width is None:
        return _even(source.width), _even(source.height)
    height = round(source.height * width / source.width)
    if SIDES[0] <= height <= SIDES[1] and width * height <= MOST_PIXELS:
        return _even(width), _even(height)
    shape = source.height / source.width
    least = max(WIDTH[0], math.ceil(SIDES[0] / shape))
    most = min(WIDTH[1], math.floor(SIDES[1] / shape), math.isqrt(int(MOST_PIXELS / shape)))
    hint = f"use {least} to {most}." if least <= most else "leave it out."
    raise InvalidRequest(f"gives {width}x{height} pixels;", hint=hint, field="width", value=width)


def _even(side: int) -> int:
    return max(2, side - side % 2)


def _still(frame: int, frames: int) -> int:
    """The number of a frame that may count from the end. Raises InvalidRequest beyond either."""
    number = frame + frames if frame < 0 else frame
    if not 0 <= number < frames:
        raise InvalidRequest(
            f"is not in the video, which has {frames} frames;",
            hint=f"use 0 to {frames - 1}, or -1 for the last one.",
            field="frame",
            value=frame,
        )
    return number


def _forecast(format: ExportFormat, width: int, height: int, frames: int) -> Forecast:
    info = FORMATS[format]
    pixels = width * height * frames
    seconds = {Stage.LOADING: 0.2, Stage.ENCODING: 0.3 + info.s_per_pixel * info.passes * pixels, Stage.SAVING: 0.1}
    peak_gib = round(0.2 + BYTES_PER_PIXEL * width * height / GIB, 2)
    return Forecast(seconds, peak_gib, int(info.bytes_per_pixel * pixels) + 100_000, seconds)


def run(job: ExportJob, services: Services, report: Reporter) -> ExportArtifact:
    """Export into outputs/<id>/; whatever happens, temp/<id>/ is empty afterwards. Raises RenderFailed."""
    settings, began = services.settings, time.monotonic()
    work = settings.temp / job.id
    shutil.rmtree(work, ignore_errors=True)
    if finished := _already_made(job, services):
        return finished
    report(Report(Stage.LOADING, 0.0))
    path, _ = _source(job.request, services)
    work.mkdir(parents=True)
    try:
        artifact = _write(job, path, work, report, began)
        report(Report(Stage.SAVING, 0.5))
        write_metadata(work, make_recipe(job) | {"artifact": as_json(artifact)})
        move_result(work, settings.outputs, job.id)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return artifact


def _write(job: ExportJob, path: Path, work: Path, report: Reporter, began: float) -> ExportArtifact:
    plan, info = job.plan, FORMATS[job.plan.format]
    target = work / f"export.{info.suffix}"
    shape = Shape(plan.width, plan.height, plan.frames, plan.fps)
    written = export_video(
        plan.format,
        functools.partial(_frames, path, plan),
        shape,
        target,
        lambda part: report(Report(Stage.ENCODING, part)),
    )
    return ExportArtifact(
        file=f"outputs/{job.id}/{target.name}",
        media_type=info.media_type,
        width=plan.width,
        height=plan.height,
        frames=written,
        fps=plan.fps,
        bytes=target.stat().st_size,
        export_s=round(time.monotonic() - began, 3),
    )


def _frames(path: Path, plan: ExportPlan) -> Generator[Frames]:
    yield from read_frames(
        path,
        fps=plan.fps,
        width=plan.width,
        height=plan.height,
        fit=Fit.CROP,
        start=plan.start,
        stop=plan.start + plan.frames,
    )


def _already_made(job: ExportJob, services: Services) -> ExportArtifact | None:
    """The file of an attempt whose process died before it could write the row."""
    with contextlib.suppress(StudioError, KeyError, ValidationError):
        found = from_dict(ExportArtifact, metadata_recipe(services.settings.outputs / job.id)["artifact"])
        return found if (services.settings.data / found.file).is_file() else None
    return None


EXPORT = Kind(
    name="export",
    request=ExportRequest,
    plan=ExportPlan,
    artifact=ExportArtifact,
    stages=(Stage.LOADING, Stage.ENCODING, Stage.SAVING),
    make_plan=plan_export,
    run=run,
    resumes=False,
)
