"""The left side of Create: the fields of a request that the chosen model uses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import streamlit as st

from backend.core.errors import StudioError
from backend.core.inputs import INPUTS, Input
from backend.core.prompts import Expansion
from backend.core.registry import ModelSpec
from backend.core.schema import (
    DEFAULT_BLOCK,
    NUM_FRAMES,
    OVERLAP_FRAMES,
    SETTINGS,
    SIZES,
    WINDOW_FRAMES,
    Mode,
    Orientation,
    SkyReelsOptions,
    parse_request,
)
from backend.core.text import is_blank
from backend.core.windows import latent_frames, pixel_frames
from ui import form
from ui.components.dropzone import dropzone
from ui.studio import preview_url, studio
from ui.words import duration, escape_markdown, shortened

MODES = {
    "text_to_video": "Text to video",
    "image_to_video": "Image to video",
    "video_extension": "Extend a video",
}
SHAPES = {"landscape": "16:9", "portrait": "9:16", "square": "1:1"}
FITS = {"crop": "Fill the frame (crop)", "letterbox": "Show all of it (bars)"}
REFERENCES = {"original": "SkyReels", "diffusers": "diffusers"}
QUALITIES = {
    "turbo": ("Draft", "computes a third of the steps."),
    "balanced": ("Balanced", "computes less than half; nearly the same video."),
    "exact": ("Best", "computes every step."),
}


def request_column(spec: ModelSpec) -> None:
    st.segmented_control(
        "Mode",
        list(MODES),
        format_func=MODES.__getitem__,
        key=form.key("mode"),
        required=True,
        width="stretch",
        label_visibility="collapsed",
        persist_state="session",
    )
    mode = Mode(form.get("mode"))
    form.follow_material()
    for row in sorted(INPUTS.values(), key=lambda row: mode not in row.required_by):  # what is needed comes first
        if mode in row.modes:
            file_field(row, optional=mode not in row.required_by)
    st.text_area(
        form.label("prompt"),
        key=form.key("prompt"),
        height=100,
        placeholder="What should the video show?" if mode is Mode.TEXT_TO_VIDEO else "What should happen? (optional)",
        persist_state="session",
    )
    expand_prompt(spec)
    with st.container(key="examples"):
        st.pills(
            "Example prompts",
            spec.prompts,
            key="example",
            on_change=use_example,
            label_visibility="collapsed",
            wrap=False,
        )
    shape, how_large = st.columns([3, 2])
    with shape:
        choice(SHAPES, "orientation", on_change=form.choose_orientation)
    with how_large:
        choice({"540p": "540p", "720p": "720p"}, "resolution")
    if spec.denoises:
        quality(spec)
    length(spec)
    length_caption(mode, spec)
    details(spec)
    loras(spec)
    skyreels_controls(spec)


def loras(spec: ModelSpec) -> None:
    """The choice of LoRAs that fit the model, each with its strength, and in grey the others with the reason; nothing
    where there are none.
    """
    found, _ = studio().loras.all()
    misfits = {lora.name: reason for lora in found if (reason := lora.incompatibility(spec))}
    names = list(dict.fromkeys([*(lora.name for lora in found if lora.name not in misfits), *form.get("loras")]))
    if not names and (not misfits or spec.transformer is None):
        return
    with st.expander("LoRAs: a style, a subject, fewer steps"):
        st.multiselect(
            form.label("loras"),
            names,
            key=form.key("loras"),
            placeholder=f"LoRAs that fit {spec.title}",
            label_visibility="collapsed",
            persist_state="session",
        )
        windows = lora_windows(spec) if form.get("loras") and spec.diffusion_forcing else 1
        if windows > 1:
            st.toggle("Each window has its own strength", key=form.key("lora_windows"), persist_state="session")
        for name in form.get("loras"):
            for window in range(windows if form.get("lora_windows") else 1):
                key = form.strength_key(name, window)
                st.session_state.setdefault(key, 1.0)
                label = name if windows == 1 or not form.get("lora_windows") else f"{name}, window {window + 1}"
                least, most = min(-1.0, st.session_state[key]), max(2.0, st.session_state[key])
                st.slider(escape_markdown(label), least, most, step=0.05, key=key, persist_state="session")
        for name, reason in misfits.items() if spec.transformer else ():
            st.caption(f":gray[:material/block: {escape_markdown(f'{name} does not fit: {reason}.')}]")


def lora_windows(spec: ModelSpec) -> int:
    """How many windows the video has."""
    try:
        return len(studio().plan(parse_request(form.request_fields(spec) | {"loras": []})).windows)
    except StudioError:
        return 1


def expand_prompt(spec: ModelSpec) -> None:
    """The buttons that expand the prompt and undo it. The result goes into the text field, for editing."""
    prompt, made = form.get("prompt"), st.session_state.get("expanded")
    made = made if made and made["prompt"] == prompt else None
    with st.container(horizontal=True, vertical_alignment="center", key="prompt_tools"):
        label = "Try another" if made else "Expand prompt"
        pressed = st.button(
            label,
            icon=":material/notes:",
            type="tertiary",
            key="expand_prompt",
            disabled=is_blank(prompt),
            help="Fills in what the prompt leaves open: motion, place, light, camera, style. You can edit it.",
        )
        if made:
            st.caption(expanded_by(made["by"]), width="content")
            if st.button("Undo", type="tertiary", key="my_prompt"):
                st.session_state["form_to_restore"] = {"prompt": made["mine"]}
                st.rerun()
    if pressed:
        mine, variation = (made["mine"], made["variation"] + 1) if made else (prompt, 0)
        found = expansion(mine, spec, variation)
        if found.prompt == mine:
            st.toast("Your prompt already covers everything", icon=":material/notes:")
            return
        st.session_state["expanded"] = {"mine": mine, "prompt": found.prompt, "by": found.by, "variation": variation}
        st.session_state["form_to_restore"] = {"prompt": found.prompt}
        st.rerun()


def expansion(prompt: str, spec: ModelSpec, variation: int) -> Expansion:
    """The prompt, expanded by a language model if one is installed; by rules, after a toast, where that fails."""
    with st.spinner("Expanding the prompt"):
        try:
            return studio().expand(prompt, spec.id, variation=variation)
        except StudioError as error:
            st.toast(escape_markdown(str(error)), icon=":material/error:")
            return studio().expand(prompt, spec.id, variation=variation, by_rules=True)


def expanded_by(author: str) -> str:
    if author == "rules":
        return "Expanded without a language model."
    return f"Expanded by {escape_markdown(author)}."


def choice(
    options: dict[str, str], field: str, words: str | None = None, on_change: Callable[[], None] | None = None
) -> None:
    st.segmented_control(
        form.label(field),
        list(options),
        format_func=options.__getitem__,
        key=form.key(field),
        required=True,
        width="stretch",
        help=words,
        on_change=on_change,
        persist_state="session",
    )


def quality(spec: ModelSpec) -> None:
    """The presets, each with its forecast for the form as it stands."""
    labels = {preset: words for preset, (words, _) in QUALITIES.items()}
    fields = form.request_fields(spec)
    for preset in labels:
        with contextlib.suppress(StudioError):
            forecast = studio().plan(parse_request(fields | {"preset": preset})).forecast
            labels[preset] += f" · {duration(forecast.total_s)}"
    words = "  \n".join(f"**{name}** {what}" for name, what in QUALITIES.values())
    choice(labels, "preset", words)


def use_example() -> None:
    if st.session_state.example:
        form.put("prompt", st.session_state.example)
        st.session_state.example = None


def length(spec: ModelSpec) -> None:
    st.slider(
        form.label("num_frames"),
        int(NUM_FRAMES.least),
        form.longest(spec),
        key=form.key("num_frames"),
        format="%d frames",
        persist_state="session",
    )


def length_caption(mode: Mode, spec: ModelSpec) -> None:
    frames = form.get("num_frames")
    fps = form.get("fps")
    if fps is None and mode is Mode.VIDEO_EXTENSION:
        st.caption(f"{frames} new frames, at the rate of the video")
        return
    fps = fps or spec.fps
    new = "new " if mode is Mode.VIDEO_EXTENSION else ""
    st.caption(f"{frames} {new}frames at {fps} fps = {duration(frames / fps)}")


def file_field(row: Input, *, optional: bool) -> None:
    """A drop zone, or the file that was dropped there, as the model will see it."""
    field, label = row.name, f"{row.label} (optional)" if optional else row.label
    upload_id = form.get(field)
    upload = None
    if upload_id:
        try:
            upload = studio().uploads.get(upload_id)
        except StudioError:
            form.put(field, None)  # cleaned up meanwhile
    if upload is None:
        made = dropzone(label, row.kind.value, key=f"drop_{field}")
        if made:
            form.put(field, made)
            st.rerun()
        return
    width, height = SIZES[form.get("resolution"), Orientation(form.get("orientation"))]
    with st.container(border=True, key=f"file_{field}"):
        picture, words = st.columns([2, 3], vertical_alignment="center")
        picture.image(
            preview_url(upload, width // 2, height // 2, form.get("fit")),
            width="stretch",
            alt=f"{label}, as the model will see it",
        )
        what = f"{upload.width}x{upload.height}"
        if upload.kind == "video":
            what += f", {upload.frames} frames at {upload.fps:g} fps; sound is not kept"
        words.markdown(f"**{label}**  \n{escape_markdown(shortened(upload.filename, 40))}")
        words.caption(f"{what}. The preview shows how it will be used.")
        if upload.notes:
            words.caption(" ".join(upload.notes))
        if words.button("Remove", key=f"remove_{field}", icon=":material/close:", type="tertiary"):
            form.put(field, None)
            st.rerun()


def details(spec: ModelSpec) -> None:
    with st.expander("Details: steps, guidance, seed, negative prompt, model"):
        st.text_area(
            form.label("negative_prompt"),
            key=form.key("negative_prompt"),
            height=68,
            placeholder="What should not be in the video",
            persist_state="session",
        )
        left, right = st.columns(2)
        with left:
            number("num_inference_steps", spec.num_inference_steps)
            rate = "the video's" if form.get("mode") == Mode.VIDEO_EXTENSION.value else spec.fps
            number("fps", rate)
        with right:
            number("guidance_scale", spec.guidance_scale)
            with st.container(horizontal=True, vertical_alignment="bottom"):
                number("seed", "random")
                st.button(
                    "Random seed",
                    icon=":material/casino:",
                    on_click=form.put_seed,
                    help="Pick a random seed and keep it",
                    key="dice",
                )
        models = {"auto": "Automatic"} | {s.id: s.title for s in studio().models()}
        if form.get("model") not in models:
            form.put("model", "auto")
        st.selectbox(
            form.label("model"),
            list(models),
            format_func=models.__getitem__,
            key=form.key("model"),
            persist_state="session",
        )
        if form.get("mode") != Mode.TEXT_TO_VIDEO.value:
            st.radio(
                form.label("fit"),
                list(FITS),
                format_func=FITS.__getitem__,
                key=form.key("fit"),
                horizontal=True,
                persist_state="session",
            )


def number(field: str, default: object) -> None:
    """A number field that may stay empty: then the model's own default applies, which is its placeholder."""
    # Without bounds: Streamlit would keep a value outside of them to itself, and the video be rendered with another.
    setting = SETTINGS[field]
    whole = setting.bounds is not None and isinstance(setting.bounds.least, int)
    st.number_input(
        setting.title,
        value=None,
        step=1 if whole else 0.5,
        key=form.key(field),
        placeholder=f"{default:g}" if isinstance(default, int | float) else str(default),
        help=setting.help_with_bounds,
        persist_state="session",
    )


def skyreels_controls(spec: ModelSpec) -> None:
    """The settings of this family of models: storyboard and windows, and for a real model those of denoising."""
    opened = st.session_state.get("story_open", False)  # when settings with a storyboard were restored
    if not spec.denoises:
        with st.expander("Storyboard and windows", expanded=opened):
            story(spec)
            window_sizes(spec)
        return
    parts = "storyboard, windows, blocks" if spec.diffusion_forcing else "shift, guidance, reference"
    family = "Wan" if spec.family == "wan" else "SkyReels"
    with st.expander(f"{family} controls: {parts}", expanded=opened and spec.diffusion_forcing):
        if spec.diffusion_forcing:
            story(spec)
            window_sizes(spec)
        left, right = st.columns(2)
        with left:
            number("flow_shift", spec.flow_shift)
        if not spec.diffusion_forcing:
            references()
            return
        with right:
            number("addnoise_condition", 0)
        with st.expander("Expert settings"):
            blocks()
            references()


def story(spec: ModelSpec) -> None:
    st.text_area(
        "Storyboard: one line for each window after the first",
        key=form.key("storyboard"),
        height=100,
        placeholder="What happens next?",
        help="The prompt is what the first window shows. Windows without a line go on with the last one.",
        persist_state="session",
    )
    st.caption(story_words(spec))


def story_words(spec: ModelSpec) -> str:
    """How many windows the video has, and so how many lines the storyboard may have."""
    fields = form.request_fields(spec)
    fields.get("skyreels", {}).pop("storyboard", None)  # a storyboard that is too long has no plan
    try:
        windows = len(studio().plan(parse_request(fields)).windows)
    except StudioError:
        return "The plan shows how many windows the video has."
    if windows == 1:
        return "The video has one window, which shows the prompt. A longer video or a smaller window adds more."
    return f"The video has {windows} windows: the prompt and up to {windows - 1} line{'s' if windows > 2 else ''} here."


def window_sizes(spec: ModelSpec) -> None:
    """Menus with every legal window and overlap, so that the values which an error suggests can be chosen."""
    options = SkyReelsOptions.model_construct(
        ar_step=form.get("ar_step") or 0,
        causal_attention=form.get("causal_attention"),
        causal_block_size=form.get("causal_block_size"),
    )
    block = max(options.block, 1) if spec.denoises else 1
    overlap = form.get("overlap_history") or (spec.overlap_history if block == 1 else pixel_frames(block))
    window = form.get("base_num_frames") or spec.base_num_frames
    whole = [pixel_frames(n) for n in range(block, latent_frames(spec.base_num_frames) + 1, block)]
    left, right = st.columns(2)
    with left:
        frames(
            "base_num_frames",
            [n for n in whole if n >= WINDOW_FRAMES.least and n > overlap],
            spec.base_num_frames,
        )
    with right:
        frames(
            "overlap_history",
            [n for n in whole if OVERLAP_FRAMES.least <= n <= min(OVERLAP_FRAMES.most, window - 4 * block)],
            spec.overlap_history,
        )


def frames(field: str, counts: list[int], default: int) -> None:
    """A menu of frame counts. It keeps the current value, which may come from an earlier request."""
    st.selectbox(
        form.label(field),
        sorted({*counts, form.get(field)} - {None}),
        index=None,
        placeholder=str(default),
        key=form.key(field),
        help=SETTINGS[field].help,
        persist_state="session",
    )


def blocks() -> None:
    left, right = st.columns(2)
    with left:
        number("ar_step", 0)
    with right:
        number("causal_block_size", DEFAULT_BLOCK)
    switch("causal_attention")


def references() -> None:
    switch("batch_guidance")
    choice(REFERENCES, "fidelity", SETTINGS["fidelity"].help)


def switch(field: str) -> None:
    st.toggle(form.label(field), key=form.key(field), help=SETTINGS[field].help, persist_state="session")
