"""From a request and a model to a plan: what size, how many frames, windows and steps, and what it will cost.

Pure arithmetic on the request, the model's row and the machine's figures, so a page can show it at every keystroke.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

from backend.core.calibration import NOT_CALIBRATED, Calibration
from backend.core.delivery import Strip, finishing_gib, finishing_seconds, plan_fitting
from backend.core.errors import InvalidRequest, Mention, mention
from backend.core.forecast import forecast_of, guess_seconds, place_models, state_bytes, uses_fp8
from backend.core.plan import Forecast, Machine, Plan, PlannedLora, Sampling, Source, Stage
from backend.core.registry import ModelSpec
from backend.core.schema import (
    DEFAULT_FPS,
    DEFAULT_FRAMES,
    FPS,
    NUM_FRAMES,
    SECONDS,
    WINDOW_FRAMES,
    Fidelity,
    GenerationRequest,
    Preset,
)
from backend.core.units import GIB
from backend.core.vocabulary import unknown_words
from backend.core.windows import Layout, lay_out


def make_plan(
    request: GenerationRequest,
    spec: ModelSpec,
    machine: Machine,
    source: Source | None = None,
    calibration: Calibration = NOT_CALIBRATED,
    loras: Mapping[str, int] = MappingProxyType({}),
) -> Plan:
    """The legal plan nearest to `request`, delivering exactly the frames, size and rate that were requested.

    `calibration` is what earlier renders of this model took; `loras` are the names of the request's LoRAs and the bytes
    of their files. Raises InvalidRequest where the model cannot do it,
    naming what can be done.
    """
    width, height = request.size
    fps = request.fps or _source_fps(source) or spec.fps or DEFAULT_FPS
    num_frames = _num_frames(request, fps)
    source_frames = frames_at(source, fps) if source else 0
    layout = _checked_layout(request, spec, num_frames, source_frames)
    render_width, render_height, enlarged = render_size(width, height, spec)
    rendered = Strip(render_width, render_height, fps, num_frames)
    steps = plan_fitting(rendered, Strip(width, height, fps, num_frames), enlarged)
    sampling = _plan_sampling(request, spec, machine, layout, rendered)
    placed = place_models(sampling, spec, machine)
    on_gpu = spec.denoises and machine.has_gpu
    delivered = Strip(width, height, fps, source_frames + num_frames)
    peak_gib = placed.peak_gib + finishing_gib(rendered, steps, on_gpu) + sum(loras.values()) / GIB
    whole = Plan(
        **_fields_of(sampling),
        model=spec.id,
        model_title=spec.title,
        engine=spec.engine,
        width=width,
        height=height,
        enlarged=enlarged,
        num_frames=num_frames,
        source_frames=source_frames,
        forecast=Forecast({}, round(peak_gib, 2), 0),
        on_gpu=on_gpu,
        placement=placed.placement,
        half_decode=placed.half_decode,
        loras=tuple(PlannedLora(name) for name in loras),
        finishing_steps=steps,
        unknown_words=_unknown_words(request, spec),
    )
    if request.draft_steps is None:
        return with_forecast(whole, spec, machine, calibration)
    _check_draft(request.draft_steps, whole.num_inference_steps)
    guess = guess_seconds(whole, spec, machine, delivered, 0.0)
    draft = replace(
        whole,
        draft_steps=request.draft_steps,
        forecast=replace(whole.forecast, whole_guess_s=guess[Stage.DENOISING]),
    )
    return with_forecast(draft, spec, machine, calibration)


def _unknown_words(request: GenerationRequest, spec: ModelSpec) -> tuple[str, ...]:
    """The words of the prompts that the model certainly does not know; a LoRA may bring words of its own."""
    if spec.words is None or request.loras:
        return ()
    return unknown_words(" ".join((request.prompt, *request.skyreels.storyboard)), spec.words)


def plan_promotion(
    draft: Plan, done_steps: int, spec: ModelSpec, machine: Machine, calibration: Calibration = NOT_CALIBRATED
) -> Plan:
    """The plan of the whole video of `draft`, of which the first `done_steps` are done: all, or none where the saved
    state is gone.

    Only the forecast is new. The model, its settings and whatever else shapes the video stay as they were, or the state
    would be that of another render.
    """
    rest = replace(draft, draft_steps=None, done_steps=done_steps, notes=())
    return with_forecast(rest, spec, machine, calibration)


def with_forecast(plan: Plan, spec: ModelSpec, machine: Machine, calibration: Calibration) -> Plan:
    """`plan` with the forecast of what it computes, which takes as much memory as was forecast before."""
    finishing_s = finishing_seconds(plan.rendered, plan.finishing_steps)
    guess = guess_seconds(plan, spec, machine, plan.delivered, finishing_s)
    found = forecast_of(guess, calibration, plan.forecast.peak_gib, plan.delivered)
    kept_bytes = 0 if plan.draft_steps is None else state_bytes(plan)
    forecast = replace(found, disk_bytes=found.disk_bytes + kept_bytes, whole_guess_s=plan.forecast.whole_guess_s)
    return replace(plan, forecast=forecast)


def _check_draft(draft_steps: int, num_inference_steps: int) -> None:
    """Raise InvalidRequest for a draft that would leave nothing to do."""
    if draft_steps >= num_inference_steps:
        raise InvalidRequest(
            f"is not below the {num_inference_steps} steps of the finished video;",
            hint=f"use 1 to {num_inference_steps - 1}, or leave it out.",
            field="draft_steps",
            value=draft_steps,
        )


def _num_frames(request: GenerationRequest, fps: int) -> int:
    """The new frames that are asked for. Raises InvalidRequest for seconds that are too few or too many frames."""
    num_frames = request.num_frames or (round(request.seconds * fps) if request.seconds else DEFAULT_FRAMES)
    least, most = NUM_FRAMES
    if not least <= num_frames <= most:
        shortest = max(SECONDS.least, math.ceil(10 * least / fps) / 10)
        longest = min(SECONDS.most, math.floor(10 * most / fps) / 10)
        raise InvalidRequest(
            f"at {fps} fps are {num_frames} frames;",
            hint=f"use {shortest:g} to {longest:g} seconds.",
            field="seconds",
            value=request.seconds,
        )
    return num_frames


def _checked_layout(request: GenerationRequest, spec: ModelSpec, num_frames: int, source_frames: int) -> Layout:
    """The windows of the render. Raises InvalidRequest for settings that this model or these windows cannot have."""
    if request.end_image and not spec.end_image:
        raise InvalidRequest(
            f"{spec.title} cannot end on a picture;",
            hint=["leave ", mention("end_image"), " out or use a DF model."],
            field="end_image",
        )
    if spec.denoises:
        _check_blockwise(request, spec)
        _check_one_window(request, spec)
    layout = lay_out(request, spec, num_frames, source_frames)
    _check_storyboard(request, spec, num_frames, source_frames, layout)
    _check_strengths(request, len(layout.windows))
    return layout


def _plan_sampling(
    request: GenerationRequest, spec: ModelSpec, machine: Machine, layout: Layout, rendered: Strip
) -> Sampling:
    """What the model computes: the settings of the request, or the model's own where they are left open."""
    options = request.skyreels
    return Sampling(
        render_width=rendered.width,
        render_height=rendered.height,
        fps=round(rendered.fps),
        render_frames=layout.render_frames,
        prefix_frames=layout.prefix_frames,
        windows=layout.windows,
        overlap_history=layout.overlap_history,
        addnoise_condition=options.addnoise_condition,
        num_inference_steps=request.num_inference_steps or spec.num_inference_steps,
        guidance_scale=spec.guidance_scale if request.guidance_scale is None else request.guidance_scale,
        guidance_scale_2=spec.guidance_scale_2 if request.guidance_scale is None else None,
        flow_shift=options.flow_shift or spec.flow_shift,
        fidelity=options.fidelity,
        ar_step=options.ar_step if spec.denoises else 0,
        causal_block_size=options.block if spec.denoises else 1,
        causal_attention=options.causal_attention and spec.denoises,
        batch_guidance=options.batch_guidance and spec.denoises,
        preset=request.preset if spec.denoises else Preset.EXACT,
        first_picture=request.image is not None,
        fp8=uses_fp8(request, spec, machine),
    )


def _fields_of(sampling: Sampling) -> dict[str, Any]:
    """The fields by their names, as a Plan takes them."""
    return {field.name: getattr(sampling, field.name) for field in fields(sampling)}


def _check_blockwise(request: GenerationRequest, spec: ModelSpec) -> None:
    """Raise InvalidRequest where frames cannot be denoised block by block."""
    options = request.skyreels
    if not options.ar_step and not options.causal_attention:
        return
    name, off = ("ar_step", 0) if options.ar_step else ("causal_attention", False)
    without = mention(f"skyreels.{name}", off)
    ways: list[str | Mention]
    if not spec.diffusion_forcing:
        reason, ways = f"{spec.title} gives all frames the same noise level", [without, " or a DF model"]
    elif request.end_image and options.causal_attention:
        name = "causal_attention"
        reason, ways = "no frame would see the last picture, which comes after it", [mention(f"skyreels.{name}", False)]
    elif request.image and options.block > 1:
        # A picture is one latent frame; the original would treat it as part of a block and denoise it.
        reason = f"a first picture fills no block of {options.block}"
        ways = [without, ", or ", mention("skyreels.causal_block_size", 1)]
    elif request.end_image and options.fidelity is Fidelity.DIFFUSERS and options.block > 1:
        reason = "the last picture fills no block of the causal mask of diffusers"
        ways = [without, " or ", mention("skyreels.fidelity", Fidelity.ORIGINAL)]
    else:
        return
    raise InvalidRequest(
        f"is not possible: {reason};",
        hint=["use ", *ways, "."],
        field=f"skyreels.{name}",
        value=getattr(options, name),
    )


def _check_one_window(request: GenerationRequest, spec: ModelSpec) -> None:
    """Raise InvalidRequest for settings of further windows where the model has only one."""
    for name in ("base_num_frames", "overlap_history", "storyboard"):
        if getattr(request.skyreels, name) and not spec.diffusion_forcing:
            raise InvalidRequest(
                f"{spec.title} makes one window, whose length is its own, from one prompt;",
                hint=["leave ", mention(f"skyreels.{name}"), " out, or use a DF model."],
                field=f"skyreels.{name}",
            )


def _check_storyboard(
    request: GenerationRequest, spec: ModelSpec, num_frames: int, source_frames: int, layout: Layout
) -> None:
    """Raise InvalidRequest if the storyboard has prompts for more windows than there are."""

    def windows(base_num_frames: int) -> int:
        options = request.skyreels.model_copy(update={"base_num_frames": base_num_frames})
        try:
            other = lay_out(request.model_copy(update={"skyreels": options}), spec, num_frames, source_frames)
        except InvalidRequest:
            return 0
        return len(other.windows)

    num_prompts, further = len(request.skyreels.storyboard), len(layout.windows) - 1
    if num_prompts <= further:
        return
    new = max(layout.base_num_frames - layout.overlap_history, 4)  # frames that a further window adds
    longer = layout.base_num_frames + (num_prompts - 1) * new - layout.prefix_frames + 1
    story = mention("skyreels.storyboard")
    ways: list[str | Mention] = [f"use at most {further}"] if further else ["leave ", story, " out"]
    if longer <= NUM_FRAMES.most:
        ways += [", or take ", mention("num_frames", longer), " or more"]
    smaller = range(layout.base_num_frames - 4, int(WINDOW_FRAMES.least) - 1, -4)
    if base := next((frames for frames in smaller if windows(frames) > num_prompts), None):
        ways += [", or use ", mention("skyreels.base_num_frames", base)]
    prompts = "1 prompt" if num_prompts == 1 else f"{num_prompts} prompts"
    raise InvalidRequest(
        [story, f" has {prompts} for the windows after the first, of which the video has {further};"],
        hint=[*ways, "."],
        field="skyreels.storyboard",
    )


def _check_strengths(request: GenerationRequest, windows: int) -> None:
    """Raise InvalidRequest if a LoRA has strengths for more windows than there are."""
    for use in request.loras:
        if len(use.strength) > windows:
            has = f"{windows} window{'s' if windows > 1 else ''}"
            raise InvalidRequest(
                f"The LoRA {use.name} has {len(use.strength)} strengths, the video has {has};",
                hint="give it one for each window, or one for all.",
                field="loras",
            )


def render_size(width: int, height: int, spec: ModelSpec) -> tuple[int, int, bool]:
    """The size that the model renders for a delivered `width` x `height`, in pixels, and whether it is then enlarged.

    Rendered sizes are multiples of 16 (8 for the VAE, 2 for the patches). Up to `max_pixels` the next multiple is
    rendered and cropped; above, the nearest one of the same shape that fits, which is then enlarged.

    >>> from backend.core.registry import MODELS
    >>> render_size(960, 540, MODELS["skyreels-v2-df-1.3b-540p"])
    (960, 544, False)
    >>> render_size(1280, 720, MODELS["skyreels-v2-df-1.3b-540p"])
    (960, 544, True)
    """
    if spec.any_size:
        return width, height, False
    unit = 2 * spec.spatial_factor
    full = (unit * math.ceil(width / unit), unit * math.ceil(height / unit))
    if spec.max_pixels is None or full[0] * full[1] <= spec.max_pixels * 1.01:
        return *full, False
    scale = math.sqrt(spec.max_pixels / (width * height))
    fitted = tuple(max(unit, unit * round(side * scale / unit)) for side in (width, height))
    return fitted[0], fitted[1], True


def frames_at(source: Source, fps: float) -> int:
    """How many frames the source has when it is shown at `fps` frames per second, at least 1."""
    return max(1, round(source.frames * fps / source.fps))


def _source_fps(source: Source | None) -> int | None:
    """The rate of the source; of one that is faster than allowed the half, a third and so on, so that frames are left
    out evenly.
    """
    if source is None:
        return None
    part = math.ceil(round(source.fps) / FPS.most) or 1
    return max(round(source.fps / part), int(FPS.least))
