"""Gallery: every finished video as a poster; search, favourites, trash."""

from __future__ import annotations

import math
from collections.abc import Container

import streamlit as st

from backend.jobs.job import Job, JobState
from backend.jobs.store import Filter
from ui.cards import CREATE, action, video_card
from ui.studio import attempt, header, poll_s, queue_version, redraw, studio
from ui.theme import empty_stage
from ui.words import age, escape_markdown, shortened

PER_PAGE = 24
MODES = {
    "": "All modes",
    "text_to_video": "Text to video",
    "image_to_video": "Image to video",
    "video_extension": "Extended",
}


def _from_address(field: str, allowed: Container[str] | None = None) -> None:
    """Fill a filter from the address, when the page is opened with it."""
    value = st.query_params.get(field)
    if value and field not in st.session_state and (allowed is None or value in allowed):
        st.session_state[field] = value


def _to_address(**fields: str | None) -> None:
    """Keep the filters in the address. Widgets bound to query parameters would keep the user from leaving the page."""
    for field, value in fields.items():
        if value:
            st.query_params[field] = value
        elif field in st.query_params:
            del st.query_params[field]


def filters() -> Filter:
    """The row of filters; the address keeps them, so a search can be bookmarked."""
    words, mode, model, marks = st.columns([4, 2, 2, 3], vertical_alignment="bottom")
    _from_address("search")
    _from_address("mode", MODES)
    search = words.text_input("Search", key="search", placeholder="Search prompts", icon=":material/search:")
    chosen_mode = mode.selectbox("Mode", list(MODES), format_func=MODES.__getitem__, key="mode")
    _to_address(search=search, mode=chosen_mode)
    titles = {spec.id: spec.title for spec in studio().models()}
    models = {"": "All models"} | {t.model: titles.get(t.model, t.model) for t in studio().model_stats()}
    chosen_model = model.selectbox("Model", list(models), format_func=models.__getitem__, key="model")
    with marks:
        shown = st.pills("Show", ["Favourites", "Trash"], key="shown", label_visibility="collapsed")
    return Filter(
        states=() if shown == "Trash" else (JobState.SUCCEEDED,),
        kind=None if shown == "Trash" else "render",
        search=search or "",
        mode=chosen_mode or None,
        model=chosen_model or None,
        favourite=shown == "Favourites",
        trashed=shown == "Trash",
    )


def grid(wanted: Filter) -> None:
    count = studio().count(wanted)
    if not count:
        nothing(wanted)
        return
    pages = math.ceil(count / PER_PAGE)
    bar, number = st.columns([3, 2], vertical_alignment="center")
    with bar.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{count} video{'s' if count > 1 else ''}", width="content")
        if wanted.trashed and st.button(
            "Empty the trash", icon=":material/delete_forever:", type="tertiary", key="empty"
        ):
            empty_dialog()
    page = 1
    if pages > 1:
        with number:
            page = st.pagination(pages, key=f"page_{hash(wanted)}")
    videos = studio().jobs(wanted, limit=PER_PAGE, offset=PER_PAGE * (page - 1))
    with st.grid(min_column_width=230, gap="medium", key="videos"):
        for job in videos:
            if wanted.trashed:
                trashed_card(job)
            else:
                video_card(job, "gallery")


def trashed_card(job: Job) -> None:
    with st.container(border=True, key=f"trash_{job.id}"):
        st.markdown(escape_markdown(shortened(job.title, 60)))
        st.caption(f"deleted {age(job.trashed_at or 0)}, kept for a week")
        action("Restore", ":material/undo:", job, studio().restore)


@st.dialog("Empty the trash")
def empty_dialog() -> None:
    count = studio().count(Filter(trashed=True))
    what = "Its one entry is" if count == 1 else f"Its {count} entries are"
    st.write(f"{what} removed for good, with videos and recipes. There is no undo.")
    sure = st.button("Remove for good", icon=":material/delete_forever:", type="primary", key="really_empty")
    if sure and attempt(studio().empty_trash):
        st.session_state.pop("just_deleted", None)
        st.rerun()


def nothing(wanted: Filter) -> None:
    if wanted.trashed:
        st.html(empty_stage("The trash is empty", "Deleted videos stay here for a week."))
    elif wanted.search or wanted.mode or wanted.model or wanted.favourite:
        st.html(empty_stage("No matching videos", "Use fewer words or clear the filters."))
    else:
        st.html(empty_stage("No videos yet", "Finished videos are kept here, with their recipes."))
        if st.button("Create the first video", icon=":material/movie:", type="primary", key="to_create"):
            st.switch_page(CREATE)


def undo_bar() -> None:
    """After a deletion: a button that undoes it, until the next video is deleted."""
    job_id = st.session_state.get("just_deleted")
    if not job_id:
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="undo"):
        st.markdown("Moved to trash.")
        if st.button("Undo", icon=":material/undo:", type="tertiary", key="undo_delete"):
            attempt(lambda: studio().restore(job_id))
            st.session_state.pop("just_deleted", None)
            st.rerun()


def watch() -> None:
    """Redraw the page when a video was finished; the posters themselves are not polled."""
    version = queue_version()

    @st.fragment(run_every=poll_s())
    def poll() -> None:
        if queue_version() != version:
            redraw()

    poll()


header("Gallery", "Every video that was made here, with its recipe.")
undo_bar()
grid(filters())
watch()
