"""Create: left the request, right the stage."""

from __future__ import annotations

import contextlib
import json
import time

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.core.errors import StudioError
from backend.core.inputs import INPUTS, placeholders
from backend.core.planning import Plan, steps_in_words
from backend.core.registry import SYNTHETIC, TINY, ModelSpec
from backend.core.schema import GenerationRequest, Mode, parse_request
from backend.jobs.job import Job
from ui import form
from ui.fields import request_column
from ui.film import film_card, film_dialog, progress_card
from ui.studio import (
    before_a_new_job,
    film_so_far,
    header,
    latest_films,
    media_url,
    poll_s,
    queue_mark,
    so_far_url,
    studio,
)
from ui.theme import empty_stage
from ui.words import duration, escape_markdown, shortened

DOUBLE_CLICK_S = 1.5
CAME_WITH_THE_STUDIO = {
    TINY.id: "Films are made by SkyReels V2 Tiny, small enough for any computer: ten things in eight colours, painted "
    "at 160 x 96 pixels and enlarged",
    SYNTHETIC.id: "Films are placeholders with the prompt written into a test pattern: no AI model is used",
}


def current_model() -> ModelSpec:
    """The model that the form as it stands would use."""
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
    except StudioError:  # a LoRA that went away: the plan says so
        return studio().model_for(request.model_copy(update={"loras": ()}))


def missing(error: StudioError) -> str:
    """The first step to take, if all that `error` says is that it was not taken yet."""
    steps = {"prompt": "Write a prompt"} | {row.name: f"Drop {row.kind.noun}" for row in INPUTS.values()}
    return steps[error.field] if error.field in steps and not form.get(error.field) else ""


def plan_card(spec: ModelSpec) -> None:
    """The plan of the form as it stands, or why there is none."""
    with st.container(border=True, key="plan"):
        try:
            plan = studio().plan(parse_request(form.request_fields(spec)))
        except StudioError as error:
            if first_step := missing(error):
                st.caption(f":material/route: {first_step}, and the plan appears here.")
            else:
                st.markdown(f":material/error: {escape_markdown(form.worded(error))}")
            return
        st.markdown(f":material/route: **Plan** {escape_markdown(plan_words(plan))}")
        forecast = plan.forecast
        peak = f"{forecast.peak_gib:.1f}" if forecast.peak_gib >= 0.1 else "less than 0.1"
        cost = f"peak {peak} GiB · up to {max(1, round(forecast.disk_bytes / 1e6))} MB on disk"
        st.markdown(f":material/timer: **about {duration(forecast.total_s)}** · {cost}")
        needed = forecast.peak_gib
        machine = studio().free_machine
        room = machine.vram_gib if machine.has_gpu else machine.ram_gib
        if needed > room:
            st.markdown(f":material/warning: {plan.model_title} wants {needed:.0f} GiB, this machine has {room:.0f}.")


def plan_words(plan: Plan) -> str:
    windows = f"{len(plan.windows)} window" + ("s" if len(plan.windows) > 1 else "")
    drawn, delivered = f"{plan.render_width}x{plan.render_height}", f"{plan.width}x{plan.height}"
    steps = steps_in_words(plan.window_steps, plan.num_evaluated_steps)
    parts = [windows, steps, f"{plan.render_frames} frames made, {plan.num_frames} kept"]
    if plan.source_frames:
        parts.append(f"after {plan.source_frames} of the video, {duration(plan.total_s)} in all")
    if drawn == delivered:
        parts.append(delivered)
    else:
        parts.append(f"{drawn} {'enlarged' if plan.enlarged else 'cropped'} to {delivered}")
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
    """Queue the form's request once; a second click within a moment counts as one. Why it is refused stands in `place`,
    instead of the plan.
    """
    fields = form.request_fields(spec)
    mark = json.dumps(fields, sort_keys=True)
    last_mark, last_time = st.session_state.get("last_submit", ("", 0.0))
    if mark == last_mark and time.monotonic() - last_time < DOUBLE_CLICK_S:
        return
    before = before_a_new_job()
    try:
        request = parse_request(fields)
        extended = st.session_state.get("extended", {})
        parent = extended["parent"] if request.video and request.video == extended.get("video") else None
        studio().submit(request, parent=parent)
    except StudioError as error:
        first_step = missing(error)
        place.error(
            f"{first_step} first." if first_step else escape_markdown(form.worded(error)), icon=":material/error:"
        )
        return
    st.session_state["last_submit"] = (mark, time.monotonic())
    if replaced := st.session_state.pop("replaces", None):
        with contextlib.suppress(StudioError):  # it may have been cancelled or deleted in another tab
            studio().cancel(replaced)
            studio().delete(replaced)
    if studio().queue_paused:
        said = "Queued; the queue is paused"
    else:
        said = f"Queued, {before} before it" if before else "Started"
    st.toast(said, icon=":material/movie:")
    st.rerun()


def replacing() -> None:
    """While a waiting film is edited: that Generate replaces it, and the way back."""
    if not (job_id := st.session_state.get("replaces")):
        return
    with st.container(horizontal=True, vertical_alignment="center", key="replacing"):
        st.caption(":material/edit: Generate replaces the waiting film that you edit.")
        if st.button("Keep that one", key="keep_original", type="tertiary"):
            st.session_state.pop("replaces")
            with contextlib.suppress(StudioError):
                studio().resume(job_id)
            st.rerun()


def stage_column(spec: ModelSpec) -> None:
    """What is being made now, with its first seconds once there are any; the latest film, playing; the takes before."""
    films = latest_films(5)
    making, ready = film_so_far()
    comes_first = making is None and bool(studio().active(limit=1))  # nobody waits for a film and looks at an old one
    if comes_first:
        now_card()
    if making:
        with st.container(key=f"stage_{making.id}_{ready}"):
            first_seconds(making, ready)
    elif films:
        with st.container(key=f"stage_{films[0].id}"):
            latest_film(films.pop(0))
    else:
        with st.container(key="stage_empty"):
            st.html(
                empty_stage("Your film appears here", "Pick a prompt on the left, or write one, and press Generate.")
            )
    if not comes_first:
        now_card()
    if spec.id in CAME_WITH_THE_STUDIO:
        st.caption(f":material/info: {CAME_WITH_THE_STUDIO[spec.id]}{why(spec)}")
    if films:
        st.header("Latest")
        for column, job in zip(st.columns(4), films, strict=False):
            with column:
                film_card(job, "latest")


def why(spec: ModelSpec) -> str:
    """Why it is one of the models that came with the studio that draws, and what to do about it."""
    if form.get("model") == spec.id:
        return ", as chosen under Details."
    if not studio().machine.has_torch:
        return ": every model needs torch, which is not installed here; python3 setup.py installs it."
    if all(model.id in CAME_WITH_THE_STUDIO for model in studio().models()):
        return ": no released weights are here yet. The Models page fetches them, or put a checkpoint into models/."
    return ": Automatic takes a model only if this machine's GPU holds it. Choose one under Details to use it anyway."


def first_seconds(job: Job, ready: int) -> None:
    """The first `ready` frames of a film that is being made."""
    try:
        st.video(so_far_url(job, ready), autoplay=True, loop=True, muted=True, alt=job.title)
    except StudioError:
        st.html(empty_stage("Its first seconds are no longer here", "The page follows in a moment."))
        return
    fps, title = job.plan.fps, escape_markdown(shortened(job.title, 80))
    st.caption(f"The first {ready / fps:.1f} s of {job.plan.total_s:.1f} s · {title}")


def latest_film(job: Job) -> None:
    try:
        st.video(media_url(job), autoplay=True, loop=True, muted=True, alt=job.title)
    except StudioError as error:
        st.html(empty_stage("This film's files are gone", error.message))
        return
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="stage_row"):
        facts = f"{shortened(job.title, 80)} · {job.plan.model_title} · seed {job.request.seed}"
        st.caption(escape_markdown(facts), width="content")
        if st.button("Open", icon=":material/open_in_full:", type="tertiary", key="open_stage"):
            film_dialog(job.id)


def stage_mark() -> tuple[object, ...]:
    """Changes when another film, or more of one, is to be played: the player stands outside of what is polled."""
    return (*queue_mark(), film_so_far()[1])


def now_card() -> None:
    mark = stage_mark()

    @st.fragment(run_every=poll_s())
    def now() -> None:
        if stage_mark() != mark:
            st.rerun()
        active = studio().active(limit=1)
        if active:
            progress_card(active[0])
            more = len(studio().queue()) - 1
            if more:
                st.caption(f"{more} more waiting")
        if studio().queue_paused:
            with st.container(horizontal=True, vertical_alignment="center", key="paused_note"):
                st.caption(":material/pause: The queue is paused; no film starts.")
                st.button("Resume the queue", key="resume_here", on_click=studio().pause_queue, args=(False,))

    now()


form.prepare()
spec = current_model()
header("Create", "Describe a film. It is made on this machine, and stays here.", spec.title)
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
