"""Export in the dialog of a video: choose a format, start the job, see it end, save the file."""

from __future__ import annotations

import html

import streamlit as st

from backend.core.errors import StudioError
from backend.jobs.job import ENDED, Job
from backend.jobs.kinds.export import WIDTH, ExportRequest
from backend.jobs.store import Filter
from backend.media.export import FORMATS, ExportFormat
from ui.studio import studio
from ui.words import escape_markdown, size

POLL_S = 1.0
SHOWN = 5  # exports of one video
FRAMES = {0: "First frame", -1: "Last frame"}


def export_button(job: Job) -> None:
    """What a finished video can become."""
    if job.artifact is None:
        return
    with st.popover("Export", icon=":material/ios_share:"):
        titles = {one.value: info.title for one, info in FORMATS.items()}
        chosen = st.selectbox(
            "Format",
            list(titles),
            format_func=titles.__getitem__,
            index=list(titles).index(ExportFormat.GIF.value),
            key=f"export_format_{job.id}",
        )
        format = ExportFormat(chosen)
        width = st.number_input(
            "Width in pixels",
            min_value=WIDTH[0],
            max_value=WIDTH[1],
            value=None,
            step=2,
            placeholder=f"{job.artifact.width}, as the video",
            key=f"export_width_{job.id}",
        )
        frame = 0
        if format is ExportFormat.STILL:
            frame = st.segmented_control(
                "Frame", list(FRAMES), format_func=FRAMES.__getitem__, required=True, default=0, key=f"frame_{job.id}"
            )
        if st.button("Export", type="primary", key=f"export_{job.id}"):
            start_export(job, format, width, frame)


def start_export(job: Job, format: ExportFormat, width: int | None, frame: int) -> None:
    try:
        studio().submit(ExportRequest(job=job.id, format=format, width=width, frame=frame))
    except StudioError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")


def exports_of(job: Job) -> None:
    """The newest exports of a video; asked for again while one is on its way."""
    waiting = any(one.state not in ENDED for one in exports(job))

    @st.fragment(run_every=POLL_S if waiting else None)
    def rows() -> None:
        for one in exports(job):
            st.html(export_row(one))

    rows()


def exports(job: Job) -> list[Job]:
    return studio().jobs(Filter(kind="export", parent=job.id), limit=SHOWN)


def export_row(job: Job) -> str:
    """One line: a link once the file is there, else how far it is or why there is none."""
    title = html.escape(job.title.removeprefix("Export as "))
    if job.artifact is not None:
        made = job.artifact
        label = f"Save {title}, {made.width}x{made.height}, {size(made.bytes)}"
        return f'<a class="studio-download" href="./api/v1/jobs/{job.id}/file" download>{label}</a>'
    if job.state in ENDED:
        reason = job.error.message if job.error else job.state.value
        return f"<p>{title}: {html.escape(reason)}</p>"
    done = f", {job.progress.fraction:.0%}" if job.progress else ""
    return f"<p>{title}: {job.state.value}{done}</p>"
