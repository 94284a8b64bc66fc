"""Drawing with subpixel edges: a Canvas in pixels, and a Pen that draws in a subject's own coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from training.painter.palette import Colour, lit, mix

Points = NDArray[np.float64]  # shape (n, 2)
Outline = Sequence[tuple[float, float]]

SUBPIXEL_BITS = 6
FAR = 2_000_000  # in those; OpenCV's fixed point overflows far outside the picture


class Mosaic:
    """Many outlines with all corners in one array, so that one transform moves them all. Outlines of one colour that
    come together do not overlap.
    """

    def __init__(self, shapes: Sequence[tuple[Sequence[Points], Colour]]) -> None:
        outlines = [outline for group, _ in shapes for outline in group]
        stops = np.cumsum([len(outline) for outline in outlines])
        self.points = np.concatenate(outlines)
        self.starts = np.concatenate([[0], stops[:-1]])
        self.slices = [slice(int(i), int(j)) for i, j in zip(self.starts, stops, strict=True)]
        counts = np.cumsum([0, *(len(group) for group, _ in shapes)])
        self.groups = [(int(i), int(j), shape[1]) for i, j, shape in zip(counts, counts[1:], shapes, strict=False)]


class Canvas:
    """A picture to draw on, uint8 RGB of shape (height, width, 3); x goes right, y goes down, both in pixels, and the
    top left pixel covers 0 to 1.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def polygons(self, outlines: Sequence[Points], colour: Colour, alpha: float = 1.0) -> None:
        """Fill outlines that do not overlap one another (where two overlap, OpenCV leaves a hole)."""
        if not outlines or alpha <= 0:
            return
        if alpha >= 1:
            cv2.fillPoly(self.pixels, [_fixed(outline) for outline in outlines], colour, cv2.LINE_AA, SUBPIXEL_BITS)
            return
        corners = outlines[0] if len(outlines) == 1 else np.concatenate(outlines)
        left, top = np.floor(corners.min(axis=0)).astype(int) - 2
        right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 3
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, self.width), min(bottom, self.height)
        if left >= right or top >= bottom:
            return
        here = self.pixels[top:bottom, left:right]
        there = here.copy()
        cv2.fillPoly(there, [_fixed(outline - (left, top)) for outline in outlines], colour, cv2.LINE_AA, SUBPIXEL_BITS)
        cv2.addWeighted(there, alpha, here, 1 - alpha, 0, dst=here)

    def mosaic(self, mosaic: Mosaic, points: Points) -> None:
        """Fill all outlines of `mosaic`, whose corners are now at `points`."""
        fixed = _fixed(points)
        x = fixed[:, 0]
        # Half of a wide landscape is outside; OpenCV would clip it corner by corner.
        inside = (np.maximum.reduceat(x, mosaic.starts) > 0) & (
            np.minimum.reduceat(x, mosaic.starts) < self.width << SUBPIXEL_BITS
        )
        for first, last, colour in mosaic.groups:
            shown = [fixed[mosaic.slices[i]] for i in range(first, last) if inside[i]]
            if shown:
                cv2.fillPoly(self.pixels, shown, colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def polygon(self, outline: Points, colour: Colour, alpha: float = 1.0) -> None:
        self.polygons([outline], colour, alpha)

    def disc(self, x: float, y: float, radius: float, colour: Colour, alpha: float = 1.0) -> None:
        self.polygon(circle(radius) * radius + (x, y), colour, alpha)

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float = 1.0) -> None:
        """Add light that is `colour` times `strength` at the centre and fades to nothing at `radius` pixels."""
        size = max(2, int(radius))
        left, top = round(x) - size, round(y) - size
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + 2 * size, self.width), min(top + 2 * size, self.height)
        if x0 >= x1 or y0 >= y1:
            return
        shine = _shine(size, tuple(round(c * strength) for c in colour))[y0 - top : y1 - top, x0 - left : x1 - left]
        here = self.pixels[y0:y1, x0:x1]
        cv2.add(here, shine, dst=here)

    def mist(self, top: float, bottom: float, colour: Colour, alpha: float) -> None:
        """Blend whole rows with `colour`: nothing at `top`, `alpha` at `bottom`."""
        first, last = max(int(top), 0), min(math.ceil(bottom), self.height)
        if first >= last:
            return
        part = ((np.arange(first, last) + 0.5 - top) / (bottom - top)).clip(0, 1) ** 1.5 * alpha
        rows = self.pixels[first:last]
        keep = np.broadcast_to(((1 - part) * 256).astype(np.uint16)[:, None, None], rows.shape)
        added = (part[:, None] * colour * 256 + 128).astype(np.uint16)[:, None, :]
        rows[:] = (rows * keep + added) >> 8


def _fixed(points: Points) -> NDArray[np.int32]:
    """Pixels as OpenCV's fixed point, whose whole numbers are the middles of pixels."""
    return cast(NDArray[np.int32], np.rint(((points - 0.5) * (1 << SUBPIXEL_BITS)).clip(-FAR, FAR)).astype(np.int32))


@lru_cache(maxsize=24)
def _shine(radius: int, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    line = (np.arange(2 * radius, dtype=np.float32) + 0.5 - radius) / radius
    distance = np.sqrt(line[:, None] ** 2 + line[None, :] ** 2).clip(0, 1)
    fade = (1 - distance) ** 2.2
    # A fixed grain, so that the slow fade has no steps to see.
    grain = np.random.default_rng(radius).random(fade.shape, dtype=np.float32)[..., None]
    return np.floor(fade[..., None] * np.array(colour, dtype=np.float32) + grain * (fade[..., None] > 0.002)).astype(
        np.uint8
    )


@lru_cache(maxsize=64)
def _unit_circle(corners: int) -> Points:
    angle = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def circle(radius: float) -> Points:
    """A circle of radius 1 with as many corners as one of `radius` pixels needs to look round."""
    return _unit_circle(8 * min(12, max(2, math.ceil(math.sqrt(max(radius, 1.0)) / 1.2))))


@lru_cache(maxsize=512)
def smooth(outline: tuple[tuple[float, float], ...], pieces: int = 6) -> Points:
    """A closed curve through the corners of `outline` (Catmull-Rom), `pieces` points a corner."""
    p1 = np.array(outline, dtype=np.float64)
    p0, p2, p3 = np.roll(p1, 1, axis=0), np.roll(p1, -1, axis=0), np.roll(p1, -2, axis=0)
    u = np.linspace(0, 1, pieces, endpoint=False)[None, :, None]
    a, b, c, d = (p[:, None, :] for p in (p0, p1, p2, p3))
    curve = 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - a - 3 * c + d) * u**3)
    return cast(Points, curve.reshape(-1, 2))


@dataclass
class Pen:
    """Draws in a subject's coordinates: y goes up, (0, 0) is where it stands, 1 is its height, it looks to the right.

    `x` and `y` are where (0, 0) lies in the picture and `scale` how long 1 is, in pixels; `flip` -1 looks left; `turn`
    is in radians, counter-clockwise when looking right. `light` falls on all that is drawn, except what is `lit=False`.
    """

    canvas: Canvas
    x: float
    y: float
    scale: float
    light: Colour = (255, 255, 255)
    flip: int = 1
    turn: float = 0.0
    squash: float = 1.0  # below 0 it hangs upside down, as a reflection does
    alpha: float = 1.0
    veil: Colour = (0, 0, 0)
    veil_part: float = 0.0

    def place(self, points: Points) -> Points:
        """From the subject's coordinates to pixels."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        turned = points @ np.array([[c * self.flip, -s], [-s * self.flip, -c]]) * (self.scale, self.scale * self.squash)
        return cast(Points, turned + (self.x, self.y))

    def colour(self, colour: Colour) -> Colour:
        return mix(lit(colour, self.light), self.veil, self.veil_part)

    def shape(self, outline: Outline, colour: Colour, alpha: float = 1.0, lit: bool = True) -> None:
        """A polygon with straight sides."""
        self.fill(np.array(outline, dtype=np.float64), colour, alpha, lit)

    def blob(self, outline: Outline, colour: Colour, alpha: float = 1.0) -> None:
        """A closed curve through the corners."""
        self.fill(smooth(tuple(outline)), colour, alpha)

    def oval(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0.0, alpha: float = 1.0
    ) -> None:
        points = circle(max(rx, ry) * self.scale) * (rx, ry)
        if turn:
            c, s = math.cos(turn), math.sin(turn)
            points = points @ np.array([[c, s], [-s, c]])
        self.fill(points + (x, y), colour, alpha)

    def disc(self, x: float, y: float, radius: float, colour: Colour, alpha: float = 1.0, lit: bool = True) -> None:
        self.fill(circle(radius * self.scale) * radius + (x, y), colour, alpha, lit)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, lit: bool = True) -> None:
        self.shape([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, lit=lit)

    def limb(self, joints: Outline, width: float, colour: Colour, tip: float | None = None) -> None:
        """A bent bar with round joints, from `width` to `tip` thick."""
        tip = width if tip is None else tip
        widths = [width + (tip - width) * i / max(1, len(joints) - 1) for i in range(len(joints))]
        for (xa, ya), (xb, yb), wa, wb in zip(joints, joints[1:], widths, widths[1:], strict=False):
            length = math.hypot(xb - xa, yb - ya) or 1.0
            nx, ny = (ya - yb) / length / 2, (xb - xa) / length / 2
            self.shape(
                [
                    (xa + nx * wa, ya + ny * wa),
                    (xb + nx * wb, yb + ny * wb),
                    (xb - nx * wb, yb - ny * wb),
                    (xa - nx * wa, ya - ny * wa),
                ],
                colour,
            )
        for (x, y), w in zip(joints, widths, strict=True):
            self.disc(x, y, w / 2, colour)

    def fill(self, points: Points, colour: Colour, alpha: float = 1.0, lit: bool = True) -> None:
        shown = self.colour(colour) if lit else colour
        self.canvas.polygon(self.place(points), shown, alpha * self.alpha)

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float = 1.0) -> None:
        """Light around a point of the subject; it adds to what is there."""
        px, py = self.place(np.array([[x, y]]))[0]
        self.canvas.glow(px, py, radius * self.scale, colour, strength * self.alpha)
