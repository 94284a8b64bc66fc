"""The settings: layers of flat shapes, farthest first, and where a subject stands among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.painter.brush import Canvas, Mosaic, Points, circle
from training.painter.palette import Colour, Palette, darker, lighter, lit, mix, rgb
from training.painter.scene import Extra, Scene, Setting, Weather
from training.painter.view import View

Outline = Sequence[tuple[float, float]]


class Layer:
    """Flat shapes at one depth, painted in the order in which they were added."""

    def __init__(self, depth: float) -> None:
        self.depth = depth
        self.shapes: list[tuple[list[Points], Colour]] = []
        self.mist: tuple[float, float, float] | None = None
        self._mosaic: Mosaic | None = None  # made when the last shape is there

    def add(self, outline: Points | Outline, colour: Colour) -> None:
        self.add_all([outline], colour)

    def add_all(self, outlines: Iterable[Points | Outline], colour: Colour) -> None:
        """Shapes of one colour that do not overlap."""
        self.shapes.append(([np.asarray(outline, dtype=np.float64) for outline in outlines], colour))

    def fade(self, part: float, top: float, foot: float) -> None:
        """Let haze lie at its foot: none at the height `top`, `part` (0 to 1) at `foot`, in scene units."""
        self.mist = (part, top, foot)

    def paint(self, canvas: Canvas, view: View, haze: Colour) -> None:
        if self._mosaic is None:
            self._mosaic = Mosaic(self.shapes)
        canvas.mosaic(self._mosaic, view.place(self._mosaic.points, self.depth))
        if self.mist:
            part, top, foot = self.mist
            canvas.mist(view.point(0, top, self.depth)[1], view.point(0, foot, self.depth)[1], haze, part)

    def mirrored(self, squash: float, water: Colour, part: float) -> Layer:
        """Its reflection in still water below the horizon, with `part` of the water's colour."""
        image = Layer(self.depth)
        for outlines, colour in self.shapes:
            image.add_all([o.clip(min=(-np.inf, 0)) * (1, -squash) for o in outlines], mix(colour, water, part))
        return image


@dataclass
class Land:
    """One setting, built: layers behind the subject (`back`, before it `shore` and their `reflections` where there is
    water), layers in front of it, and where walkers stand (`ground`) and boats float (`surface`), in scene units.
    """

    back: list[Layer]
    ground: float
    surface: float
    water: bool = False
    reflections: list[Layer] = field(default_factory=list)
    shore: list[Layer] = field(default_factory=list)
    front: list[Layer] = field(default_factory=list)


class Builder:
    """Builds layers for one scene: the random choices, the colours and the extents that all settings share."""

    def __init__(self, scene: Scene, palette: Palette, view: View) -> None:
        self.scene, self.palette, self.view = scene, palette, view
        self.rng = np.random.default_rng((scene.seed, 1))
        self.reach = view.half + 0.9
        self.below = view.below
        self.foot = -view.below * 1.5 - 0.3

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def tone(self, code: str, far: float) -> Colour:
        """A colour of daylight as it looks here: in this light, and `far` (0 to 1) away in the haze."""
        colour = rgb(code)
        if self.scene.weather is Weather.SNOW:
            colour = mix(colour, rgb("#eef3fb"), 0.3)
        return mix(lit(colour, self.palette.light), self.palette.ridge, far)

    def soil(self, code: str, far: float) -> Colour:
        """A colour of the ground, which lies under snow when it snows."""
        return self.tone("#eef3fb" if self.scene.weather is Weather.SNOW else code, far)

    def allows(self, extra: Extra) -> bool:
        return extra not in self.scene.without

    @property
    def lamps(self) -> bool:
        return self.palette.darkness > 0.2

    def wavy(self, base: float, rise: float, step: float = 0.04, waves: tuple[float, ...] = (1.1, 2.3, 4.1)) -> Points:
        """A soft skyline from left to right; `waves` are lengths a unit."""
        xs = np.arange(-self.reach, self.reach + step, step)
        ys = np.full_like(xs, base)
        for i, wave in enumerate(waves):
            ys += rise / (1.6**i) * np.sin(xs * wave * self.between(0.8, 1.25) * 2 + self.between(0, 2 * math.pi)) * 0.5
        return np.stack([xs, ys], axis=1)

    def solid(self, skyline: Points) -> Points:
        """Everything below a skyline."""
        return np.concatenate([skyline, [(self.reach, self.foot), (-self.reach, self.foot)]])

    def hill(self, depth: float, base: float, rise: float, colour: Colour, mist: float = 0.0) -> tuple[Layer, Points]:
        line = self.wavy(base, rise)
        layer = Layer(depth)
        if mist:
            layer.fade(mist, base + rise * 0.6, base - rise * 1.2 - 0.08)
        layer.add(self.solid(line), colour)
        return layer, line

    def peaks(self, depth: float, height: float, colour: Colour, snow: bool, mist: float = 0.5) -> Layer:
        """Pointed mountains: each has a sunny and a shady side, and perhaps a white cap."""
        layer = Layer(depth)
        layer.fade(mist, height * 0.55, -0.02)
        x = -self.reach - self.between(0, 0.3)
        tops = []
        while x < self.reach + 0.4:
            tops.append((x, height * self.between(0.45, 1.0)))
            x += height * self.between(0.75, 1.4)
        cap = mix(rgb("#ffffff"), self.palette.haze, 0.3)
        cap = mix(lit(cap, self.palette.light), colour, 0.25)
        for x, top in sorted(tops, key=lambda peak: -peak[1]):
            left, right = top * self.between(0.95, 1.25), top * self.between(0.95, 1.25)
            ridge = top * self.between(-0.12, 0.12)
            layer.add([(x - left, 0), (x, top), (x + right, 0), (x + right, self.foot), (x - left, self.foot)], colour)
            layer.add([(x, top), (x + right, 0), (x + ridge, 0), (x + top * 0.09, top * 0.55)], darker(colour, 0.16))
            if snow and top > height * 0.55:
                c = 0.3
                a, b = (x - left * c, top * (1 - c)), (x + right * c, top * (1 - c))
                layer.add(
                    [
                        a,
                        (x, top),
                        b,
                        (x + right * 0.13, top * 0.78),
                        (x + 0.02 * top, top * 0.66),
                        (x - left * 0.12, top * 0.77),
                    ],
                    cap,
                )
        return layer

    def pine(self, layer: Layer, x: float, y: float, h: float, colour: Colour, trunk: Colour) -> None:
        layer.add(
            [
                (x - h * 0.04, y - h * 0.02),
                (x + h * 0.04, y - h * 0.02),
                (x + h * 0.04, y + h * 0.2),
                (x - h * 0.04, y + h * 0.2),
            ],
            trunk,
        )
        snowy = self.scene.weather is Weather.SNOW or self.scene.setting is Setting.SNOWFIELD
        for low, high, w in ((0.14, 0.56, 0.27), (0.36, 0.78, 0.21), (0.58, 1.0, 0.15)):
            layer.add([(x - h * w, y + h * low), (x, y + h * high), (x + h * w, y + h * low)], colour)
            layer.add(
                [(x, y + h * high), (x + h * w, y + h * low), (x + h * w * 0.1, y + h * low)], darker(colour, 0.2)
            )
            if snowy:
                white = mix(colour, lit(rgb("#ffffff"), self.palette.light), 0.75)
                part = 0.36
                mid = low + (high - low) * (1 - part)
                layer.add(
                    [
                        (x - h * w * part, y + h * mid),
                        (x, y + h * high),
                        (x + h * w * part, y + h * mid),
                        (x, y + h * (mid + 0.05)),
                    ],
                    white,
                )

    def leafy(self, layer: Layer, x: float, y: float, h: float, colour: Colour, trunk: Colour) -> None:
        layer.add(
            [
                (x - h * 0.05, y - h * 0.03),
                (x + h * 0.05, y - h * 0.03),
                (x + h * 0.03, y + h * 0.5),
                (x - h * 0.03, y + h * 0.5),
            ],
            trunk,
        )
        for dx, dy, r, tone in ((0.17, 0.5, 0.18, 0.2), (-0.17, 0.52, 0.18, 0.1), (0.04, 0.72, 0.24, 0.0)):
            layer.add(circle(h * r * self.view.unit) * (h * r) + (x + h * dx, y + h * dy), darker(colour, tone))
        layer.add(circle(h * 0.1 * self.view.unit) * (h * 0.1) + (x - h * 0.04, y + h * 0.8), lighter(colour, 0.14))

    def leaves(self, far: float) -> Colour:
        """The colour of a leafy tree in this season."""
        if Extra.AUTUMN in self.scene.extras:
            codes: tuple[str, ...] = ("#d9622b", "#e8962e", "#c44536", "#d9a832")
        elif Extra.BLOSSOM in self.scene.extras:
            codes = ("#f6a9c4", "#f7c0d3", "#ef8fb3")
        else:
            codes = ("#4f9a54", "#3f8a52", "#69aa55")
        return self.tone(codes[int(self.rng.integers(len(codes)))], far)

    def trees(
        self, layer: Layer, line: Points, count: int, low: float, high: float, far: float, pines: bool | None = None
    ) -> None:
        """Plant trees along a skyline, the far ones first."""
        if not self.allows(Extra.TREES):
            return
        seasonal = {Extra.AUTUMN, Extra.BLOSSOM} & self.scene.extras
        pines = bool(self.rng.random() < 0.5) and not seasonal if pines is None else pines
        trunk = self.tone("#6d4a38", far)
        for x in sorted(self.rng.uniform(-self.reach, self.reach, count), key=lambda value: math.sin(value * 91)):
            y = float(np.interp(x, line[:, 0], line[:, 1])) - 0.012
            h = self.between(low, high)
            if pines:
                self.pine(
                    layer,
                    x,
                    y,
                    h,
                    mix(self.tone("#2f6d55", far), self.tone("#3f8a52", far), self.between(0, 0.8)),
                    trunk,
                )
            else:
                self.leafy(layer, x, y, h, self.leaves(far), trunk)

    def tufts(self, layer: Layer, top: float, bottom: float, codes: Sequence[str], count: int) -> None:
        """Blades of grass, and flowers in the colours of `codes` among them, strewn over the near ground."""
        if self.scene.weather is Weather.SNOW:
            return
        spots = [(self.between(-self.reach, self.reach), self.between(bottom, top)) for _ in range(count)]
        for x, y in sorted(spots, key=lambda spot: -spot[1]):
            size = 0.018 + 0.03 * (top - y) / max(top - bottom, 1e-6)
            blade = darker(self.tone("#3c8550", 0.0), 0.12)
            layer.add_all(
                [
                    [(x + d * size, y), (x + d * size * 2.2, y + size * 1.5), (x + (d + 0.25) * size, y)]
                    for d in (-0.5, 0.0, 0.5)
                ],
                blade,
            )
            if codes and self.rng.random() < 0.7:
                colour = self.tone(codes[int(self.rng.integers(len(codes)))], 0.0)
                layer.add(circle(size * 0.5 * self.view.unit) * (size * 0.5) + (x, y + size * 1.7), colour)


def build(scene: Scene, palette: Palette, view: View) -> Land:
    """The setting of `scene`, ready to be painted."""
    return BUILDERS[scene.setting](Builder(scene, palette, view))


def _far_land(b: Builder) -> list[Layer]:
    """What lies behind nearly every setting: pale peaks or pale hills."""
    if not b.allows(Extra.PEAKS):
        return []
    if b.rng.random() < 0.6:
        return [b.peaks(0.12, b.between(0.24, 0.34), b.tone("#7f8fb8", 0.72), snow=False)]
    return [b.hill(0.12, b.between(0.1, 0.16), 0.13, b.tone("#86a9b8", 0.72), mist=0.5)[0]]


def sea(b: Builder) -> Land:
    back = []
    if b.allows(Extra.PEAKS):
        back = [b.peaks(0.1, b.between(0.2, 0.3), b.tone("#7f8fb8", 0.8), snow=False, mist=0.35)]
        back.append(b.peaks(0.18, b.between(0.1, 0.15), b.tone("#6a6fa0", 0.5), snow=False, mist=0.2))
    reflections = [layer.mirrored(0.4, b.palette.water[0], 0.72) for layer in back]
    return Land(back, ground=-0.14 * b.below, surface=-0.42 * b.below, water=True, reflections=reflections)


def beach(b: Builder) -> Land:
    land = sea(b)
    sand = Layer(1.0)
    line = b.wavy(-0.42 * b.below, 0.035, waves=(0.7, 1.7))
    sand.add(b.solid(line + (0, 0.022)), mix(b.palette.water[0], lit(rgb("#ffffff"), b.palette.light), 0.75))
    sand.add(b.solid(line + (0, 0.004)), b.tone("#cfa874", 0.08))
    sand.add(b.solid(line + (0, -0.03)), b.tone("#f0d7a1", 0.04))
    for _ in range(70):
        x, y = b.between(-b.reach, b.reach), b.between(-b.below, -0.52 * b.below)
        sand.add(circle(3) * (0.008, 0.003) + (x, y), b.tone("#d8b67c", 0.0))
    if b.allows(Extra.TREES):
        side = 1 if b.rng.random() < 0.5 else -1
        for x, h in ((0.8 * b.view.half, 0.56), (0.94 * b.view.half, 0.42)):
            _palm(b, sand, side * x, -0.5 * b.below, h, side)
    return Land(land.back, -0.68 * b.below, -0.2 * b.below, water=True, reflections=land.reflections, shore=[sand])


def _palm(b: Builder, layer: Layer, x: float, y: float, h: float, side: int) -> None:
    lean = -side * 0.16 * h
    bark, leaf = b.tone("#8a6242", 0.0), b.tone("#2f8f5a", 0.0)
    steps = np.linspace(0, 1, 9)
    curve = np.stack([x + lean * steps**2, y + h * steps], axis=1)
    width = (0.03 * (1 - 0.5 * steps) * h * 2)[:, None] * (1, 0)
    layer.add(np.concatenate([curve - width / 2, (curve + width / 2)[::-1]]), bark)
    top_x, top_y = x + lean, y + h
    for i, angle in enumerate((-0.25, 0.3, 0.9, 1.6, 2.3, 2.9, 3.4)):
        length = h * (0.5 if i % 2 else 0.42)
        dx, dy = math.cos(angle) * length, math.sin(angle) * length * 0.55
        tip = (top_x + dx * 1.15, top_y + dy - length * 0.3)
        layer.add(
            [
                (top_x, top_y - 0.01),
                (top_x + dx * 0.5, top_y + dy + 0.06 * h),
                tip,
                (top_x + dx * 0.5, top_y + dy - 0.05 * h),
            ],
            darker(leaf, 0.12 * (i % 3)),
        )


def lake(b: Builder) -> Land:
    far = b.peaks(0.12, b.between(0.34, 0.44), b.tone("#7d8db5", 0.55), snow=True, mist=0.4)
    shore, line = b.hill(0.22, 0.03, 0.03, b.tone("#4f8a66", 0.4))
    b.trees(shore, line, 46, 0.05, 0.11, 0.38, pines=None)
    layers = [far, shore] if b.allows(Extra.PEAKS) else [shore]
    reflections = [layer.mirrored(0.55, b.palette.water[0], 0.5) for layer in layers]
    bank = Layer(1.15)
    edge = b.wavy(-0.88 * b.below, 0.05, waves=(0.8, 1.9))
    bank.add(b.solid(edge), b.soil("#3f7d4e", 0.05))
    b.tufts(bank, -0.86 * b.below, -b.below, ("#f7d354", "#f2f2f2", "#f28fb1"), 40)
    return Land(layers, -0.9 * b.below, -0.42 * b.below, water=True, reflections=reflections, front=[bank])


def hills(b: Builder) -> Land:
    back = _far_land(b)
    autumn = Extra.AUTUMN in b.scene.extras
    codes = ("#c8a04c", "#b58a3f", "#9a7a3a") if autumn else ("#8cc27a", "#66ad63", "#4a9657")
    for depth, base, rise, code, far in ((0.3, 0.07, 0.11, codes[0], 0.4), (0.5, -0.03, 0.1, codes[1], 0.2)):
        layer, line = b.hill(depth, base, rise, b.soil(code, far), mist=0.25)
        b.trees(layer, line, 12, 0.07, 0.13, far)
        back.append(layer)
    near, line = b.hill(1.0, -0.3 * b.below, 0.06, b.soil(codes[2], 0.04))
    b.tufts(near, -0.36 * b.below, -b.below * 1.05, ("#f7d354", "#ffffff", "#f28fb1", "#e8564f"), 70)
    back.append(near)
    return Land(back, ground=-0.58 * b.below, surface=-0.58 * b.below)


def mountains(b: Builder) -> Land:
    back = []
    if b.allows(Extra.PEAKS):
        back.append(b.peaks(0.1, b.between(0.44, 0.56), b.tone("#8b97bd", 0.66), snow=True))
        back.append(b.peaks(0.2, b.between(0.28, 0.36), b.tone("#5f6f9a", 0.42), snow=True, mist=0.45))
    layer, line = b.hill(0.45, 0.0, 0.08, b.soil("#3f7a5f", 0.3), mist=0.3)
    b.trees(layer, line, 40, 0.08, 0.15, 0.26, pines=True)
    near, line = b.hill(1.0, -0.32 * b.below, 0.06, b.soil("#4f8a52", 0.06))
    b.tufts(near, -0.4 * b.below, -b.below * 1.05, ("#ffffff", "#b48fe0", "#f7d354"), 60)
    return Land([*back, layer, near], ground=-0.6 * b.below, surface=-0.6 * b.below)


def forest(b: Builder) -> Land:
    back = []
    pines = bool(b.rng.random() < 0.55) and not {Extra.AUTUMN, Extra.BLOSSOM} & b.scene.extras
    pines = pines or b.scene.weather is Weather.SNOW
    floor = "#b98a45" if Extra.AUTUMN in b.scene.extras else "#5c9a57"
    for depth, base, count, low, high, far in (
        (0.2, 0.05, 34, 0.3, 0.46, 0.62),
        (0.4, -0.02, 24, 0.36, 0.56, 0.36),
        (0.7, -0.1, 14, 0.42, 0.68, 0.14),
    ):
        layer, line = b.hill(depth, base, 0.03, b.soil(floor, far), mist=0.35 * far + 0.1)
        b.trees(layer, line, count, low, high, far, pines=pines)
        layer.shapes.append(layer.shapes.pop(0))  # the ground covers the roots
        back.append(layer)
    near, _ = b.hill(1.0, -0.34 * b.below, 0.04, b.soil(floor, 0.04))
    b.tufts(near, -0.42 * b.below, -b.below * 1.05, ("#f28fb1", "#ffffff"), 60)
    return Land([*back, near], ground=-0.62 * b.below, surface=-0.62 * b.below)


def snowfield(b: Builder) -> Land:
    back = [b.peaks(0.12, b.between(0.34, 0.46), b.tone("#93a5cc", 0.55), snow=True)] if b.allows(Extra.PEAKS) else []
    for depth, base, code, far, count in ((0.3, 0.05, "#d3e0f2", 0.35, 20), (0.55, -0.05, "#e3ecf8", 0.18, 12)):
        layer, line = b.hill(depth, base, 0.09, b.tone(code, far), mist=0.2)
        b.trees(layer, line, count, 0.1, 0.22, far, pines=True)
        back.append(layer)
    near, line = b.hill(1.0, -0.32 * b.below, 0.07, b.tone("#f2f6fd", 0.02))
    for _ in range(26):
        x, y = b.between(-b.reach, b.reach), b.between(-b.below, -0.46 * b.below)
        near.add(circle(20) * (b.between(0.03, 0.1), 0.006) + (x, y), b.tone("#d7e2f3", 0.1))
    return Land([*back, near], ground=-0.6 * b.below, surface=-0.6 * b.below)


def desert(b: Builder) -> Land:
    back: list[Layer] = []
    if b.allows(Extra.PEAKS):
        mesa = Layer(0.12)
        mesa.fade(0.5, 0.2, -0.02)
        x = -b.reach
        colour = b.tone("#c0785c", 0.5)
        while x < b.reach:
            w, h = b.between(0.2, 0.45), b.between(0.08, 0.24)
            mesa.add(
                [
                    (x, 0),
                    (x + w * 0.16, h * 0.55),
                    (x + w * 0.22, h),
                    (x + w * 0.8, h),
                    (x + w * 0.86, h * 0.6),
                    (x + w, 0),
                    (x + w, b.foot),
                    (x, b.foot),
                ],
                colour,
            )
            mesa.add(
                [(x + w * 0.6, 0), (x + w * 0.66, h), (x + w * 0.8, h), (x + w * 0.86, h * 0.6), (x + w, 0)],
                darker(colour, 0.14),
            )
            x += w * b.between(1.0, 1.7)
        back.append(mesa)
    for depth, base, rise, code, far in (
        (0.3, 0.02, 0.08, "#eec07e", 0.3),
        (0.55, -0.07, 0.09, "#e5ac66", 0.14),
        (1.0, -0.34 * b.below, 0.09, "#dd9f58", 0.03),
    ):
        layer, line = b.hill(depth, base, rise, b.tone(code, far), mist=0.2 if depth < 1 else 0.0)
        # The shady side of a dune falls away from its crest.
        slope = line[:, 1] - 0.05 * np.clip(np.gradient(line[:, 1], line[:, 0]) * -6, 0, 1.6) - 0.004
        layer.add(np.concatenate([line, np.stack([line[:, 0], slope], axis=1)[::-1]]), darker(b.tone(code, far), 0.16))
        if depth < 1:
            for _ in range(5):
                x = b.between(-b.reach, b.reach)
                _cactus(
                    b,
                    layer,
                    x,
                    float(np.interp(x, line[:, 0], line[:, 1])) - 0.015,
                    b.between(0.06, 0.13) * (depth + 0.5),
                    far,
                )
        else:
            side = b.view.half * b.between(0.7, 0.86) * (1 if b.rng.random() < 0.5 else -1)
            _cactus(b, layer, side, -0.4 * b.below, 0.3, 0.0)
        back.append(layer)
    return Land(back, ground=-0.62 * b.below, surface=-0.62 * b.below)


def _cactus(b: Builder, layer: Layer, x: float, y: float, h: float, far: float) -> None:
    if not b.allows(Extra.TREES):
        return
    green = b.tone("#4d8f5f", far)

    def bar(x0: float, y0: float, x1: float, y1: float, w: float) -> None:
        layer.add(
            [(x0 - w, y0), (x1 - w, y1), (x1 - w * 0.5, y1 + w), (x1 + w * 0.5, y1 + w), (x1 + w, y1), (x0 + w, y0)],
            green,
        )

    w = h * 0.085
    bar(x, y, x, y + h, w)
    for side, low, high in ((-1, 0.36, 0.74), (1, 0.48, 0.86)):
        arm = x + side * h * 0.24
        layer.add(
            [
                (x, y + h * low - w * 0.7),
                (arm, y + h * low - w * 0.7),
                (arm, y + h * low + w * 0.8),
                (x, y + h * low + w * 0.8),
            ],
            green,
        )
        bar(arm, y + h * low - w * 0.6, arm, y + h * high, w * 0.8)


def city(b: Builder) -> Land:
    back = []
    rows = ((0.15, 0.62, 0.3, 0.7), (0.32, 0.46, 0.26, 0.42), (0.6, 0.34, 0.2, 0.16))
    for depth, tall, low, far in rows:
        layer = Layer(depth)
        layer.fade(0.5 * far + 0.05, tall * 0.5, -0.06)
        x = -b.reach
        while x < b.reach:
            w, h = b.between(0.11, 0.22), b.between(low, tall)
            _building(b, layer, x, w, h, far)
            x += w * b.between(0.96, 1.12)
        back.append(layer)
    street = Layer(1.0)
    kerb = -0.2 * b.below
    street.add([(-b.reach, 0.0), (b.reach, 0.0), (b.reach, b.foot), (-b.reach, b.foot)], b.tone("#b9b3bd", 0.1))
    for i in range(int(b.reach * 2 / 0.42) + 1):
        x = -b.reach + i * 0.42 + b.between(-0.06, 0.06)
        if i % 2:
            _street_lamp(b, street, x, -0.1 * b.below)
        elif b.allows(Extra.TREES):
            b.leafy(street, x, -0.1 * b.below, b.between(0.16, 0.22), b.leaves(0.12), b.tone("#6d4a38", 0.1))
    street.add(
        [(-b.reach, kerb), (b.reach, kerb), (b.reach, kerb - 0.02), (-b.reach, kerb - 0.02)], b.tone("#dcd7dd", 0.05)
    )
    road_top, road_foot = kerb - 0.02, -0.86 * b.below
    street.add(
        [(-b.reach, road_top), (b.reach, road_top), (b.reach, road_foot), (-b.reach, road_foot)],
        b.tone("#5a5868", 0.06),
    )
    middle = (road_top + road_foot) / 2 - 0.03 * b.below
    dashes = [
        [(x, middle), (x + 0.14, middle), (x + 0.13, middle - 0.014), (x - 0.01, middle - 0.014)]
        for x in np.arange(-b.reach, b.reach, 0.3)
    ]
    street.add_all(dashes, b.tone("#f4e3b0", 0.03))
    street.add(
        [(-b.reach, road_foot), (b.reach, road_foot), (b.reach, road_foot - 0.02), (-b.reach, road_foot - 0.02)],
        b.tone("#dcd7dd", 0.03),
    )
    return Land([*back, street], ground=-0.66 * b.below, surface=-0.66 * b.below)


def _building(b: Builder, layer: Layer, x: float, w: float, h: float, far: float) -> None:
    codes = ("#8a90b5", "#b58a8f", "#a3a7b8", "#7a86ad", "#c2a58c")
    wall = b.tone(codes[int(b.rng.integers(len(codes)))], far)
    layer.add([(x, 0), (x, h), (x + w, h), (x + w, 0), (x + w, b.foot), (x, b.foot)], wall)
    layer.add([(x + w * 0.72, 0), (x + w * 0.72, h), (x + w, h), (x + w, 0)], darker(wall, 0.12))
    roof = b.rng.random()
    if roof < 0.3:
        layer.add(
            [(x + w * 0.2, h), (x + w * 0.2, h + 0.03), (x + w * 0.8, h + 0.03), (x + w * 0.8, h)], darker(wall, 0.08)
        )
    elif roof < 0.5:
        layer.add([(x + w * 0.48, h), (x + w * 0.495, h + 0.1), (x + w * 0.51, h)], darker(wall, 0.1))
    if far > 0.6:
        return
    columns, rows = max(2, int(w / 0.042)), int(h / 0.055)
    on: list[Outline] = []
    off: list[Outline] = []
    for i in range(columns):
        for j in range(rows):
            left, low = x + w * (i + 0.25) / columns, h - (j + 0.8) * 0.055
            pane = [
                (left, low),
                (left + w * 0.5 / columns, low),
                (left + w * 0.5 / columns, low + 0.03),
                (left, low + 0.03),
            ]
            (on if b.rng.random() < (0.55 if b.lamps else 0.0) else off).append(pane)
    if off:
        layer.add_all(off, darker(wall, 0.25) if b.lamps else mix(wall, b.palette.sky[1], 0.5))
    if on:
        layer.add_all(on, mix(rgb("#ffd978"), b.palette.ridge, far * 0.5))


def _street_lamp(b: Builder, layer: Layer, x: float, y: float) -> None:
    pole = b.tone("#4a4860", 0.08)
    layer.add([(x - 0.006, y), (x + 0.006, y), (x + 0.005, y + 0.22), (x - 0.005, y + 0.22)], pole)
    layer.add([(x - 0.005, y + 0.22), (x + 0.06, y + 0.235), (x + 0.06, y + 0.225), (x, y + 0.205)], pole)
    if b.lamps:
        layer.add(circle(10) * 0.018 + (x + 0.06, y + 0.218), rgb("#ffe6a3"))


def underwater(b: Builder) -> Land:
    back = []
    for depth, base, far in ((0.25, 0.16, 0.75), (0.5, 0.05, 0.45)):
        layer, _ = b.hill(depth, base, 0.14, mix(lit(rgb("#2a6f8a"), b.palette.light), b.palette.water[1], far * 0.8))
        back.append(layer)
    near, line = b.hill(1.0, -0.2 * b.below, 0.06, mix(lit(rgb("#d9c08e"), b.palette.light), b.palette.water[1], 0.22))
    for _ in range(9):
        x = b.between(-b.reach, b.reach)
        y = float(np.interp(x, line[:, 0], line[:, 1])) - b.between(0.0, 0.1)
        code = ("#f0748a", "#f59a5a", "#a56fd0", "#58c0a8")[int(b.rng.integers(4))]
        colour = mix(lit(rgb(code), b.palette.light), b.palette.water[1], 0.15)
        for d in (-0.05, -0.02, 0.02, 0.05):
            h = b.between(0.05, 0.13)
            near.add(
                [
                    (x + d * 0.3, y),
                    (x + d - 0.012, y + h),
                    (x + d, y + h + 0.014),
                    (x + d + 0.012, y + h),
                    (x + d * 0.3 + 0.014, y),
                ],
                colour,
            )
            near.add(circle(8) * 0.016 + (x + d, y + h), colour)
    back.append(near)
    return Land(back, ground=-0.5 * b.below, surface=b.view.above * 0.45)


def space(b: Builder) -> Land:
    back = []
    planet = Layer(0.08)
    side = 1 if b.rng.random() < 0.5 else -1
    x, y, r = side * b.view.half * 0.55, b.view.above * 0.68, 0.2
    pairs = (("#e58f6b", "#f6c08a"), ("#6f8fe0", "#9fc4f5"), ("#b57bd8", "#e3a8e0"), ("#4fb0a5", "#9fe0c0"))
    base, band = (rgb(code) for code in pairs[int(b.rng.integers(len(pairs)))])

    def ring(start: float) -> None:
        angle = np.linspace(start, start + math.pi, 40)
        arc = np.stack([np.cos(angle) * 1.8, np.sin(angle) * 0.4], axis=1) * r
        half_ring = np.concatenate([arc, (arc * 0.74)[::-1]]) @ np.array([[0.97, 0.24], [-0.24, 0.97]])
        planet.add(half_ring + (x, y), mix(band, (255, 255, 255), 0.35))

    ring(0.0)
    disc = circle(r * b.view.unit) * r
    planet.add(disc + (x, y), base)
    for low, high in ((0.3, 0.52), (-0.12, 0.06), (-0.6, -0.44)):
        inside = [
            (math.sqrt(max(0.0, 1 - v * v)) * r * s, v * r) for v, s in ((low, -1), (high, -1), (high, 1), (low, 1))
        ]
        planet.add(np.array(inside) + (x, y), mix(base, band, 0.7))
    shade = np.stack([np.cos(a := np.linspace(-math.pi / 2, math.pi / 2, 24)), np.sin(a)], axis=1) * r
    planet.add(np.concatenate([shade, (shade * (0.45, 1))[::-1]]) + (x, y), darker(base, 0.45))
    ring(math.pi)
    back.append(planet)
    for depth, base_y, far in ((0.3, 0.06, 0.4), (1.0, -0.1 * b.below, 0.05)):
        layer, _ = b.hill(depth, base_y, 0.06, mix(rgb("#8d8ba6"), rgb("#23234a"), far + 0.2))
        for _ in range(10):
            cx, low = b.between(-b.reach, b.reach), b.between(-b.below, -0.3 * b.below)
            size = b.between(0.03, 0.1)
            if depth == 1.0:
                layer.add(circle(30) * (size, size * 0.28) + (cx, low), mix(rgb("#6e6c8b"), rgb("#23234a"), 0.25))
                layer.add(
                    circle(30) * (size * 0.9, size * 0.2) + (cx, low - size * 0.06),
                    mix(rgb("#8d8ba6"), rgb("#23234a"), 0.4),
                )
        back.append(layer)
    return Land(back, ground=-0.55 * b.below, surface=b.view.above * 0.4)


BUILDERS: dict[Setting, Callable[[Builder], Land]] = {
    Setting.SEA: sea,
    Setting.BEACH: beach,
    Setting.LAKE: lake,
    Setting.HILLS: hills,
    Setting.MOUNTAINS: mountains,
    Setting.FOREST: forest,
    Setting.CITY: city,
    Setting.DESERT: desert,
    Setting.SNOWFIELD: snowfield,
    Setting.UNDERWATER: underwater,
    Setting.SPACE: space,
}

HORIZONS: dict[Setting, float] = {
    Setting.UNDERWATER: 0.74,
    Setting.SPACE: 0.84,
    Setting.CITY: 0.7,
    Setting.MOUNTAINS: 0.66,
    Setting.FOREST: 0.66,
}


def horizon(scene: Scene) -> float:
    """How far down the horizon is, 0 to 1."""
    return HORIZONS.get(scene.setting, 0.62)
