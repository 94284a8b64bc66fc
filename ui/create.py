"""Create: the form of a request on the left, progress and the latest videos on the right."""

from __future__ import annotations

import contextlib
import json
import time

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.core.errors import NotFound, StudioError
from backend.core.inputs import INPUTS, placeholders
from backend.core.plan import Forecast, Plan, steps_in_words
from backend.core.registry import SYNTHETIC, TINY, ModelSpec
from backend.core.schema import GenerationRequest, Mode, parse_request
from backend.jobs.job import Job
from ui import form
from ui.cards import progress_card, video_card, video_dialog
from ui.fields import request_column
from ui.studio import (
    header,
    jobs_ahead,
    latest_videos,
    media_url,
    partial_video,
    partial_video_url,
    poll_s,
    queue_version,
    redraw,
    studio,
)
from ui.theme import empty_stage
from ui.words import duration, escape_markdown, shortened

DOUBLE_CLICK_S = 3.0
BUNDLED_MODELS = {
    TINY.id: "You are using SkyReels V2 Tiny, a demo model that knows ten subjects in eight colours "
    "and renders at 160x96",
    SYNTHETIC.id: "Videos are placeholders, a test pattern with the prompt written into it: no AI model is used",
}


def current_model() -> ModelSpec:
    """The model that would render the form's request."""
    models = {spec.id: spec for spec in studio().models()}
    chosen = models.get(form.get("model"))
    if chosen is not None:
        return chosen
    mode = Mode(form.get("mode"))
    loras = [{"name": name} for name in form.get("loras")]
    request = GenerationRequest(
        mode=mode, prompt="-", resolution=form.get("resolution"), loras=loras, **placeholders(mode)
    )
    try:
        return studio().model_for(request)
    except StudioError:  # a LoRA that was removed: the plan shows the error
        return studio().model_for(request.model_copy(update={"loras": ()}))


def first_step(error: StudioError) -> str:
    """What is still to be filled in, if that is the reason of `error`; else an empty string."""
    steps = {"prompt": "write a prompt"} | {row.name: f"add {row.kind.noun}" for row in INPUTS.values()}
    return steps[error.field] if error.field in steps and not form.get(error.field) else ""


def plan_card(spec: ModelSpec) -> None:
    """The plan of the form's request, or why it is refused."""
    with st.container(border=True, key="plan"):
        try:
            plan = studio().plan(parse_request(form.request_fields(spec)))
        except StudioError as error:
            if step := first_step(error):
                st.caption(f":material/route: The plan appears here once you {step}.")
            else:
                st.markdown(f":material/error: {escape_markdown(form.worded(error))}")
            return
        st.markdown(f":material/route: **Plan** {escape_markdown(plan_words(plan))}")
        forecast = plan.forecast
        peak = f"{forecast.peak_gib:.1f}" if forecast.peak_gib >= 0.1 else "less than 0.1"
        cost = f"uses {peak} GiB of memory · file up to {max(1, round(forecast.disk_bytes / 1e6))} MB"
        st.markdown(f":material/timer: **about {duration(forecast.total_s)}**{range_words(forecast)} · {cost}")
        for note in plan.notes:
            st.caption(f":material/info: {escape_markdown(note)}")
        needed = forecast.peak_gib
        machine = studio().free_machine
        room = machine.vram_gib if machine.has_gpu else machine.ram_gib
        if needed > room:
            st.markdown(f":material/warning: {plan.model_title} needs {needed:.0f} GiB; {room:.0f} are free.")


def range_words(forecast: Forecast) -> str:
    """The range of a forecast that is learned from few renders; empty once enough are known."""
    if forecast.low_s is None or forecast.high_s is None:
        return ""
    return f" ({duration(forecast.low_s)} to {duration(forecast.high_s)})"


def plan_words(plan: Plan) -> str:
    windows = f"{len(plan.windows)} window" + ("s" if len(plan.windows) > 1 else "")
    rendered, delivered = f"{plan.render_width}x{plan.render_height}", f"{plan.width}x{plan.height}"
    steps = steps_in_words(plan.window_steps, plan.num_evaluated_steps)
    frames = f"{plan.num_frames} frames"
    if plan.render_frames != plan.num_frames:
        frames += f" ({plan.render_frames} rendered)"
    parts = [windows, steps, frames]
    if plan.source_frames:
        parts.append(f"after {plan.source_frames} frames of your video, {duration(plan.total_s)} in all")
    if rendered == delivered:
        parts.append(delivered)
    else:
        parts.append(f"{rendered} {'upscaled' if plan.enlarged else 'cropped'} to {delivered}")
    return " · ".join(parts)


def generate_button(spec: ModelSpec, place: DeltaGenerator) -> None:
    if st.button(
        "Generate",
        type="primary",
        icon=":material/play_arrow:",
        width="stretch",
        shortcut="Ctrl+Enter",
        key="generate",
    ):
        submit(spec, place)


def submit(spec: ModelSpec, place: DeltaGenerator) -> None:
    """Queue the form's request once: the second click of a double click is ignored. A refusal is shown in `place`,
    instead of the plan.
    """
    fields = form.request_fields(spec)
    submitted = json.dumps(fields, sort_keys=True)
    last_submitted, last_time = st.session_state.get("last_submit", ("", 0.0))
    if submitted == last_submitted and time.monotonic() - last_time < DOUBLE_CLICK_S:
        return
    before = jobs_ahead()
    try:
        queue_request(parse_request(fields))
    except StudioError as error:
        step = first_step(error)
        place.error(
            f"{step.capitalize()} first." if step else escape_markdown(form.worded(error)), icon=":material/error:"
        )
        return
    st.session_state["last_submit"] = (submitted, time.monotonic())
    if studio().queue_paused:
        message = "Queued; the queue is paused"
    else:
        message = f"Queued as number {before + 1}" if before else "Started"
    st.toast(message, icon=":material/movie:")
    st.rerun()


def queue_request(request: GenerationRequest) -> None:
    """Queue the request with the job that it was made from: the edited one, which it replaces, or the extended one.

    Raises StudioError.
    """
    if replaced := st.session_state.get("replaces"):
        with contextlib.suppress(NotFound):  # it may have been deleted in another tab
            studio().submission.replace(replaced, request)
            st.session_state.pop("replaces")
            with contextlib.suppress(StudioError):
                studio().delete(replaced)
            return
        st.session_state.pop("replaces")
    extended = st.session_state.get("extended", {})
    is_extension = request.video and request.video == extended.get("video")
    studio().submit(request, parent=extended["parent"] if is_extension else None)


def replacing() -> None:
    """While a queued video is edited: the note that Generate replaces it, and a button that cancels the edit."""
    if not (job_id := st.session_state.get("replaces")):
        return
    with st.container(horizontal=True, vertical_alignment="center", key="replacing"):
        st.caption(":material/edit: You are editing a queued video. Generate replaces it.")
        if st.button("Cancel edit", key="keep_original", type="tertiary"):
            st.session_state.pop("replaces")
            with contextlib.suppress(StudioError):
                studio().resume(job_id)
            st.rerun()


def stage_column(spec: ModelSpec) -> None:
    """The running job, with its partial video once there is one; the latest video, playing; four earlier ones."""
    videos = latest_videos(5)
    running, ready = partial_video()
    progress_first = running is None and bool(studio().active(limit=1))  # above the latest video
    if progress_first:
        progress_section()
    if running:
        with st.container(key=f"stage_{running.id}_{ready}"):
            first_seconds(running, ready)
    elif videos:
        with st.container(key=f"stage_{videos[0].id}"):
            latest_video(videos.pop(0))
    else:
        with st.container(key="stage_empty"):
            st.html(
                empty_stage("Your video appears here", "Pick a prompt on the left, or write one, and press Generate.")
            )
    if not progress_first:
        progress_section()
    if spec.id in BUNDLED_MODELS:
        st.caption(f":material/info: {BUNDLED_MODELS[spec.id]}{selection_reason(spec)}")
    if videos:
        st.header("Latest")
        for column, job in zip(st.columns(4), videos, strict=False):
            with column:
                video_card(job, "latest")


def selection_reason(spec: ModelSpec) -> str:
    """Why a bundled model was selected, and how to get another one."""
    if form.get("model") == spec.id:
        return ", as chosen under Details."
    if not studio().machine.has_torch:
        return ". AI models need torch, which cannot be loaded here; python3 setup.py repairs it."
    if all(model.id in BUNDLED_MODELS for model in studio().models()):
        return ". For realistic video, download a full model on the Models page, or put a checkpoint into models/."
    return ". Automatic only picks models that fit your GPU. Pick one under Details to override."


def first_seconds(job: Job, ready: int) -> None:
    """A player with the partial video, the first `ready` frames of a running job."""
    try:
        st.video(partial_video_url(job, ready), autoplay=True, loop=True, muted=True, alt=job.title)
    except StudioError:
        st.html(empty_stage("Loading the finished video", "This takes a moment."))
        return
    fps, title = job.plan.fps, escape_markdown(shortened(job.title, 80))
    st.caption(f"The first {ready / fps:.1f} s of {job.plan.total_s:.1f} s · {title}")


def latest_video(job: Job) -> None:
    try:
        st.video(media_url(job), autoplay=True, loop=True, muted=True, alt=job.title)
    except StudioError as error:
        st.html(empty_stage("This video's files are missing", error.message))
        return
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="stage_row"):
        summary = f"{shortened(job.title, 80)} · {job.plan.model_title} · seed {job.request.seed}"
        st.caption(escape_markdown(summary), width="content")
        if st.button("Open", icon=":material/open_in_full:", type="tertiary", key="open_stage"):
            video_dialog(job.id)


def stage_version() -> tuple[object, ...]:
    """Changes when the stage must play another video or a longer partial one. The player itself is not polled."""
    return (*queue_version(), partial_video()[1])


def progress_section() -> None:
    version = stage_version()

    @st.fragment(run_every=poll_s())
    def now() -> None:
        if stage_version() != version:
            redraw()
        active = studio().active(limit=1)
        if active:
            progress_card(active[0])
            more = len(studio().queue()) - 1
            if more:
                st.caption(f"{more} more waiting")
        if studio().queue_paused:
            with st.container(horizontal=True, vertical_alignment="center", key="paused_note"):
                st.caption(":material/pause: Queue paused: nothing new will start.")
                st.button("Resume the queue", key="resume_here", on_click=studio().pause_queue, args=(False,))

    now()


form.prepare()
spec = current_model()
header("Create", "Describe a video. It is rendered on this machine and stays here.", spec.title)
left, right = st.columns([41, 59], gap="large")
with left:
    request_column(spec)
    place = st.empty()
    with place.container():
        plan_card(spec)
    replacing()
    generate_button(spec, place)
with right:
    stage_column(spec)
