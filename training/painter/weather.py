"""What falls or drifts before the whole picture: rain, snow, fog, lightning; bubbles under water."""

from __future__ import annotations

import math

import cv2
import numpy as np

from training.painter.brush import Canvas
from training.painter.palette import Palette, lit, mix, rgb
from training.painter.scene import Scene, Setting, Weather
from training.painter.view import View

DROPS = 260
FLAKES = 230


class Air:
    """The weather of one animation. `strength` (0 to 1) in the paint methods lets it come and go."""

    def __init__(self, scene: Scene, palette: Palette, view: View) -> None:
        self.scene, self.palette, self.view = scene, palette, view
        rng = np.random.default_rng((scene.seed, 4))
        self.spots = rng.random((DROPS, 4))
        rows, columns = max(4, view.height // 16), max(4, view.width // 16)
        smooth = cv2.GaussianBlur(
            rng.random((rows, columns * 3), dtype=np.float32),
            (0, 0),
            max(1.5, columns / 14),
            sigmaY=max(1.0, rows / 22),
        )
        low, high = float(smooth.min()), float(smooth.max())
        self.drift = (smooth - low) / max(high - low, 1e-6)
        fog = mix(palette.haze, (255, 255, 255), 0.3 * (1 - palette.darkness))
        self.fog = np.full((view.height, view.width, 3), np.rint(fog), dtype=np.uint8)
        self.flash_at = 0.35 + 0.3 * float(rng.random())

    def paint_behind(self, canvas: Canvas, t: float, strength: float = 1.0) -> None:
        """What is behind the subject: fog."""
        if self.scene.weather is Weather.FOG:
            self._fog(canvas, t, 0.9 * strength)

    def paint(self, canvas: Canvas, t: float, strength: float = 1.0) -> None:
        """What is before everything."""
        weather = self.scene.weather
        if self.scene.setting is Setting.UNDERWATER:
            self._bubbles(canvas, t)
        elif weather in (Weather.RAIN, Weather.STORM):
            self._rain(canvas, t, strength)
            if weather is Weather.STORM:
                self._lightning(canvas, t, strength)
        elif weather is Weather.SNOW:
            self._snow(canvas, t, strength)

    def _rain(self, canvas: Canvas, t: float, strength: float) -> None:
        w, h, unit = canvas.width, canvas.height, self.view.unit
        slant = 0.42 if self.scene.weather is Weather.STORM else 0.14
        near = self.spots[:, 2]
        length = unit * (0.03 + 0.06 * near)
        fall = (self.spots[:, 1] + t * (1.1 + 0.9 * near)) % 1.0
        y = fall * (h + length * 2) - length
        x = (self.spots[:, 0] * 1.4 - 0.1) * w - y * slant + slant * h * 0.2
        ends = np.stack([np.stack([x, y], axis=1), np.stack([x - slant * length, y + length], axis=1)], axis=1)
        sheet = canvas.pixels.copy()
        colour = mix(lit(rgb("#dceaf8"), self.palette.light), (255, 255, 255), 0.35)
        thin = max(1, round(unit / 520))
        for lines, thick in ((ends[near < 0.6], thin), (ends[near >= 0.6], thin + (unit > 300))):
            cv2.polylines(sheet, list(np.rint(lines * 16).astype(np.int32)), False, colour, thick, cv2.LINE_AA, 4)
        cv2.addWeighted(sheet, 0.42 * strength, canvas.pixels, 1 - 0.42 * strength, 0, dst=canvas.pixels)

    def _snow(self, canvas: Canvas, t: float, strength: float) -> None:
        w, h, unit = canvas.width, canvas.height, self.view.unit
        near = self.spots[:FLAKES, 2]
        fall = (self.spots[:FLAKES, 1] + t * (0.07 + 0.13 * near)) % 1.0
        sway = 0.018 * unit * np.sin(t * (0.8 + near) + self.spots[:FLAKES, 3] * 6.3)
        x = ((self.spots[:FLAKES, 0] + t * 0.02) % 1.0) * (w + 20) - 10 + sway
        y = fall * (h + 20) - 10
        radius = unit * (0.0022 + 0.0065 * near**2.2)
        sheet = canvas.pixels.copy()
        white = mix(rgb("#ffffff"), self.palette.sky[1], 0.2 * self.palette.darkness)
        for xi, yi, ri in zip(x, y, radius, strict=True):
            cv2.circle(sheet, (round(xi * 16), round(yi * 16)), round(ri * 16), white, -1, cv2.LINE_AA, 4)
        cv2.addWeighted(sheet, 0.85 * strength, canvas.pixels, 1 - 0.85 * strength, 0, dst=canvas.pixels)

    def _fog(self, canvas: Canvas, t: float, strength: float) -> None:
        rows, columns = self.drift.shape[0], self.drift.shape[1] // 3
        shift = (t * 0.02 * columns) % (2 * columns)
        part = cv2.warpAffine(
            self.drift,
            np.array([[1, 0, -shift], [0, 1, 0]], dtype=np.float32),
            (columns, rows),
            borderMode=cv2.BORDER_REFLECT_101,
        )
        height = (np.arange(rows, dtype=np.float32)[:, None] + 0.5) / rows * canvas.height
        profile = np.exp(-(((height - self.view.horizon * 1.02) / (0.34 * canvas.height)) ** 2))
        alpha = (part * profile * strength * 0.95).clip(0, 1)
        canvas_alpha = cv2.resize(alpha, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR)
        cv2.blendLinear(self.fog, canvas.pixels, canvas_alpha, 1 - canvas_alpha, dst=canvas.pixels)

    def _bubbles(self, canvas: Canvas, t: float) -> None:
        for u, v, near, phase in self.spots[:26]:
            y = (1 - (v + t * (0.05 + 0.08 * near)) % 1.0) * (canvas.height + 30) - 15
            x = u * canvas.width + 0.012 * self.view.unit * math.sin(t * 2.2 + phase * 6.3)
            radius = self.view.unit * (0.004 + 0.012 * near**2)
            canvas.disc(x, y, radius, rgb("#e8fdff"), 0.3)
            canvas.disc(x - radius * 0.3, y - radius * 0.3, radius * 0.3, rgb("#ffffff"), 0.7)

    def _lightning(self, canvas: Canvas, t: float, strength: float) -> None:
        since = (t - self.flash_at) % 2.7
        if since > 0.4:
            return
        bright = (1 - since / 0.4) ** 2 * (0.6 + 0.4 * math.cos(since * 60)) * strength
        rng = np.random.default_rng((self.scene.seed, 5, int((t - self.flash_at) // 2.7) + 1))
        if since < 0.16:
            points = [np.array([canvas.width * rng.uniform(0.15, 0.85), 0.0])]
            while points[-1][1] < self.view.horizon * 0.96:
                points.append(
                    points[-1] + np.array([rng.uniform(-0.06, 0.06), rng.uniform(0.05, 0.11)]) * self.view.unit
                )
            bolt = np.array(points)
            width = np.linspace(0.011, 0.002, len(bolt))[:, None] * (self.view.unit, 0)
            canvas.polygon(
                np.concatenate([bolt - width / 2, (bolt + width / 2)[::-1]]), rgb("#fdfbff"), min(1.0, 0.3 + bright)
            )
        cv2.addWeighted(canvas.pixels, 1.0, canvas.pixels, 0.3 * bright, 26 * bright, dst=canvas.pixels)
