"""What every page is drawn in: the tab's title, the styles, the row of pages at the top."""

from __future__ import annotations

import streamlit as st

from backend.core.config import ROOT
from backend.core.errors import StudioError
from ui.studio import studio, tab_title
from ui.theme import STYLE
from ui.words import escape_markdown


def draw_page() -> None:
    """The page that the address names; a sentence instead where the studio cannot start."""
    title = tab_title()
    st.set_page_config(
        page_title=f"{title} · Studio" if title else "AI Video Generation Studio",
        page_icon=str(ROOT / "ui" / "assets" / "icon.png"),
        layout="wide",
    )
    st.html(STYLE)
    pages = [
        st.Page("ui/create.py", title="Create", icon=":material/movie:", default=True),
        st.Page("ui/queue.py", title="Queue", icon=":material/list:"),
        st.Page("ui/gallery.py", title="Gallery", icon=":material/grid_view:"),
        st.Page("ui/models.py", title="Models", icon=":material/deployed_code:"),
        st.Page("ui/system.py", title="System", icon=":material/monitor_heart:"),
    ]
    page = st.navigation(pages, position="top")
    try:
        studio()
    except StudioError as error:
        st.error(str(error), icon=":material/block:")
        st.stop()
    if notice := studio().startup_notice:
        warning, button = st.columns([8, 1], vertical_alignment="center")
        warning.warning(escape_markdown(notice), icon=":material/healing:")
        button.button("Got it", key="notice_seen", on_click=studio().dismiss_notice)
    page.run()
