"""Where the subjects of a scene are at any moment: their homes, and the ways that their motions take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from training.painter.cast import CAST, Kind, Realm
from training.painter.land import Land
from training.painter.scene import Actor, Motion, Scene, Setting, Size, Weather
from training.painter.view import View

SIZES = {Size.SMALL: 0.66, Size.MEDIUM: 1.0, Size.LARGE: 1.5}
UNHURRIED_S = 2.4  # an animation of this length or more has time for the whole of a motion


@dataclass(slots=True)
class Place:
    """Where a subject stands at one moment and how tall it is, in scene units; `flip` and `turn` as in `Pen`.

    `travelled` is how far it has gone, `stride` how many steps, turns or wing beats that took.
    """

    x: float
    y: float
    size: float
    flip: int = 1
    turn: float = 0.0
    travelled: float = 0.0
    stride: float = 0.0


class Paths:
    """The ways of all subjects of `scene` through `land`, in an animation of `seconds`."""

    def __init__(self, scene: Scene, view: View, land: Land, seconds: float) -> None:
        self.scene, self.view, self.land, self.seconds = scene, view, land, seconds
        self.pace = min(1.0, seconds / UNHURRIED_S)
        self.rough = 2.2 if scene.weather is Weather.STORM else 1.0
        self.chance = np.random.default_rng((scene.seed, 6)).random((16, 4))

    def places(self, t: float) -> list[tuple[Actor, Place]]:
        """Every subject with its place at `t` seconds, the first named (and nearest) first."""
        return [
            (actor, self._place(actor, index, copy, t))
            for index, actor in enumerate(self.scene.actors)
            for copy in range(actor.count)
        ]

    def _place(self, actor: Actor, index: int, copy: int, t: float) -> Place:
        kind, chance = CAST[actor.kind], self.chance[(index * 5 + copy) % len(self.chance)]
        size = self._size(actor, kind, index) * (0.62 + 0.16 * float(chance[1]) if copy else 1.0)
        x, y = self._home(kind, index, copy, size, float(chance[0]))
        # Whoever goes nowhere looks into the picture.
        place = Place(x, y, size, flip=-1 if x > 0.05 else 1)
        if actor.motion in (Motion.LEFT, Motion.RIGHT):
            self._go(place, actor, kind, t, alone=not (index or copy))
        elif actor.motion in (Motion.RISE, Motion.SINK):
            self._rise(place, actor, kind, t, copy)
        elif actor.motion is Motion.CIRCLE:
            phase = float(chance[2]) + copy / actor.count
            self._circle(place, kind, t, phase, alone=not (index or copy))
        elif actor.motion is Motion.BOUNCE:
            place.y += 0.32 * abs(math.sin(math.pi * (1.15 * t + copy * 0.3)))
            place.travelled = t * 0.4
        elif actor.motion is Motion.GROW:
            place.size *= 0.5 + 0.85 * t / self.seconds
            place.travelled = t * 0.3
        self._sway(place, kind, t, copy)
        if not kind.flips:
            place.flip = 1
        place.stride = float(chance[3]) + kind.stride * (place.travelled / size if kind.realm is Realm.GROUND else t)
        return place

    def _size(self, actor: Actor, kind: Kind, index: int) -> float:
        """How tall the subject is: as its kind is, a little less for those behind, never more than the frame holds."""
        view = self.view
        size = kind.height * SIZES[actor.size] * (1.15 if view.half < view.above else 1.0) * (0.8 if index else 1.0)
        grown = 1.35 if actor.motion is Motion.GROW else 1.0
        return min(size, 0.7 * (view.above + view.below) / grown, 0.85 * view.half / kind.reach / grown)

    def _home(self, kind: Kind, index: int, copy: int, size: float, chance: float) -> tuple[float, float]:
        """Where a subject is when it does not move; `chance` is 0 to 1."""
        view, land = self.view, self.land
        lane = (0.0, -0.58, 0.56, -0.28)[index % 4] + (0.0, 0.52, -0.52, 0.86, -0.86)[copy % 5] + 0.3 * (chance - 0.5)
        x = max(-1.0, min(1.0, lane)) * max(0.05, view.half - size * kind.reach * 0.8)
        if kind.realm is Realm.AIR:
            top = view.above - size
            height = 0.42 + 0.34 * bool(index) + 0.14 * (copy % 3) + 0.1 * (chance - 0.5)
            return x, max(0.02, min(top, top * height))
        if kind.realm is Realm.WATER and land.water:
            return x, land.surface + 0.05 * copy * view.below - 0.01
        if kind.realm is Realm.DEEP or (kind.realm is Realm.WATER and self.scene.setting is Setting.UNDERWATER):
            return x, view.above * (0.3 + 0.12 * copy + 0.1 * (chance - 0.5))
        if kind.motion is Motion.STILL and self.scene.setting in (Setting.SEA, Setting.LAKE):
            return x, -0.1 * view.below  # a house or a lighthouse on its rock
        return x, land.ground + (0.1 * index + 0.05 * copy) * view.below

    def _go(self, place: Place, actor: Actor, kind: Kind, t: float, alone: bool) -> None:
        way = -1 if actor.motion is Motion.LEFT else 1
        lying = actor.kind == "rocket"
        reach = place.size * (0.7 if lying else kind.reach * 0.9)
        span = min(0.62 * self.view.half, max(0.05, self.view.half - reach)) * self.pace
        part = t / self.seconds
        place.x = place.x * (0.35 if alone else 0.7) + way * span * (2 * part - 1)
        place.travelled, place.flip = 2 * span * part, way
        if lying:
            place.turn = -1.15
            place.x -= way * 0.4 * place.size

    def _rise(self, place: Place, actor: Actor, kind: Kind, t: float, copy: int) -> None:
        low, high = place.y, max(place.y + 0.1, min(place.y + 0.5, self.view.above - place.size))
        if kind.realm in (Realm.AIR, Realm.DEEP):
            low = -0.6 * self.view.below + 0.08 * copy
            high = max(low + 0.1, self.view.above - place.size * 1.06)
        part = t / self.seconds * self.pace
        up = actor.motion is Motion.RISE
        place.y = low + (high - low) * (part if up else 1 - part)
        place.x += 0.03 * math.sin(t * 1.1 + copy)
        if actor.kind in ("bird", "plane", "dragon"):
            place.turn = 0.25 if up else -0.25

    def _circle(self, place: Place, kind: Kind, t: float, phase: float, alone: bool) -> None:
        turns = max(1, round(self.seconds / 4.0)) * self.pace
        angle = 2 * math.pi * (turns * t / self.seconds + phase)
        radius = min(0.34, 0.7 * max(0.05, self.view.half - place.size * kind.reach * 0.9))
        tall = radius * (0.5 if kind.realm in (Realm.AIR, Realm.DEEP) else 0.16)
        place.x = place.x * (0.5 if alone else 0.9) + radius * math.cos(angle)
        place.y = min(place.y, self.view.above - place.size - tall) + tall * math.sin(angle)
        place.travelled, place.flip = radius * angle, -1 if math.sin(angle) > 0 else 1

    def _sway(self, place: Place, kind: Kind, t: float, copy: int) -> None:
        """Nothing in the air or on the water is ever quite still."""
        if kind.realm is Realm.WATER:
            place.y += 0.008 * math.sin(t * 1.9 + copy * 1.3) * self.rough
            if self.land.water:
                place.turn += 0.035 * math.sin(t * 1.5 + copy) * self.rough
        elif kind.realm in (Realm.AIR, Realm.DEEP):
            place.y += 0.05 * place.size * math.sin(t * 1.6 + copy * 2.1)
            place.y = min(place.y, self.view.above - place.size * 1.02)
