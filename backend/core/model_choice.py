"""Which model renders a request where it names none, how well models suit a machine, and which one suits it best."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from backend.core.calibration import NOT_CALIBRATED, Calibration
from backend.core.errors import InvalidRequest
from backend.core.inputs import placeholders
from backend.core.placement import USABLE_VRAM, Placement
from backend.core.plan import Machine, Plan, Source
from backend.core.planning import make_plan
from backend.core.registry import PIXELS_540P, PIXELS_720P, SYNTHETIC, TINY, ModelSpec
from backend.core.schema import (
    DEFAULT_FRAMES,
    GenerationRequest,
    Mode,
    Preset,
)


def choose_model(request: GenerationRequest, models: Iterable[ModelSpec], machine: Machine) -> ModelSpec:
    """The model that `request` names, or for `auto` the best one present: the largest released checkpoint that the GPU
    holds for this request (one that renders at the requested size, if there is one), else the one that came with the
    studio, else the test pattern, which is all that is left where torch is not installed.

    Raises InvalidRequest for a name that is not present or a mode that the model does not have.
    """
    present = {spec.id: spec for spec in models}
    if request.model != "auto":
        spec = present.get(request.model)
        if spec is None:
            raise InvalidRequest(
                "is not here;", hint=f"use auto, or one of {', '.join(present)}.", field="model", value=request.model
            )
        if request.mode not in spec.modes:
            others = [other.id for other in present.values() if request.mode in other.modes]
            way_out = f"use {' or '.join(others[:2]) or 'auto'}."
            raise InvalidRequest(f"{spec.title} cannot do {request.mode.value};", hint=way_out, field="model")
        return spec
    if not machine.has_torch:
        return SYNTHETIC
    width, height = request.size
    able = [
        spec
        for spec in present.values()
        if request.mode in spec.modes
        and (spec.end_image or not request.end_image)
        and (spec.diffusion_forcing or not request.skyreels.needs_forcing)
        and spec.denoises
        and machine.has_gpu
        and _holds(spec, request, machine)
    ]
    if able:
        return max(able, key=lambda spec: _rank(spec, width * height))
    return present.get(TINY.id, SYNTHETIC)


def _holds(spec: ModelSpec, request: GenerationRequest, machine: Machine) -> bool:
    """Whether the GPU holds the whole transformer while it renders this request."""
    try:
        plan = make_plan(request, spec, machine)
    except InvalidRequest:  # raised again when the request is planned with the chosen model
        return True
    return plan.placement is not Placement.GROUP_OFFLOAD and plan.forecast.peak_gib <= USABLE_VRAM * machine.vram_gib


def _rank(spec: ModelSpec, pixels: int) -> tuple[bool, int, bool, float, bool]:
    """A key that orders models that fit: those that render at the requested size, then the widest, then SkyReels V2."""
    width = spec.transformer.dim if spec.transformer else 0
    full_size = (spec.max_pixels or 0) >= pixels * 0.98
    return full_size, width, spec.family == "skyreels-v2", spec.weights_gib, spec.diffusion_forcing


PLACEMENT_WORDS = {
    Placement.RESIDENT: "all of it stays on the GPU",
    Placement.MODEL_OFFLOAD: "its parts take turns on the GPU",
    Placement.GROUP_OFFLOAD: "layer by layer through the GPU, slowly",
}


@dataclass(frozen=True, slots=True)
class Suitability:
    """How well a model of the registry suits a machine: whether its parts fit into the memory that renders, and the
    plan, with its forecast, of a video of the default length at the model's own size.
    """

    fits: bool
    words: str
    plan: Plan


def suitability(spec: ModelSpec, machine: Machine, calibration: Calibration = NOT_CALIBRATED) -> Suitability:
    """How well `spec` suits `machine`, by the forecast; `calibration` is what earlier renders of it took there."""
    width, height = (1280, 720) if (spec.max_pixels or 0) >= PIXELS_720P else (960, 540)
    mode = next(mode for mode in Mode if mode in spec.modes)
    source = Source(width, height, DEFAULT_FRAMES, float(spec.fps)) if mode is Mode.VIDEO_EXTENSION else None
    request = GenerationRequest(mode=mode, prompt="-", resolution=f"{width}x{height}", seed=0, **placeholders(mode))
    plan = make_plan(request, spec, machine, source, calibration)
    peak = plan.forecast.peak_gib
    if not machine.has_gpu:
        has, what = machine.ram_gib, "of memory"
        words = "on this CPU (no GPU found)"
    else:
        has, what = USABLE_VRAM * machine.vram_gib, "on the GPU"
        words = PLACEMENT_WORDS[plan.placement]
        if plan.placement is Placement.GROUP_OFFLOAD:
            balanced = request.model_copy(update={"preset": Preset.BALANCED})
            lossy = make_plan(balanced, spec, machine, source).placement
            words += f"; with balanced {PLACEMENT_WORDS[lossy]}" if lossy is not plan.placement else ""
    if peak > has:
        return Suitability(False, f"needs {peak:.0f} GiB {what}; you have {has:.0f}", plan)
    return Suitability(True, words, plan)


@functools.lru_cache(maxsize=64)
def fit_words(spec: ModelSpec, machine: Machine) -> tuple[bool, str]:
    """Whether a model fits this machine, and the words for it."""
    suited = suitability(spec, machine)
    if not suited.fits:
        return False, suited.words
    if not machine.has_gpu:
        return True, "runs on the CPU"
    words = {Placement.RESIDENT: "fits this GPU", Placement.MODEL_OFFLOAD: "fits in turns"}
    return True, words.get(suited.plan.placement, "fits layer by layer, slowly")


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The model that suits a machine best, and why, in sentences."""

    spec: ModelSpec
    why: str


def recommend(models: Iterable[ModelSpec], machine: Machine) -> Recommendation:
    """The one of `models`, installed or not, to begin with on `machine`.

    It is the largest released model that makes videos from text and that the GPU holds, of equally large ones the one
    that stays there as a whole; without a GPU, or with one that is too small, the model that came with the studio.
    """
    models = list(models)
    if machine.has_gpu and machine.has_torch:
        released = [spec for spec in models if spec.repo_id and Mode.TEXT_TO_VIDEO in spec.modes]
        fitting = [(spec, suited.plan) for spec in released if (suited := suitability(spec, machine)).fits]
        held = [(spec, plan) for spec, plan in fitting if plan.placement is not Placement.GROUP_OFFLOAD]
        if held:
            spec, plan = max(held, key=lambda one: _size_rank(*one))
            return Recommendation(spec, f"{_held_words(plan, machine)} {_draws(spec)}")
    small = next((spec for spec in models if spec.id == TINY.id), None)
    if not machine.has_torch or small is None:
        reason = "No AI model can run here because torch is not installed." if not machine.has_torch else ""
        return Recommendation(SYNTHETIC, f"{reason} This is a placeholder that shows a test pattern.".strip())
    reason = "No GPU was found." if not machine.has_gpu else f"Your {machine.device} has too little memory."
    needs = "a GPU" if not machine.has_gpu else "more GPU memory"
    return Recommendation(
        small, f"{reason} This small demo model is what runs here; all others need {needs}. {_draws(small)}"
    )


def _size_rank(spec: ModelSpec, plan: Plan) -> tuple[int, bool, bool, int, bool, float]:
    width = spec.transformer.dim if spec.transformer else 0
    resident, hd = plan.placement is Placement.RESIDENT, (spec.max_pixels or 0) >= PIXELS_720P
    return width, resident, hd, len(spec.modes), spec.family == "skyreels-v2", spec.weights_gib


def _held_words(plan: Plan, machine: Machine) -> str:
    if plan.placement is Placement.RESIDENT:
        return f"All of it stays on your {machine.device}, so nothing is moved during a render."
    return f"Its parts take turns on your {machine.device}, which makes a render a little longer."


def _draws(spec: ModelSpec) -> str:
    pixels = spec.max_pixels or 0
    if spec.painted:
        return "It knows ten subjects in eight colours and draws at 160x96."
    size = "1280x720" if pixels >= 1280 * 704 else "960x540" if pixels >= PIXELS_540P else "832x480"
    return f"It renders {size}{' and long videos, window by window' if spec.many_windows else ''}."
