"""Gallery: every finished video, collections and the trash; one video large, two side by side."""

from __future__ import annotations

import streamlit as st

from ui.components import component
from ui.studio import CREATE, studio

# As wide as the window, below the row of pages.
STYLE = """<style>
.stMainBlockContainer:has(.st-key-gallery) { max-width: none; padding: 55px 0 0; }
.stMainBlockContainer:has(.st-key-gallery) > [data-testid="stVerticalBlock"] { gap: 0; }
</style>"""

gallery = component("gallery", "player", "shelf", "menu", "notice")


def model_titles() -> dict[str, str]:
    """The models that have made a video here, by id."""
    titles = {spec.id: spec.title for spec in studio().models()}
    return {stats.model: titles.get(stats.model, stats.model) for stats in studio().model_stats() if stats.succeeded}


st.html(STYLE)
with st.container(key="gallery", gap=None):
    shown = gallery(key="gallery_component", data={"models": model_titles()}, on_create_change=lambda: None)
if shown.create is not None:
    st.switch_page(CREATE)
