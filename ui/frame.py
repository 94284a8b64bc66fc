"""What every page is drawn in: the styles, the row of pages at the top, and at its end model, device and queue."""

from __future__ import annotations

from typing import Any

import streamlit as st

from backend.core.config import ROOT
from backend.core.errors import StudioError
from backend.core.model_choice import fit_words
from backend.core.registry import ModelSpec
from ui.components import component
from ui.studio import studio
from ui.theme import STYLE
from ui.words import escape_markdown

PAGES = {
    "create": ("Create", ":material/movie:"),
    "queue": ("Queue", ":material/list:"),
    "gallery": ("Gallery", ":material/grid_view:"),
    "models": ("Models", ":material/deployed_code:"),
    "system": ("System", ":material/monitor_heart:"),
}
MODEL_FIELDS = (
    *("id", "title", "about", "fps", "num_inference_steps", "guidance_scale", "flow_shift", "base_num_frames"),
    *("overlap_history", "diffusion_forcing", "denoises", "many_windows", "end_image", "family"),
)

frame_row = component("frame")


def draw_page() -> None:
    """The page that the address names; a sentence instead where the studio cannot start."""
    icon = str(ROOT / "ui" / "assets" / "icon.png")
    st.set_page_config(page_title="AI Video Generation Studio", page_icon=icon, layout="wide")
    st.html(STYLE)
    st.logo(icon, size="large", link=None)
    pages = {
        name: st.Page(f"ui/{name}.py", title=title, icon=symbol, default=name == "create")
        for name, (title, symbol) in PAGES.items()
    }
    page = st.navigation(list(pages.values()), position="top")
    try:
        studio()
    except StudioError as error:
        st.error(str(error), icon=":material/block:")
        st.stop()
    shown = next(name for name, one in pages.items() if one.title == page.title)
    with st.container(key="frame"):
        row = frame_row(key="frame_component", data=frame_data(shown), on_go_change=lambda: None)
    if row.go is not None and row.go["page"] in pages:
        st.switch_page(pages[row.go["page"]], query_params=row.go.get("query") or None)
    if notice := studio().startup_notice:
        warning, button = st.columns([8, 1], vertical_alignment="center")
        warning.warning(escape_markdown(notice), icon=":material/healing:")
        button.button("Got it", key="notice_seen", on_click=studio().dismiss_notice)
    page.run()


def frame_data(page: str) -> dict[str, Any]:
    return {"page": page, "device": studio().machine.device, "models": model_rows(), "automatic": automatic()}


def automatic() -> str:
    """The model that renders where none is chosen."""
    found = studio().submission.automatic_model() or studio().models()[-1]
    return found.id


def model_rows() -> list[dict[str, Any]]:
    """The installed models, as the model picker and the composer show them."""
    return [model_row(spec) for spec in studio().models()]


def model_row(spec: ModelSpec) -> dict[str, Any]:
    fits, fit = fit_words(spec, studio().free_machine)
    row = {name: getattr(spec, name) for name in MODEL_FIELDS}
    modes = [mode.value for mode in sorted(spec.modes, key=lambda mode: mode.value, reverse=True)]
    return row | {"prompts": list(spec.prompts), "modes": modes, "picture": None, "fits": fits, "fit": fit}
