"""What all pages share: the generator, addresses of files, the header, how often to poll."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from backend.core.errors import StudioError
from backend.jobs.job import Job, JobState
from backend.jobs.store import Filter
from backend.video_generator import VideoGenerator, shared_generator
from ui.theme import title_row
from ui.words import escape_markdown

BUSY_POLL_S = 1.0
IDLE_POLL_S = 5.0
POLLS_A_SECOND = 4  # of all pages together; each poll takes some hundredths of a second from the render
OPEN_S = 60.0  # a page that has not polled for so long counts as closed

_last_polls: dict[str, float] = {}  # the last poll of each open page, by its session


def studio() -> VideoGenerator:
    """The process's generator, which the REST API holds too. Raises StudioBusy if another process owns the folder."""
    return shared_generator()


def media_url(job: Job, name: str = "video.mp4") -> str:
    """The address of a job's video or `thumbnail.jpg`. Raises NotFound if it is gone."""
    studio().results.file(job.id, name)
    return f"/app/static/media/{job.id}/{name}"


def attempt(act: Callable[[], object]) -> bool:
    """Run the action of a button and return whether it succeeded; a refusal is a toast."""
    try:
        act()
    except StudioError as error:
        st.toast(escape_markdown(str(error)), icon=":material/error:")
        return False
    return True


def on_click(act: Callable[[], object]) -> None:
    """`attempt` as the callback of a button, from which Streamlit expects no result."""
    attempt(act)


def redraw() -> None:
    """Run the page again because something has changed, unless a dialog is open: that would close it. Dialogs run the
    page again when they are dismissed.
    """
    if not st.session_state.get("dialog_open"):
        st.rerun()


def header(title: str, sentence: str) -> None:
    """The line that a page begins with: its name and one sentence."""
    st.session_state["dialog_open"] = False  # a run of the whole page closes dialogs
    st.html(title_row(title, sentence))


def poll_s() -> float:
    """Seconds between two polls of a page: one with jobs in the queue, else five; more where many pages are open."""
    usual = BUSY_POLL_S if studio().queue() else IDLE_POLL_S
    share = open_pages() / POLLS_A_SECOND
    # In powers of two, because a page is redrawn when its interval changes.
    return max(usual, min(2.0 ** math.ceil(math.log2(share)), OPEN_S / 2))


def open_pages() -> int:
    """How many pages are open, this one included."""
    now, context = time.monotonic(), get_script_run_ctx()
    _last_polls[context.session_id if context else ""] = now
    for session, polled in list(_last_polls.items()):
        if now - polled > OPEN_S:
            _last_polls.pop(session, None)
    return len(_last_polls)


def latest_videos(count: int) -> list[Job]:
    return studio().jobs(Filter(states=(JobState.SUCCEEDED,), kind="render", last_ended_first=True), limit=count)


def queue_version() -> tuple[object, ...]:
    """Changes when a job is added, changes its state or ends, and with the interval of polls, but not with progress.
    Pages that show videos redraw then.
    """
    latest = latest_videos(1)
    return (*studio().queue(), latest[0].id if latest else None, poll_s())
