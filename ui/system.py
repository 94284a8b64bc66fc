"""System: the machine and its load over the last half hour, how jobs ended, and the checks of the installation."""

from __future__ import annotations

import streamlit as st

from ui.components import component
from ui.studio import studio
from ui.theme import wide_page

system = component("system")

st.html(wide_page("system"))
with st.container(key="system"):
    titles = {spec.id: spec.title for spec, _ in studio().catalog.list(downloads=True)}
    system(key="system_component", data={"models": titles})
