"""What planning gives: what is rendered and delivered, its windows, steps and forecast; progress through it.

"Frames" are pixel frames; the VAE packs the first into one latent frame and every further four into another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from backend.core.delivery import FinishingStep, Strip
from backend.core.placement import Placement
from backend.core.presets import StepPlan, plan_steps
from backend.core.schedule import Schedule, make_schedule
from backend.core.schema import (
    Fidelity,
    Preset,
)
from backend.core.windows import Window, latent_frames, pixel_frames

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

    `guess` is the seconds before calibration by earlier renders with this model. While few of them are known, the whole
    render takes `low_s` to `high_s` seconds. `whole_guess_s` is the guess for denoising the whole video, of a draft and
    of what promotes it.
    """

    seconds: dict[Stage, float]
    peak_gib: float
    disk_bytes: int
    guess: dict[Stage, float] = field(default_factory=dict)
    low_s: float | None = None
    high_s: float | None = None
    whole_guess_s: float | None = None

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

    A draft stops after `draft_steps` of the first window; what promotes it makes the rest, without the first
    `done_steps`. All else is the same for draft, rest and whole, so that one continues the other.
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
    draft_steps: int | None = None
    done_steps: int = 0

    @property
    def window_steps(self) -> tuple[int, ...]:
        """The number of the last denoising step of each window; more than `num_inference_steps` with asynchronous
        diffusion forcing.
        """
        if self.draft_steps is not None:
            return (self.draft_steps,)
        return tuple(len(schedule.timestep_indices) for schedule in self.schedules)

    @property
    def decoded_frames(self) -> int:
        """How many of the frames are decoded: all `render_frames`, or those that have started where a draft stops."""
        if self.draft_steps is None:
            return self.render_frames
        return pixel_frames(self.schedules[0].num_started[self.draft_steps - 1])

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
        return tuple(sum(step.num_evaluations for step in steps) for steps in self.step_plans)

    @property
    def num_evaluated_steps(self) -> int:
        """Steps of all windows that evaluate the transformer; the preset skips the others."""
        return sum(step.num_evaluations > 0 for steps in self.step_plans for step in steps)

    @property
    def step_plans(self) -> tuple[tuple[StepPlan, ...], ...]:
        """What each step computes, in each window; without steps that a draft has done or that it leaves out."""
        first, *later = (self.plan_steps(schedule) for schedule in self.schedules)
        if self.draft_steps is not None:
            return (first[: self.draft_steps],)
        return (first[self.done_steps :], *later)

    def plan_steps(self, schedule: Schedule) -> tuple[StepPlan, ...]:
        """What each step of a whole window computes."""
        return plan_steps(schedule, self.num_inference_steps, self.preset, self.guidance_scale > 1)

    @property
    def forwards(self) -> int:
        """Calls of the transformer in all windows: one for each evaluation, or for both of a guided step."""
        batch = 2 if self.batch_guidance else 1
        steps = itertools.chain.from_iterable(self.step_plans)
        return sum(math.ceil(step.num_evaluations / batch) for step in steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Sampling):
    """A request made legal: how the model samples, the finishing steps, what is delivered and what it will cost.

    Of the rendered frames the prefix and the last ones are trimmed, so that `num_frames` new ones remain; a draft shows
    the first of these. They are delivered at `width` x `height`, after `source_frames` frames of the source.
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
    notes: tuple[str, ...] = ()  # sentences about what is done without being told to
    unknown_words: tuple[str, ...] = ()  # words of the prompts that the model was not trained on, of a small model

    @property
    def rendered(self) -> Strip:
        """The new frames as the model renders them, before the finishing steps."""
        return Strip(self.render_width, self.render_height, self.fps, self.new_frames)

    @property
    def delivered(self) -> Strip:
        """The finished file: the source, if a video is extended, and the new frames after the finishing steps."""
        return Strip(self.width, self.height, self.fps, self.total_frames)

    @property
    def new_frames(self) -> int:
        """The new frames that are delivered: `num_frames`, or those of a draft."""
        return min(self.num_frames, self.decoded_frames - self.prefix_frames)

    @property
    def total_frames(self) -> int:
        """Frames in the finished file."""
        return self.source_frames + self.new_frames

    @property
    def total_s(self) -> float:
        return self.total_frames / self.fps

    @property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """Half-open ranges of the rendered frames that are kept; each becomes final at one step. A segment is a window,
        or some blocks of one with asynchronous diffusion forcing, and is written as one file. A draft is one segment.
        """
        first, last = self.prefix_frames, self.prefix_frames + self.new_frames
        if self.draft_steps is not None:
            return ((first, last),)
        ends = [0]
        for window in self.windows:
            block = self.causal_block_size if self.ar_step else window.stop - window.start
            for end in range(window.start + block, window.stop + 1, block):
                if end - ends[-1] >= SEGMENT_LATENTS or ends[-1] < end == window.stop:
                    ends.append(end)
        edges = [0, *(pixel_frames(end) for end in ends[1:])]
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


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a render. `window` and `step` count from 1; `fraction` is of the whole job, 0 to 1. The first
    `frames_ready` frames of the video can be played; a killed render resumes from its state of `saved_at`, in seconds
    since 1970. `eta_reason` says why the time left has grown.
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
    eta_reason: str | None = None


def fraction_done(forecast: Forecast, parts: Mapping[Stage, float]) -> float:
    """How much of the whole job is done when `parts` (0 to 1) of its stages are, weighed by the forecast's seconds."""
    done = sum(forecast.seconds.get(stage, 0.0) * min(max(part, 0.0), 1.0) for stage, part in parts.items())
    return min(1.0, done / (forecast.total_s or 1.0))
