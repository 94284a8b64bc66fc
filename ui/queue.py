"""Queue: the running job, the waiting ones in their order, and those that need attention."""

from __future__ import annotations

import streamlit as st

from ui.components import component
from ui.studio import CREATE, studio
from ui.theme import wide_page

GALLERY = "ui/gallery.py"
queue = component("queue", "board", "menu", "notice")

st.html(wide_page("queue"))
machine = studio().machine
with st.container(key="queue"):
    shown = queue(
        key="queue_component",
        data={"gpu_gib": machine.vram_gib or None, "memory_gib": machine.ram_gib},
        on_create_change=lambda: None,
        on_gallery_change=lambda: None,
    )
if shown.create is not None:
    st.switch_page(CREATE)
if shown.gallery is not None:
    st.switch_page(GALLERY, query_params=shown.gallery)
