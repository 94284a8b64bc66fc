"""Models: the installed ones, running downloads, LoRAs, and what can be downloaded for this machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from backend.core.model_choice import suitability
from backend.core.registry import ModelSpec
from backend.core.schema import Mode
from backend.core.units import GIB
from backend.library.downloads import Download, DownloadState
from backend.library.loras import Lora
from ui import form
from ui.components.dropzone import dropzone
from ui.studio import CREATE, header, on_click, studio
from ui.words import duration, escape_markdown, size

MODES = {
    Mode.TEXT_TO_VIDEO: "text to video",
    Mode.IMAGE_TO_VIDEO: "image to video",
    Mode.VIDEO_EXTENSION: "extension",
}
POLL_S = 1.0


def row(spec: ModelSpec) -> None:
    """What a model can do, and whether it fits this machine."""
    st.markdown(f"**{escape_markdown(spec.title)}**")
    parts, icon = [", ".join(words for mode, words in MODES.items() if mode in spec.modes).capitalize()], ""
    if not spec.denoises:
        parts.append("a placeholder, not an AI model")
    else:
        suited = suitability(spec, studio().free_machine)
        icon = "" if suited.fits else ":material/block: "
        forecast = f"about {duration(suited.plan.forecast.total_s)} per video " if suited.fits else ""
        parts += [f"{size(spec.memory_gib * GIB)} of weights", f"{forecast}{suited.words}"]
    if spec.licence:
        parts.append(spec.licence)
    st.caption(icon + escape_markdown(" · ".join(parts)))


def action(label: str, icon: str, key: str, act: Callable[[], object], *, disabled: bool = False) -> None:
    """A button without a frame; a refusal is a toast."""
    st.button(label, icon=icon, key=key, type="tertiary", on_click=on_click, args=(act,), disabled=disabled)


def installed() -> None:
    st.header("Installed")
    own = studio().settings.models
    folders = {one.spec.id: one.folder for one in studio().catalog.checkpoints()}
    for spec in studio().models():
        with st.container(border=True, key=f"model_{spec.id}"):
            words, buttons = st.columns([4, 1], vertical_alignment="center")
            with words:
                row(spec)
            with buttons.container(horizontal=True, horizontal_alignment="right"):
                if st.button("Use", icon=":material/movie:", key=f"use_{spec.id}", type="tertiary"):
                    form.change(model=spec.id)
                    st.switch_page(CREATE)
                folder = folders.get(spec.id)
                if folder is not None and folder.parent == own and not studio().downloads.came_with_the_studio(folder):
                    action("Remove", ":material/delete:", f"remove_{spec.id}", partial(remove, spec.id))


def rejected() -> None:
    """Folders in models/ that cannot be used, with the reason."""
    for name, reason in studio().catalog.rejected().items():
        st.warning(escape_markdown(f"{name} cannot be used: {reason}."), icon=":material/block:")


def remove(model_id: str) -> None:
    studio().remove_model(model_id)
    st.toast("In the trash for a week", icon=":material/delete:")


def downloading() -> None:
    """Downloads that run, wait or failed."""
    version = downloads_version()

    @st.fragment(run_every=POLL_S if version else 5 * POLL_S)
    def downloads() -> None:
        if downloads_version() != version:
            st.rerun()
        for download in studio().downloads.current():
            with st.container(border=True, key=f"download_{download.id}"):
                download_row(download)

    if version:
        st.header("Downloading")
    downloads()


def downloads_version() -> tuple[tuple[str, str], ...]:
    return tuple((one.id, one.state.value) for one in studio().downloads.current())


def download_row(download: Download) -> None:
    queue = studio().downloads
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.markdown(f"**{escape_markdown(download.title)}** {escape_markdown(state_words(download))}", width="content")
        with st.container(horizontal=True, width="content"):
            if download.state in (DownloadState.PAUSED, DownloadState.FAILED):
                action("Resume", ":material/play_arrow:", f"resume_{download.id}", lambda: queue.resume(download.id))
            else:
                action("Pause", ":material/pause:", f"pause_{download.id}", lambda: queue.pause(download.id))
            action("Cancel", ":material/close:", f"cancel_{download.id}", lambda: queue.cancel(download.id))
    if download.error:
        st.error(escape_markdown(download.error), icon=":material/error:")
    st.progress(min(download.fraction, 1.0))
    if download.bytes_total:
        parts = [f"{size(download.bytes_done)} of {size(download.bytes_total)}"]
        if download.bytes_per_s and download.eta_s is not None:
            parts += [f"{size(download.bytes_per_s)} a second", f"{duration(download.eta_s)} left"]
        st.caption(escape_markdown(" · ".join(parts)))


def state_words(download: Download) -> str:
    if download.state is DownloadState.RUNNING and not download.bytes_total:
        return "contacting Hugging Face"
    words = {"queued": "queued", "running": f"{download.fraction:.0%}", "paused": "paused", "failed": "failed"}
    return words[download.state.value]


def available() -> None:
    downloading_ids = {one.id for one in studio().downloads.current()}
    listed = studio().catalog.list(downloads=True)
    absent = [spec for spec, present in listed if not present and spec.id not in downloading_ids]
    if not absent:
        return
    st.header("Available")
    offline = studio().settings.offline
    free = size(studio().monitor.sample().disk_free_gib * GIB)
    if offline:
        st.caption(":material/cloud_off: Downloads are switched off by HF\\_HUB\\_OFFLINE.")
    else:
        st.caption(
            "Downloads come from Hugging Face, which sees the request; nothing else leaves this machine."
            f" {free} free. Each model has its own licence: read it first."
        )
    add = studio().downloads.add
    for spec in sorted(absent, key=lambda spec: not suitability(spec, studio().free_machine).fits):
        with st.container(border=True, key=f"absent_{spec.id}"):
            words, buttons = st.columns([4, 1], vertical_alignment="center")
            with words:
                row(spec)
            with buttons.container(horizontal=True, horizontal_alignment="right"):
                action("Download", ":material/download:", f"get_{spec.id}", partial(add, spec.id), disabled=offline)


def trash() -> None:
    generator = studio()
    restores: list[tuple[str, str, Callable[[str], None]]] = []
    restores += [(c.spec.id, c.spec.title, generator.restore_model) for c in generator.downloads.trashed()]
    restores += [(name, f"{name} (LoRA)", generator.loras.restore) for name in generator.loras.trashed()]
    if not restores:
        return
    st.header("In the trash")
    for name, title, restore in restores:
        with st.container(horizontal=True, vertical_alignment="center", key=f"trashed_{name}"):
            st.markdown(escape_markdown(title), width="content")
            action("Restore", ":material/undo:", f"restore_{name}", partial(restore, name))
    st.caption("Removed for good after a week.")


def loras() -> None:
    st.header("LoRAs")
    found, refused = studio().loras.all()
    for lora in found:
        with st.container(border=True, key=f"lora_{lora.name}"):
            words, buttons = st.columns([4, 1], vertical_alignment="center")
            name, reasons = f"**{escape_markdown(lora.name)}**", why_unfit(lora)
            words.markdown(f":gray[:material/block: {name}]" if reasons else name)
            words.caption(escape_markdown(lora_words(lora)))
            for sentence in [*reasons, *lora.notes]:
                words.caption(escape_markdown(sentence))
            with buttons.container(horizontal=True, horizontal_alignment="right"):
                action("Remove", ":material/delete:", f"remove_lora_{lora.name}", partial(remove_lora, lora.name))
    for name, reason in refused.items():
        st.warning(escape_markdown(f"{name} cannot be used: {reason}."), icon=":material/block:")
    made = dropzone("Add a LoRA", "lora", key="drop_lora")
    if made:
        st.toast(escape_markdown(f"{made} is installed; choose it on the Create page"), icon=":material/check:")
    st.caption("Files are checked before use. You can also copy them into models/loras/.")


def lora_words(lora: Lora) -> str:
    """What the header of the file says, and which installed models it fits."""
    ranks = "rank " + ", ".join(map(str, lora.ranks)) if lora.ranks else "whole layers"
    fits = [spec.title for spec in studio().models() if lora.incompatibility(spec) is None]
    made_for = f"fits {', '.join(fits)}" if fits else "fits no installed model"
    return " · ".join(
        [
            f"{lora.layers} layers, {ranks}",
            size(lora.bytes),
            made_for,
            *([f"its metadata names {lora.base_model_hint}"] if lora.base_model_hint else []),
        ]
    )


def why_unfit(lora: Lora) -> list[str]:
    """Why it fits no installed model, a sentence for each; empty if it fits one."""
    reasons = {spec.title: lora.incompatibility(spec) for spec in studio().models()}
    return [f"Not for {title}: {reason}." for title, reason in reasons.items()] if all(reasons.values()) else []


def remove_lora(name: str) -> None:
    studio().remove_lora(name)
    st.toast("In the trash for a week", icon=":material/delete:")


header("Models", "Installed models, and what you can download for this machine.")
downloading()
installed()
rejected()
loras()
trash()
available()
st.caption(
    "Without a network: copy a checkpoint in diffusers format into models/, or run `./launch.sh models import FOLDER`."
)
