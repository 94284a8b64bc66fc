"""The studio as the pages see it: the one generator, the addresses of films, what this tab has seen."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from backend import web
from backend.core.errors import StudioError
from backend.core.schema import Fit
from backend.jobs.job import Job, JobState
from backend.jobs.kinds.render import PREVIEW_S
from backend.jobs.store import Filter
from backend.media.uploads import Upload
from backend.video_generator import VideoGenerator, shared_generator
from ui.theme import band
from ui.words import escape_markdown

BUSY_POLL_S = 1.0
IDLE_POLL_S = 5.0
POLLS_A_SECOND = 4  # of all pages together; each takes the thread that renders some hundredths of a second
OPEN_S = 60.0  # a page that has not looked for so long is closed

_looked: dict[str, float] = {}  # when each open page did, by its session


def studio() -> VideoGenerator:
    """The process's generator, which the REST API holds too. Raises StudioBusy if another process owns the folder."""
    return shared_generator()


def media_url(job: Job, name: str = "video.mp4") -> str:
    """Where the page finds a film's video or `thumbnail.jpg`: our range-serving route, or the file itself under
    `streamlit run app.py` alone. Raises NotFound if it is gone.
    """
    file = studio().results.file(job.id, name)
    return f"/app/static/media/{job.id}/{name}" if web.serving else str(file)


def preview_picture_url(job: Job) -> str | None:
    """Where the page finds the preview of what is being made; a new address with each one, None before the first."""
    try:
        file = studio().results.preview(job.id)
        version = int(file.stat().st_mtime / PREVIEW_S)
    except (StudioError, FileNotFoundError):
        return None
    return f"/app/static/media/{job.id}/{file.name}?v={version}" if web.serving else str(file)


def film_so_far() -> tuple[Job | None, int]:
    """The film that is being made, and how many of its first frames can be played; (None, 0) before there are any."""
    for job in studio().active(limit=1):
        ready = job.progress.frames_ready if job.progress else 0
        with contextlib.suppress(StudioError):
            if ready and studio().results.partial_video(job.id):
                return job, ready
    return None, 0


def so_far_url(job: Job, ready: int) -> str:
    """Where the page finds the first `ready` frames of a film that is being made. Raises NotFound if they are gone."""
    file = studio().results.partial_video(job.id)
    return f"/app/static/media/{job.id}/partial.mp4?v={ready}" if web.serving else str(file)


def preview_url(upload: Upload, width: int, height: int, fit: str) -> str:
    """A picture of an upload as the model will see it."""
    if web.serving:
        return f"/app/static/uploads/{upload.id}/preview.jpg?width={width}&height={height}&fit={fit}"
    return str(studio().uploads.preview(upload.id, width, height, Fit(fit)))


def attempt(act: Callable[[], object]) -> bool:
    """Do what a button is for; a refusal is a toast. Whether it was done."""
    try:
        act()
    except StudioError as error:
        st.toast(escape_markdown(str(error)), icon=":material/error:")
        return False
    return True


def on_click(act: Callable[[], object]) -> None:
    """`attempt` as the callback of a button, of which Streamlit expects no result."""
    attempt(act)


def header(title: str, sentence: str, model: str | None = None) -> None:
    """The band on top of a page: its name, one sentence, and chips for model, device and queue."""
    waiting = len(studio().queue())
    queue = f"{waiting} in the queue" if waiting else "queue is empty"
    chips = [model] if model else []
    with st.container(key="band"):
        st.html(band(title, sentence, [*chips, studio().machine.device, queue]))


def poll_s() -> float:
    """How often a page should look: every second while something renders, else every five; where more than a few pages
    are open, less often.
    """
    usual = BUSY_POLL_S if studio().queue() else IDLE_POLL_S
    share = open_pages() / POLLS_A_SECOND
    # In powers of two: a page is drawn anew when it is to look more or less often.
    return max(usual, min(2.0 ** math.ceil(math.log2(share)), OPEN_S / 2))


def open_pages() -> int:
    """How many pages look at the studio, with the one that asks."""
    now, context = time.monotonic(), get_script_run_ctx()
    _looked[context.session_id if context else ""] = now
    for session, looked in list(_looked.items()):
        if now - looked > OPEN_S:
            _looked.pop(session, None)
    return len(_looked)


def latest_films(count: int) -> list[Job]:
    return studio().jobs(Filter(states=(JobState.SUCCEEDED,), kind="render", last_ended_first=True), limit=count)


def before_a_new_job() -> int:
    """How many jobs would be rendered before one that is submitted now; held ones are passed over."""
    return sum(state in ("running", "queued") for _, state in studio().queue())


def queue_mark() -> tuple[object, ...]:
    """Changes when a job comes, moves on or ends, not with mere progress: pages that show films redraw then. And when
    they are to look more or less often.
    """
    latest = latest_films(1)
    return (*studio().queue(), latest[0].id if latest else None, poll_s())


def film_news() -> str:
    """What the tab's title says: "Film ready" once after a film of this tab's time was finished."""
    try:
        films = latest_films(1)
    except StudioError:  # the page itself shows why there is no studio
        return ""
    newest = films[0].id if films else ""
    seen = st.session_state.setdefault("newest_film", newest)
    st.session_state["newest_film"] = newest
    return "Film ready" if newest and newest != seen else ""
