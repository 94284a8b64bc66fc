"""Which model renders a request where it names none, and how well models suit a machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backend.core.errors import InvalidRequest
from backend.core.inputs import placeholders
from backend.core.placement import USABLE_VRAM, Placement
from backend.core.plan import Machine, Plan, Source
from backend.core.planning import make_plan
from backend.core.registry import PIXELS_720P, SYNTHETIC, TINY, ModelSpec
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


def suitability(spec: ModelSpec, machine: Machine) -> Suitability:
    """How well `spec` suits `machine`, by the forecast."""
    width, height = (1280, 720) if (spec.max_pixels or 0) >= PIXELS_720P else (960, 540)
    mode = next(mode for mode in Mode if mode in spec.modes)
    source = Source(width, height, DEFAULT_FRAMES, float(spec.fps)) if mode is Mode.VIDEO_EXTENSION else None
    request = GenerationRequest(mode=mode, prompt="-", resolution=f"{width}x{height}", seed=0, **placeholders(mode))
    plan = make_plan(request, spec, machine, source)
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
