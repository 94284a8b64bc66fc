"""How one job is run: inputs are read, an engine draws, its frames are fitted and written in segments, and these are
joined, checked and published.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from backend import __version__
from backend.core.config import Settings
from backend.core.errors import (
    Conflict,
    DeviceLost,
    JobCancelled,
    ModelUnavailable,
    NotEnoughMemory,
    NotFound,
    RenderFailed,
)
from backend.core.planning import Plan, Stage
from backend.core.schema import Fit
from backend.jobs.engine import Engine, Inputs, Report, Reporter, Task
from backend.jobs.job import ARTIFACT, PLAN, Artifact, Job
from backend.jobs.room import is_of_the_disk
from backend.library.loras import Lora
from backend.media.fitting import Frames, Picture, fit_back, fit_picture
from backend.media.outputs import LIVE, PREVIEW, THUMBNAIL, VIDEO, publish, read_metadata, write_metadata
from backend.media.probe import MediaInfo
from backend.media.reader import read_frames, read_image
from backend.media.uploads import Uploads
from backend.media.writer import join_segments, write_live, write_poster, write_segment

# What lies in the folder of an unfinished film, beside its segments and what the engine keeps there.
SOURCE = "source.mp4"
FILM = "film"
SECONDS = "seconds.json"
RAN = "ran.json"
MADE_WITH = "made-with.json"
LOOK_S = 3.0  # a look plays as long, however many frames it has


def run_job(
    job: Job,
    engine: Engine,
    checkpoint: Path | None,
    uploads: Uploads,
    settings: Settings,
    report: Reporter,
    loras: tuple[Lora, ...] = (),
) -> Artifact:
    """Render `job` into outputs/<id>/ and say what came of it. Nothing stands there unless all of it does.

    The film grows in temp/<id>/, segment by segment; what an earlier attempt finished there is not made again. Raises
    JobCancelled through `report`, and StudioError where the render cannot be done; then that folder stays.
    """
    if finished := already_made(job, settings):
        shutil.rmtree(settings.temp / job.id, ignore_errors=True)
        return finished
    plan, recipe = job.plan, make_recipe(job)
    work = _open_work(settings.temp / job.id, recipe["versions"])
    try:
        with _stopwatch(work / SECONDS, report) as (timed, taken):
            timed(Report(Stage.LOADING, 0.0))
            segments = make_segments(job, engine, checkpoint, uploads, work, timed, loras)
            timed(Report(Stage.SAVING, 0.5, frames_ready=plan.total_frames if len(plan.segments) > 1 else 0))
            artifact = _publish(job, segments, recipe, settings, taken)
    except (JobCancelled, DeviceLost, ModelUnavailable, NotEnoughMemory, Conflict, sqlite3.Error):
        raise
    except Exception as error:
        if not is_of_the_disk(error):
            shutil.rmtree(work, ignore_errors=True)  # what was kept may be the reason
        raise
    shutil.rmtree(work, ignore_errors=True)
    return artifact


def make_segments(
    job: Job,
    engine: Engine,
    checkpoint: Path | None,
    uploads: Uploads,
    work: Path,
    report: Reporter,
    loras: tuple[Lora, ...] = (),
) -> list[Path]:
    """The film as video files, in order: the source if there is one, then a file for each of the plan's segments.

    Raises as `run_job` does; then those that are whole stay in `work`.
    """
    plan = job.plan
    size = {"fps": plan.fps, "width": plan.width, "height": plan.height}
    segments = [work / f"{number:03}.mp4" for number in range(len(plan.segments))]
    made = next((number for number, path in enumerate(segments) if not path.exists()), len(segments))
    before = [work / SOURCE] if job.request.video else []
    if before and not before[0].exists():
        write_segment(before[0], _source(job, uploads, report), **size)
    if made == len(segments):
        return before + segments
    first_frame = plan.segments[made][0]
    task = Task(job.request, plan, read_inputs(job, uploads), checkpoint, work, first_frame, loras)
    ready = plan.source_frames + first_frame - plan.prefix_frames if (work / PREVIEW).exists() else 0

    def watch(at: Report) -> None:
        if at.preview is not None:
            size = plan.width, plan.height
            part = max(at.preview.shape[1:3]) / max(size)
            look = fit_frames(at.preview, *(round(part * side) for side in size))
            write_live(work / LIVE, look, len(look) / LOOK_S)
        if at.runtime is not None:
            (work / RAN).write_text(json.dumps(at.runtime))
        report(replace(at, preview=None, runtime=None, frames_ready=ready))

    with contextlib.closing(_Cut(plan, engine.render(task, watch), first_frame)) as frames:
        for number, (start, stop) in enumerate(plan.segments[made:], start=made):
            chunks = _watch_for_poster(plan, frames.take(stop - start), start, work / THUMBNAIL)
            write_segment(segments[number], chunks, **size)
            if len(segments) > 1:
                join_segments(work / PREVIEW, before + segments[: number + 1], recipe={}, title=job.title)
                ready = plan.source_frames + stop - plan.prefix_frames
    return before + segments


def already_made(job: Job, settings: Settings) -> Artifact | None:
    """The film of an attempt that was published whole, and whose process died before it could write the row."""
    try:
        artifact = ARTIFACT.validate_python(read_metadata(settings.outputs / job.id)["artifact"])
    except (NotFound, KeyError, ValidationError):
        return None
    own = f"outputs/{job.id}/{VIDEO}"
    return artifact if artifact.video == own and (settings.data / own).is_file() else None


def read_inputs(job: Job, uploads: Uploads) -> Inputs:
    """The pictures and the end of the source, fitted to the delivered size and then to the one that the model draws, so
    that what comes back through `fit_frames` lies exactly on what was shown before.
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


def _source(job: Job, uploads: Uploads, report: Reporter) -> Iterator[Frames]:
    """The video that is continued, as it begins the film."""
    plan, done = job.plan, 0
    assert job.request.video is not None
    chunks = read_frames(
        uploads.file(job.request.video),
        fps=plan.fps,
        width=plan.width,
        height=plan.height,
        fit=job.request.fit,
        stop=plan.source_frames,
    )
    for chunk in chunks:
        done += len(chunk)
        report(Report(Stage.LOADING, done / plan.source_frames))
        yield chunk


class _Cut:
    """Cuts the stream of an engine, which begins at the rendered frame `first`, into pieces in the delivered size."""

    def __init__(self, plan: Plan, rendered: Iterator[Frames], first: int) -> None:
        self._plan = plan
        self._rendered = rendered
        self._at = first
        self._rest = np.empty((0, plan.render_height, plan.render_width, 3), np.uint8)

    def take(self, count: int) -> Iterator[Frames]:
        """The next `count` frames. Raises RenderFailed where the engine has no more."""
        plan = self._plan
        while count:
            if not len(self._rest):
                chunk = next(self._rendered, None)
                if chunk is None:
                    raise RenderFailed(
                        f"{plan.model_title} made {self._at} frames of {plan.render_frames};",
                        hint="retry, or choose another model.",
                    )
                self._rest = chunk
            piece, self._rest = self._rest[:count], self._rest[count:]
            count -= len(piece)
            self._at += len(piece)
            if len(piece):
                yield fit_frames(piece, plan.width, plan.height)

    def close(self) -> None:
        """End the engine's render."""
        if isinstance(self._rendered, Generator):
            self._rendered.close()


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


def _watch_for_poster(plan: Plan, chunks: Iterator[Frames], start: int, path: Path) -> Iterator[Frames]:
    """Write the frame that will stand for the film as it passes: the one a third into what is new."""
    wanted = plan.prefix_frames + plan.num_frames // 3 - start
    for chunk in chunks:
        if 0 <= wanted < len(chunk):
            write_poster(path, chunk[wanted])
        wanted -= len(chunk)
        yield chunk


def _open_work(work: Path, versions: object) -> Path:
    """The folder that the film grows in. What other versions of the libraries left there is thrown away."""
    made_with = work / MADE_WITH
    stamp = json.dumps(versions, sort_keys=True).encode()
    try:
        known = made_with.read_bytes() == stamp
    except OSError:
        known = False
    if not known:
        if work.exists() and not work.is_dir():
            work.unlink()
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        made_with.write_bytes(stamp)
    return work


@contextlib.contextmanager
def _stopwatch(path: Path, report: Reporter) -> Iterator[tuple[Reporter, Callable[[], dict[Stage, float]]]]:
    """`report`, and who tells the seconds of each stage that went by between its calls, in all attempts: those that a
    report held the render do not count, and those of an attempt that was killed or found the disk full are lost.
    """
    seconds = _read_seconds(path)
    stage, since = Stage.LOADING, time.monotonic()

    def taken() -> dict[Stage, float]:
        nonlocal since
        now = time.monotonic()
        seconds[stage] = seconds.get(stage, 0.0) + now - since
        since = now
        return seconds

    def timed(at: Report) -> None:
        nonlocal stage, since
        taken()
        stage = at.stage
        report(at)
        since = time.monotonic()

    try:
        yield timed, taken
    finally:
        with contextlib.suppress(OSError):
            path.write_text(json.dumps(taken()))


def _read_seconds(path: Path) -> dict[Stage, float]:
    try:
        found = {Stage(stage): float(seconds) for stage, seconds in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return found if all(0 <= seconds < math.inf for seconds in found.values()) else {}


def _read_ran(path: Path) -> dict[str, str]:
    try:
        return {str(what): str(by) for what, by in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _publish(
    job: Job,
    segments: list[Path],
    recipe: dict[str, object],
    settings: Settings,
    taken: Callable[[], dict[Stage, float]],
) -> Artifact:
    """Join the segments and put the film, its poster and its sidecar in their place."""
    plan = job.plan
    work = segments[0].parent
    film = work / FILM
    film.mkdir(parents=True, exist_ok=True)
    join_segments(film / VIDEO, segments, recipe=recipe, title=job.title)
    shutil.copy(work / THUMBNAIL, film / THUMBNAIL)
    stage_s = {stage: round(seconds, 3) for stage, seconds in taken().items()}
    made = {"render_s": round(sum(stage_s.values()), 3), "stage_s": stage_s, "ran": _read_ran(work / RAN)}
    artifact = Artifact.of(job.id, plan, (film / VIDEO).stat().st_size, **made)
    write_metadata(film, recipe | {"artifact": ARTIFACT.dump_python(artifact, mode="json")})
    expect = MediaInfo("video", plan.width, plan.height, plan.total_frames, float(plan.fps))
    publish(film, settings.outputs, job.id, expect=expect)
    return artifact


def _joined(chunks: Iterator[Frames], frames: int) -> Frames:
    joined = np.concatenate(list(chunks))
    if len(joined) != frames:
        raise RenderFailed(
            f"The source gave {len(joined)} of its last {frames} frames;", hint="upload the video again."
        )
    return joined
