"""How one job is run: inputs are read, an engine draws, the frames are fitted, written, checked and published."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from backend import __version__
from backend.core.config import Settings
from backend.core.errors import NotFound, RenderFailed
from backend.core.planning import Plan, Stage
from backend.core.schema import Fit
from backend.jobs.engine import Engine, Inputs, Report, Reporter, Task
from backend.jobs.job import ARTIFACT, PLAN, Artifact, Job
from backend.media.fitting import Frames, Picture, fit_back, fit_picture
from backend.media.outputs import THUMBNAIL, VIDEO, publish, read_metadata, write_metadata
from backend.media.probe import MediaInfo
from backend.media.reader import read_frames, read_image
from backend.media.uploads import Uploads
from backend.media.writer import write_poster, write_video

log = logging.getLogger(__name__)


def run_job(
    job: Job, engine: Engine, checkpoint: Path | None, uploads: Uploads, settings: Settings, report: Reporter
) -> Artifact:
    """Render `job` into outputs/<id>/ and say what came of it. Nothing stands there unless all of it does.

    Raises JobCancelled through `report`, and StudioError where the render cannot be done.
    """
    if finished := already_made(job, settings):
        return finished
    started = time.monotonic()
    plan = job.plan
    work = settings.temp / job.id
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        report(Report(Stage.LOADING, 0.0))
        task = Task(job.request, plan, read_inputs(job, uploads), checkpoint)
        frames = film(job, engine.render(task, report), uploads, report)
        poster = _Poster(plan)
        recipe = make_recipe(job)
        write_video(
            work / VIDEO,
            poster.watch(frames),
            fps=plan.fps,
            width=plan.width,
            height=plan.height,
            recipe=recipe,
            title=job.title,
        )
        report(Report(Stage.SAVING, 0.5))
        if poster.frame is None:
            raise RenderFailed(f"{plan.model_title} drew no frame;", hint="retry, or choose another model.")
        write_poster(work / THUMBNAIL, poster.frame)
        artifact = Artifact(
            video=f"outputs/{job.id}/{VIDEO}",
            thumbnail=f"outputs/{job.id}/{THUMBNAIL}",
            width=plan.width,
            height=plan.height,
            frames=plan.total_frames,
            fps=plan.fps,
            bytes=(work / VIDEO).stat().st_size,
            model=plan.model,
            engine=plan.engine,
            render_s=round(time.monotonic() - started, 3),
        )
        write_metadata(work, recipe | {"artifact": ARTIFACT.dump_python(artifact, mode="json")})
        expect = MediaInfo("video", plan.width, plan.height, plan.total_frames, float(plan.fps))
        publish(work, settings.outputs, job.id, expect=expect)
        return artifact
    finally:
        shutil.rmtree(work, ignore_errors=True)


def already_made(job: Job, settings: Settings) -> Artifact | None:
    """The film of an attempt that was published whole, and whose process died before it could write the row."""
    try:
        return ARTIFACT.validate_python(read_metadata(settings.outputs / job.id)["artifact"])
    except (NotFound, KeyError, ValidationError):
        return None


def read_inputs(job: Job, uploads: Uploads) -> Inputs:
    """The pictures and the end of the source, fitted to the delivered size and then to the one that the model draws, so
    that what comes back through `deliver` lies exactly on what was shown before.
    """
    request, plan = job.request, job.plan

    def picture(upload_id: str | None) -> Picture | None:
        if upload_id is None:
            return None
        shown = read_image(uploads.file(upload_id), plan.width, plan.height, request.fit)
        return fit_back(shown, plan.render_width, plan.render_height)

    prefix = None
    if request.video:
        chunks = read_frames(
            uploads.file(request.video),
            fps=plan.fps,
            width=plan.width,
            height=plan.height,
            fit=request.fit,
            start=plan.source_frames - plan.prefix_frames,
            stop=plan.source_frames,
        )
        shown = _joined(chunks, plan.prefix_frames)
        prefix = np.stack([fit_back(frame, plan.render_width, plan.render_height) for frame in shown])
    return Inputs(image=picture(request.image), end_image=picture(request.end_image), prefix=prefix)


def film(job: Job, rendered: Iterator[Frames], uploads: Uploads, report: Reporter) -> Iterator[Frames]:
    """The frames of the finished film, in delivered size: those of the source, then exactly `num_frames` new ones."""
    plan = job.plan
    if job.request.video:
        done = 0
        source = read_frames(
            uploads.file(job.request.video),
            fps=plan.fps,
            width=plan.width,
            height=plan.height,
            fit=job.request.fit,
            stop=plan.source_frames,
        )
        for chunk in source:
            done += len(chunk)
            report(Report(Stage.LOADING, done / plan.source_frames))
            yield chunk
    yield from deliver(plan, rendered)


def deliver(plan: Plan, rendered: Iterator[Frames]) -> Iterator[Frames]:
    """Drop the prefix, trim the end, crop or enlarge to the delivered size. Raises RenderFailed for missing frames."""
    first, last = plan.prefix_frames, plan.prefix_frames + plan.num_frames
    at = 0
    for chunk in rendered:
        kept = chunk[max(0, first - at) : max(0, last - at)]
        at += len(chunk)
        if len(kept):
            yield fit_frames(kept, plan.width, plan.height)
    if at < last:
        raise RenderFailed(
            f"{plan.model_title} made {at} frames of {plan.render_frames};", hint="retry, or choose another model."
        )


def fit_frames(frames: Frames, width: int, height: int) -> Frames:
    """Frames of the model's size, cropped or enlarged to the delivered one."""
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([fit_picture(frame, width, height, Fit.CROP) for frame in frames])


def make_recipe(job: Job) -> dict[str, object]:
    """What it takes to make this film again."""
    return {
        "studio": __version__,
        "job": job.id,
        "created_at": job.created_at,
        "request": job.request.model_dump(mode="json"),
        "plan": PLAN.dump_python(job.plan, mode="json"),
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Versions of what shapes the pixels, without importing any of it."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "av"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class _Poster:
    """Keeps the frame that will stand for the film: the one a third into what is new."""

    def __init__(self, plan: Plan) -> None:
        self._wanted = plan.source_frames + plan.num_frames // 3
        self.frame: Frames | None = None

    def watch(self, chunks: Iterator[Frames]) -> Iterator[Frames]:
        at = 0
        for chunk in chunks:
            if at <= self._wanted < at + len(chunk):
                self.frame = chunk[self._wanted - at].copy()
            at += len(chunk)
            yield chunk


def _joined(chunks: Iterator[Frames], frames: int) -> Frames:
    joined = np.concatenate(list(chunks))
    if len(joined) != frames:
        raise RenderFailed(
            f"The source gave {len(joined)} of its last {frames} frames;", hint="upload the video again."
        )
    return joined
