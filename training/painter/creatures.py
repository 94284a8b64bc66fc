"""How the living ones are drawn: one function a kind, in the Pen's coordinates, looking to the right."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.painter.brush import Pen
from training.painter.palette import Colour, darker, lighter, mix, rgb
from training.painter.pose import Pose

EYE = rgb("#26222e")
CREAM = rgb("#fbf1dd")
SKIN = rgb("#f0b98d")
BEAK = rgb("#f5a623")


@dataclass(frozen=True, slots=True)
class Build:
    """The proportions of a four-legged animal of height 1: `long` and `thick` are its trunk's, `leg` the legs' height,
    `neck` where the head sits relative to the shoulder, `head` the head's radius; ears, snout and tail by name.
    """

    long: float
    thick: float
    leg: float
    neck: tuple[float, float]
    head: float
    ears: str
    tail: str
    snout: float = 0.1
    leg_width: float = 0.09
    belly: Colour | None = None
    extra: str = ""


BUILDS: dict[str, Build] = {
    "cat": Build(0.66, 0.30, 0.28, (0.08, 0.24), 0.23, "pointed", "curl", 0.0, belly=CREAM),
    "dog": Build(0.74, 0.30, 0.36, (0.14, 0.22), 0.19, "floppy", "up", 0.17),
    "fox": Build(0.78, 0.28, 0.32, (0.16, 0.22), 0.18, "pointed", "bushy", 0.19, belly=CREAM),
    "horse": Build(0.72, 0.27, 0.46, (0.22, 0.34), 0.11, "small", "hair", 0.17, 0.075, extra="mane"),
    "deer": Build(0.62, 0.23, 0.46, (0.16, 0.30), 0.10, "small", "stub", 0.13, 0.06, belly=CREAM, extra="antlers"),
    "bear": Build(0.80, 0.46, 0.26, (0.12, 0.12), 0.20, "round", "stub", 0.12, 0.17),
    "rabbit": Build(0.50, 0.34, 0.16, (0.08, 0.22), 0.19, "long", "puff", 0.06, 0.11),
    "cow": Build(0.86, 0.40, 0.34, (0.12, 0.12), 0.15, "floppy", "hair", 0.14, 0.10, extra="spots"),
    "sheep": Build(0.66, 0.44, 0.28, (0.10, 0.08), 0.15, "floppy", "stub", 0.08, 0.08, extra="wool"),
    "elephant": Build(0.84, 0.50, 0.34, (0.10, 0.08), 0.23, "fan", "hair", 0.04, 0.17, extra="trunk"),
    "lion": Build(0.78, 0.30, 0.34, (0.14, 0.16), 0.18, "round", "tuft", 0.11, 0.11, extra="ruff"),
}


def quadruped(pen: Pen, ink: Colour, pose: Pose, name: str) -> None:
    """A four-legged animal of `BUILDS`, walking with its stride."""
    b = BUILDS[name]
    back, front = -b.long / 2, b.long / 2
    y = b.leg + b.thick / 2  # the trunk's middle
    shade = darker(ink, 0.3)
    bounce = 0.012 * math.sin(pose.stride * 4 * math.pi)
    y += bounce
    _legs(pen, b, shade, pose.stride + 0.5, y, 0.06)
    _tail(pen, b, ink, pose, back, y)
    if b.extra == "wool":
        for i in range(7):
            angle = i / 7 * 2 * math.pi
            pen.disc(
                0.28 * math.cos(angle), y + 0.14 * math.sin(angle), 0.19, ink if i not in (4, 5) else darker(ink, 0.1)
            )
        pen.oval(0, y, 0.32, 0.2, ink)
    else:
        h = b.thick / 2
        pen.blob(
            [(back, y + h * 0.75), (-b.long * 0.1, y + h * 0.86), (front * 0.9, y + h), (front * 1.12, y + h * 0.2),
             (front * 0.85, y - h * 0.85), (0, y - h * 0.78), (back * 0.85, y - h * 0.92), (back * 1.1, y)],
            ink,
        )  # fmt: skip
    if b.belly:
        pen.oval(front * 0.72, y - b.thick * 0.16, 0.12, b.thick * 0.28, b.belly, 0.25)
    if b.extra == "spots":
        for x, dy, r in ((-0.27, 0.07, 0.1), (0.14, 0.08, 0.08), (-0.1, -0.09, 0.06)):
            pen.oval(x, y + dy, r, r * 0.8, EYE, 0.4)
    _legs(pen, b, ink, pose.stride, y, -0.02)
    _head(pen, b, ink, pose, front, y + b.thick / 2)


def _legs(pen: Pen, b: Build, ink: Colour, stride: float, y: float, shift: float) -> None:
    for x, phase in ((-b.long * 0.4, 0.0), (b.long * 0.38, 0.5)):
        angle = (stride + phase) * 2 * math.pi
        swing, lift = 0.34 * b.leg * math.sin(angle), 0.16 * b.leg * max(0.0, math.cos(angle))
        hip = (x + shift, y - b.thick * 0.2)
        knee = (x + shift + swing * 0.45 + 0.02, (hip[1] + lift) * 0.5)
        pen.limb([hip, knee, (x + shift + swing, 0.03 + lift)], b.leg_width * 1.25, ink, b.leg_width * 0.8)


def _tail(pen: Pen, b: Build, ink: Colour, pose: Pose, x: float, y: float) -> None:
    wag = 0.05 * math.sin(pose.t * 5)
    top = y + b.thick * 0.3
    if b.tail == "bushy":
        pen.blob(
            [
                (x + 0.06, top),
                (x - 0.2, top + 0.02 + wag),
                (x - 0.44, top + 0.1 + wag),
                (x - 0.3, top - 0.12 + wag),
                (x, top - 0.14),
            ],
            ink,
        )
        pen.blob([(x - 0.3, top + 0.06 + wag), (x - 0.45, top + 0.11 + wag), (x - 0.34, top - 0.06 + wag)], CREAM)
    elif b.tail == "puff":
        pen.disc(x - 0.02, y - 0.02, 0.1, lighter(ink, 0.6))
    elif b.tail == "stub":
        pen.oval(x - 0.02, top, 0.07, 0.05, ink, 0.5)
    elif b.tail == "curl":
        pen.limb(
            [(x + 0.04, top), (x - 0.14, top + 0.08), (x - 0.2 + wag, top + 0.24), (x - 0.12 + wag, top + 0.36)],
            0.08,
            ink,
            0.06,
        )
    elif b.tail == "up":
        pen.limb([(x + 0.04, top), (x - 0.1, top + 0.1), (x - 0.14 + wag * 2, top + 0.22)], 0.08, ink, 0.04)
    else:
        pen.limb([(x + 0.03, top), (x - 0.1, top - 0.06), (x - 0.13 + wag, top - 0.3)], 0.07, darker(ink, 0.2), 0.05)
        if b.tail == "tuft":
            pen.disc(x - 0.13 + wag, top - 0.32, 0.06, darker(ink, 0.5))
        elif b.extra == "mane":
            pen.blob(
                [(x, top), (x - 0.14, top - 0.04), (x - 0.2 + wag, top - 0.4), (x - 0.08, top - 0.2)], darker(ink, 0.5)
            )


def _head(pen: Pen, b: Build, ink: Colour, pose: Pose, x: float, shoulder: float) -> None:
    r = b.head
    nod = 0.015 * math.sin(pose.stride * 2 * math.pi + 1)
    hx, hy = x + b.neck[0], shoulder + b.neck[1] * 0.6 + nod
    dark, face = darker(ink, 0.28), darker(ink, 0.62) if b.extra == "wool" else ink
    pen.limb([(x - 0.08, shoulder - b.thick * 0.35), (hx - r * 0.2, hy)], max(b.thick * 0.62, r), ink, r * 1.25)
    if b.extra == "mane":
        pen.blob(
            [(x - 0.2, shoulder - 0.06), (x - 0.02, shoulder + 0.06), (hx - 0.06, hy + 0.12), (hx - 0.16, hy + 0.02)],
            darker(ink, 0.5),
        )
    if b.extra == "ruff":
        for i in range(10):
            angle = i / 10 * 2 * math.pi
            pen.disc(
                hx - 0.03 + 0.2 * math.cos(angle),
                hy + 0.2 * math.sin(angle),
                0.1,
                darker(mix(ink, rgb("#a04f1c"), 0.6), 0.1),
            )
    if b.ears in ("pointed", "long", "small"):
        tall = {"pointed": 1.75, "long": 3.0, "small": 1.75}[b.ears]
        for dx, tone in ((-0.62, dark), (0.12, ink)):
            pen.blob(
                [
                    (hx + (dx - 0.28) * r, hy + r * 0.5),
                    (hx + (dx - 0.08) * r, hy + r * tall),
                    (hx + (dx + 0.42) * r, hy + r * 0.7),
                ],
                tone,
            )
    elif b.ears == "round":
        pen.disc(hx - 0.6 * r, hy + 0.8 * r, 0.42 * r, dark)
        pen.disc(hx + 0.3 * r, hy + 0.9 * r, 0.42 * r, ink)
    pen.disc(hx, hy, r, face)
    pen.blob(
        [
            (hx + r * 0.1, hy + r * 0.55),
            (hx + r * 0.8 + b.snout, hy - r * 0.05),
            (hx + r * 0.75 + b.snout, hy - r * 0.5),
            (hx, hy - r * 0.85),
        ],
        face,
    )
    if b.belly:
        pen.blob(
            [
                (hx + r * 0.25, hy - r * 0.1),
                (hx + r * 0.75 + b.snout, hy - r * 0.15),
                (hx + r * 0.7 + b.snout, hy - r * 0.5),
                (hx + r * 0.1, hy - r * 0.8),
            ],
            b.belly,
        )
    if b.extra == "trunk":
        sway = 0.04 * math.sin(pose.t * 2)
        pen.limb(
            [
                (hx + r * 0.6, hy - r * 0.2),
                (hx + r * 1.25, hy - r * 1.2),
                (hx + r * 1.15 + sway, hy - r * 2.3),
                (hx + r * 1.6 + sway, hy - r * 2.7),
            ],
            0.14,
            ink,
            0.07,
        )
        pen.limb([(hx + r * 0.5, hy - r * 0.6), (hx + r * 1.1, hy - r * 1.0)], 0.05, CREAM, 0.02)
    else:
        pen.disc(hx + r * 0.8 + b.snout, hy - r * 0.14, r * 0.17, EYE)
    if b.ears == "floppy":
        pen.blob(
            [
                (hx - r * 0.7, hy + r * 0.7),
                (hx - r * 0.1, hy + r * 0.6),
                (hx - r * 0.3, hy - r * 0.6),
                (hx - r * 0.85, hy - r * 0.5),
            ],
            dark if b.extra != "wool" else EYE,
        )
    elif b.ears == "fan":
        pen.blob(
            [
                (hx - r * 1.2, hy + r * 0.8),
                (hx - r * 0.1, hy + r * 0.7),
                (hx - r * 0.1, hy - r * 0.7),
                (hx - r * 0.9, hy - r * 0.8),
            ],
            dark,
        )
    if b.extra == "antlers":
        for dx in (-0.3, 0.3):
            pen.limb(
                [(hx + dx * r, hy + r), (hx + dx * r * 2, hy + r * 2.2), (hx + dx * r * 1.2, hy + r * 3.2)],
                0.035,
                rgb("#7a5536"),
                0.02,
            )
            pen.limb([(hx + dx * r * 2, hy + r * 2.2), (hx + dx * r * 4, hy + r * 2.9)], 0.03, rgb("#7a5536"), 0.02)
    eye_x, eye_y = hx + r * 0.42, hy + r * 0.24
    pen.disc(eye_x, eye_y, r * 0.17, CREAM if b.extra == "wool" else EYE)
    pen.disc(eye_x + r * 0.05, eye_y + r * 0.06, r * 0.06, rgb("#ffffff") if b.extra != "wool" else EYE)


def bird(pen: Pen, ink: Colour, pose: Pose) -> None:
    flap = math.sin(pose.stride * 2 * math.pi)
    far, near = darker(ink, 0.3), darker(ink, 0.12)
    lift = 0.55 * flap
    pen.blob([(0.12, 0.5), (-0.12, 0.52), (-0.28, 0.55 + lift * 0.8), (-0.1, 0.56 + lift)], far)
    pen.shape([(-0.3, 0.5), (-0.72, 0.58), (-0.64, 0.4), (-0.3, 0.38)], near)
    pen.blob([(-0.46, 0.48), (-0.1, 0.58), (0.26, 0.58), (0.44, 0.5), (0.3, 0.36), (-0.06, 0.3)], ink)
    pen.disc(0.44, 0.58, 0.15, ink)
    pen.shape([(0.55, 0.63), (0.78, 0.54), (0.55, 0.51)], BEAK)
    pen.disc(0.5, 0.62, 0.032, EYE)
    pen.blob([(0.2, 0.54), (-0.22, 0.52), (-0.42, 0.58 + lift), (-0.22, 0.62 + lift * 1.1)], near)


def butterfly(pen: Pen, ink: Colour, pose: Pose) -> None:
    open_ = 0.35 + 0.65 * abs(math.cos(pose.stride * 2 * math.pi))
    for side in (-1, 1):
        wide = side * open_
        pen.blob([(0, 0.5), (wide * 0.3, 0.95), (wide * 0.62, 0.9), (wide * 0.5, 0.52)], ink)
        pen.blob([(0, 0.5), (wide * 0.46, 0.46), (wide * 0.42, 0.12), (wide * 0.16, 0.14)], darker(ink, 0.18))
        pen.oval(wide * 0.46, 0.8, 0.07 * open_, 0.08, lighter(ink, 0.65))
    pen.limb([(0, 0.22), (0, 0.68)], 0.07, EYE, 0.09)
    pen.limb([(0, 0.7), (-0.1, 0.92)], 0.02, EYE)
    pen.limb([(0, 0.7), (0.1, 0.92)], 0.02, EYE)


def fish(pen: Pen, ink: Colour, pose: Pose) -> None:
    swing = 0.14 * math.sin(pose.t * 7)
    fin = darker(ink, 0.22)
    pen.blob([(-0.4, 0.5), (-0.74, 0.84 + swing), (-0.64, 0.5 + swing), (-0.74, 0.18 + swing)], fin)
    pen.blob([(-0.2, 0.74), (0.05, 1.0), (0.2, 0.78)], fin)
    pen.blob(
        [(0.66, 0.5), (0.4, 0.76), (0, 0.84), (-0.36, 0.62), (-0.46, 0.5), (-0.36, 0.38), (0, 0.16), (0.4, 0.24)], ink
    )
    pen.blob([(0.6, 0.44), (0.3, 0.32), (0, 0.24), (0.2, 0.18), (0.45, 0.28)], lighter(ink, 0.4))
    for x in (-0.26, 0.24):
        pen.oval(x, 0.52, 0.045, 0.22, lighter(ink, 0.72))
    pen.blob([(0.06, 0.42), (-0.16, 0.3 + swing), (-0.04, 0.46)], fin)
    pen.disc(0.44, 0.58, 0.085, rgb("#ffffff"))
    pen.disc(0.46, 0.58, 0.05, EYE)


def whale(pen: Pen, ink: Colour, pose: Pose) -> None:
    tail = 0.06 * math.sin(pose.t * 2)
    spray = (pose.t * 0.9) % 1
    for dx in (-0.13, 0.0, 0.13):
        pen.oval(
            0.3 + dx * (0.5 + spray), 0.86 + spray * 0.34 - abs(dx), 0.04, 0.08, rgb("#dff2ff"), alpha=0.9 * (1 - spray)
        )
    pen.blob(
        [(-0.78, 0.36), (-0.92, 0.78 + tail), (-1.2, 0.9 + tail), (-1.05, 0.62 + tail), (-0.8, 0.2)], darker(ink, 0.15)
    )
    pen.blob([(-0.92, 0.66 + tail), (-0.86, 0.98 + tail), (-0.68, 0.95 + tail), (-0.8, 0.66 + tail)], darker(ink, 0.15))
    pen.blob(
        [(-0.9, 0.36), (-0.5, 0.4), (0, 0.72), (0.5, 0.76), (0.86, 0.46), (0.8, 0.08), (0.2, -0.12), (-0.6, 0.02)], ink
    )
    pen.blob([(0.84, 0.3), (0.8, 0.04), (0.2, -0.13), (-0.5, -0.01), (0.1, 0.1), (0.5, 0.22)], CREAM)
    pen.disc(0.56, 0.42, 0.05, EYE)
    pen.blob([(0.2, 0.16), (0.02, -0.12), (0.3, 0.04)], darker(ink, 0.25))


def duck(pen: Pen, ink: Colour, pose: Pose) -> None:
    bob = 0.02 * math.sin(pose.t * 4)
    pen.blob([(-0.62, 0.5), (-0.4, 0.36), (0, 0.4), (0.36, 0.42), (0.44, 0.14), (0.1, -0.04), (-0.38, 0.02)], ink)
    pen.limb([(0.3, 0.3), (0.34, 0.66 + bob)], 0.22, ink, 0.2)
    pen.disc(0.36, 0.76 + bob, 0.18, ink)
    pen.blob([(0.5, 0.8 + bob), (0.76, 0.7 + bob), (0.5, 0.66 + bob)], BEAK)
    pen.disc(0.43, 0.81 + bob, 0.035, EYE)
    pen.blob([(0.14, 0.3), (-0.1, 0.34), (-0.46, 0.34), (-0.2, 0.14)], darker(ink, 0.14))


def penguin(pen: Pen, ink: Colour, pose: Pose) -> None:
    step = math.sin(pose.stride * 2 * math.pi)
    for x, up in ((-0.09, max(0.0, step)), (0.1, max(0.0, -step))):
        pen.oval(x + 0.04, 0.04 + 0.05 * up, 0.1, 0.04, BEAK)
    pen.blob([(-0.22, 0.1), (-0.26, 0.5), (-0.14, 0.86), (0.1, 0.92), (0.22, 0.6), (0.2, 0.08)], ink)
    pen.blob([(0.02, 0.1), (-0.02, 0.4), (0.08, 0.66), (0.2, 0.56), (0.2, 0.12)], rgb("#ffffff"))
    pen.disc(0.04, 0.86, 0.16, ink)
    pen.oval(0.12, 0.84, 0.07, 0.09, rgb("#ffffff"))
    pen.shape([(0.17, 0.88), (0.34, 0.82), (0.17, 0.79)], BEAK)
    pen.disc(0.11, 0.88, 0.025, EYE)
    pen.limb([(-0.12, 0.62), (-0.2 - 0.05 * step, 0.3)], 0.1, darker(ink, 0.4), 0.06)


def person(pen: Pen, ink: Colour, pose: Pose) -> None:
    angle = pose.stride * 2 * math.pi
    step, trousers = math.sin(angle), rgb("#3b4468")
    arm = 0.13 * step
    pen.limb([(0.0, 0.66), (-arm * 0.8, 0.52), (-arm * 1.2 + 0.03, 0.38)], 0.075, darker(ink, 0.3), 0.06)
    for side, tone in ((-1, darker(trousers, 0.35)), (1, trousers)):
        swing, lift = 0.17 * step * side, 0.05 * max(0.0, math.cos(angle) * side)
        pen.limb([(0, 0.42), (swing * 0.5 + 0.02, 0.22 + lift), (swing, 0.03 + lift)], 0.105, tone, 0.08)
        pen.oval(swing + 0.035, 0.02 + lift, 0.065, 0.026, EYE)
    pen.blob([(-0.1, 0.72), (0.09, 0.72), (0.12, 0.55), (0.15, 0.36), (-0.15, 0.36), (-0.13, 0.55)], ink)
    pen.limb([(0.0, 0.68), (arm * 0.8, 0.54), (arm * 1.2 + 0.05, 0.42)], 0.08, darker(ink, 0.16), 0.06)
    pen.disc(arm * 1.2 + 0.055, 0.4, 0.034, SKIN)
    pen.limb([(0, 0.7), (0.01, 0.78)], 0.06, darker(SKIN, 0.1))
    pen.disc(-0.012, 0.87, 0.112, rgb("#4a3040"))
    pen.oval(0.025, 0.855, 0.085, 0.095, SKIN)
    pen.blob([(-0.1, 0.86), (-0.06, 0.97), (0.06, 0.985), (0.11, 0.92), (0.02, 0.92), (-0.03, 0.86)], rgb("#4a3040"))
    pen.disc(0.075, 0.865, 0.013, EYE)


def robot(pen: Pen, ink: Colour, pose: Pose) -> None:
    step = math.sin(pose.stride * 2 * math.pi)
    steel = rgb("#626b80")
    for side in (-1, 1):
        pen.limb(
            [(0.1 * side, 0.34), (0.1 * side + 0.07 * step * side, 0.06 + 0.05 * max(0.0, step * side))], 0.1, steel
        )
        pen.limb([(0.22 * side, 0.6), (0.3 * side, 0.46), (0.29 * side, 0.34 + 0.05 * step * side)], 0.07, steel)
    pen.blob([(-0.22, 0.66), (0.22, 0.66), (0.2, 0.3), (-0.2, 0.3)], ink)
    pen.box(-0.1, 0.36, 0.1, 0.44, darker(ink, 0.3))
    pen.box(-0.05, 0.64, 0.05, 0.72, steel)
    pen.blob([(-0.2, 0.94), (0.2, 0.94), (0.2, 0.68), (-0.2, 0.68)], lighter(ink, 0.2))
    for x in (-0.08, 0.11):
        pen.disc(x, 0.82, 0.055, EYE)
        pen.disc(x, 0.82, 0.036, rgb("#7ff2e6"), lit=False)
    pen.limb([(0, 0.94), (0, 1.06)], 0.025, steel)
    pen.disc(0, 1.08, 0.04, rgb("#ff6b5e"), lit=False)


def dragon(pen: Pen, ink: Colour, pose: Pose) -> None:
    flap = math.sin(pose.stride * 2 * math.pi)
    dark, sail = darker(ink, 0.25), mix(ink, rgb("#ffb347"), 0.4)
    wave = 0.06 * math.sin(pose.t * 3)
    lift = 0.34 * flap
    pen.shape(
        [(0.02, 0.56), (-0.32, 0.86 + lift), (-0.42, 0.66 + lift * 0.7), (-0.3, 0.56), (-0.14, 0.48)], darker(sail, 0.3)
    )
    pen.limb([(-0.24, 0.46), (-0.56, 0.36 + wave), (-0.84, 0.42 - wave), (-1.02, 0.56 - wave)], 0.17, ink, 0.03)
    pen.shape([(-0.98, 0.5 - wave), (-1.2, 0.7 - wave), (-0.98, 0.66 - wave)], sail)
    pen.blob([(-0.34, 0.5), (0, 0.6), (0.32, 0.54), (0.34, 0.36), (0.02, 0.26), (-0.3, 0.34)], ink)
    pen.blob([(0.3, 0.36), (0.02, 0.25), (-0.26, 0.33), (0, 0.36)], CREAM)
    pen.limb([(0.26, 0.46), (0.46, 0.58), (0.5, 0.76)], 0.2, ink, 0.12)
    pen.blob([(0.42, 0.88), (0.6, 0.88), (0.84, 0.74), (0.8, 0.66), (0.54, 0.68), (0.42, 0.76)], ink)
    pen.shape([(0.46, 0.86), (0.32, 1.0), (0.54, 0.9)], dark)
    pen.disc(0.6, 0.81, 0.03, rgb("#fff3b0"))
    pen.disc(0.605, 0.81, 0.015, EYE)
    for x in (-0.12, 0.18):
        pen.limb([(x, 0.32), (x - 0.1, 0.18), (x - 0.02, 0.12)], 0.09, dark, 0.05)
    pen.shape(
        [
            (0.14, 0.54),
            (-0.06, 1.0 + lift),
            (-0.26, 0.92 + lift * 0.8),
            (-0.24, 0.72 + lift * 0.5),
            (-0.36, 0.66 + lift * 0.4),
            (-0.16, 0.5),
        ],
        sail,
    )
    pen.limb([(0.14, 0.54), (-0.06, 1.0 + lift)], 0.05, dark, 0.03)
