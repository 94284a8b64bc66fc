"""System: the machine and its load over the last half hour, how jobs ended, and the checks of the installation."""

from __future__ import annotations

import streamlit as st

from ui.components import component
from ui.studio import studio

# As wide as the window, with small margins.
STYLE = """<style>
.stMainBlockContainer:has(.st-key-system) { max-width: none; padding: 4.2rem 1.5rem 3rem; }
@media (max-width: 640px) { .stMainBlockContainer:has(.st-key-system) { padding: 4rem 0.75rem 3rem; } }
</style>"""

system = component("system")

st.html(STYLE)
with st.container(key="system"):
    titles = {spec.id: spec.title for spec, _ in studio().catalog.list(downloads=True)}
    system(key="system_component", data={"models": titles})
