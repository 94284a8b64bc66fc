"""A drop zone whose file goes to the upload route, not through the page: any size, in constant memory."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from backend import web
from backend.core.errors import StudioError
from ui.studio import studio
from ui.words import escape_markdown

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
    if not web.serving:
        return _through_the_page(label, kind, key)
    accept = ",".join(f".{ending}" for ending in ACCEPT[kind])
    data = {"label": label, "hint": HINTS[kind], "accept": accept, "kind": kind, "other": OTHER[kind]}
    data["route"] = ROUTES.get(kind, "api/v1/uploads")
    result = _zone(key=key, data=data, on_done_change=lambda: None)
    return result.done["id"] if result.done else None


def _through_the_page(label: str, kind: str, key: str) -> str | None:
    """Under `streamlit run app.py` alone there is no upload route; the file comes through Streamlit's uploader."""
    file = st.file_uploader(label, type=ACCEPT[kind], key=f"{key}_file")
    if file is None or st.session_state.get(f"{key}_seen") == file.file_id:
        return None
    st.session_state[f"{key}_seen"] = file.file_id
    try:
        if kind == "lora":
            with studio().loras.receive(file.name) as lora:
                lora.write(file.read())
                return lora.accept().name
        with studio().uploads.receive(file.name) as incoming:
            while chunk := file.read(2**20):
                incoming.write(chunk)
            upload = incoming.accept()
    except StudioError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")
        return None
    if upload.kind != kind:
        st.error(f"{escape_markdown(upload.filename)} {OTHER[kind]}", icon=":material/error:")
        return None
    return upload.id
