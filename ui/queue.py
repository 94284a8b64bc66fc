"""Queue: the running job, the waiting ones in their order, and those that need attention."""

from __future__ import annotations

import functools
import time

import streamlit as st

from backend.jobs.job import RETRIABLE, Job, JobState
from backend.jobs.store import Filter
from ui import form
from ui.cards import CREATE, action, progress_card
from ui.studio import attempt, header, on_click, poll_s, queue_version, studio
from ui.theme import empty_stage
from ui.words import age, clock, duration, escape_markdown, shortened

SHOWN = 30  # waiting jobs on the page; the rest are counted


def queue_bar(active: list[Job], more: int) -> None:
    """Pause or resume the whole queue, and when all will be done."""
    paused = studio().queue_paused
    with st.container(horizontal=True, vertical_alignment="center", key="queue_bar"):
        label, icon = (
            ("Resume the queue", ":material/play_arrow:") if paused else ("Pause the queue", ":material/pause:")
        )
        flip = functools.partial(studio().pause_queue, not paused)
        st.button(label, icon=icon, key="queue_switch", on_click=on_click, args=(flip,))
        if paused:
            st.caption("Paused. The current job will finish; then nothing starts.")
        elif active and not more and all(job.state is not JobState.PAUSED and not job.error for job in active):
            st.caption(f"All done at about {clock(time.time() + sum(seconds_left(job) for job in active))}")


def seconds_left(job: Job) -> float:
    progress = job.progress
    return progress.eta_s if progress and progress.eta_s is not None else job.plan.forecast.total_s


def waiting_row(job: Job, place: int, last: int) -> None:
    with st.container(border=True, key=f"job_{job.id}"):
        words, buttons = st.columns([3, 2], vertical_alignment="center")
        words.markdown(f"**{place}** · {escape_markdown(shortened(job.title, 80))}")
        if job.error:
            words.markdown(escape_markdown(job.error.message))
        words.caption(summary(job))
        with buttons.container(horizontal=True, horizontal_alignment="right", gap="xsmall"):
            move("Next", ":material/vertical_align_top:", job, None, disabled=place == 1)
            move("Up", ":material/arrow_upward:", job, -1, disabled=place == 1)
            move("Down", ":material/arrow_downward:", job, 1, disabled=place == last)
            action("Pause", ":material/pause:", job, studio().pause)
            if job.kind == "render" and st.button(
                "Edit", icon=":material/edit:", key=f"edit_{job.id}", type="tertiary"
            ):
                edit(job)
            action("Remove", ":material/close:", job, studio().cancel)


def move(label: str, icon: str, job: Job, places: int | None, *, disabled: bool) -> None:
    action(label, icon, job, lambda job_id: studio().move(job_id, places), disabled=disabled)


def summary(job: Job) -> str:
    if job.kind != "render" or job.state is JobState.UNREADABLE:
        return f"{job.kind} · about {duration(job.plan.forecast.total_s)} · queued {age(job.created_at)}"
    plan = job.plan
    return (
        f"{plan.width}x{plan.height} · {plan.num_frames} frames · {plan.model_title}"
        f" · about {duration(plan.forecast.total_s)} · queued {age(job.created_at)}"
    )


def edit(job: Job) -> None:
    """Pause a waiting job and open its request on the Create page, where Generate replaces it."""
    if attempt(lambda: studio().pause(job.id)):
        form.edit(job.id, job.request, job.plan)
        st.switch_page(CREATE)


def ended_row(job: Job) -> None:
    with st.container(border=True, key=f"job_{job.id}"):
        words, buttons = st.columns([3, 1], vertical_alignment="center")
        words.markdown(f"**{job.state.value.capitalize()}** · {escape_markdown(shortened(job.title, 80))}")
        if job.error:
            words.markdown(escape_markdown(job.error.message))
        words.caption(summary(job))
        if job.error and job.error.log:
            with st.expander("The end of its log"):
                st.code("\n".join(job.error.log), language=None, wrap_lines=True)
        with buttons.container(horizontal=True, horizontal_alignment="right", gap="xsmall"):
            if job.state in RETRIABLE:
                action("Retry", ":material/refresh:", job, studio().retry)
            action("Remove", ":material/close:", job, studio().delete)


def sections() -> None:
    active = studio().active(limit=SHOWN)
    more = len(studio().queue()) - len(active)
    queue_bar(active, more)
    for job in active:
        if job.state is not JobState.QUEUED:
            progress_card(job)
    waiting = [job for job in active if job.state is JobState.QUEUED]
    if waiting:
        st.header(f"Waiting ({len(waiting) + more})")
        for place, job in enumerate(waiting, start=1):
            waiting_row(job, place, len(waiting) + more)
        if more:
            st.caption(f"and {more} more")
    stopped = studio().jobs(Filter(states=(JobState.FAILED, JobState.QUARANTINED, JobState.UNREADABLE)), limit=20)
    if stopped:
        st.header("Needs attention")
        for job in stopped:
            ended_row(job)
    cancelled = studio().jobs(Filter(states=(JobState.CANCELLED,), ended_since=time.time() - 86400), limit=10)
    if cancelled:
        st.header("Cancelled today")
        for job in cancelled:
            ended_row(job)
    if not active and not stopped and not cancelled:
        st.html(empty_stage("The queue is empty", "Videos that you start on the Create page wait here."))
        if st.button("Create a video", icon=":material/movie:", type="primary", key="to_create"):
            st.switch_page(CREATE)


def poll() -> None:
    version = queue_version()

    @st.fragment(run_every=poll_s())
    def queue() -> None:
        if queue_version() != version:
            st.rerun()  # redraws the chip in the header and sets the polling rate
        sections()

    queue()


header("Queue", "Jobs run one at a time, top to bottom.")
poll()
