"""Models: the one that suits this machine best, the installed ones, downloads, LoRAs, and what can be downloaded."""

from __future__ import annotations

import streamlit as st

from ui.components import component
from ui.studio import CREATE, studio
from ui.theme import wide_page

models = component("models", "loras", "menu", "notice")

st.html(wide_page("models"))
machine = studio().machine
with st.container(key="models"):
    shown = models(
        key="models_component",
        data={"gpu": machine.has_gpu, "memory_gib": machine.vram_gib or machine.ram_gib},
        on_create_change=lambda: None,
    )
if shown.create is not None:
    st.switch_page(CREATE)
