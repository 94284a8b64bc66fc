"""SyntheticEngine: a placeholder video of a request, without weights and without torch.

It makes videos where no model can run, and the tests of queue, API and pages run on it; for these it has switchable
faults.
"""

from __future__ import annotations

import bisect
import functools
import math
import os
import threading
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from backend.core.plan import Stage
from backend.core.windows import pixel_frames
from backend.durable import replace_file
from backend.engine import STATE, Report, Reporter, Task
from backend.media.fitting import Frames, Picture

CHUNK_FRAMES = 8
PREVIEW_EVERY_S = 1.0
PREVIEW_FRAMES = 24
PREVIEW_SIDE = 256  # pixels of the long side
ZOOM_PER_S, MOST_ZOOM = 0.04, 0.4  # how much closer the move over a picture comes


@dataclass(slots=True)
class Faults:
    """What goes wrong, for tests. Steps count from 1 over the whole render: with 20 a window, 25 is in the second."""

    raise_at: dict[int, BaseException] = field(default_factory=dict)
    exit_at: int | None = None  # the process ends there with `exit_code`, as if it had been killed
    exit_code: int = 70
    seconds_per_step: float = 0.0
    extra_frames: int = 0  # this many frames too many; negative: too few


class SyntheticEngine:
    """Draws a test pattern, or zooms slowly into the given picture or the last frame of the given video. Each window's
    prompt and the number of the frame are written into the picture.

    The same task gives the same bytes. Prompt and seed change the picture; `num_inference_steps` only divides the work
    that progress counts; negative prompt, `guidance_scale` and `flow_shift` have no effect: nothing is denoised. The
    frames of a draft say that it is one; its state only says how many steps are done.
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
        attempts begin with the step in which `first_frame` falls due, the rest of a draft with the step after its last.
        """
        plan = task.plan
        draw = _drawing(task)
        frames = plan.decoded_frames + self.faults.extra_frames
        new = frames - plan.prefix_frames
        steps = plan.draft_steps or len(plan.windows) * plan.num_inference_steps
        waiting: list[Picture] = []
        previews = _Previews()
        drawn = task.first_frame
        if plan.draft_steps is not None:
            _write_state(task)
        done = _read_state(task) if plan.done_steps else 0
        if done:
            report(Report(Stage.LOADING, 1.0, runtime={"resumed": f"window 1, step {done + 1}"}))
        for step in range(max(done, max(0, drawn - plan.prefix_frames) * steps // new), steps):
            self._suffer(step + 1)
            window, of_window = divmod(step, plan.num_inference_steps)
            fraction = (step - done) / (steps - done)
            report(Report(Stage.DENOISING, fraction, window + 1, of_window + 1, previews.poll()))
            if of_window == 0:
                previews.clear()
            due = plan.prefix_frames + new * (step + 1) // steps
            while drawn < due:
                waiting.append(draw(drawn))
                previews.add(waiting[-1])
                drawn += 1
                if len(waiting) == CHUNK_FRAMES or drawn == frames:
                    yield np.stack(waiting)
                    waiting.clear()
        report(Report(Stage.DENOISING, 1.0, len(plan.window_steps), plan.window_steps[-1], previews.poll()))

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


def _write_state(task: Task) -> None:
    """Leave the state of a draft, as `Engine.render` says."""
    from safetensors.numpy import save_file

    if task.work is not None:
        part = task.work / f"{STATE}.part"
        save_file({"steps": np.array([task.plan.draft_steps])}, part)
        replace_file(part, task.work / STATE)


def _read_state(task: Task) -> int:
    """How many steps were done by the draft that this render goes on from; 0 if it left no state that can be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return int(load_file(task.work / STATE)["steps"][0]) if task.work else 0
    except (OSError, SafetensorError, LookupError):
        return 0


class _Previews:
    """What was drawn so far of a window, small; it is given away about once a second."""

    def __init__(self) -> None:
        self._seen: list[Picture] = []
        self._polled_at = -math.inf

    def add(self, picture: Picture) -> None:
        import cv2

        height, width = picture.shape[:2]
        shrink = min(1.0, PREVIEW_SIDE / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        self._seen.append(np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8))

    def clear(self) -> None:
        self._seen.clear()

    def poll(self) -> Frames | None:
        """At most PREVIEW_FRAMES of the pictures, evenly spaced; None where there are none, or too early."""
        now = time.monotonic()
        if not self._seen or now - self._polled_at < PREVIEW_EVERY_S:
            return None
        self._polled_at = now
        return np.stack(self._seen[:: math.ceil(len(self._seen) / PREVIEW_FRAMES)])


def _drawing(task: Task) -> Callable[[int], Picture]:
    """The function that draws frame `n` of the task, uint8 RGB of the plan's render size."""
    request, plan, inputs = task.request, task.plan, task.inputs
    stops = [pixel_frames(window.stop) for window in plan.windows]
    first, last = max(plan.prefix_frames - 1, 0), plan.prefix_frames + plan.num_frames - 1
    held = inputs.image if inputs.prefix is None else inputs.prefix[-1]

    def draw(n: int) -> Picture:
        if inputs.prefix is not None and n <= first:
            return np.asarray(inputs.prefix[n])
        if held is not None and n == first:
            return held
        if inputs.end_image is not None and n >= last:
            return inputs.end_image
        prompt = request.prompt_of(bisect.bisect(stops, n))
        if held is None:
            waves = _pattern(request.seed, prompt, plan.render_width, plan.render_height)
            picture = np.roll(waves, n * max(1, plan.render_width // 160), axis=1)
        else:
            picture = _move(held, inputs.end_image, (n - first) / (last - first), plan.num_frames / plan.fps)
        number = f"Frame {n - plan.prefix_frames + 1}/{plan.num_frames}"
        draft = f"Draft, {plan.draft_steps} of {plan.num_inference_steps} steps. " if plan.draft_steps else ""
        return _written(picture, [prompt, f"{number}. {draft}Placeholder, no AI"])

    return draw


@functools.lru_cache(maxsize=1)
def _pattern(seed: int, prompt: str, width: int, height: int) -> Picture:
    """Soft waves of colour that go on seamlessly from the right edge to the left."""
    chance = np.random.default_rng((seed, zlib.crc32(prompt.encode("utf-8", "surrogatepass"))))
    x, y = np.arange(width)[None, :, None] / width, np.arange(height)[:, None, None] / height
    across, down, phase = chance.integers(1, 4, 3), chance.uniform(-1.5, 1.5, 3), chance.random(3)
    waves = np.sin(2 * np.pi * (across * x + down * y + phase), dtype=np.float32)
    return (chance.uniform(90, 165, 3) + chance.uniform(40, 80, 3) * waves).astype(np.uint8)


def _move(start: Picture, end: Picture | None, part: float, seconds: float) -> Picture:
    """`start` zoomed in at `part` of the video, 0 to 1, which passes into `end` zoomed out."""
    import cv2

    gain = min(MOST_ZOOM, ZOOM_PER_S * seconds)
    picture = _zoomed(start, 1 + gain * part)
    if end is None:
        return picture
    return np.asarray(cv2.addWeighted(picture, 1 - part, _zoomed(end, 1 + gain * (1 - part)), part, 0), np.uint8)


def _zoomed(picture: Picture, zoom: float) -> Picture:
    """The middle of the picture, `zoom` times as large."""
    import cv2

    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, zoom)
    zoomed = cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(zoomed, np.uint8)


def _written(picture: Picture, lines: list[str]) -> Picture:
    """The picture with `lines` on a dark band at its lower edge, each cut to what fits."""
    # Late: OpenCV takes a tenth of a second, which the start of the studio need not wait for.
    import cv2

    height, width = picture.shape[:2]
    scale = max(0.25, min(width, height) / 900)
    line_height = math.ceil(34 * scale)
    band = picture[max(0, height - line_height * len(lines) - line_height // 3) :]
    band //= 4
    for number, line in enumerate(map(_ascii, lines), start=1):
        fits = int(width / (19 * scale))
        line = line if len(line) <= fits else line[: max(1, fits - 3)] + "..."
        place = (round(10 * scale), len(band) - line_height * (len(lines) - number) - line_height // 3)
        cv2.putText(band, line, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def _ascii(text: str) -> str:
    """`text` in the letters that OpenCV's font has: without accents, question marks for what is left."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return " ".join("".join(letters).encode("ascii", "replace").decode().split())
