"""Create: left the wish, right the stage."""

from __future__ import annotations

import contextlib
import json
import time

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.core.errors import StudioError
from backend.core.planning import Plan, steps_in_words
from backend.core.prompts import Expansion
from backend.core.registry import SYNTHETIC, TINY, ModelSpec
from backend.core.schema import (
    ADDNOISE,
    AR_STEP,
    BLOCK,
    DEFAULT_BLOCK,
    FLOW_SHIFT,
    FPS,
    GUIDANCE_SCALE,
    NUM_FRAMES,
    OVERLAP_FRAMES,
    SEED,
    SIZES,
    STEPS,
    WINDOW_FRAMES,
    Bounds,
    GenerationRequest,
    Mode,
    Orientation,
    SkyReelsOptions,
    parse_request,
)
from backend.core.text import is_blank
from backend.core.windows import latent_frames, pixel_frames
from backend.jobs.job import Job
from ui import form
from ui.components.dropzone import dropzone
from ui.film import film_card, film_dialog, progress_card
from ui.studio import (
    before_a_new_job,
    film_so_far,
    header,
    latest_films,
    media_url,
    poll_s,
    preview_url,
    queue_mark,
    so_far_url,
    studio,
)
from ui.theme import empty_stage
from ui.words import duration, plain, shortened

MODES = {
    "text_to_video": "Text to video",
    "image_to_video": "Image to video",
    "video_extension": "Extend a video",
}
SHAPES = {"landscape": "16:9", "portrait": "9:16", "square": "1:1"}
FITS = {"crop": "Fill the frame (crop)", "letterbox": "Show all of it (bars)"}
ARITHMETIC = {"original": "the original", "diffusers": "diffusers"}
SPEEDS = {
    "exact": ("Exact", "works out every step."),
    "balanced": ("Balanced", "works out less than half; nearly the same film."),
    "turbo": ("Turbo", "works out a third, for drafts."),
}
DOUBLE_CLICK_S = 1.5
CAME_WITH_THE_STUDIO = {
    TINY.id: "Films are made by SkyReels V2 Tiny, small enough for any computer: ten things in eight colours, painted "
    "at 160 x 96 pixels and enlarged",
    SYNTHETIC.id: "Films are sketches drawn by rules",
}


def current_model() -> ModelSpec:
    """The model that the form as it stands would use."""
    models = {spec.id: spec for spec in studio().models()}
    chosen = models.get(form.get("model"))
    if chosen is not None:
        return chosen
    mode = Mode(form.get("mode"))
    probe = {
        Mode.TEXT_TO_VIDEO: {"prompt": "-"},
        Mode.IMAGE_TO_VIDEO: {"image": "0" * 20},
        Mode.VIDEO_EXTENSION: {"video": "0" * 20},
    }[mode]
    loras = [{"name": name} for name in form.get("loras")]
    request = GenerationRequest(mode=mode, resolution=form.get("resolution"), loras=loras, **probe)
    try:
        return studio().model_for(request)
    except StudioError:  # a LoRA that went away: the plan says so
        return studio().model_for(request.model_copy(update={"loras": ()}))


def wish_column(spec: ModelSpec) -> None:
    st.segmented_control(
        "Mode",
        list(MODES),
        format_func=MODES.get,
        key=form.key("mode"),
        required=True,
        width="stretch",
        label_visibility="collapsed",
        persist_state="session",
    )
    mode = Mode(form.get("mode"))
    if mode is Mode.IMAGE_TO_VIDEO:
        file_field("image", "image", "The first frame")
        file_field("end_image", "image", "The last frame (optional)")
    if mode is Mode.VIDEO_EXTENSION:
        file_field("video", "video", "The video to continue")
    st.text_area(
        "Prompt",
        key=form.key("prompt"),
        height=100,
        placeholder="What should the film show?" if mode is Mode.TEXT_TO_VIDEO else "What should happen? (optional)",
        persist_state="session",
    )
    longer_prompt(spec)
    with st.container(key="examples"):
        st.pills(
            "Prompts to try",
            spec.prompts,
            key="example",
            on_change=take_example,
            label_visibility="collapsed",
            wrap=False,
        )
    shape, how_large = st.columns([3, 2])
    with shape:
        choice(SHAPES, "orientation")
    with how_large:
        choice({"540p": "540p", "720p": "720p"}, "resolution")
    if spec.engine == "skyreels":
        speed(spec)
    length(spec)
    length_caption(mode, spec)
    details(spec)
    loras(spec)
    skyreels_controls(spec)


def loras(spec: ModelSpec) -> None:
    """What changes the model's films, and how strongly; nothing where there is none."""
    found, _ = studio().loras.all()
    fitting = [lora.name for lora in found if lora.misfit(spec) is None]
    names = list(dict.fromkeys([*fitting, *form.get("loras")]))
    if not names:
        return
    with st.expander("LoRAs: a style, a subject, fewer steps"):
        st.multiselect(
            "LoRAs",
            names,
            key=form.key("loras"),
            placeholder=f"Those that fit {spec.title}",
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
                st.slider(plain(label), least, most, step=0.05, key=key, persist_state="session")


def lora_windows(spec: ModelSpec) -> int:
    """How many windows the film has."""
    try:
        return len(studio().plan(parse_request(form.wish(spec) | {"loras": []})).windows)
    except StudioError:
        return 1


def longer_prompt(spec: ModelSpec) -> None:
    """Say more than the person did, at the press of a button, and the way back: the prompt stays theirs to edit."""
    prompt, made = form.get("prompt"), st.session_state.get("expanded")
    made = made if made and made["prompt"] == prompt else None
    with st.container(horizontal=True, vertical_alignment="center", key="longer_prompt"):
        label = "Say it another way" if made else "Say more"
        pressed = st.button(
            label,
            icon=":material/notes:",
            type="tertiary",
            key="expand_prompt",
            disabled=is_blank(prompt),
            help="Fills in what the prompt leaves open: motion, place, light, camera, style. You can edit it.",
        )
        if made:
            st.caption(f"Added by {plain(made['by'])}.", width="content")
            if st.button("Back to mine", type="tertiary", key="my_prompt"):
                st.session_state["form_to_restore"] = {"prompt": made["mine"]}
                st.rerun()
    if pressed:
        mine, take = (made["mine"], made["take"] + 1) if made else (prompt, 0)
        found = expansion(mine, spec, take)
        if found.prompt == mine:
            st.toast("It says all of it already", icon=":material/notes:")
            return
        st.session_state["expanded"] = {"mine": mine, "prompt": found.prompt, "by": found.by, "take": take}
        st.session_state["form_to_restore"] = {"prompt": found.prompt}
        st.rerun()


def expansion(prompt: str, spec: ModelSpec, take: int) -> Expansion:
    """By a language model if one is here; by rules, with a word about it, where it gives nothing."""
    with st.spinner("Looking for words"):
        try:
            return studio().expand(prompt, spec.id, take=take)
        except StudioError as error:
            st.toast(plain(str(error)), icon=":material/error:")
            return studio().expand(prompt, spec.id, take=take, by_rules=True)


def choice(options: dict[str, str], field: str, words: str | None = None) -> None:
    st.segmented_control(
        form.LABELS[field],
        list(options),
        format_func=options.get,
        key=form.key(field),
        required=True,
        width="stretch",
        help=words,
        persist_state="session",
    )


def speed(spec: ModelSpec) -> None:
    """The presets, each with its forecast for the form as it stands."""
    labels = {preset: words for preset, (words, _) in SPEEDS.items()}
    wish = form.wish(spec)
    for preset in labels:
        with contextlib.suppress(StudioError):
            forecast = studio().plan(parse_request(wish | {"preset": preset})).forecast
            labels[preset] += f" · {duration(forecast.total_s)}"
    words = "  \n".join(f"**{name}** {what}" for name, what in SPEEDS.values())
    choice(labels, "preset", words)


def take_example() -> None:
    if st.session_state.example:
        form.put("prompt", st.session_state.example)
        st.session_state.example = None


def length(spec: ModelSpec) -> None:
    most = form.longest(spec)
    if st.session_state.get("longest") != most:  # a slider of another range forgets what it was set to
        form.put("num_frames", form.get("num_frames"))
        st.session_state["longest"] = most
    st.slider(
        "Length",
        int(NUM_FRAMES.least),
        most,
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


def file_field(field: str, kind: str, label: str) -> None:
    """A drop zone, or what was dropped there as the model will see it."""
    upload_id = form.get(field)
    upload = None
    if upload_id:
        try:
            upload = studio().uploads.get(upload_id)
        except StudioError:
            form.put(field, None)  # cleaned up meanwhile
    if upload is None:
        made = dropzone(label, kind, key=f"drop_{field}")
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
            what += f", {upload.frames} frames at {upload.fps:g} fps, without its sound"
        words.markdown(f"**{label}**  \n{plain(shortened(upload.filename, 40))}")
        words.caption(f"{what}. Shown as it will be used.")
        if words.button("Remove", key=f"remove_{field}", icon=":material/close:", type="tertiary"):
            form.put(field, None)
            st.rerun()


def details(spec: ModelSpec) -> None:
    with st.expander("Details: steps, guidance, seed, negative prompt, model"):
        st.text_area(
            "Negative prompt",
            key=form.key("negative_prompt"),
            height=68,
            placeholder="What should not be in the film",
            persist_state="session",
        )
        left, right = st.columns(2)
        with left:
            number("num_inference_steps", STEPS, spec.num_inference_steps, "More steps: finer, slower.")
            rate = "the clip's" if form.get("mode") == Mode.VIDEO_EXTENSION.value else spec.fps
            number("fps", FPS, rate, "The speed of the finished film.")
        with right:
            number("guidance_scale", GUIDANCE_SCALE, spec.guidance_scale, "Higher: closer to the prompt.")
            with st.container(horizontal=True, vertical_alignment="bottom"):
                number("seed", SEED, "a new one", "The same seed makes the same film again.")
                st.button(
                    "Roll a seed",
                    icon=":material/casino:",
                    on_click=form.roll_the_dice,
                    help="Draw a seed and keep it",
                    key="dice",
                )
        models = {"auto": "Automatic"} | {s.id: s.title for s in studio().models()}
        if form.get("model") not in models:
            form.put("model", "auto")
        st.selectbox("Model", list(models), format_func=models.get, key=form.key("model"), persist_state="session")
        if form.get("mode") != Mode.TEXT_TO_VIDEO.value:
            st.radio(
                "An input of another shape",
                list(FITS),
                format_func=FITS.get,
                key=form.key("fit"),
                horizontal=True,
                persist_state="session",
            )


def number(field: str, bounds: Bounds, default: object, words: str) -> None:
    """A number that may stay empty: then the model's own default counts, shown as the placeholder."""
    # Without bounds of its own: the page would keep a value outside of them to itself, and render with another one.
    whole = isinstance(bounds.least, int)
    st.number_input(
        form.LABELS[field],
        value=None,
        step=1 if whole else 0.5,
        key=form.key(field),
        placeholder=f"{default:g}" if isinstance(default, int | float) else str(default),
        help=f"{words} {bounds}.",
        persist_state="session",
    )


def skyreels_controls(spec: ModelSpec) -> None:
    """What only this model's kind has: story and windows, and for a real model the settings of its denoising."""
    if spec.engine != "skyreels":
        with st.expander("Story and windows"):
            story(spec)
            window_sizes(spec)
        return
    parts = "story, windows, blocks, arithmetic" if spec.diffusion_forcing else "shift, guidance, arithmetic"
    family = "Wan" if spec.family == "wan" else "SkyReels"
    with st.expander(f"{family} controls: {parts}"):
        if spec.diffusion_forcing:
            story(spec)
            window_sizes(spec)
        left, right = st.columns(2)
        with left:
            number("flow_shift", FLOW_SHIFT, spec.flow_shift, "Higher: more time on layout and motion.")
        if not spec.diffusion_forcing:
            arithmetic()
            return
        with right:
            number("addnoise_condition", ADDNOISE, 0, "About 20 lets long films drift less.")
        with st.expander("Blocks and arithmetic, rarely needed"):
            blocks()
            arithmetic()


def story(spec: ModelSpec) -> None:
    st.text_area(
        "Story, a line for each further window",
        key=form.key("storyboard"),
        height=100,
        placeholder="What happens next?",
        help="The prompt is what the first window shows. Windows without a line go on with the last one.",
        persist_state="session",
    )
    st.caption(story_words(spec))


def story_words(spec: ModelSpec) -> str:
    """How many lines the film has windows for."""
    wish = form.wish(spec)
    wish.get("skyreels", {}).pop("storyboard", None)  # too long a story has no plan
    try:
        windows = len(studio().plan(parse_request(wish)).windows)
    except StudioError:
        return "The plan says how many windows the film has."
    if windows == 1:
        return "The film has one window: the prompt tells all of it. A longer film or a smaller window makes more."
    return f"The film has {windows} windows: the prompt and up to {windows - 1} line{'s' if windows > 2 else ''} here."


def window_sizes(spec: ModelSpec) -> None:
    """Menus of all that fits the blocks and one another, so that what the plan names as a way out can be chosen."""
    options = SkyReelsOptions.model_construct(
        ar_step=form.get("ar_step") or 0,
        causal_attention=form.get("causal_attention"),
        causal_block_size=form.get("causal_block_size"),
    )
    block = max(options.block, 1) if spec.engine == "skyreels" else 1
    overlap = form.get("overlap_history") or (spec.overlap_history if block == 1 else pixel_frames(block))
    window = form.get("base_num_frames") or spec.base_num_frames
    whole = [pixel_frames(n) for n in range(block, latent_frames(spec.base_num_frames) + 1, block)]
    left, right = st.columns(2)
    with left:
        frames(
            "base_num_frames",
            [n for n in whole if n >= WINDOW_FRAMES.least and n > overlap],
            spec.base_num_frames,
            "What the model sees at once. Smaller: less memory; motion may forget what came before.",
        )
    with right:
        frames(
            "overlap_history",
            [n for n in whole if OVERLAP_FRAMES.least <= n <= min(OVERLAP_FRAMES.most, window - 4 * block)],
            spec.overlap_history,
            "What a window repeats of the one before. Larger: smoother joins, more work.",
        )


def frames(field: str, choices: list[int], default: int, words: str) -> None:
    """A choice of frame counts; one that a film was made with stays a choice."""
    st.selectbox(
        form.LABELS[field],
        sorted({*choices, form.get(field)} - {None}),
        index=None,
        placeholder=str(default),
        key=form.key(field),
        help=words,
        persist_state="session",
    )


def blocks() -> None:
    left, right = st.columns(2)
    with left:
        words = "Frames come in blocks, each this many steps behind the one before: steadier motion, more steps."
        number("ar_step", AR_STEP, 0, words)
    with right:
        words = "Latent frames of four frames each that are made together."
        number("causal_block_size", BLOCK, DEFAULT_BLOCK, words)
    switch(
        "causal_attention",
        "For weights that were trained so; the released ones draw a worse picture.",
    )


def arithmetic() -> None:
    switch(
        "batch_guidance",
        "Often a little faster; takes more memory. The same picture but for the last bits.",
    )
    words = "SkyReels V2 as its authors run it, or a film that the diffusers pipelines would make, bit for bit."
    choice(ARITHMETIC, "fidelity", words)


def switch(field: str, words: str) -> None:
    st.toggle(form.LABELS[field], key=form.key(field), help=words, persist_state="session")


def missing(error: StudioError) -> str:
    """The first step to take, if all that `error` says is that it was not taken yet."""
    steps = {"prompt": "Write a prompt", "image": "Drop a picture", "video": "Drop a video"}
    return steps[error.field] if error.field in steps and not form.get(error.field) else ""


def plan_card(spec: ModelSpec) -> None:
    """The plan of the form as it stands, or why there is none."""
    with st.container(border=True, key="plan"):
        try:
            plan = studio().plan(parse_request(form.wish(spec)))
        except StudioError as error:
            if first_step := missing(error):
                st.caption(f":material/route: {first_step}, and the plan appears here.")
            else:
                st.markdown(f":material/error: {plain(form.in_words(error))}")
            return
        st.markdown(f":material/route: **Plan** {plain(plan_words(plan))}")
        forecast = plan.forecast
        peak = f"{forecast.peak_gib:.1f}" if forecast.peak_gib >= 0.1 else "less than 0.1"
        cost = f"peak {peak} GiB · up to {max(1, round(forecast.disk_bytes / 1e6))} MB on disk"
        st.markdown(f":material/timer: **about {duration(forecast.total_s)}** · {cost}")
        needed = forecast.peak_gib
        machine = studio().free_machine
        room = machine.vram_gib if machine.has_gpu else machine.ram_gib
        if needed > room:
            st.markdown(f":material/warning: {plan.model_title} wants {needed:.0f} GiB, this machine has {room:.0f}.")


def plan_words(plan: Plan) -> str:
    windows = f"{len(plan.windows)} window" + ("s" if len(plan.windows) > 1 else "")
    drawn, delivered = f"{plan.render_width}x{plan.render_height}", f"{plan.width}x{plan.height}"
    steps = steps_in_words(plan.window_steps, plan.worked_out)
    parts = [windows, steps, f"{plan.render_frames} frames made, {plan.num_frames} kept"]
    if plan.source_frames:
        parts.append(f"after {plan.source_frames} of the video, {duration(plan.total_s)} in all")
    if drawn == delivered:
        parts.append(delivered)
    else:
        parts.append(f"{drawn} {'enlarged' if plan.enlarged else 'cropped'} to {delivered}")
    return " · ".join(parts)


def generate_button(spec: ModelSpec, place: DeltaGenerator) -> None:
    if st.button(
        "Generate",
        type="primary",
        icon=":material/play_arrow:",
        width="stretch",
        shortcut="Ctrl+Enter",
        key="generate",
    ):
        submit(spec, place)


def submit(spec: ModelSpec, place: DeltaGenerator) -> None:
    """Queue the form's wish once; a second click within a moment is the same wish. Why it is refused stands in `place`,
    instead of the plan.
    """
    wish = form.wish(spec)
    mark = json.dumps(wish, sort_keys=True)
    last_mark, last_time = st.session_state.get("last_submit", ("", 0.0))
    if mark == last_mark and time.monotonic() - last_time < DOUBLE_CLICK_S:
        return
    before = before_a_new_job()
    try:
        studio().submit(parse_request(wish))
    except StudioError as error:
        first_step = missing(error)
        place.error(f"{first_step} first." if first_step else plain(form.in_words(error)), icon=":material/error:")
        return
    st.session_state["last_submit"] = (mark, time.monotonic())
    if replaced := st.session_state.pop("replaces", None):
        with contextlib.suppress(StudioError):  # it may have been cancelled or deleted in another tab
            studio().cancel(replaced)
            studio().delete(replaced)
    if studio().store.queue_paused:
        said = "Queued; the queue is paused"
    else:
        said = f"Queued, {before} before it" if before else "Started"
    st.toast(said, icon=":material/movie:")
    st.rerun()


def replacing() -> None:
    """While a waiting film is edited: that Generate replaces it, and the way back."""
    if not (job_id := st.session_state.get("replaces")):
        return
    with st.container(horizontal=True, vertical_alignment="center", key="replacing"):
        st.caption(":material/edit: Generate replaces the waiting film that you edit.")
        if st.button("Keep that one", key="keep_original", type="tertiary"):
            st.session_state.pop("replaces")
            with contextlib.suppress(StudioError):
                studio().resume(job_id)
            st.rerun()


def stage_column(spec: ModelSpec) -> None:
    """What is being made now, with its first seconds once there are any; the latest film, playing; the takes before."""
    films = latest_films(5)
    making, ready = film_so_far()
    comes_first = making is None and bool(studio().active(limit=1))  # nobody waits for a film and looks at an old one
    if comes_first:
        now_card()
    if making:
        with st.container(key=f"stage_{making.id}_{ready}"):
            first_seconds(making, ready)
    elif films:
        with st.container(key=f"stage_{films[0].id}"):
            latest_film(films.pop(0))
    else:
        with st.container(key="stage_empty"):
            st.html(
                empty_stage("Your film appears here", "Pick a prompt on the left, or write one, and press Generate.")
            )
    if not comes_first:
        now_card()
    if spec.id in CAME_WITH_THE_STUDIO:
        st.caption(f":material/info: {CAME_WITH_THE_STUDIO[spec.id]}{why(spec)}")
    if films:
        st.header("Latest")
        for column, job in zip(st.columns(4), films, strict=False):
            with column:
                film_card(job, "latest")


def why(spec: ModelSpec) -> str:
    """Why it is one of the models that came with the studio that draws, and what to do about it."""
    if form.get("model") == spec.id:
        return ", as chosen under Details."
    if all(model.id in CAME_WITH_THE_STUDIO for model in studio().models()):
        return ": no released weights are here yet. The Models page fetches them, or put a checkpoint into models/."
    return ": Automatic takes a model only if this machine's GPU holds it. Choose one under Details to use it anyway."


def first_seconds(job: Job, ready: int) -> None:
    """The first `ready` frames of a film that is being made."""
    try:
        st.video(so_far_url(job, ready), autoplay=True, loop=True, muted=True, alt=job.title)
    except StudioError:
        st.html(empty_stage("Its first seconds are no longer here", "The page follows in a moment."))
        return
    fps, title = job.plan.fps, plain(shortened(job.title, 80))
    st.caption(f"The first {ready / fps:.1f} s of {job.plan.total_s:.1f} s · {title}")


def latest_film(job: Job) -> None:
    try:
        st.video(media_url(job), autoplay=True, loop=True, muted=True, alt=job.title)
    except StudioError as error:
        st.html(empty_stage("This film's files are gone", error.message))
        return
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="stage_row"):
        words = f"{plain(shortened(job.title, 80))} · {plain(job.plan.model_title)} · seed {job.request.seed}"
        st.caption(words, width="content")
        if st.button("Open", icon=":material/open_in_full:", type="tertiary", key="open_stage"):
            film_dialog(job.id)


def stage_mark() -> tuple[object, ...]:
    """Changes when another film, or more of one, is to be played: the player stands outside of what is polled."""
    return (*queue_mark(), film_so_far()[1])


def now_card() -> None:
    mark = stage_mark()

    @st.fragment(run_every=poll_s())
    def now() -> None:
        if stage_mark() != mark:
            st.rerun()
        active = studio().active(limit=1)
        if active:
            progress_card(active[0])
            more = len(studio().store.queue()) - 1
            if more:
                st.caption(f"{more} more waiting")
        if studio().store.queue_paused:
            with st.container(horizontal=True, vertical_alignment="center", key="paused_note"):
                st.caption(":material/pause: The queue is paused; no film starts.")
                st.button("Resume the queue", key="resume_here", on_click=studio().pause_queue, args=(False,))

    now()


form.prepare()
spec = current_model()
header("Create", "Describe a film. It is made on this machine, and stays here.", spec.title)
left, right = st.columns([41, 59], gap="large")
with left:
    wish_column(spec)
    place = st.empty()
    with place.container():
        plan_card(spec)
    replacing()
    generate_button(spec, place)
with right:
    stage_column(spec)
