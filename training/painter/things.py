"""How plants, buildings and toys are drawn: one function a kind, in the Pen's coordinates."""

from __future__ import annotations

import math

from training.painter.brush import Pen
from training.painter.palette import Colour, darker, lighter, rgb
from training.painter.pose import Pose

BARK = rgb("#7a5238")
STONE = rgb("#efe6d8")
LAMP = rgb("#ffdf8a")
WINDOW = rgb("#7fa6c4")


def _pane(pen: Pen, pose: Pose, x0: float, y0: float, x1: float, y1: float) -> None:
    lamp = pose.darkness > 0.2
    pen.box(x0, y0, x1, y1, LAMP if lamp else WINDOW, lit=not lamp)


def _smoke(pen: Pen, pose: Pose, x: float, y: float) -> None:
    for i in range(4):
        age = (pose.t * 0.28 + i / 4) % 1
        drift = 0.16 * age + 0.03 * math.sin(pose.t + i * 2)
        pen.disc(x + drift, y + age * 0.4, 0.03 + 0.06 * age, rgb("#f3eef0"), alpha=0.5 * (1 - age))


def tree(pen: Pen, ink: Colour, pose: Pose) -> None:
    sway = 0.014 * math.sin(pose.t * 1.3)
    pen.limb([(0, 0), (0.0, 0.3), (sway, 0.56)], 0.1, BARK, 0.06)
    pen.limb([(0, 0.3), (0.14, 0.5)], 0.05, BARK, 0.03)
    pen.limb([(0, 0.36), (-0.14, 0.54)], 0.05, BARK, 0.03)
    crown = (
        (-0.2, 0.56, 0.17, 2),
        (0.22, 0.56, 0.17, 2),
        (-0.13, 0.72, 0.19, 1),
        (0.14, 0.71, 0.19, 1),
        (0, 0.82, 0.18, 0),
        (0, 0.6, 0.22, 1),
    )
    for x, y, r, tone in crown:
        pen.disc(x + sway * (1 + y), y, r, (ink, ink, darker(ink, 0.16))[tone])
    for x, y, r in ((-0.06, 0.86, 0.09), (-0.17, 0.76, 0.07), (0.1, 0.74, 0.06)):
        pen.disc(x + sway * 2, y, r, lighter(ink, 0.22))


def flower(pen: Pen, ink: Colour, pose: Pose) -> None:
    sway = 0.05 * math.sin(pose.t * 1.6)
    green = rgb("#4e9a4a")
    pen.limb([(0, 0), (0.02, 0.34), (sway, 0.7)], 0.05, green)
    pen.blob([(0.01, 0.12), (0.2, 0.32), (0.26, 0.44), (0.08, 0.34)], green)
    pen.blob([(0.0, 0.06), (-0.22, 0.24), (-0.26, 0.36), (-0.08, 0.26)], darker(green, 0.15))
    for i in range(8):
        angle = i / 8 * 2 * math.pi + 0.08 * math.sin(pose.t)
        pen.oval(
            sway + 0.17 * math.cos(angle),
            0.72 + 0.17 * math.sin(angle),
            0.13,
            0.075,
            ink if i % 2 else lighter(ink, 0.14),
            angle,
        )
    pen.disc(sway, 0.72, 0.095, rgb("#ffcf4a") if ink != (246, 199, 49) else BARK)


def house(pen: Pen, ink: Colour, pose: Pose) -> None:
    _smoke(pen, pose, 0.29, 1.02)
    pen.box(0.22, 0.66, 0.35, 1.0, rgb("#a5604c"))
    pen.box(-0.46, 0, 0.46, 0.58, ink)
    pen.shape([(0.46, 0), (0.46, 0.58), (0.3, 0.58), (0.3, 0)], darker(ink, 0.12))
    pen.shape([(-0.58, 0.54), (-0.3, 0.95), (0.3, 0.95), (0.58, 0.54)], rgb("#7c4150"))
    pen.shape([(-0.58, 0.54), (0.58, 0.54), (0.545, 0.59), (-0.545, 0.59)], rgb("#623246"))
    pen.box(-0.08, 0, 0.1, 0.34, BARK)
    pen.disc(0.07, 0.17, 0.014, LAMP)
    for x in (-0.34, 0.2):
        pen.box(x - 0.015, 0.215, x + 0.175, 0.415, lighter(ink, 0.75))
        _pane(pen, pose, x, 0.23, x + 0.16, 0.4)
    if pose.darkness > 0.2:
        pen.glow(0, 0.3, 0.75, rgb("#ffb95e"), 0.25 * pose.darkness)


def castle(pen: Pen, ink: Colour, pose: Pose) -> None:
    wave = 0.012 * math.sin(pose.t * 5)
    for x, top, w in ((-0.42, 0.66, 0.12), (0.42, 0.66, 0.12), (-0.16, 0.78, 0.1), (0.18, 0.74, 0.1)):
        pen.box(x - w, 0, x + w, top, darker(ink, 0.1) if abs(x) < 0.3 else ink)
        pen.shape([(x - w * 1.3, top - 0.01), (x + w * 1.3, top - 0.01), (x, top + 0.26)], rgb("#5b4a8e"))
        pen.limb([(x, top + 0.24), (x, top + 0.34)], 0.01, BARK)
        pen.shape([(x, top + 0.34), (x + 0.12, top + 0.31 + wave), (x, top + 0.28)], rgb("#e8564f"))
        _pane(pen, pose, x - 0.025, top - 0.18, x + 0.025, top - 0.08)
    pen.box(-0.42, 0, 0.42, 0.42, ink)
    for i in range(7):
        pen.box(-0.42 + i * 0.128, 0.4, -0.35 + i * 0.128, 0.48, ink)
    pen.blob([(-0.1, 0.0), (-0.1, 0.16), (0, 0.26), (0.1, 0.16), (0.1, 0.0)], BARK)
    for x in (-0.26, 0.26):
        _pane(pen, pose, x - 0.03, 0.22, x + 0.03, 0.32)


def lighthouse(pen: Pen, ink: Colour, pose: Pose) -> None:
    if pose.darkness > 0.2:
        reach = math.cos(pose.t * 0.9)
        wide = 0.24 + 0.3 * abs(math.sin(pose.t * 0.9))
        for side in (1, -1):
            x = side * 7.0 * reach
            pen.shape([(0, 0.87), (x, 0.87 + wide), (x, 0.87 - wide)], LAMP, 0.22 * pose.darkness, lit=False)
    pen.blob(
        [(-0.5, -0.06), (-0.34, 0.09), (-0.1, 0.12), (0.16, 0.1), (0.38, 0.07), (0.54, -0.06), (0, -0.12)],
        rgb("#5c5668"),
    )
    pen.shape([(-0.15, 0.08), (0.15, 0.08), (0.1, 0.78), (-0.1, 0.78)], STONE)
    for low, high in ((0.2, 0.34), (0.48, 0.62)):
        a, b = 0.15 - 0.05 * (low - 0.08) / 0.7, 0.15 - 0.05 * (high - 0.08) / 0.7
        pen.shape([(-a, low), (a, low), (b, high), (-b, high)], ink)
    pen.shape([(0.15, 0.08), (0.1, 0.78), (0.04, 0.78), (0.06, 0.08)], rgb("#2a2350"), 0.2)
    pen.box(-0.135, 0.77, 0.135, 0.81, rgb("#46405a"))
    pen.box(-0.075, 0.81, 0.075, 0.92, LAMP, lit=False)
    pen.shape([(-0.1, 0.92), (0.1, 0.92), (0, 1.02)], darker(ink, 0.2))
    pen.box(-0.03, 0.1, 0.03, 0.18, BARK)
    if pose.darkness > 0.2:
        pen.glow(0, 0.87, 0.4, LAMP, 0.8 * pose.darkness)


def windmill(pen: Pen, ink: Colour, pose: Pose) -> None:
    pen.shape([(-0.2, 0), (0.2, 0), (0.12, 0.62), (-0.12, 0.62)], ink)
    pen.shape([(0.2, 0), (0.12, 0.62), (0.04, 0.62), (0.08, 0)], darker(ink, 0.14))
    pen.blob([(-0.15, 0.6), (-0.08, 0.74), (0.08, 0.74), (0.15, 0.6)], rgb("#7c4150"))
    pen.box(-0.05, 0, 0.05, 0.16, BARK)
    _pane(pen, pose, -0.04, 0.34, 0.04, 0.43)
    for i in range(4):
        a = pose.t * 0.9 + i * math.pi / 2
        c, s = math.cos(a), math.sin(a)

        def turned(x: float, y: float, c: float = c, s: float = s) -> tuple[float, float]:
            return c * x - s * y, 0.66 + s * x + c * y

        pen.shape([turned(0.06, 0), turned(0.42, 0), turned(0.42, 0.11), turned(0.1, 0.09)], STONE)
        pen.limb([(0, 0.66), turned(0.44, 0)], 0.022, BARK)
    pen.disc(0, 0.66, 0.035, BARK)


def ball(pen: Pen, ink: Colour, pose: Pose) -> None:
    pen.disc(0, 0.5, 0.5, darker(ink, 0.3))
    pen.disc(-0.025, 0.525, 0.465, ink)
    for i in range(3):
        angle = -pose.stride * 2 * math.pi + i * 2 * math.pi / 3
        outline = [
            (0.46 * math.cos(angle + d) - 0.02, 0.52 + 0.46 * math.sin(angle + d))
            for d in (-0.34, -0.17, 0.0, 0.17, 0.34)
        ]
        inner = [(0.24 * math.cos(angle + d), 0.5 + 0.24 * math.sin(angle + d)) for d in (0.2, -0.2)]
        pen.shape(outline + inner, lighter(ink, 0.8))
    pen.oval(-0.17, 0.74, 0.1, 0.06, rgb("#ffffff"), 0.6, 0.75)


def star(pen: Pen, ink: Colour, pose: Pose) -> None:
    pen.glow(0, 0.5, 1.1 + 0.08 * math.sin(pose.t * 4), ink, 0.16 + 0.34 * pose.darkness)
    points = []
    for i in range(10):
        radius, angle = (0.5, 0.24)[i % 2], math.pi / 2 + i * math.pi / 5
        points.append((radius * math.cos(angle), 0.5 + radius * math.sin(angle)))
    pen.shape(points, ink, lit=False)
    pen.shape([points[i] for i in (0, 1)] + [(0, 0.5)], lighter(ink, 0.5), lit=False)
    pen.shape([points[i] for i in (2, 3)] + [(0, 0.5)], lighter(ink, 0.3), lit=False)


def heart(pen: Pen, ink: Colour, pose: Pose) -> None:
    beat = 1 + 0.05 * max(0.0, math.sin(pose.t * 6))
    half = [(0, 0.72), (0.1, 0.9), (0.27, 0.96), (0.45, 0.84), (0.47, 0.62), (0.3, 0.32), (0, 0.02)]
    outline = half + [(-x, y) for x, y in reversed(half[1:-1])]
    pen.blob([(x * beat, 0.5 + (y - 0.5) * beat) for x, y in outline], ink)
    pen.oval(-0.24, 0.78, 0.1, 0.07, lighter(ink, 0.6), 0.6)


def kite(pen: Pen, ink: Colour, pose: Pose) -> None:
    tail = [(0.02 * i + 0.05 * math.sin(i * 0.9 - pose.t * 5), 0.3 - 0.09 * i) for i in range(8)]
    pen.limb(tail, 0.014, STONE)
    for x, y in tail[2::2]:
        pen.shape([(x - 0.06, y + 0.035), (x - 0.06, y - 0.035), (x + 0.06, y + 0.035), (x + 0.06, y - 0.035)], ink)
    pen.shape([(0, 1.0), (0.28, 0.72), (0, 0.28), (-0.28, 0.72)], ink)
    pen.shape([(0, 1.0), (0.28, 0.72), (0, 0.72)], lighter(ink, 0.6))
    pen.shape([(0, 0.28), (-0.28, 0.72), (0, 0.72)], darker(ink, 0.14))


def snowman(pen: Pen, ink: Colour, pose: Pose) -> None:
    tilt = 0.012 * math.sin(pose.t * 2)
    for y, r in ((0.24, 0.26), (0.56, 0.19)):
        pen.disc(tilt * y, y, r, darker(ink, 0.14))
        pen.disc(tilt * y - r * 0.07, y + r * 0.06, r * 0.9, ink)
    pen.disc(tilt, 0.81, 0.14, ink)
    for side in (-1, 1):
        pen.limb([(0.15 * side, 0.6), (0.36 * side, 0.72 + tilt)], 0.022, BARK)
    pen.box(-0.15, 0.9, 0.15, 0.925, rgb("#2e2d38"))
    pen.box(-0.095, 0.92, 0.095, 1.06, rgb("#2e2d38"))
    pen.shape([(0.03, 0.83), (0.24, 0.8), (0.03, 0.78)], rgb("#f2872b"))
    for x, y in ((-0.03, 0.85), (0.07, 0.85), (0.02, 0.6), (0.02, 0.5)):
        pen.disc(x, y, 0.016, rgb("#2e2d38"))
    pen.limb([(-0.13, 0.7), (0.13, 0.7)], 0.06, rgb("#e03a3a"))
    pen.limb([(0.08, 0.7), (0.13, 0.54)], 0.06, rgb("#e03a3a"))


def umbrella(pen: Pen, ink: Colour, pose: Pose) -> None:
    pen.limb([(0, 0.08), (0, 0.9)], 0.03, BARK)
    pen.limb([(0, 0.08), (0.06, 0.02), (0.12, 0.08)], 0.03, BARK)
    pen.blob([(-0.5, 0.55), (-0.4, 0.8), (0, 1.0), (0.4, 0.8), (0.5, 0.55), (0.25, 0.6), (0, 0.56), (-0.25, 0.6)], ink)
    pen.blob([(0, 0.98), (-0.13, 0.75), (-0.16, 0.58), (0, 0.57), (0.16, 0.58), (0.13, 0.75)], lighter(ink, 0.45))
