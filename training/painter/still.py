"""A still picture in motion: the camera moves over it, weather falls before it, one picture turns into another."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.media.fitting import Frames, Picture
from training.painter.brush import Canvas
from training.painter.palette import palette_of
from training.painter.scene import Camera, Scene
from training.painter.view import View
from training.painter.weather import Air

Field = NDArray[np.float32]  # movement in pixels a frame, shape (height, width, 2): to the right, down

LARGEST_DRIFT = 0.08  # of the width: how far a movement that was seen is carried on
LARGEST_STRETCH = 0.7  # pixels a pixel: where only a subject moves, what surrounds it must not bend too much
SETTLING_FRAMES = 14.0  # it fades with at most this time constant


class Still:
    """An animation from one picture. At 0 seconds it is that picture, byte for byte; then the camera of `scene` moves
    slowly, closer things (lower in the picture) faster, and its weather comes up. The frame is always filled, so a
    camera that should pull out looks up instead: what is around the picture is not known.

    `drift` is the movement that the picture came with; it goes on from there and dies away.
    """

    def __init__(self, picture: Picture, scene: Scene, fps: int, seconds: float, drift: Field | None = None) -> None:
        self.picture, self.fps, self.seconds = picture, fps, max(seconds, 1 / fps)
        height, width = picture.shape[:2]
        chance = np.random.default_rng((scene.seed, 8)).random(2)
        self.focus = {
            Camera.PAN_LEFT: (0.0, 0.5),
            Camera.PAN_RIGHT: (1.0, 0.5),
            Camera.PULL_OUT: (0.5, 0.0),
        }.get(scene.camera, (0.4 + 0.2 * float(chance[0]), 0.4 + 0.2 * float(chance[1])))
        self.gain = 0.03 if scene.camera is Camera.STILL else min(0.32, 0.06 + 0.035 * self.seconds)
        self.drift, self.settling = drift, SETTLING_FRAMES
        if drift is not None:
            fastest = float(np.percentile(np.abs(drift).max(axis=2), 99))
            stretch = max(float(np.percentile(np.abs(np.diff(drift, axis=axis)), 99.5)) for axis in (0, 1))
            self.settling = min(
                SETTLING_FRAMES, LARGEST_DRIFT * width / (fastest + 1e-6), LARGEST_STRETCH / (stretch + 1e-6)
            )
            # Closer by as much as the picture drifts, so that its mirrored edge leaves the frame again.
            self.gain = max(self.gain, 2.2 * fastest * self.settling / width)
        self.air = Air(scene, palette_of(scene), View.of(width, height, 0.6))
        self.columns = ((np.arange(width, dtype=np.float32) + 0.5) / width)[None, :]
        self.rows = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]

    def frame(self, t: float) -> Picture:
        """The picture at `t` seconds, uint8 RGB."""
        if t <= 0:
            return self.picture.copy()
        height, width = self.picture.shape[:2]
        part = t / self.seconds
        gain = self.gain * part * part * (2 - part)  # sets off from rest and is still on its way at the end
        far, near = 1 + 0.75 * gain, 1 + 1.25 * gain
        zoom = far + (near - far) * self.rows
        fx, fy = self.focus
        x = np.broadcast_to((fx + (self.columns - fx) / zoom) * width - 0.5, (height, width)).astype(np.float32)
        y = np.broadcast_to((fy + (self.rows - fy) / (1 + gain)) * height - 0.5, (height, width)).astype(np.float32)
        if self.drift is not None:
            gone = np.float32(self.settling * (1 - math.exp(-t * self.fps / self.settling)))
            x -= self.drift[..., 0] * gone
            y -= self.drift[..., 1] * gone
        moved = cv2.remap(self.picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        canvas = Canvas(cast(Picture, moved))
        strength = min(1.0, t / 0.8)
        self.air.paint_behind(canvas, t, strength)
        self.air.paint(canvas, t, strength)
        return canvas.pixels


class Passage:
    """From one animation into another that plays backwards, so that it ends on the picture that this was made of."""

    def __init__(self, start: Still, end: Still, seconds: float, seed: int) -> None:
        self.start, self.end, self.seconds = start, end, seconds
        height, width = start.picture.shape[:2]
        rows, columns = max(4, height // 16), max(4, width // 16)
        noise = np.random.default_rng((seed, 9)).random((rows, columns), dtype=np.float32)
        noise = cast(NDArray[np.float32], cv2.GaussianBlur(noise, (0, 0), columns / 9))
        low, high = float(noise.min()), float(noise.max())
        self.order = cv2.resize((noise - low) / max(high - low, 1e-6), (width, height), interpolation=cv2.INTER_CUBIC)

    def frame(self, t: float) -> Picture:
        """The picture at `t` seconds: the new one spreads in soft patches during the middle half."""
        part = (t / self.seconds - 0.25) / 0.5 if self.seconds > 0 else 1.0
        if part <= 0:
            return self.start.frame(t)
        if part >= 1:
            return self.end.frame(self.seconds - t)
        soft = 0.6
        reached = ((part * (1 + soft) - self.order) / soft).clip(0, 1)
        reached = reached * reached * (3 - 2 * reached)
        return cast(
            Picture, cv2.blendLinear(self.end.frame(self.seconds - t), self.start.frame(t), reached, 1 - reached)
        )


def movement(frames: Frames, pairs: int = 4) -> Field | None:
    """How the picture moves at the end of `frames`, in pixels a frame; None for one frame.

    Dense optical flow at a small size, averaged over the last `pairs` pairs and made smooth, so that a camera's move
    goes on as a whole and a subject's move stays near the subject.
    """
    if len(frames) < 2:
        return None
    height, width = frames.shape[1:3]
    scale = min(1.0, 320 / width)
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    small = [
        cv2.cvtColor(cv2.resize(f, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        for f in frames[-pairs - 1 :]
    ]
    # Of OpenCV's methods this one is right about an even pan (2.99 of 3 pixels); Farneback's says 2.5.
    seer = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    total = np.zeros((size[1], size[0], 2), dtype=np.float32)
    for before, after in pairwise(small):
        total += seer.calc(before, after, None)
    flow = cv2.GaussianBlur(total / (len(small) - 1), (0, 0), 0.025 * size[0])
    flow *= np.array([width / size[0], height / size[1]], dtype=np.float32)
    return cast(Field, cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR))
