"""Check a model: one short video for each of its capabilities, and faults that can be measured in them.

A checkpoint of random numbers cannot show this, only released weights on a machine that holds them: that they render
pictures at all, that a given picture comes back, that an extension continues the video it was given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.core.registry import ModelSpec
from backend.core.schema import Fit, Mode
from backend.media.fitting import Frames, Picture
from backend.media.reader import read_frames
from backend.media.writer import write_poster

FRAMES = 33
SIZE = (960, 540)
PROMPT = "A red boat drifts on a calm sea at sunset"
LEAST_CONTRAST = 6.0  # grey levels, standard deviation over a frame
MOST_ROUGHNESS = 0.35  # of it: the mean step from a pixel to the next; pure noise has 1.1
LEAST_MOTION = 0.5  # grey levels between the first and the last frame
LEAST_LIKENESS = 20.0  # dB, of a picture that was given and the frame that must show it

Make = Callable[[dict[str, Any]], tuple[str, Path]]  # fields of a request -> the job's id and its MP4


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a model: the capability, the job that rendered it, and the faults that were found in the video."""

    what: str
    job_id: str
    faults: tuple[str, ...]


def checks(spec: ModelSpec, make: Make, upload: Callable[[Path], str]) -> Iterator[Check]:
    """Render the videos with `make`, one after the other; `upload` stores a file and returns its id."""
    first, last = boat_at_sea(*SIZE, 0.0), boat_at_sea(*SIZE, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        pictures = {}
        for name, picture in (("image", first), ("end_image", last)):
            file = Path(folder) / f"{name}.jpg"
            write_poster(file, picture, max_width=picture.shape[1])
            pictures[name] = upload(file)
        videos: list[Path] = []
        common = {"model": spec.id, "prompt": PROMPT, "num_frames": FRAMES, "seed": 1}
        common["resolution"] = "{}x{}".format(*SIZE)
        for what, params in _requests(spec, pictures):
            if params["mode"] == Mode.VIDEO_EXTENSION.value:
                params["video"] = upload(videos[-1])
            job_id, video = make(common | params)
            videos.append(video)
            yield Check(what, job_id, tuple(_faults(_frames(video, spec), params, first, last)))


def _requests(spec: ModelSpec, pictures: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    text, image, extend = (mode.value for mode in (Mode.TEXT_TO_VIDEO, Mode.IMAGE_TO_VIDEO, Mode.VIDEO_EXTENSION))
    if Mode.TEXT_TO_VIDEO in spec.modes:
        yield "text to video", {"mode": text}
    if spec.diffusion_forcing:
        windows = {"base_num_frames": FRAMES, "overlap_history": 17}
        yield "two windows", {"mode": text, "num_frames": FRAMES + 16, "skyreels": windows}
        yield "frame by frame", {"mode": text, "skyreels": {"ar_step": 2, "causal_block_size": 1}}
    if Mode.IMAGE_TO_VIDEO in spec.modes:
        yield "image to video", {"mode": image, "image": pictures["image"]}
        if spec.end_image:
            yield "to an end picture", {"mode": image, **pictures}
    if Mode.VIDEO_EXTENSION in spec.modes:
        yield "video extension", {"mode": extend}


def boat_at_sea(width: int, height: int, part: float) -> Picture:
    """A drawing of `PROMPT`, uint8 RGB, `width` x `height`: at `part` 0 the boat is on the left, at 1 in the middle."""
    rows = np.linspace(0, 1, height)[:, None, None]
    sky = np.array([70, 60, 120]) * (1 - rows) + np.array([255, 170, 90]) * rows
    sea = np.array([60, 90, 140]) * (1.6 - rows)
    picture = np.broadcast_to(np.where(rows < 0.6, sky, sea), (height, width, 3)).clip(0, 255).astype(np.uint8)

    def at(*points: tuple[float, float]) -> NDArray[np.int32]:
        return np.array([(round(x * height), round(y * height)) for x, y in points], np.int32)

    picture = np.ascontiguousarray(picture)
    cv2.circle(picture, at((1.4, 0.35))[0].tolist(), round(0.12 * height), (255, 225, 150), -1, cv2.LINE_AA)
    x = 0.3 + 0.35 * part
    cv2.fillPoly(picture, [at((x + 0.2, 0.25), (x + 0.2, 0.62), (x + 0.45, 0.62))], (245, 235, 220), cv2.LINE_AA)
    cv2.fillPoly(picture, [at((x, 0.65), (x + 0.5, 0.65), (x + 0.4, 0.8), (x + 0.1, 0.8))], (200, 30, 30), cv2.LINE_AA)
    return picture


def _frames(file: Path, spec: ModelSpec) -> Frames:
    """All frames of a file, scaled to a quarter of their size."""
    return np.concatenate(list(read_frames(file, fps=spec.fps, width=240, height=136, fit=Fit.CROP)))


def _faults(video: Frames, params: dict[str, Any], first: Picture, last: Picture) -> Iterator[str]:
    """Measured faults of a video rendered from `params`, each a phrase."""
    new = video[-params.get("num_frames", FRAMES) :].astype(np.float32)
    contrast = float(np.median(new.std(axis=(1, 2))))
    rough = float(np.abs(np.diff(new, axis=2)).mean()) / max(contrast, 1.0)
    if contrast < LEAST_CONTRAST:
        yield f"it shows next to nothing (contrast {contrast:.1f} grey levels, {LEAST_CONTRAST:.0f} are the least)"
    elif rough > MOST_ROUGHNESS:
        yield f"it is noise (roughness {rough:.2f}, {MOST_ROUGHNESS} is the most)"
    if np.abs(new[-1] - new[0]).mean() < LEAST_MOTION:
        yield "nothing moves"
    if "image" in params and (found := _likeness(new[0], first)) < LEAST_LIKENESS:
        yield f"it does not begin with the picture ({found:.1f} dB, {LEAST_LIKENESS:.0f} are the least)"
    if "end_image" in params and (found := _likeness(new[-1], last)) < LEAST_LIKENESS:
        yield f"it does not end with the picture ({found:.1f} dB, {LEAST_LIKENESS:.0f} are the least)"
    if "video" in params and (found := _likeness(new[0], video[-len(new) - 1])) < LEAST_LIKENESS:
        yield f"it does not go on where the video ends ({found:.1f} dB, {LEAST_LIKENESS:.0f} are the least)"


def _likeness(frame: Picture, picture: Picture) -> float:
    """Peak signal-to-noise ratio in dB, of what remains of both in a size that every model draws."""
    one, other = (cv2.resize(x.astype(np.float32), (160, 90), interpolation=cv2.INTER_AREA) for x in (frame, picture))
    return float(10 * np.log10(255**2 / max(float(np.square(one - other).mean()), 1e-6)))
