"""What all pages share: the generator, the title, buttons that may be refused."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from backend.core.errors import StudioError
from backend.video_generator import VideoGenerator, shared_generator
from ui.theme import title_row
from ui.words import escape_markdown

CREATE = "ui/create.py"


def studio() -> VideoGenerator:
    """The process's generator, which the REST API holds too. Raises StudioBusy if another process owns the folder."""
    return shared_generator()


def attempt(act: Callable[[], object]) -> bool:
    """Run the action of a button and return whether it succeeded; a refusal is a toast."""
    try:
        act()
    except StudioError as error:
        st.toast(escape_markdown(str(error)), icon=":material/error:")
        return False
    return True


def on_click(act: Callable[[], object]) -> None:
    """`attempt` as the callback of a button, from which Streamlit expects no result."""
    attempt(act)


def header(title: str, sentence: str) -> None:
    """The line that a page begins with: its name and one sentence."""
    st.html(title_row(title, sentence))
