"""SyntheticEngine: draws a moving sketch of the request, without weights and without torch.

It is what makes films where no model can run, and what the tests of queue, API and pages run on; for these it has
switchable faults. The drawing itself is `backend/sketch/`.
"""

from __future__ import annotations

import bisect
import functools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from backend.core.planning import Stage
from backend.core.windows import pixel_frames
from backend.jobs.engine import Report, Reporter, Task
from backend.media.fitting import Frames, Picture

if TYPE_CHECKING:
    from backend.sketch.still import Still

CHUNK_FRAMES = 8
LOOK_EVERY_S = 1.0
LOOK_FRAMES = 24
LOOK_SIDE = 256  # pixels of the long side


@dataclass(slots=True)
class Faults:
    """What goes wrong, for tests. Steps count from 1 over the whole render: with 20 a window, 25 is in the second."""

    raise_at: dict[int, BaseException] = field(default_factory=dict)
    exit_at: int | None = None  # the process ends there with `exit_code`, as if it had been killed
    exit_code: int = 70
    seconds_per_step: float = 0.0
    extra_frames: int = 0  # this many frames too many; negative: too few


class SyntheticEngine:
    """Draws `request.prompt` and its storyboard, or moves the given picture, or continues the given video.

    The same task gives the same bytes. Prompts, negative prompt and seed change the picture; `num_inference_steps` only
    divides the work that progress counts, and `guidance_scale` and `flow_shift` have no effect: nothing is denoised.
    """

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.reached = threading.Event()  # set when a render waits at the step given to `hold_at`
        self._hold_step: int | None = None
        self._released = threading.Event()

    def hold_at(self, step: int) -> None:
        """Let the next render that comes to `step` wait there until `release`."""
        self.reached.clear()
        self._released.clear()
        self._hold_step = step

    def release(self) -> None:
        self._hold_step = None
        self._released.set()

    def render(self, task: Task, report: Reporter) -> Iterator[Frames]:
        """See `Engine.render`. A step is reported when it begins; the frames that fall due in it are drawn then. Later
        attempts begin with the step in which `first_frame` falls due.
        """
        plan = task.plan
        draw = _drawing(task)
        frames = plan.render_frames + self.faults.extra_frames
        new = frames - plan.prefix_frames
        steps = len(plan.windows) * plan.num_inference_steps
        waiting: list[Picture] = []
        looks = _Looks()
        drawn = task.first_frame
        for step in range(max(0, drawn - plan.prefix_frames) * steps // new, steps):
            self._suffer(step + 1)
            window, of_window = divmod(step, plan.num_inference_steps)
            report(Report(Stage.DENOISING, step / steps, window + 1, of_window + 1, looks.take()))
            if of_window == 0:
                looks.clear()
            due = plan.prefix_frames + new * (step + 1) // steps
            while drawn < due:
                waiting.append(draw(drawn))
                looks.add(waiting[-1])
                drawn += 1
                if len(waiting) == CHUNK_FRAMES or drawn == frames:
                    yield np.stack(waiting)
                    waiting.clear()
        report(Report(Stage.DENOISING, 1.0, len(plan.windows), plan.num_inference_steps, looks.take()))

    def _suffer(self, step: int) -> None:
        if step == self._hold_step:
            self.reached.set()
            self._released.wait()
        if step == self.faults.exit_at:
            os._exit(self.faults.exit_code)
        if step in self.faults.raise_at:
            raise self.faults.raise_at[step]
        if self.faults.seconds_per_step:
            time.sleep(self.faults.seconds_per_step)


class _Looks:
    """What was drawn so far of a window, small; it is given away about once a second."""

    def __init__(self) -> None:
        self._seen: list[Picture] = []
        self._taken_at = -math.inf

    def add(self, picture: Picture) -> None:
        import cv2

        height, width = picture.shape[:2]
        shrink = min(1.0, LOOK_SIDE / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        self._seen.append(np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8))

    def clear(self) -> None:
        self._seen.clear()

    def take(self) -> Frames | None:
        """At most LOOK_FRAMES of the pictures, evenly spaced; None where there are none, or too early."""
        now = time.monotonic()
        if not self._seen or now - self._taken_at < LOOK_EVERY_S:
            return None
        self._taken_at = now
        return np.stack(self._seen[:: math.ceil(len(self._seen) / LOOK_FRAMES)])


def _drawing(task: Task) -> Callable[[int], Picture]:
    """The function that draws frame `n` of the task, uint8 RGB of the plan's render size.

    The film is told in the frames that are delivered; those that the runner trims repeat its end or go on a little.
    """
    # Late: OpenCV takes a tenth of a second, which the start of the studio need not wait for.
    from backend.sketch import still
    from backend.sketch.film import Film
    from backend.sketch.words import parse, parse_for_picture

    request, plan, inputs = task.request, task.plan, task.inputs
    if inputs.image is None and inputs.prefix is None:
        stops = [pixel_frames(window.stop) for window in plan.windows]
        seconds = max(1, plan.num_frames - 1) / plan.fps

        @functools.lru_cache(maxsize=1)
        def film(prompt: str) -> Film:
            scene = parse(prompt, request.seed, request.negative_prompt)
            return Film(scene, plan.render_width, plan.render_height, seconds)

        return lambda n: film(request.prompt_of(bisect.bisect(stops, n))).frame(n / plan.fps)

    scene = parse_for_picture(request.prompt, request.seed, request.negative_prompt)
    prefix = inputs.prefix
    if prefix is not None:
        # The last frame of the prefix is second 0, so the first new frame already moves.
        seconds, first = plan.num_frames / plan.fps, len(prefix) - 1
        start = still.Still(prefix[-1], scene, plan.fps, seconds, still.movement(prefix))
    else:
        assert inputs.image is not None
        seconds, first = max(1, plan.num_frames - 1) / plan.fps, 0
        start = still.Still(inputs.image, scene, plan.fps, seconds)
    shown: Still | still.Passage = start
    if inputs.end_image is not None:
        end = still.Still(inputs.end_image, scene, plan.fps, seconds)
        shown = still.Passage(start, end, seconds, scene.seed)

    def draw(n: int) -> Picture:
        return prefix[n] if prefix is not None and n < first else shown.frame((n - first) / plan.fps)

    return draw
