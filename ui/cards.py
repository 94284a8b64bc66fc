"""Cards: a finished video as a poster, a dialog with its player, a job in progress."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from backend.core.errors import StudioError
from backend.jobs.job import Job
from ui import form
from ui.export import export_button, exports_of
from ui.studio import attempt, media_url, on_click, studio
from ui.theme import empty_stage
from ui.words import age, duration, escape_markdown, shortened, size

CREATE = "ui/create.py"


def video_card(job: Job, where: str) -> None:
    """A poster with its prompt; a click opens the dialog. `where` keeps the widget keys of two lists apart."""
    with st.container(key=f"poster_{where}_{job.id}", gap="xsmall"):
        try:
            st.image(media_url(job, "thumbnail.jpg"), width="stretch", alt=job.title)
        except StudioError:
            st.html(empty_stage("Files missing", "This video's folder was deleted outside the studio."))
        star = ":material/star: " if job.favourite else ""
        if st.button(
            f"{star}{escape_markdown(shortened(job.title, 46))}", key=f"open_{where}_{job.id}", type="tertiary"
        ):
            video_dialog(job.id)
        if job.artifact:
            length, when = duration(job.artifact.frames / job.artifact.fps), age(job.finished_at or job.created_at)
            st.caption(f"{length} · {when}  \n{escape_markdown(job.plan.model_title)}")


@st.dialog("Video", width="large", on_dismiss="rerun")
def video_dialog(job_id: str) -> None:
    """A finished video: player, how it was made, and what can be done with it."""
    st.session_state["dialog_open"] = True
    job = studio().job(job_id)
    video = job.artifact
    if video is None:
        st.write("This video is not finished.")
        return
    try:
        st.video(media_url(job), autoplay=True, loop=True, alt=job.title)
    except StudioError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")
    st.markdown(f"**{escape_markdown(job.title)}**")
    length = duration(video.frames / video.fps)
    st.caption(
        f"{video.width}x{video.height} · {video.frames} frames at {video.fps} fps · {length} · {size(video.bytes)}"
        f" · rendered by {job.plan.model_title} in {duration(video.render_s)} · seed {job.request.seed}"
    )
    with st.container(horizontal=True, key="video_actions"):
        if st.button("Use these settings", icon=":material/tune:", type="primary", key=f"use_{job_id}"):
            form.restore(job.request, job.plan, seed=job.request.seed)
            st.switch_page(CREATE)
        if st.button("Variation", icon=":material/casino:", key=f"again_{job_id}"):
            again(job)
        if st.button("Extend", icon=":material/playlist_add:", key=f"extend_{job_id}"):
            extend(job)
        label = "Remove favourite" if job.favourite else "Favourite"
        starred = st.button(label, icon=":material/star:", key=f"star_{job_id}")
        if starred and attempt(lambda: studio().set_favourite(job_id, not job.favourite)):
            st.rerun(scope="fragment")
        export_button(job)
        st.html(download_link(job))
        deleted = st.button("Delete", icon=":material/delete:", key=f"delete_{job_id}")
        if deleted and attempt(lambda: studio().delete(job_id)):
            st.session_state["just_deleted"] = job_id
            st.rerun()
    exports_of(job)
    with st.expander("Recipe"):
        st.json(
            {"request": job.request.model_dump(mode="json", exclude_defaults=True), "job": job.as_dict()}, expanded=2
        )


def download_link(job: Job) -> str:
    """A link that downloads the video without loading it into the page's memory."""
    return f'<a class="studio-download" href="./api/v1/jobs/{job.id}/video?download=true" download>Download</a>'


def again(job: Job) -> None:
    """Queue the request of a video again, with a new seed."""
    try:
        studio().submission.again(job.id)
    except StudioError as error:
        st.error(escape_markdown(form.worded(error)), icon=":material/error:")
        return
    st.switch_page(CREATE)


def extend(job: Job) -> None:
    """Open Create with this video as the one to extend."""
    try:
        request = studio().submission.extension_of(job.id)
    except StudioError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")
        return
    form.restore(request, job.plan, seed=None, parent=job.id)
    st.switch_page(CREATE)


def action(label: str, icon: str, job: Job, act: Callable[[str], object], *, disabled: bool = False) -> None:
    """A button without a frame that calls `act(job.id)`; a refusal is a toast."""
    st.button(
        label,
        icon=icon,
        key=f"{label}_{job.id}",
        type="tertiary",
        on_click=on_click,
        args=(lambda: act(job.id),),
        disabled=disabled,
    )
