"""Create: the stage with what is being made or was made last, and the composer with the form of the next video."""

from __future__ import annotations

from typing import Any

import streamlit as st

from backend.core.inputs import INPUTS, MediaKind
from backend.core.schema import PROMPT_LENGTH, SETTINGS
from ui.components import component
from ui.frame import automatic, model_rows
from ui.studio import studio
from ui.theme import CREATE_STYLE

stage = component("stage", "player", "sheet")
composer = component("composer")


def settings() -> dict[str, dict[str, Any]]:
    """The names, helps and bounds of the settings, which the schema says once."""
    found = {}
    for name, setting in SETTINGS.items():
        bounds = setting.bounds
        found[name] = {
            "title": setting.title,
            "help": setting.help_with_bounds,
            "least": bounds.least if bounds else None,
            "most": bounds.most if bounds else None,
            "whole": bounds is not None and isinstance(bounds.least, int),
        }
    return found


def composer_data() -> dict[str, Any]:
    models = studio().models()
    loras, _ = studio().loras.all()
    return {
        "models": model_rows(),
        "automatic": automatic(),
        "settings": settings(),
        "inputs": [{"name": row.name, "kind": row.kind.value, "label": row.label} for row in INPUTS.values()],
        "loras": [
            {"name": lora.name, "fits": {spec.id: lora.incompatibility(spec) for spec in models}} for lora in loras
        ],
        "prompt_length": PROMPT_LENGTH,
        "formats": {kind.value: kind.formats for kind in MediaKind},
    }


st.html(CREATE_STYLE)
with st.container(key="create", gap=None):
    with st.container(key="stage"):
        shown = stage(
            key="stage_component",
            data={"first": "Describe a video. It is rendered on this machine and stays here."},
            on_gallery_change=lambda: None,
            on_queue_change=lambda: None,
        )
    with st.container(key="composer"):
        composer(key="composer_component", data=composer_data(), height="stretch")
if shown.gallery is not None:
    st.switch_page("ui/gallery.py", query_params=shown.gallery)
if shown.queue is not None:
    st.switch_page("ui/queue.py")
