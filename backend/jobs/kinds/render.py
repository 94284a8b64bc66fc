"""The kind `render`: a request becomes a video. Inputs are read, an engine generates frames, these are finished and
written in segments, and the segments are joined, checked and published.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import shutil
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from backend.core import planning
from backend.core.config import Settings
from backend.core.errors import (
    Conflict,
    DeviceLost,
    InvalidRequest,
    JobCancelled,
    ModelUnavailable,
    NotEnoughMemory,
    NotFound,
    RenderFailed,
    StudioError,
    WorkDamaged,
)
from backend.core.inputs import INPUTS
from backend.core.model_choice import choose_model
from backend.core.notes import draft_notes, notes_of
from backend.core.plan import Plan, PlannedLora, Stage
from backend.core.registry import ModelSpec
from backend.core.schema import Fit, GenerationRequest, orientation_of
from backend.engine import Engine, Inputs, Report, Reporter, Task
from backend.finishing import apply_steps
from backend.finishing.fit import fit_frames
from backend.jobs.disk_space import is_of_the_disk
from backend.jobs.drafts import find_state, keep_state, take_over
from backend.jobs.job import Artifact, Job, RenderJob, as_json, from_dict
from backend.jobs.kind import Kind, Services
from backend.jobs.recipe import make_recipe, metadata_recipe
from backend.library.loras import Lora
from backend.library.tokens import cut_of
from backend.media.fitting import Frames, Picture, fit_back
from backend.media.outputs import PARTIAL_VIDEO, PREVIEW, THUMBNAIL, VIDEO, publish, write_metadata
from backend.media.probe import MediaInfo
from backend.media.reader import read_frames, read_image
from backend.media.uploads import Upload, Uploads
from backend.media.writer import join_segments, write_poster, write_preview, write_segment

log = logging.getLogger(__name__)

# What lies in the folder of an unfinished video, beside its segments and what the engine keeps there.
SOURCE = "source.mp4"
RESULT = "result"
TIMINGS = "timings.json"
RUNTIME = "runtime.json"
ENVIRONMENT = "environment.json"
FAILURE = "failure.json"  # which saved state the last unexpected error met
NAMES_OF_0_1 = {
    "seconds.json": TIMINGS,
    "ran.json": RUNTIME,
    "made-with.json": ENVIRONMENT,
    "film": RESULT,
    "preview.mp4": PARTIAL_VIDEO,
    "live.webp": PREVIEW,
}
STATE_IS_GONE = "The state of the draft is gone, or of another version of the studio: all steps are made again."
PREVIEW_S = 3.0  # a preview plays as long, however many frames it has


def plan_render(request: GenerationRequest, services: Services) -> Plan:
    """What would happen. Raises InvalidRequest where it cannot, also for an upload that is not there."""
    uploads = _uploads_of(request, services)
    source = uploads["video"].source if "video" in uploads else None
    loras = loras_of(request, services)
    spec = _model_with(request, loras, services)
    for lora in loras:
        lora.require(spec, services.catalog.models())
    sizes = {lora.name: lora.bytes for lora in loras}
    shaped = _with_shape(request, uploads)
    plan = planning.make_plan(shaped, spec, services.free_machine(), source, services.calibration(spec.id), sizes)
    folder = None
    with contextlib.suppress(StudioError):  # removed meanwhile: the render will say so
        folder = services.catalog.folder_of(spec.id, spec.title)
    notes = notes_of(request, plan, spec, source, lambda text: cut_of(folder, text))
    return replace(plan, notes=(*notes, *filter(None, (lora.note_on_experts(spec) for lora in loras))))


def plan_promotion(draft: RenderJob, services: Services) -> Plan:
    """The plan of what finishes `draft`. Raises Conflict where its model is gone."""
    spec = next((spec for spec in services.catalog.models() if spec.id == draft.plan.model), None)
    if spec is None:
        raise Conflict(
            f"{draft.plan.model_title}, which made the draft {draft.id}, is no longer in models/;",
            hint="put it back, or make another draft.",
        )
    found = find_state(draft.id, services.settings)
    done_steps = 0 if found is None else draft.plan.window_steps[0]
    plan = planning.plan_promotion(draft.plan, done_steps, spec, services.free_machine(), services.calibration(spec.id))
    notes = (note for note in draft.plan.notes if note not in draft_notes(draft.plan))
    return replace(plan, notes=(*notes, *(() if found else (STATE_IS_GONE,))))


def complete(request: GenerationRequest, services: Services) -> GenerationRequest:
    """`request` with the shape of its picture or video where it names none, and with a seed."""
    return _with_shape(request, _uploads_of(request, services)).with_seed()


def _uploads_of(request: GenerationRequest, services: Services) -> dict[str, Upload]:
    """The uploads that a request names, by their fields. Raises InvalidRequest for one that is not there."""
    named = {row: getattr(request, row.name) for row in INPUTS.values()}
    return {row.name: services.upload(upload_id, row) for row, upload_id in named.items() if upload_id is not None}


def _with_shape(request: GenerationRequest, uploads: Mapping[str, Upload]) -> GenerationRequest:
    """`request` with the orientation of its video or first picture, if it follows them."""
    material = uploads.get("video") or uploads.get("image")
    if material is None or not request.follows_material:
        return request
    return request.model_copy(update={"orientation": orientation_of(material.width, material.height)})


def model_for(request: GenerationRequest, services: Services) -> ModelSpec:
    """The model that `request` would use. Raises InvalidRequest where there is none."""
    return _model_with(request, loras_of(request, services), services)


def _model_with(request: GenerationRequest, loras: list[Lora], services: Services) -> ModelSpec:
    models, machine = services.catalog.models(), services.free_machine()
    chosen = choose_model(request, models, machine)
    if request.model != "auto" or all(lora.incompatibility(chosen) is None for lora in loras):
        return chosen
    able = [spec for spec in models if request.mode in spec.modes]
    fitting = [spec for spec in able if all(lora.incompatibility(spec) is None for lora in loras)]
    best = choose_model(request, fitting, machine)
    return best if best in fitting else min(fitting, key=lambda spec: spec.weights_gib, default=chosen)


def loras_of(request: GenerationRequest, services: Services) -> list[Lora]:
    """The LoRAs that a request names. Raises InvalidRequest for one that is not here, or is named twice."""
    try:
        loras = [services.loras.get(use.name) for use in request.loras]
    except NotFound as missing:
        raise InvalidRequest(missing.message, hint=missing.hint, field="loras") from None
    names = [lora.name for lora in loras]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(f"The LoRA {twice!r} is named twice;", hint="use it once.", field="loras")
    return loras


def hash_loras(plan: Plan, services: Services) -> Plan:
    """The plan with the hash of each LoRA: a job renders with the very files that it was submitted with."""
    found = [services.loras.get(planned.name) for planned in plan.loras]
    return replace(plan, loras=tuple(PlannedLora(lora.name, services.loras.sha256(lora)) for lora in found))


def run(job: RenderJob, services: Services, report: Reporter) -> Artifact:
    """Render `job` with the engine, the weights and the LoRAs of its plan. Raises as `render_job` does."""
    plan = job.plan
    checkpoint = services.catalog.folder_of(plan.model, plan.model_title)
    loras = tuple(_planned_lora(planned, services) for planned in plan.loras)
    engine = services.engines[plan.engine]
    return render_job(job, engine, checkpoint, services.uploads, services.settings, report, loras)


def _planned_lora(planned: PlannedLora, services: Services) -> Lora:
    """The very file that the job was submitted with."""
    try:
        lora = services.loras.get(planned.name)
    except NotFound as missing:
        raise ModelUnavailable(missing.message, hint=f"put it back, then retry: {missing.hint}") from None
    if services.loras.sha256(lora) != planned.sha256:
        raise ModelUnavailable(
            f"The LoRA {planned.name} is another file than when this video was submitted;",
            hint="put that one back and retry, or use these settings anew.",
        )
    return lora


RENDER = Kind(
    name="render",
    request=GenerationRequest,
    plan=Plan,
    artifact=Artifact,
    stages=(Stage.LOADING, Stage.DENOISING, Stage.DECODING, Stage.SAVING),
    make_plan=plan_render,
    run=run,
    finalize=hash_loras,
    complete=complete,
)


def render_job(
    job: RenderJob,
    engine: Engine,
    checkpoint: Path | None,
    uploads: Uploads,
    settings: Settings,
    report: Reporter,
    loras: tuple[Lora, ...] = (),
) -> Artifact:
    """Render `job` into outputs/<id>/ and say what came of it. Nothing stands there unless all of it does.

    The video grows in temp/<id>/, segment by segment; what an earlier attempt finished there is not made again. Raises
    JobCancelled through `report`, and StudioError where the render cannot be done. That folder stays whatever happens,
    unless an unexpected error met the same saved state twice.
    """
    if finished := already_made(job, settings):
        shutil.rmtree(settings.temp / job.id, ignore_errors=True)
        return finished
    plan, recipe = job.plan, make_recipe(job)
    work = _open_work(settings.temp / job.id, recipe["versions"])
    if plan.done_steps:
        take_over(job, work, settings)
    try:
        with _stopwatch(work / TIMINGS, report) as (timed, taken):
            timed(Report(Stage.LOADING, 0.0))
            segments = make_segments(job, engine, checkpoint, uploads, work, timed, loras)
            timed(Report(Stage.SAVING, 0.5, frames_ready=plan.total_frames if len(plan.segments) > 1 else 0))
            artifact = _publish(job, segments, recipe, settings, taken)
    except (JobCancelled, DeviceLost, ModelUnavailable, NotEnoughMemory, Conflict, sqlite3.Error):
        raise
    except WorkDamaged:
        shutil.rmtree(work, ignore_errors=True)
        raise
    except Exception as error:
        if not is_of_the_disk(error):
            _keep_unless_it_failed_before(job, work, error)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return artifact


def _keep_unless_it_failed_before(job: Job, work: Path, error: Exception) -> None:
    """Keep the saved work after an unexpected error; remove it if the same state has met one before: it is the reason,
    or nothing can be made of it.
    """
    state = _fingerprint(work)
    try:
        before = json.loads((work / FAILURE).read_text())
    except (OSError, ValueError):
        before = None
    if before == state:
        log.warning("job %s: the same saved state failed twice; its work is removed (%s)", job.id, error)
        shutil.rmtree(work, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        (work / FAILURE).write_text(json.dumps(state))


def _fingerprint(work: Path) -> str:
    """A hash of the names, sizes and times of what is saved: segments and the engine's state."""
    described = []
    for path in sorted(work.rglob("*")):
        if path.suffix in (".mp4", ".safetensors") and path.parent.name != RESULT and path.is_file():
            status = path.stat()
            described.append((path.name, status.st_size, status.st_mtime_ns))
    return hashlib.sha256(repr(described).encode()).hexdigest()


def make_segments(
    job: RenderJob,
    engine: Engine,
    checkpoint: Path | None,
    uploads: Uploads,
    work: Path,
    report: Reporter,
    loras: tuple[Lora, ...] = (),
) -> list[Path]:
    """The result as video files, in order: the source if there is one, then a file for each of the plan's segments.

    Raises as `render_job` does; then those that are whole stay in `work`.
    """
    plan = job.plan
    size = {"fps": plan.fps, "width": plan.width, "height": plan.height}
    segments = [work / f"{number:03}.mp4" for number in range(len(plan.segments))]
    made = next((number for number, path in enumerate(segments) if not path.is_file()), len(segments))
    before = [work / SOURCE] if job.request.video else []
    if before and not before[0].is_file():
        write_segment(before[0], _source(job, uploads, report), **size)
    if made == len(segments):
        return before + segments
    first_frame = plan.segments[made][0]
    task = Task(job.request, plan, read_inputs(job, uploads), checkpoint, work, first_frame, loras)
    ready = plan.source_frames + first_frame - plan.prefix_frames if (work / PARTIAL_VIDEO).exists() else 0

    def watch(at: Report) -> None:
        if at.preview is not None:
            size = plan.width, plan.height
            part = max(at.preview.shape[1:3]) / max(size)
            preview = fit_frames(at.preview, *(round(part * side) for side in size))
            write_preview(work / PREVIEW, preview, len(preview) / PREVIEW_S)
        if at.runtime is not None:
            (work / RUNTIME).write_text(json.dumps(at.runtime))
        report(replace(at, preview=None, runtime=None, frames_ready=ready))

    device = "cuda" if plan.on_gpu else "cpu"
    with contextlib.closing(_Cut(plan, engine.render(task, watch), first_frame)) as frames:
        for number, (start, stop) in enumerate(plan.segments[made:], start=made):
            finished = apply_steps(frames.read(stop - start), plan.finishing_steps, device)
            chunks = _watch_for_poster(plan, finished, start, work / THUMBNAIL)
            write_segment(segments[number], chunks, **size)
            if len(segments) > 1:
                join_segments(work / PARTIAL_VIDEO, before + segments[: number + 1], recipe={}, title=job.title)
                ready = plan.source_frames + stop - plan.prefix_frames
    return before + segments


def already_made(job: Job, settings: Settings) -> Artifact | None:
    """The video of an attempt that was published whole, and whose process died before it could write the row."""
    try:
        artifact = from_dict(Artifact, metadata_recipe(settings.outputs / job.id)["artifact"])
    except (StudioError, KeyError, ValidationError):
        return None
    own = f"outputs/{job.id}/{VIDEO}"
    return artifact if artifact.video == own and (settings.data / own).is_file() else None


def read_inputs(job: RenderJob, uploads: Uploads) -> Inputs:
    """The pictures and the end of the source, fitted to the delivered size and then to the one that the model draws, so
    that what comes back through the step `fit` lies exactly on what was shown before.
    """
    request, plan = job.request, job.plan

    def picture(upload_id: str | None) -> Picture | None:
        if upload_id is None:
            return None
        shown = read_image(uploads.file(upload_id), plan.width, plan.height, request.fit, request.crop_position)
        return fit_back(shown, plan.render_width, plan.render_height)

    prefix = None
    if request.video:
        chunks = read_frames(
            uploads.file(request.video),
            fps=plan.fps,
            width=plan.width,
            height=plan.height,
            fit=request.fit,
            position=request.crop_position,
            start=plan.source_frames - plan.prefix_frames,
            stop=plan.source_frames,
        )
        shown = _joined(chunks, plan.prefix_frames)
        prefix = np.stack([fit_back(frame, plan.render_width, plan.render_height) for frame in shown])
    return Inputs(image=picture(request.image), end_image=picture(request.end_image), prefix=prefix)


def _source(job: RenderJob, uploads: Uploads, report: Reporter) -> Iterator[Frames]:
    """The video that is extended, which the result begins with."""
    plan, done = job.plan, 0
    assert job.request.video is not None
    chunks = read_frames(
        uploads.file(job.request.video),
        fps=plan.fps,
        width=plan.width,
        height=plan.height,
        fit=job.request.fit,
        position=job.request.crop_position,
        stop=plan.source_frames,
    )
    for chunk in chunks:
        done += len(chunk)
        report(Report(Stage.LOADING, done / plan.source_frames))
        yield chunk


class _Cut:
    """Cuts the stream of an engine, which begins at the rendered frame `first`, into segments."""

    def __init__(self, plan: Plan, rendered: Iterator[Frames], first: int) -> None:
        self._plan = plan
        self._rendered = rendered
        self._at = first
        self._rest = np.empty((0, plan.render_height, plan.render_width, 3), np.uint8)

    def read(self, count: int) -> Iterator[Frames]:
        """The next `count` frames. Raises RenderFailed where the engine has no more."""
        plan = self._plan
        while count:
            if not len(self._rest):
                chunk = next(self._rendered, None)
                if chunk is None:
                    raise RenderFailed(
                        f"{plan.model_title} made {self._at} frames of {plan.decoded_frames};",
                        hint="retry, or choose another model.",
                    )
                self._rest = chunk
            piece, self._rest = self._rest[:count], self._rest[count:]
            count -= len(piece)
            self._at += len(piece)
            if len(piece):
                yield piece

    def close(self) -> None:
        """End the engine's render."""
        if isinstance(self._rendered, Generator):
            self._rendered.close()


def _watch_for_poster(plan: Plan, chunks: Iterator[Frames], start: int, path: Path) -> Iterator[Frames]:
    """Write the poster's frame as it passes: the one a third into what is new."""
    wanted = plan.prefix_frames + plan.new_frames // 3 - start
    for chunk in chunks:
        if 0 <= wanted < len(chunk):
            write_poster(path, chunk[wanted])
        wanted -= len(chunk)
        yield chunk


def _open_work(work: Path, versions: object) -> Path:
    """The folder that the video grows in. What other versions of the libraries left there is thrown away."""
    for old, new in NAMES_OF_0_1.items():
        if (work / old).exists() and not (work / new).exists():
            (work / old).rename(work / new)
    environment = work / ENVIRONMENT
    stamp = json.dumps(versions, sort_keys=True).encode()
    try:
        same = environment.read_bytes() == stamp
    except OSError:
        same = False
    if not same:
        if work.exists() and not work.is_dir():
            work.unlink()
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        environment.write_bytes(stamp)
    for spoiled in work.glob("*.mp4"):
        if spoiled.is_dir():
            shutil.rmtree(spoiled)
    return work


@contextlib.contextmanager
def _stopwatch(path: Path, report: Reporter) -> Iterator[tuple[Reporter, Callable[[], dict[Stage, float]]]]:
    """`report`, and a function that returns the seconds of each stage, in all attempts: those that a call of `report`
    held the render do not count, and those of an attempt that was killed or found the disk full are lost.
    """
    seconds = _read_timings(path)
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


def _read_timings(path: Path) -> dict[Stage, float]:
    try:
        found = {Stage(stage): float(seconds) for stage, seconds in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return found if all(0 <= seconds < math.inf for seconds in found.values()) else {}


def _read_runtime(path: Path) -> dict[str, str]:
    try:
        return {str(what): str(by) for what, by in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _publish(
    job: RenderJob,
    segments: list[Path],
    recipe: dict[str, object],
    settings: Settings,
    taken: Callable[[], dict[Stage, float]],
) -> Artifact:
    """Join the segments and put the video, its poster and its sidecar in their place."""
    plan = job.plan
    work = segments[0].parent
    result = work / RESULT
    result.mkdir(parents=True, exist_ok=True)
    join_segments(result / VIDEO, segments, recipe=recipe, title=job.title)
    if not (work / THUMBNAIL).is_file():
        _write_poster_of(plan, result / VIDEO, work / THUMBNAIL)
    shutil.copy(work / THUMBNAIL, result / THUMBNAIL)
    if plan.draft_steps is not None:
        keep_state(work, result)
    stage_s = {stage: round(seconds, 3) for stage, seconds in taken().items()}
    made = {"render_s": round(sum(stage_s.values()), 3), "stage_s": stage_s, "runtime": _read_runtime(work / RUNTIME)}
    artifact = Artifact.of(job.id, plan, (result / VIDEO).stat().st_size, **made)
    write_metadata(result, recipe | {"artifact": as_json(artifact)})
    file = plan.delivered
    expect = MediaInfo("video", file.width, file.height, file.frames, file.fps)
    publish(result, settings.outputs, job.id, expect=expect)
    return artifact


def _write_poster_of(plan: Plan, video: Path, path: Path) -> None:
    """The poster from the finished video, where the one that was written on the way is lost."""
    wanted = plan.source_frames + plan.new_frames // 3
    size = {"fps": plan.fps, "width": plan.width, "height": plan.height}
    with contextlib.closing(read_frames(video, **size, fit=Fit.CROP, start=wanted)) as frames:
        write_poster(path, next(frames)[0])


def _joined(chunks: Iterator[Frames], frames: int) -> Frames:
    joined = np.concatenate(list(chunks))
    if len(joined) != frames:
        raise RenderFailed(
            f"The source gave {len(joined)} of its last {frames} frames;", hint="upload the video again."
        )
    return joined
