"""How vehicles are drawn: one function a kind, in the Pen's coordinates, going to the right."""

from __future__ import annotations

import math

from training.painter.brush import Pen
from training.painter.palette import Colour, darker, lighter, rgb
from training.painter.pose import Pose

GLASS = rgb("#bfe3f2")
TYRE = rgb("#2b2833")
RIM = rgb("#d7d5df")
SAIL = rgb("#fdf6e6")
WOOD = rgb("#5b3b2c")
LAMP = rgb("#ffe9a0")


def boat(pen: Pen, ink: Colour, pose: Pose) -> None:
    belly = 0.03 * math.sin(pose.t * 1.7)
    pen.blob([(0.035, 0.97), (0.2, 0.72), (0.46 + belly, 0.37), (0.24, 0.34), (0.035, 0.345), (0.034, 0.6)], SAIL)
    pen.blob([(-0.03, 0.88), (-0.2, 0.62), (-0.36 + belly, 0.38), (-0.2, 0.35), (-0.03, 0.35)], darker(SAIL, 0.1))
    pen.limb([(0, 0.2), (0, 1.0)], 0.032, WOOD)
    wave = 0.02 * math.sin(pose.t * 6)
    pen.shape([(0.01, 1.0), (-0.17, 0.965 + wave), (0.01, 0.93)], ink)
    pen.shape([(-0.52, 0.29), (0.6, 0.32), (0.43, 0.0), (-0.38, 0.0)], ink)
    pen.shape([(-0.425, 0.1), (0.485, 0.1), (0.43, 0.0), (-0.38, 0.0)], darker(ink, 0.28))
    pen.shape([(-0.53, 0.31), (0.61, 0.345), (0.59, 0.29), (-0.515, 0.26)], lighter(ink, 0.75))


def ship(pen: Pen, ink: Colour, pose: Pose) -> None:
    for i in range(4):
        age = (pose.t * 0.4 + i / 4) % 1
        pen.disc(0.04 - age * 0.6, 1.0 + age * 0.34, 0.06 + 0.1 * age, rgb("#e9e6ec"), alpha=0.55 * (1 - age))
    pen.box(-0.02, 0.62, 0.16, 0.98, darker(ink, 0.1))
    pen.box(-0.02, 0.86, 0.16, 0.93, SAIL)
    pen.box(-0.52, 0.36, 0.5, 0.54, SAIL)
    pen.box(-0.34, 0.52, 0.34, 0.68, lighter(SAIL, 0.3))
    for i in range(7):
        pen.disc(-0.42 + i * 0.14, 0.455, 0.028, LAMP if pose.darkness > 0.2 else GLASS, lit=pose.darkness <= 0.2)
    pen.shape([(-0.8, 0.38), (0.98, 0.44), (0.76, 0.0), (-0.7, 0.0)], ink)
    pen.shape([(-0.725, 0.12), (0.82, 0.12), (0.76, 0.0), (-0.7, 0.0)], darker(ink, 0.35))


def balloon(pen: Pen, ink: Colour, pose: Pose) -> None:
    pale = lighter(ink, 0.7)
    pen.limb([(-0.1, 0.2), (-0.07, 0.1)], 0.012, WOOD)
    pen.limb([(0.1, 0.2), (0.07, 0.1)], 0.012, WOOD)
    for part, tone in ((1.0, ink), (0.72, pale), (0.38, ink)):
        w = 0.36 * part
        pen.blob(
            [
                (-0.09 * part, 0.2),
                (-w * 0.86, 0.45),
                (-w, 0.66),
                (-w * 0.72, 0.9),
                (0, 1.0),
                (w * 0.72, 0.9),
                (w, 0.66),
                (w * 0.86, 0.45),
                (0.09 * part, 0.2),
            ],
            tone,
        )
    pen.blob(
        [(0.09, 0.2), (0.31, 0.45), (0.36, 0.66), (0.26, 0.9), (0.1, 0.985), (0.25, 0.8), (0.28, 0.6), (0.22, 0.42)],
        darker(ink, 0.5),
        0.25,
    )
    pen.box(-0.1, 0.175, 0.1, 0.215, darker(ink, 0.25))
    if pose.darkness > 0.2:
        pen.glow(0, 0.36, 0.4, rgb("#ff9a40"), 0.5 + 0.1 * math.sin(pose.t * 9))
    pen.shape([(-0.08, 0.11), (0.08, 0.11), (0.065, 0.0), (-0.065, 0.0)], rgb("#a4703f"))
    pen.box(-0.085, 0.09, 0.085, 0.12, WOOD)


def plane(pen: Pen, ink: Colour, pose: Pose) -> None:
    pen.shape([(-0.06, 0.52), (0.12, 0.52), (-0.16, 0.9), (-0.28, 0.9)], darker(ink, 0.3))
    pen.shape([(-0.72, 0.5), (-0.5, 0.5), (-0.66, 0.86), (-0.82, 0.86)], darker(ink, 0.1))
    pen.blob([(-0.8, 0.52), (-0.5, 0.62), (0.4, 0.64), (0.72, 0.54), (0.78, 0.46), (0.6, 0.37), (-0.4, 0.36)], ink)
    pen.blob([(0.74, 0.42), (0.6, 0.36), (-0.4, 0.35), (-0.6, 0.42), (0, 0.42)], lighter(ink, 0.6))
    for i in range(6):
        pen.disc(-0.3 + i * 0.14, 0.545, 0.026, LAMP if pose.darkness > 0.2 else GLASS)
    pen.shape([(0.54, 0.605), (0.66, 0.57), (0.73, 0.5), (0.56, 0.51)], GLASS)
    pen.shape([(-0.1, 0.44), (0.16, 0.44), (-0.22, 0.06), (-0.36, 0.06)], darker(ink, 0.16))


def _wheel(pen: Pen, x: float, radius: float, turns: float) -> None:
    pen.disc(x, radius, radius, TYRE)
    pen.disc(x, radius, radius * 0.56, RIM)
    for i in range(3):
        angle = -turns * 2 * math.pi + i * math.pi / 3
        dx, dy = 0.5 * radius * math.cos(angle), 0.5 * radius * math.sin(angle)
        pen.limb([(x - dx, radius - dy), (x + dx, radius + dy)], radius * 0.14, rgb("#77748a"))


def _beams(pen: Pen, pose: Pose, x: float, y: float) -> None:
    if pose.darkness > 0.2:
        pen.shape([(x, y), (x + 1.1, y + 0.16), (x + 1.1, y - 0.3)], LAMP, 0.16 * pose.darkness, lit=False)
        pen.glow(x, y, 0.3, LAMP, 0.6 * pose.darkness)


def car(pen: Pen, ink: Colour, pose: Pose) -> None:
    jolt = 0.008 * math.sin(pose.stride * 9)
    _beams(pen, pose, 1.12, 0.38)
    pen.blob(
        [
            (-0.66, 0.56 + jolt),
            (-0.46, 0.92 + jolt),
            (-0.2, 1.0 + jolt),
            (0.24, 0.98 + jolt),
            (0.5, 0.82 + jolt),
            (0.72, 0.56 + jolt),
            (0, 0.5),
        ],
        darker(ink, 0.12),
    )
    pen.shape([(-0.52, 0.6 + jolt), (-0.38, 0.88 + jolt), (-0.04, 0.92 + jolt), (-0.04, 0.6 + jolt)], GLASS)
    pen.shape([(0.04, 0.6 + jolt), (0.04, 0.92 + jolt), (0.24, 0.9 + jolt), (0.56, 0.6 + jolt)], GLASS)
    pen.blob(
        [
            (-1.1, 0.3),
            (-1.08, 0.56 + jolt),
            (-0.7, 0.64 + jolt),
            (0.6, 0.64 + jolt),
            (1.06, 0.54 + jolt),
            (1.14, 0.3),
            (1.0, 0.18),
            (-1.0, 0.18),
        ],
        ink,
    )
    pen.box(-1.05, 0.18, 1.08, 0.27, darker(ink, 0.34))
    pen.disc(1.06, 0.42 + jolt, 0.06, LAMP, lit=False)
    pen.oval(-1.07, 0.44 + jolt, 0.04, 0.07, rgb("#ff5a4d"))
    for x in (-0.62, 0.66):
        pen.disc(x, 0.23, 0.27, darker(ink, 0.5))
        _wheel(pen, x, 0.22, pose.stride)


def bus(pen: Pen, ink: Colour, pose: Pose) -> None:
    _beams(pen, pose, 1.1, 0.3)
    pen.blob([(-1.1, 0.2), (-1.1, 0.96), (-0.9, 1.0), (0.95, 1.0), (1.08, 0.94), (1.14, 0.5), (1.14, 0.2)], ink)
    for i in range(5):
        pen.box(
            -1.0 + i * 0.36,
            0.6,
            -0.7 + i * 0.36,
            0.88,
            LAMP if pose.darkness > 0.2 else GLASS,
            lit=pose.darkness <= 0.2,
        )
    pen.shape([(0.84, 0.5), (0.84, 0.88), (1.03, 0.88), (1.09, 0.5)], GLASS)
    pen.box(-1.12, 0.5, 0.8, 0.54, lighter(ink, 0.6))
    pen.box(-1.1, 0.15, 1.13, 0.22, darker(ink, 0.35))
    pen.disc(1.09, 0.3, 0.05, LAMP, lit=False)
    for x in (-0.66, 0.68):
        _wheel(pen, x, 0.18, pose.stride)


def truck(pen: Pen, ink: Colour, pose: Pose) -> None:
    _beams(pen, pose, 1.14, 0.32)
    pen.box(-1.15, 0.2, 1.1, 0.3, TYRE)
    pen.box(-1.15, 0.3, 0.42, 1.0, SAIL)
    pen.box(-1.15, 0.3, 0.42, 0.4, darker(SAIL, 0.15))
    pen.blob([(0.5, 0.24), (0.5, 0.84), (0.84, 0.86), (1.0, 0.6), (1.15, 0.5), (1.15, 0.24)], ink)
    pen.shape([(0.68, 0.56), (0.68, 0.78), (0.85, 0.78), (0.97, 0.56)], GLASS)
    pen.disc(1.12, 0.34, 0.045, LAMP, lit=False)
    for x in (-0.85, -0.5, 0.8):
        _wheel(pen, x, 0.17, pose.stride)


def bicycle(pen: Pen, ink: Colour, pose: Pose) -> None:
    for x in (-0.34, 0.34):
        for i in range(3):
            angle = -pose.stride * 2 * math.pi + i * math.pi / 3
            dx, dy = 0.2 * math.cos(angle), 0.2 * math.sin(angle)
            pen.limb([(x - dx, 0.23 - dy), (x + dx, 0.23 + dy)], 0.012, RIM)
        ring = [(x + 0.22 * math.cos(a / 9 * math.pi), 0.23 + 0.22 * math.sin(a / 9 * math.pi)) for a in range(19)]
        pen.limb(ring, 0.035, TYRE)
    for a, b in (
        ((-0.34, 0.23), (-0.12, 0.5)),
        ((-0.12, 0.5), (0.26, 0.5)),
        ((0, 0.23), (0.26, 0.5)),
        ((-0.34, 0.23), (0, 0.23)),
        ((0, 0.23), (-0.14, 0.56)),
        ((0.34, 0.23), (0.24, 0.62)),
    ):
        pen.limb([a, b], 0.035, ink)
    angle = -pose.stride * math.pi
    for side, tone in ((-1, rgb("#2b3350")), (1, rgb("#3b4468"))):
        foot = (0.08 * math.cos(angle) * side, 0.2 + 0.08 * math.sin(angle) * side)
        pen.limb([(-0.14, 0.62), (0.1 + foot[0] * 0.4, 0.46 + (foot[1] - 0.2) * 0.5), foot], 0.085, tone, 0.06)
    pen.limb([(-0.13, 0.62), (0.04, 0.86)], 0.15, ink, 0.14)
    pen.limb([(0.05, 0.84), (0.16, 0.7), (0.25, 0.63)], 0.05, darker(ink, 0.15))
    pen.disc(0.1, 0.98, 0.085, rgb("#f0b98d"))
    pen.blob([(0.0, 0.99), (0.04, 1.08), (0.14, 1.08), (0.19, 1.01)], darker(ink, 0.3))


def train(pen: Pen, ink: Colour, pose: Pose) -> None:
    pen.box(-30, -0.05, 30, 0.0, rgb("#5d5566"))
    pen.box(-30, -0.005, 30, 0.02, rgb("#c9c4d0"))
    for i in range(5):
        age = (pose.t * 0.5 + i / 5) % 1
        pen.disc(0.98 - age * 1.3, 1.04 + age * 0.42, 0.08 + 0.16 * age, rgb("#f2eff4"), alpha=0.65 * (1 - age))
    _beams(pen, pose, 1.42, 0.52)
    for left in (-2.62, -1.2):
        pen.box(left, 0.22, left + 1.28, 0.9, darker(ink, 0.14))
        pen.box(left - 0.04, 0.86, left + 1.32, 0.95, darker(ink, 0.5))
        for i in range(3):
            pen.box(
                left + 0.14 + i * 0.38,
                0.5,
                left + 0.4 + i * 0.38,
                0.76,
                LAMP if pose.darkness > 0.2 else GLASS,
                lit=pose.darkness <= 0.2,
            )
        for dx in (0.28, 1.0):
            _wheel(pen, left + dx, 0.15, pose.stride * 1.4)
        pen.box(left + 1.26, 0.24, left + 1.46, 0.3, TYRE)
    pen.box(0.86, 0.7, 1.08, 1.06, TYRE)
    pen.shape([(0.82, 1.0), (1.12, 1.0), (1.16, 1.1), (0.78, 1.1)], darker(ink, 0.4))
    pen.box(0.2, 0.3, 0.74, 1.02, ink)
    pen.box(0.14, 1.0, 0.8, 1.1, darker(ink, 0.5))
    pen.box(0.32, 0.62, 0.6, 0.92, LAMP if pose.darkness > 0.2 else GLASS, lit=pose.darkness <= 0.2)
    pen.blob([(0.7, 0.26), (0.7, 0.76), (1.3, 0.76), (1.4, 0.52), (1.3, 0.26)], ink)
    pen.box(0.2, 0.22, 1.34, 0.32, darker(ink, 0.45))
    pen.shape([(1.3, 0.26), (1.62, 0.04), (1.2, 0.04)], darker(ink, 0.45))
    pen.disc(1.37, 0.54, 0.07, LAMP, lit=False)
    for x, r in ((0.4, 0.2), (0.82, 0.15), (1.16, 0.15)):
        _wheel(pen, x, r, pose.stride)


def rocket(pen: Pen, ink: Colour, pose: Pose) -> None:
    flicker = 0.05 * math.sin(pose.t * 31) + 0.03 * math.sin(pose.t * 47)
    pen.glow(0, 0.06, 0.55, rgb("#ff9a3c"), 0.75)
    pen.blob([(-0.13, 0.2), (-0.1, 0.02), (0, -0.3 - flicker), (0.1, 0.02), (0.13, 0.2)], rgb("#ff9a3c"))
    pen.blob([(-0.07, 0.2), (-0.05, 0.06), (0, -0.12 - flicker), (0.05, 0.06), (0.07, 0.2)], rgb("#fff2b3"))
    for side in (-1, 1):
        pen.shape(
            [(0.13 * side, 0.44), (0.34 * side, 0.22), (0.33 * side, 0.12), (0.1 * side, 0.22)], darker(ink, 0.22)
        )
    pen.blob([(-0.12, 0.2), (-0.2, 0.5), (-0.15, 0.78), (0, 1.0), (0.15, 0.78), (0.2, 0.5), (0.12, 0.2)], SAIL)
    pen.blob([(-0.135, 0.8), (-0.07, 0.92), (0, 1.0), (0.07, 0.92), (0.135, 0.8), (0, 0.77)], ink)
    pen.shape([(-0.185, 0.52), (0.185, 0.52), (0.155, 0.3), (-0.155, 0.3)], ink)
    pen.disc(0, 0.65, 0.09, darker(ink, 0.3))
    pen.disc(0, 0.65, 0.062, GLASS)
    pen.box(-0.13, 0.18, 0.13, 0.23, rgb("#5d5870"))


def ufo(pen: Pen, ink: Colour, pose: Pose) -> None:
    pen.shape(
        [(-0.2, 0.36), (0.2, 0.36), (0.46, -0.6), (-0.46, -0.6)],
        rgb("#d6ffb0"),
        0.2 + 0.06 * math.sin(pose.t * 5),
        lit=False,
    )
    pen.blob([(-0.3, 0.56), (-0.22, 0.84), (0, 0.95), (0.22, 0.84), (0.3, 0.56)], GLASS)
    pen.oval(0, 0.5, 0.66, 0.17, ink)
    pen.oval(0, 0.56, 0.52, 0.08, lighter(ink, 0.4))
    for i in range(5):
        on = math.sin(pose.t * 6 + i * 1.3) > 0
        pen.disc(-0.44 + i * 0.22, 0.43 - 0.02 * (2 - abs(i - 2)), 0.04, LAMP if on else darker(ink, 0.4), lit=not on)
