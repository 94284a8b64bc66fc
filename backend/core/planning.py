"""From a request to a plan: which model, what size, how many frames, windows and steps, and what it will cost.

Pure arithmetic on the request, the model's row and the machine's figures, so a page can show it at every keystroke.
"Frames" are pixel frames; the VAE packs the first into one latent frame and every further four into another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from types import MappingProxyType
from typing import Any

from backend.core.config import GIB
from backend.core.delivery import FinishingStep, Strip, finishing_gib, finishing_seconds, plan_fitting
from backend.core.errors import InvalidRequest, Mention, mention
from backend.core.inputs import placeholders
from backend.core.placement import FP8_FROM_GIB, USABLE_VRAM, Placed, Placement, need_of, place
from backend.core.presets import PRESETS, StepPlan, plan_steps
from backend.core.registry import PIXELS_720P, SYNTHETIC, TINY, ModelSpec, Transformer
from backend.core.schedule import Schedule, make_schedule
from backend.core.schema import (
    DEFAULT_FPS,
    DEFAULT_FRAMES,
    FPS,
    NUM_FRAMES,
    SECONDS,
    WINDOW_FRAMES,
    Fidelity,
    GenerationRequest,
    Mode,
    Preset,
)
from backend.core.windows import Layout, Window, latent_frames, lay_out, pixel_frames

SEGMENT_LATENTS = 5  # blocks are gathered to segments of at least as many latent frames, 17 or 20 frames


class Stage(str, Enum):
    """What a job does. In a render denoising and decoding alternate, window by window."""

    LOADING = "loading"
    DENOISING = "denoising"
    DECODING = "decoding"
    ENCODING = "encoding"
    SAVING = "saving"


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware of this computer. `vram_gib` is 0 without a GPU for torch; without torch no checkpoint runs."""

    device: str  # a display name: "NVIDIA H100 80GB HBM3" or "CPU, 2 cores"
    cores: int
    ram_gib: float
    vram_gib: float = 0.0
    has_torch: bool = True

    @property
    def has_gpu(self) -> bool:
        return self.vram_gib > 0


@dataclass(frozen=True, slots=True)
class Source:
    """An uploaded video that is extended: width and height in pixels, frames, frames per second."""

    width: int
    height: int
    frames: int
    fps: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """The estimated cost of a render: seconds of each stage, peak memory of the device, bytes of the finished file.

    `guess` is the seconds before calibration by earlier renders with this model.
    """

    seconds: dict[Stage, float]
    peak_gib: float
    disk_bytes: int
    guess: dict[Stage, float] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class PlannedLora:
    """A LoRA of the request, with the hash of its file, which is computed when the request is submitted."""

    name: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What the model computes: `render_frames` at `render_width` x `render_height`, of which the first `prefix_frames`
    repeat the end of the source. Blocks of `causal_block_size` latent frames lag `ar_step` steps behind one another (0
    is all at once), and with `causal_attention` attend only to themselves and earlier blocks. `batch_guidance` computes
    both predictions of classifier-free guidance in one call.
    """

    render_width: int
    render_height: int
    fps: int
    render_frames: int
    prefix_frames: int
    windows: tuple[Window, ...]
    overlap_history: int
    addnoise_condition: int
    num_inference_steps: int
    guidance_scale: float
    flow_shift: float
    fidelity: Fidelity = Fidelity.ORIGINAL
    ar_step: int = 0
    causal_block_size: int = 1
    causal_attention: bool = False
    batch_guidance: bool = False
    preset: Preset = Preset.EXACT
    first_picture: bool = False  # the request gives the first frame
    fp8: bool = False  # the linear layers of the transformer are stored in float8
    guidance_scale_2: float | None = None  # of the model's second expert; None: that of the first

    @property
    def window_steps(self) -> tuple[int, ...]:
        """Denoising steps of each window; more than `num_inference_steps` with asynchronous diffusion forcing."""
        return tuple(len(schedule.timestep_indices) for schedule in self.schedules)

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """The denoising schedule of each window."""
        context = [latent_frames(self.prefix_frames) if self.prefix_frames else int(self.first_picture)]
        context += [before.stop - after.start for before, after in itertools.pairwise(self.windows)]
        return tuple(
            make_schedule(
                window.stop - window.start,
                self.num_inference_steps,
                self.ar_step,
                self.causal_block_size,
                num_context_frames,
            )
            for window, num_context_frames in zip(self.windows, context, strict=True)
        )

    @property
    def num_evaluations(self) -> tuple[int, ...]:
        """Evaluations of the transformer in each window (NFE); classifier-free guidance takes two for a step."""
        return tuple(sum(step.num_evaluations for step in self.plan_steps(schedule)) for schedule in self.schedules)

    @property
    def num_evaluated_steps(self) -> int:
        """Steps of all windows that evaluate the transformer; the preset skips the others."""
        return sum(step.num_evaluations > 0 for schedule in self.schedules for step in self.plan_steps(schedule))

    def plan_steps(self, schedule: Schedule) -> tuple[StepPlan, ...]:
        """What each step of a window computes."""
        return plan_steps(schedule, self.num_inference_steps, self.preset, self.guidance_scale > 1)

    @property
    def forwards(self) -> int:
        """Calls of the transformer in all windows: one for each evaluation, or for both of a guided step."""
        batch = 2 if self.batch_guidance else 1
        steps = itertools.chain.from_iterable(self.plan_steps(schedule) for schedule in self.schedules)
        return sum(math.ceil(step.num_evaluations / batch) for step in steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Sampling):
    """A request made legal: how the model samples, the finishing steps, what is delivered and what it will cost.

    Of the rendered frames the prefix and the last ones are trimmed, so that `num_frames` new ones remain. They are
    delivered at `width` x `height`, after `source_frames` frames of the source.
    """

    model: str
    model_title: str
    engine: str
    width: int
    height: int
    enlarged: bool  # resized to the delivered size; otherwise cropped to it
    num_frames: int
    source_frames: int
    forecast: Forecast
    on_gpu: bool = False  # the forecast is for a GPU
    placement: Placement = Placement.RESIDENT  # assumed by the forecast; the free memory at the start decides
    half_decode: bool = False  # the VAE decodes in half precision
    loras: tuple[PlannedLora, ...] = ()
    finishing_steps: tuple[FinishingStep, ...] = ()  # finishing steps, in their order

    @property
    def rendered(self) -> Strip:
        """The new frames as the model renders them, before the finishing steps."""
        return Strip(self.render_width, self.render_height, self.fps, self.num_frames)

    @property
    def delivered(self) -> Strip:
        """The finished file: the source, if a video is extended, and the new frames after the finishing steps."""
        return Strip(self.width, self.height, self.fps, self.total_frames)

    @property
    def total_frames(self) -> int:
        """Frames in the finished file."""
        return self.source_frames + self.num_frames

    @property
    def total_s(self) -> float:
        return self.total_frames / self.fps

    @property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """Half-open ranges of the rendered frames that are kept; each becomes final at one step. A segment is a window,
        or some blocks of one with asynchronous diffusion forcing, and is written as one file.
        """
        ends = [0]
        for window in self.windows:
            block = self.causal_block_size if self.ar_step else window.stop - window.start
            for end in range(window.start + block, window.stop + 1, block):
                if end - ends[-1] >= SEGMENT_LATENTS or ends[-1] < end == window.stop:
                    ends.append(end)
        edges = [0, *(pixel_frames(end) for end in ends[1:])]
        first, last = self.prefix_frames, self.prefix_frames + self.num_frames
        ranges = ((max(a, first), min(b, last)) for a, b in itertools.pairwise(edges))
        return tuple((a, b) for a, b in ranges if a < b)


def steps_in_words(window_steps: Sequence[int], num_evaluated: int | None = None) -> str:
    """The steps of the windows, as one number where all take the same, and how many evaluate the transformer.

    >>> steps_in_words([30, 30]), steps_in_words([50, 45, 45, 30])
    ('30 steps', '50, 2 x 45, 30 steps')
    >>> steps_in_words([30, 30], 40)
    '30 steps, 40 of 60 evaluated'
    """
    total = sum(window_steps)
    rest = "" if num_evaluated in (None, total) else f", {num_evaluated} of {total} evaluated"
    runs = [(steps, len(list(group))) for steps, group in itertools.groupby(window_steps)]
    if len(runs) == 1:
        return f"{runs[0][0]} steps{rest}"
    return f"{', '.join(f'{count} x {steps}' if count > 1 else str(steps) for steps, count in runs)} steps{rest}"


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


def make_plan(
    request: GenerationRequest,
    spec: ModelSpec,
    machine: Machine,
    source: Source | None = None,
    calibration: Mapping[Stage, float] = MappingProxyType({}),
    loras: Mapping[str, int] = MappingProxyType({}),
) -> Plan:
    """The legal plan nearest to `request`, delivering exactly the frames, size and rate that were requested.

    `calibration` is, for each stage, the measured time of earlier jobs of this model divided by the guess; `loras` are
    the names of the request's LoRAs and the bytes of their files. Raises InvalidRequest where the model cannot do it,
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
    placed = _place(sampling, spec, machine)
    on_gpu = spec.denoises and machine.has_gpu
    delivered = Strip(width, height, fps, source_frames + num_frames)
    guess = _guess_seconds(sampling, spec, machine, delivered, finishing_seconds(rendered, steps))
    peak_gib = placed.peak_gib + finishing_gib(rendered, steps, on_gpu) + sum(loras.values()) / GIB
    return Plan(
        **_fields_of(sampling),
        model=spec.id,
        model_title=spec.title,
        engine=spec.engine,
        width=width,
        height=height,
        enlarged=enlarged,
        num_frames=num_frames,
        source_frames=source_frames,
        forecast=_forecast(guess, calibration, peak_gib, delivered),
        on_gpu=on_gpu,
        placement=placed.placement,
        half_decode=placed.half_decode,
        loras=tuple(PlannedLora(name) for name in loras),
        finishing_steps=steps,
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
        fp8=_uses_fp8(request, spec, machine),
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
    return min(max(round(source.fps), int(FPS.least)), int(FPS.most)) if source else None


# --- the forecast: a guess from operation counts, multiplied by `calibration` once this machine has rendered ---

SUSTAINED_FLOPS = (
    ("H200", 600e12),
    ("H100", 600e12),
    ("B200", 1200e12),
    ("A100", 220e12),
    ("L40", 150e12),
    ("4090", 120e12),
)
OTHER_GPU_FLOPS = 80e12
CPU_CORE_FLOPS = 30e9
TEXT_TOKENS = 512
LIBRARIES_GIB = 0.8  # of main memory, before a model is loaded: torch, diffusers, the studio itself
READ_GIB_PER_S = 1.0  # weights from a fast disk
ENCODE_S_PER_PIXEL = 4e-8  # x264, medium, two cores
BYTES_PER_PIXEL = 0.08  # of a finished H.264 video with detail, crf 18


def forward_flops(shape: Transformer | None, tokens: int) -> float:
    """Floating-point operations of one transformer call: projections, feed-forward, self- and cross-attention."""
    if shape is None:
        return 0.0
    dim, ffn = shape.dim, shape.ffn_dim
    linear = tokens * (8 * dim * dim + 4 * dim * ffn)
    attention = 4 * tokens * tokens * dim
    cross = 4 * tokens * dim * dim + 4 * TEXT_TOKENS * dim * dim + 4 * tokens * TEXT_TOKENS * dim
    return float(shape.layers * (linear + attention + cross))


def device_flops(machine: Machine) -> float:
    """Sustained operations a second of the device that renders, by its name."""
    if not machine.has_gpu:
        return machine.cores * CPU_CORE_FLOPS
    return next((flops for name, flops in SUSTAINED_FLOPS if name in machine.device), OTHER_GPU_FLOPS)


def _forecast(
    guess: dict[Stage, float], calibration: Mapping[Stage, float], peak_gib: float, delivered: Strip
) -> Forecast:
    learned = {stage: value * calibration.get(stage, 1.0) for stage, value in guess.items()}
    disk_bytes = int(delivered.pixels * BYTES_PER_PIXEL) + 100_000
    return Forecast(learned, round(peak_gib, 2), disk_bytes, guess)


def _guess_seconds(
    sampling: Sampling, spec: ModelSpec, machine: Machine, delivered: Strip, finishing_s: float
) -> dict[Stage, float]:
    """Seconds a stage, before calibration."""
    seconds = _model_seconds(sampling, spec, machine) if spec.denoises else _drawing_seconds(sampling)
    # Frames are finished and encoded as they are rendered, so both count to the stage that yields them.
    making = Stage.DECODING if spec.denoises else Stage.DENOISING
    encoding_s = ENCODE_S_PER_PIXEL * delivered.pixels
    return seconds | {making: seconds[making] + finishing_s + encoding_s, Stage.SAVING: 0.3}


def _drawing_seconds(sampling: Sampling) -> dict[Stage, float]:
    """Seconds a stage of frames that are drawn, not denoised."""
    pixels = sampling.render_width * sampling.render_height * sampling.render_frames
    return {Stage.LOADING: 0.0, Stage.DENOISING: 0.2 + 2e-8 * pixels, Stage.DECODING: 0.0}


def _place(sampling: Sampling, spec: ModelSpec, machine: Machine) -> Placed:
    """The placement on this machine's GPU; without one, all models in main memory as float32."""
    pixels = sampling.render_width * sampling.render_height
    if not spec.denoises:
        return Placed(Placement.RESIDENT, False, 0.1 + 120 * pixels / GIB)
    batch = 2 if sampling.batch_guidance and sampling.guidance_scale > 1 else 1
    tokens = max(_window_tokens(sampling, spec))
    if not machine.has_gpu:
        need = need_of(spec, tokens, batch, pixels, itemsize=4)
        return Placed(Placement.RESIDENT, False, LIBRARIES_GIB + need.peak(Placement.RESIDENT, False))
    need = need_of(spec, tokens, batch, pixels, fp8=sampling.fp8)
    return place(need, machine.vram_gib, PRESETS[sampling.preset].half_decode)


def _uses_fp8(request: GenerationRequest, spec: ModelSpec, machine: Machine) -> bool:
    """Whether large linear layers of the transformer are stored in float8: on a GPU, if the preset says so."""
    large = spec.transformer is not None and spec.weights_gib / spec.experts >= FP8_FROM_GIB
    return PRESETS[request.preset].fp8 and machine.has_gpu and large


def _window_tokens(sampling: Sampling, spec: ModelSpec) -> list[int]:
    rows = sampling.render_width * sampling.render_height // (2 * spec.spatial_factor) ** 2
    return [rows * (window.stop - window.start) for window in sampling.windows]


def _model_seconds(sampling: Sampling, spec: ModelSpec, machine: Machine) -> dict[Stage, float]:
    """Seconds a stage of a diffusion model: weights to read, operations to do."""
    flops = device_flops(machine)
    evaluations = zip(sampling.num_evaluations, _window_tokens(sampling, spec), strict=True)
    decode = spec.decode_flops * sampling.render_width * sampling.render_height * sampling.render_frames
    return {
        Stage.LOADING: 2 + spec.memory_gib / READ_GIB_PER_S,
        Stage.DENOISING: sum(n * forward_flops(spec.transformer, count) for n, count in evaluations) / flops,
        Stage.DECODING: decode / (flops / 4 if machine.has_gpu else flops),
    }


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a render. `window` and `step` count from 1; `fraction` is of the whole job, 0 to 1. The first
    `frames_ready` frames of the video can be played; a killed render resumes from its state of `saved_at`, in seconds
    since 1970.
    """

    stage: Stage
    window: int = 0
    windows: int = 0
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    eta_s: float | None = None
    frames_ready: int = 0
    saved_at: float | None = None


def fraction_done(forecast: Forecast, parts: Mapping[Stage, float]) -> float:
    """How much of the whole job is done when `parts` (0 to 1) of its stages are, weighed by the forecast's seconds."""
    done = sum(forecast.seconds.get(stage, 0.0) * min(max(part, 0.0), 1.0) for stage, part in parts.items())
    return min(1.0, done / (forecast.total_s or 1.0))
