"""A drop zone whose file goes to the upload route, not through the page: any size, in constant memory."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

HERE = Path(__file__).parent
HTML = """<label class="zone"><span class="label"></span><span class="hint"></span>
<input type="file"><span class="bar"><i></i></span></label>"""

_zone = st.components.v2.component(
    "studio_dropzone",
    html=HTML,
    css=(HERE / "dropzone.css").read_text(),
    js=(HERE / "dropzone.js").read_text(),
)

ACCEPT = {
    "image": ["jpg", "jpeg", "png", "webp", "avif", "tif", "tiff", "bmp", "gif"],
    "video": ["mp4", "mov", "avi", "mkv", "webm", "m4v", "ts", "mts", "m2ts", "mpg", "mpeg", "dv", "gif", "webp"],
    "lora": ["safetensors"],
}
HINTS = {
    "image": "Drop or choose a JPG, PNG, WebP, AVIF, TIFF, BMP or GIF, up to 50 megapixels",
    "video": "Drop or choose an MP4, MOV, AVI, MKV, WebM, MPEG or GIF, up to 500 MB and 10 minutes",
    "lora": "Drop or choose a safetensors file",
}
OTHER = {
    "image": "is a video; drop a JPG, PNG or WebP.",
    "video": "is a picture; drop an MP4, MOV, AVI or MKV.",
    "lora": "is not a LoRA.",
}
ROUTES = {"lora": "api/v1/loras"}


def dropzone(label: str, kind: str, key: str) -> str | None:
    """The id of what was just sent here, else None. `kind` is "image", "video" or "lora"; other files are refused."""
    accept = ",".join(f".{ending}" for ending in ACCEPT[kind])
    data = {"label": label, "hint": HINTS[kind], "accept": accept, "kind": kind, "other": OTHER[kind]}
    data["route"] = ROUTES.get(kind, "api/v1/uploads")
    result = _zone(key=key, data=data, on_done_change=lambda: None)
    return result.done["id"] if result.done else None
