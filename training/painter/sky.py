"""The sky and what lives in it, and the water below: all that moves by itself behind the subject."""

from __future__ import annotations

import math
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.media.fitting import Picture
from training.painter.brush import Canvas, Points, circle
from training.painter.palette import Colour, Palette, darker, lit, mix, rgb
from training.painter.scene import Extra, Scene, Setting, Time, Weather
from training.painter.view import View

DARK_SPACE = (rgb("#05061a"), rgb("#10123a"), rgb("#2c2558"))


def backdrop(scene: Scene, palette: Palette, view: View) -> Picture:
    """The still part of the picture, uint8 RGB of shape (height, width, 3): the gradients of sky and water."""
    below = palette.water
    sky = palette.sky
    stops = [(0.0, sky[0]), (0.55, sky[1]), (1.0, sky[2])]
    if scene.setting is Setting.UNDERWATER:
        surface = mix(lit(rgb("#7fe0e6"), palette.light), palette.sky[1], 0.2)
        deep = mix(lit(rgb("#0d4f86"), palette.light), palette.water[1], 0.3)
        stops, below = [(0.0, surface), (0.4, mix(surface, deep, 0.55)), (1.0, deep)], (deep, deep)
    elif scene.setting is Setting.SPACE:
        stops = [(0.0, DARK_SPACE[0]), (0.6, mix(DARK_SPACE[1], sky[0], 0.12)), (1.0, mix(DARK_SPACE[2], sky[1], 0.2))]
    y = (np.arange(view.height) + 0.5) / view.horizon
    rows = np.empty((view.height, 3), dtype=np.float32)
    for channel in range(3):
        above = np.interp(y, [at for at, _ in stops], [colour[channel] for _, colour in stops])
        depth = ((y - 1) * view.horizon / (view.height - view.horizon)).clip(0, 1) ** 0.7
        under = below[0][channel] + (below[1][channel] - below[0][channel]) * depth
        rows[:, channel] = np.where(y < 1, above, under)
    # Noise of less than one level hides the steps of the gradient, which an encoder would make visible.
    grain = np.random.default_rng(7).random((view.height, view.width, 1), dtype=np.float32)
    return cast(Picture, np.floor(rows[:, None, :] + grain).clip(0, 255).astype(np.uint8))


class Sky:
    """Sun or moon, stars, clouds, and the rarer things of `Extra`; drawn on the backdrop, behind the land."""

    def __init__(self, scene: Scene, palette: Palette, view: View, seconds: float) -> None:
        self.scene, self.palette, self.view, self.seconds = scene, palette, view, seconds
        rng = np.random.default_rng((scene.seed, 2))
        side = 1 if rng.random() < 0.5 else -1
        low, high = {
            Time.DAWN: (0.16, 0.3),
            Time.SUNSET: (0.2, 0.34),
            Time.NOON: (0.66, 0.78),
            Time.NIGHT: (0.6, 0.76),
        }[scene.time]
        self.sun = (side * float(rng.uniform(0.25, 0.62)) * view.half, float(rng.uniform(low, high)) * view.above)
        stars = 60 + int(70 * view.half * view.above)
        self.stars = rng.random((stars, 2)) * (2 * view.half, view.above) - (view.half, 0)
        self.star_sizes = 0.0011 + 0.0022 * rng.random(stars) ** 3
        self.star_phases = rng.random(stars) * 2 * math.pi
        self.clouds = self._clouds(rng)
        self.bursts = rng.random((6, 3))

    def _clouds(self, rng: np.random.Generator) -> list[tuple[float, float, float, float, NDArray[np.float64]]]:
        """Clouds as (x, y, size, depth, puffs), puffs as rows of (dx, radius)."""
        count = {
            Weather.CLEAR: 3,
            Weather.CLOUDS: 9,
            Weather.RAIN: 8,
            Weather.STORM: 10,
            Weather.SNOW: 5,
            Weather.FOG: 2,
        }[self.scene.weather]
        if self.scene.setting in (Setting.SPACE, Setting.UNDERWATER) or Extra.CLOUDS in self.scene.without:
            count = 0
        reach = self.view.half + 0.5
        clouds = []
        for i in range(count):
            far = (i + 0.5) / count
            x = -reach + 2 * reach * ((i * 0.618 + float(rng.random()) * 0.25) % 1)
            y = self.view.above * (0.34 + 0.5 * far + 0.08 * float(rng.random()))
            size = 0.1 + 0.09 * far + 0.05 * float(rng.random())
            steps = np.array([-1.05, -0.58, 0.0, 0.55, 1.02]) + 0.12 * (rng.random(5) - 0.5)
            radius = np.array([0.24, 0.4, 0.56, 0.42, 0.26]) * (0.8 + 0.4 * rng.random(5))
            clouds.append((x, y, size, 0.1 + 0.12 * far, np.stack([steps, radius], axis=1)))
        return clouds

    def paint(self, canvas: Canvas, view: View, t: float) -> None:
        scene, palette = self.scene, self.palette
        if scene.setting is Setting.UNDERWATER:
            self._rays(canvas, t)
            return
        veiled = scene.weather in (Weather.RAIN, Weather.STORM, Weather.SNOW)
        if (
            (palette.darkness > 0.5 or scene.setting is Setting.SPACE)
            and Extra.STARS not in scene.without
            and not veiled
        ):
            self._stars(canvas, view, t)
        if Extra.AURORA in scene.extras:
            self._aurora(canvas, t)
        shows = {Weather.CLEAR: 1.0, Weather.CLOUDS: 1.0, Weather.FOG: 0.5, Weather.SNOW: 0.35}.get(scene.weather, 0.0)
        name = Extra.MOON if scene.time is Time.NIGHT else Extra.SUN
        if scene.setting is not Setting.SPACE and name not in scene.without and shows:
            self._sun(canvas, view, t, shows)
        if Extra.RAINBOW in scene.extras:
            self._rainbow(canvas, view)
        for cloud in self.clouds:
            self._cloud(canvas, view, t, cloud)

    def paint_before_land(self, canvas: Canvas, view: View, t: float) -> None:
        """What is high in the air but nearer than the land: fireworks."""
        if Extra.FIREWORKS in self.scene.extras:
            self._fireworks(canvas, view, t)

    def sun_at(self, t: float) -> tuple[float, float]:
        """Where the sun or the moon stands, in scene units; it rises at dawn and sinks at sunset."""
        drift = {Time.DAWN: 0.06, Time.SUNSET: -0.06}.get(self.scene.time, 0.0)
        return self.sun[0], self.sun[1] + drift * (t / self.seconds - 0.5)

    def _sun(self, canvas: Canvas, view: View, t: float, shows: float) -> None:
        palette = self.palette
        x, y = view.point(*self.sun_at(t), 0.04)
        low = self.scene.time in (Time.DAWN, Time.SUNSET)
        radius = (0.115 if low else 0.085) * view.unit
        canvas.glow(x, y, radius * (5.0 if low else 3.6), palette.glow, (0.55 if low else 0.42) * shows)
        canvas.disc(x, y, radius, palette.sun, shows)
        if self.scene.time is Time.NIGHT:
            for dx, dy, r in ((-0.35, 0.25, 0.2), (0.3, -0.3, 0.26), (0.25, 0.4, 0.13), (-0.25, -0.45, 0.12)):
                canvas.disc(x + dx * radius, y + dy * radius, r * radius, mix(palette.sun, palette.sky[1], 0.16), shows)

    def _stars(self, canvas: Canvas, view: View, t: float) -> None:
        shine = 0.62 + 0.38 * np.sin(self.star_phases + t * (1.5 + self.star_phases * 0.4))
        for (x, y), size, bright in zip(view.place(self.stars, 0.02), self.star_sizes, shine, strict=True):
            level = 120 + 135 * bright
            radius = max(0.7, size * view.unit)
            centre = (round((x - 0.5) * 16), round((y - 0.5) * 16))
            cv2.circle(
                canvas.pixels, centre, round(radius * 16), (level, level, min(255, level + 12)), -1, cv2.LINE_AA, 4
            )

    def _cloud(
        self, canvas: Canvas, view: View, t: float, cloud: tuple[float, float, float, float, NDArray[np.float64]]
    ) -> None:
        x, y, size, depth, puffs = cloud
        reach = self.view.half + 0.5
        fast = 3.0 if self.scene.weather is Weather.STORM else 1.0
        x = (x + reach + t * 0.018 * fast * (0.6 + depth * 4)) % (2 * reach) - reach
        px, py = view.point(x, y, depth)
        scale = size * view.scale(depth)
        light, shade = self.palette.cloud, darker(mix(self.palette.cloud, self.palette.sky[1], 0.3), 0.08)
        for colour, lift, shrink in ((shade, 0.0, 1.0), (light, 0.07, 0.93)):
            outline = _puffy(puffs * (1, shrink), scale) + (px, py - lift * scale)
            canvas.polygon(outline, colour, 0.9)

    def _rays(self, canvas: Canvas, t: float) -> None:
        """Light that falls through the surface of the water."""
        w, h = canvas.width, canvas.height
        for i in range(6):
            x = w * ((i + 0.5) / 6 + 0.04 * math.sin(t * 0.5 + i * 1.7))
            wide = w * 0.03 * (1.4 + math.sin(i * 2.3 + t * 0.4))
            lean = w * 0.16
            ray = np.array([(x - wide, -5.0), (x + wide, -5.0), (x + wide * 3 - lean, h), (x - wide * 2 - lean, h)])
            canvas.polygon(ray, mix(self.palette.sun, (255, 255, 255), 0.5), 0.05 + 0.02 * math.sin(t + i))

    def _aurora(self, canvas: Canvas, t: float) -> None:
        w, top = canvas.width, self.view.horizon
        light = np.zeros((max(2, int(top) // 6), max(2, w // 6), 3), dtype=np.float32)
        rows, columns = light.shape[:2]
        x = np.linspace(0, 1, columns, dtype=np.float32)
        y = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
        for i, code in enumerate(("#48f2a8", "#3fc8f0", "#b06bf2")):
            line = 0.52 - 0.1 * i + 0.1 * np.sin(x * (5 + i) + t * 0.5 + i * 2) + 0.05 * np.sin(x * 13 - t * 0.8 + i)
            ripple = 0.7 + 0.3 * np.sin(x * 60 + 5 * np.sin(x * 9 + t * 0.4) + i)
            curtain = np.where(y < line, np.exp((y - line) * 5), np.exp((line - y) * 24)) * ripple
            light += curtain[..., None] * (np.array(rgb(code), dtype=np.float32) * 0.5)
        shine = cv2.resize(light.clip(0, 255).astype(np.uint8), (w, int(top)), interpolation=cv2.INTER_CUBIC)
        here = canvas.pixels[: int(top)]
        cv2.add(here, shine, dst=here)

    def _rainbow(self, canvas: Canvas, view: View) -> None:
        x, y = view.point(-self.sun[0] * 0.5, -0.1, 0.05)
        radius = min(view.half * 1.15, view.above * 1.05) * view.unit
        band = 0.026 * view.unit
        angle = np.linspace(0, math.pi, 72)
        arc = np.stack([np.cos(angle), -np.sin(angle)], axis=1)
        for i, code in enumerate(("#f0574f", "#f79a3d", "#f9df55", "#62c66b", "#4a9df0", "#8a63d6")):
            outer, inner = radius - i * band, radius - (i + 1) * band
            canvas.polygon(np.concatenate([arc * outer, (arc * inner)[::-1]]) + (x, y), rgb(code), 0.5)

    def _fireworks(self, canvas: Canvas, view: View, t: float) -> None:
        colours = ("#ffd35c", "#ff7a8a", "#7ad7ff", "#b7ff8a", "#e79bff", "#ffb066")
        for i, (u, v, w) in enumerate(self.bursts):
            age = (t * 0.55 + i / 6) % 1
            x, y = view.point((u * 1.6 - 0.8) * self.view.half, (0.6 + 0.32 * v) * self.view.above, 0.1)
            size = (0.14 + 0.14 * w) * view.unit * (1 - (1 - age) ** 3)
            colour = mix(rgb(colours[i]), (255, 255, 255), 0.3 * (1 - age))
            canvas.glow(x, y, size * 1.4 + 4, rgb(colours[i]), 0.5 * (1 - age))
            for k in range(18):
                a = k / 18 * 2 * math.pi
                spark = (x + math.cos(a) * size, y + math.sin(a) * size + 0.1 * view.unit * age**2)
                canvas.disc(*spark, max(0.8, 0.007 * view.unit * (1 - age)), colour, (1 - age) ** 0.5)


def _puffy(puffs: NDArray[np.float64], scale: float) -> Points:
    """The outline of a row of puffs over a flat base, in pixels: for each x the top of the highest puff."""
    left, right = puffs[0, 0] - puffs[0, 1], puffs[-1, 0] + puffs[-1, 1]
    xs = np.linspace(left, right, 72)
    dx, radius = xs[None, :] - puffs[:, 0, None], puffs[:, 1, None]
    reached = np.where(np.abs(dx) <= radius, radius * 0.55 + np.sqrt((radius**2 - dx**2).clip(0)), 0.3)
    ends = (np.minimum(xs - left, right - xs) / 0.2).clip(0, 1)
    tops = reached.max(axis=0) * np.sqrt(1 - (1 - ends) ** 2)
    return np.concatenate([np.stack([xs, -tops], axis=1), [(right, 0.0), (left, 0.0)]]) * scale


class Water:
    """Waves and the glitter under the sun, below the horizon."""

    def __init__(self, scene: Scene, palette: Palette, view: View, surface: float) -> None:
        self.scene, self.palette, self.view, self.surface = scene, palette, view, surface
        rng = np.random.default_rng((scene.seed, 3))
        self.glints = rng.random((90, 4))
        self.rough = 2.2 if scene.weather is Weather.STORM else 1.0

    def paint(self, canvas: Canvas, view: View, t: float, sun_x: float | None) -> None:
        """The surface behind the subject; `sun_x` is where the glitter lies, None for none."""
        pale = mix(self.palette.water[0], self.palette.sky[2], 0.5)
        self._strokes(canvas, view, t, self.glints[:60], None, pale, 0.34)
        if sun_x is not None:
            self._strokes(canvas, view, t, self.glints, sun_x, mix(self.palette.sun, self.palette.glow, 0.25), 0.72)
        self.wave(canvas, view, t, 0.55 * self.surface, 0.3)

    def paint_front(self, canvas: Canvas, view: View, t: float) -> None:
        """The waves between the subject and the viewer."""
        self.wave(canvas, view, t, self.surface - 0.012, 0.7)
        self.wave(canvas, view, t, 0.5 * (self.surface - self.view.below), 0.8)
        self.wave(canvas, view, t, 0.2 * self.surface - 0.8 * self.view.below, 1.0)

    def _strokes(
        self,
        canvas: Canvas,
        view: View,
        t: float,
        glints: NDArray[np.float64],
        x0: float | None,
        colour: Colour,
        alpha: float,
    ) -> None:
        deep = glints[:, 1] ** 1.7
        y = -self.view.below * (0.015 + 0.93 * deep)
        shimmer = np.sin(t * (2 + 3 * glints[:, 2]) + glints[:, 3] * 6.3)
        length = (0.018 + 0.1 * deep) * (0.45 + 0.55 * shimmer.clip(0, 1))
        if x0 is None:
            x = (glints[:, 0] * 2 - 1) * (self.view.half + 0.3) + 0.02 * np.sin(t + glints[:, 2] * 9)
        else:
            x = x0 + (glints[:, 0] - 0.5) * (0.1 + 0.34 * deep) + 0.012 * shimmer
            length = length * 0.8
        lens = circle(40) * 0.5
        batch = []
        for xi, yi, li, di, si in zip(x, y, length, deep, shimmer, strict=True):
            if si > -0.35:
                depth = 0.15 + 0.85 * di
                batch.append(view.place(lens * (li, 0.004 + 0.008 * di) + (xi, yi), depth))
        top, bottom = int(view.horizon), canvas.height
        here = canvas.pixels[top:bottom]
        under = Canvas(here.copy())
        for outline in batch:
            under.polygon(outline - (0, top), colour)
        cv2.addWeighted(under.pixels, alpha, here, 1 - alpha, 0, dst=here)

    def wave(self, canvas: Canvas, view: View, t: float, y: float, depth: float) -> None:
        """A band of waves whose crests are at `y` and that covers a little of what stands in it."""
        reach = self.view.half + 0.5
        xs = np.arange(-reach, reach + 0.03, 0.03)
        swell = 0.007 * self.rough * (0.6 + depth)
        ys = y + swell * np.sin(xs * 9 + t * (1.6 + depth)) + swell * 0.5 * np.sin(xs * 17 - t * 2.1 + depth * 5)
        crest = np.stack([xs, ys], axis=1)
        thick = 0.03 + 0.05 * depth
        body = np.concatenate([crest, (crest * (1, 0) + (0, y - thick))[::-1]])
        colour = mix(*self.palette.water, 0.35 + 0.6 * depth)
        canvas.polygon(view.place(body, depth), colour, 0.4)
        foam = np.concatenate([crest, (crest - (0, 0.0008 + 0.0016 * depth))[::-1]])
        canvas.polygon(view.place(foam, depth), mix(self.palette.water[0], self.palette.sky[2], 0.6), 0.34)
