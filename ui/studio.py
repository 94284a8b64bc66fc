"""What all pages share: the generator and the title."""

from __future__ import annotations

import streamlit as st

from backend.video_generator import VideoGenerator, shared_generator
from ui.theme import title_row

CREATE = "ui/create.py"


def studio() -> VideoGenerator:
    """The process's generator, which the REST API holds too. Raises StudioBusy if another process owns the folder."""
    return shared_generator()


def header(title: str, sentence: str) -> None:
    """The line that a page begins with: its name and one sentence."""
    st.html(title_row(title, sentence))
