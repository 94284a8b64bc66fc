"""What an engine is: a plan and its inputs in, a stream of frames out, progress up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from backend.core.plan import Plan, Stage
from backend.core.schema import GenerationRequest
from backend.library.loras import Lora
from backend.media.fitting import Frames, Picture

STATE = "state.safetensors"  # in `work`: the saved state, from which the next attempt goes on


@dataclass(frozen=True, slots=True)
class Report:
    """Progress of one render: `part` of `stage`, 0 to 1; windows and steps count from 1. `preview` is a small clip of
    the predicted result, given every few seconds; `frames_ready` and `saved_at` are those of `Progress`. `runtime` is
    given once and names the device, precision and kernels of the render.
    """

    stage: Stage
    part: float
    window: int = 0
    step: int = 0
    preview: Frames | None = field(default=None, compare=False, repr=False)
    frames_ready: int = 0
    saved_at: float | None = None
    runtime: Mapping[str, str] | None = field(default=None, compare=False, repr=False)


# Called between steps and chunks; raises JobCancelled when the job was cancelled, waits while it is paused.
Reporter = Callable[[Report], None]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Decoded inputs, fitted to `render_width` x `render_height`; `prefix` is the last `prefix_frames` of the source at
    the plan's rate.
    """

    image: Picture | None = None
    end_image: Picture | None = None
    prefix: Frames | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that one render needs. `checkpoint` is the model's folder, None for a model without one; `loras` are
    those of the request, in its order. An engine may keep files of its own in `work` to go on from, if the next
    attempt finds them there; frames before `first_frame` exist.
    """

    request: GenerationRequest
    plan: Plan
    inputs: Inputs
    checkpoint: Path | None = None
    work: Path | None = None
    first_frame: int = 0
    loras: tuple[Lora, ...] = ()


class Engine(Protocol):
    """Both engines: `SkyReelsEngine` and `SyntheticEngine`."""

    def render(self, task: Task, report: Reporter) -> Iterator[Frames]:
        """Yield uint8 RGB chunks of `render_width` x `render_height`: from `first_frame` on all `decoded_frames`, of
        which the prefix is a part. A draft also leaves the state after its last step in `work`, as STATE.

        The same task gives the same bytes on the same machine, wherever it begins. Raises JobCancelled through
        `report`, RenderFailed and its children where the render cannot go on; then holds no memory that the next
        render would miss.
        """
        ...
