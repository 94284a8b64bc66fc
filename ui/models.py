"""Models: what is here, what is on its way, what fits this machine, and what one click fetches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from backend.core.config import GIB
from backend.core.planning import suitability
from backend.core.registry import ModelSpec
from backend.core.schema import Mode
from backend.library.downloads import Download, DownloadState
from backend.library.loras import Lora
from ui import form
from ui.components.dropzone import dropzone
from ui.film import CREATE
from ui.studio import header, on_click, studio
from ui.words import duration, escape_markdown, size

MODES = {
    Mode.TEXT_TO_VIDEO: "text to video",
    Mode.IMAGE_TO_VIDEO: "image to video",
    Mode.VIDEO_EXTENSION: "extension",
}
POLL_S = 1.0


def row(spec: ModelSpec) -> None:
    """What a model is, and how it goes with this machine."""
    st.markdown(f"**{escape_markdown(spec.title)}**")
    facts, icon = [", ".join(words for mode, words in MODES.items() if mode in spec.modes).capitalize()], ""
    if not spec.denoises:
        facts.append("a placeholder, not an AI model")
    else:
        how = suitability(spec, studio().free_machine)
        icon = "" if how.fits else ":material/block: "
        film = f"a film in about {duration(how.plan.forecast.total_s)}, " if how.fits else ""
        facts += [f"{size(spec.memory_gib * GIB)} of weights", f"{film}{how.words}"]
    if spec.licence:
        facts.append(spec.licence)
    st.caption(icon + escape_markdown(" · ".join(facts)))


def action(label: str, icon: str, key: str, act: Callable[[], object], *, disabled: bool = False) -> None:
    """A quiet button; a refusal is a toast."""
    st.button(label, icon=icon, key=key, type="tertiary", on_click=on_click, args=(act,), disabled=disabled)


def here() -> None:
    st.header("Here")
    own = studio().settings.models
    folders = {one.spec.id: one.folder for one in studio().catalog.checkpoints()}
    for spec in studio().models():
        with st.container(border=True, key=f"model_{spec.id}"):
            words, buttons = st.columns([4, 1], vertical_alignment="center")
            with words:
                row(spec)
            with buttons.container(horizontal=True, horizontal_alignment="right"):
                if st.button("Use", icon=":material/movie:", key=f"use_{spec.id}", type="tertiary"):
                    st.session_state["form_to_restore"] = {"model": spec.id}
                    st.switch_page(CREATE)
                folder = folders.get(spec.id)
                if folder is not None and folder.parent == own and not studio().downloads.came_with_the_studio(folder):
                    action("Remove", ":material/delete:", f"remove_{spec.id}", partial(remove, spec.id))


def left_out() -> None:
    """What lies in models/ and cannot be used."""
    for name, reason in studio().catalog.rejected().items():
        st.warning(escape_markdown(f"{name} cannot be used: {reason}."), icon=":material/block:")


def remove(model_id: str) -> None:
    studio().remove_model(model_id)
    st.toast("In the trash for a week", icon=":material/delete:")


def under_way() -> None:
    """What is fetched now, and what waits or failed."""
    mark = downloads_mark()

    @st.fragment(run_every=POLL_S if mark else 5 * POLL_S)
    def downloads() -> None:
        if downloads_mark() != mark:
            st.rerun()
        for download in studio().downloads.current():
            with st.container(border=True, key=f"download_{download.id}"):
                download_row(download)

    if mark:
        st.header("On their way")
    downloads()


def downloads_mark() -> tuple[tuple[str, str], ...]:
    return tuple((one.id, one.state.value) for one in studio().downloads.current())


def download_row(at: Download) -> None:
    queue = studio().downloads
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.markdown(f"**{escape_markdown(at.title)}** {escape_markdown(state_words(at))}", width="content")
        with st.container(horizontal=True, width="content"):
            if at.state in (DownloadState.PAUSED, DownloadState.FAILED):
                action("Resume", ":material/play_arrow:", f"resume_{at.id}", lambda: queue.resume(at.id))
            else:
                action("Pause", ":material/pause:", f"pause_{at.id}", lambda: queue.pause(at.id))
            action("Cancel", ":material/close:", f"cancel_{at.id}", lambda: queue.cancel(at.id))
    if at.error:
        st.error(escape_markdown(at.error), icon=":material/error:")
    st.progress(min(at.fraction, 1.0))
    if at.bytes_total:
        parts = [f"{size(at.bytes_done)} of {size(at.bytes_total)}"]
        if at.bytes_per_s and at.eta_s is not None:
            parts += [f"{size(at.bytes_per_s)} a second", f"{duration(at.eta_s)} left"]
        st.caption(escape_markdown(" · ".join(parts)))


def state_words(at: Download) -> str:
    if at.state is DownloadState.RUNNING and not at.bytes_total:
        return "asks the hub"
    words = {"queued": "waits", "running": f"{at.fraction:.0%}", "paused": "paused", "failed": "stopped"}
    return words[at.state.value]


def to_fetch() -> None:
    on_their_way = {one.id for one in studio().downloads.current()}
    listed = studio().catalog.list(downloads=True)
    absent = [spec for spec, present in listed if not present and spec.id not in on_their_way]
    if not absent:
        return
    st.header("One click away")
    offline = studio().settings.offline
    free = size(studio().monitor.sample().disk_free_gib * GIB)
    if offline:
        st.caption(":material/cloud_off: The hub is switched off by HF\\_HUB\\_OFFLINE.")
    else:
        st.caption(
            f"Fetched from the Hugging Face hub, which learns of it; nothing else leaves this machine. {free} of"
            " disk are free; the exact size is known once the hub was asked. Each has a licence of its own: read it"
            " before you use its films."
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
    here = studio()
    restores: list[tuple[str, str, Callable[[str], None]]] = []
    restores += [(c.spec.id, c.spec.title, here.restore_model) for c in here.downloads.trashed()]
    restores += [(name, f"{name} (LoRA)", here.loras.restore) for name in here.loras.trashed()]
    if not restores:
        return
    st.header("In the trash")
    for name, title, restore in restores:
        with st.container(horizontal=True, vertical_alignment="center", key=f"trashed_{name}"):
            st.markdown(escape_markdown(title), width="content")
            action("Restore", ":material/undo:", f"restore_{name}", partial(restore, name))
    st.caption("What is here is gone after a week.")


def loras() -> None:
    st.header("LoRAs")
    found, refused = studio().loras.all()
    for lora in found:
        with st.container(border=True, key=f"lora_{lora.name}"):
            words, buttons = st.columns([4, 1], vertical_alignment="center")
            words.markdown(f"**{escape_markdown(lora.name)}**")
            words.caption(escape_markdown(lora_words(lora)))
            with buttons.container(horizontal=True, horizontal_alignment="right"):
                action("Remove", ":material/delete:", f"remove_lora_{lora.name}", partial(remove_lora, lora.name))
    for name, reason in refused.items():
        st.warning(escape_markdown(f"{name} cannot be used: {reason}."), icon=":material/block:")
    made = dropzone("Add a LoRA", "lora", key="drop_lora")
    if made:
        st.toast(escape_markdown(f"{made} is here; choose it on the Create page"), icon=":material/check:")
    st.caption("It is looked at before use. Or put the file into models/loras/ yourself.")


def lora_words(lora: Lora) -> str:
    """What its header says, and which of the models that are here it fits."""
    ranks = "rank " + ", ".join(map(str, lora.ranks)) if lora.ranks else "whole layers"
    fits = [spec.title for spec in studio().models() if lora.incompatibility(spec) is None]
    made_for = f"fits {', '.join(fits)}" if fits else f"fits no model here (it is for models of width {lora.width})"
    return " · ".join(
        [
            f"{lora.layers} layers, {ranks}",
            size(lora.bytes),
            made_for,
            *([f"made with {lora.base_model_hint}, it says"] if lora.base_model_hint else []),
        ]
    )


def remove_lora(name: str) -> None:
    studio().remove_lora(name)
    st.toast("In the trash for a week", icon=":material/delete:")


form.prepare()
header("Models", "What is here, what fits this machine, and what one click fetches.")
under_way()
here()
left_out()
loras()
trash()
to_fetch()
st.caption(
    "A machine without network: copy a checkpoint in diffusers format into models/, or run"
    " `./launch.sh models import FOLDER`."
)
