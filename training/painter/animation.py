"""A scene in motion: `Animation` draws any moment of it and tells where its subjects are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from backend.media.fitting import Picture
from training.painter import land, palette, sky, weather
from training.painter.brush import Canvas, Pen
from training.painter.cast import CAST, Realm
from training.painter.palette import COLOURS, mix
from training.painter.paths import Paths, Place
from training.painter.pose import Pose
from training.painter.scene import Actor, Camera, Extra, Scene, Setting, Time, Weather
from training.painter.view import View


@dataclass(frozen=True, slots=True)
class Truth:
    """Where one subject is, in pixels: (x, y) is a point of it that shows its colour, `height` how tall it is drawn."""

    kind: str
    colour: str
    x: float
    y: float
    height: float


class Animation:
    """`scene` as pictures of `width` x `height` pixels; its motions take `seconds`. Holds one picture of memory."""

    def __init__(self, scene: Scene, width: int, height: int, seconds: float) -> None:
        self.scene, self.seconds = scene, seconds
        self.view = View.of(width, height, land.horizon(scene))
        self.palette = palette.palette_of(scene)
        self.land = land.build(scene, self.palette, self.view)
        self.sky = sky.Sky(scene, self.palette, self.view, seconds)
        self.water = sky.Water(scene, self.palette, self.view, self.land.surface)
        self.air = weather.Air(scene, self.palette, self.view)
        self.backdrop = sky.backdrop(scene, self.palette, self.view)
        self.paths = Paths(scene, self.view, self.land, seconds)

    def frame(self, t: float) -> Picture:
        """The picture at `t` seconds, uint8 RGB."""
        canvas, view = Canvas(self.backdrop.copy()), self._view(t)
        self.sky.paint(canvas, view, t)
        for layer in self.land.back:
            layer.paint(canvas, view, self.palette.haze)
        if self.land.water:
            self._paint_water(canvas, view, t)
        self.sky.paint_before_land(canvas, view, t)
        self.air.paint_behind(canvas, t)
        for actor, place in reversed(self.paths.places(t)):
            self._paint_actor(canvas, view, t, actor, place)
        if self.land.water and self.scene.setting is not Setting.BEACH:
            self.water.paint_front(canvas, view, t)
        for layer in self.land.front:
            layer.paint(canvas, view, self.palette.haze)
        self.air.paint(canvas, t)
        return canvas.pixels

    def _paint_water(self, canvas: Canvas, view: View, t: float) -> None:
        """The water covers the feet of the land, and mirrors it."""
        top = round(view.horizon)
        canvas.pixels[top:] = self.backdrop[top:]
        for image in self.land.reflections:
            image.paint(canvas, view, self.palette.haze)
        self.water.paint(canvas, view, t, self._glitter())
        for layer in self.land.shore:
            layer.paint(canvas, view, self.palette.haze)

    def truth(self, t: float) -> list[Truth]:
        """Every subject at `t` seconds, the first actor's first."""
        found = []
        view = self._view(t)
        for actor, place in self.paths.places(t):
            pen = self._pen(None, view, place)
            x, y = pen.place(np.array([CAST[actor.kind].mark]))[0]
            found.append(Truth(actor.kind, actor.colour, float(x), float(y), pen.scale))
        return found

    def shown(self, colour: str) -> NDArray[np.float64]:
        """What a named colour looks like in this light: red, green, blue."""
        return np.array(self._pen(None, self.view, Place(0, 0, 1)).colour(COLOURS[colour]))

    def _view(self, t: float) -> View:
        part, pace = t / self.seconds, self.paths.pace
        sweep, gain = 0.3 * self.view.half * pace, 0.24 * pace
        look = {Camera.PAN_LEFT: sweep * (1 - 2 * part), Camera.PAN_RIGHT: sweep * (2 * part - 1)}.get(
            self.scene.camera, 0.0
        )
        zoom = {Camera.PUSH_IN: 1 + gain * part, Camera.PULL_OUT: 1 + gain * (1 - part)}.get(self.scene.camera, 1.0)
        return self.view.moved(look, zoom)

    def _glitter(self) -> float | None:
        name = Extra.MOON if self.scene.time is Time.NIGHT else Extra.SUN
        clear = self.scene.weather in (Weather.CLEAR, Weather.CLOUDS)
        return self.sky.sun[0] if clear and name not in self.scene.without else None

    def _paint_actor(self, canvas: Canvas, view: View, t: float, actor: Actor, place: Place) -> None:
        kind, colour = CAST[actor.kind], COLOURS[actor.colour]
        pen = self._pen(canvas, view, place)
        floats = self.land.water and kind.realm is Realm.WATER
        if floats and actor.kind != "whale":
            kind.draw(replace(pen, squash=-0.45, alpha=0.22), colour, Pose(t, place.stride, 0.0))
        if floats or (kind.realm is Realm.GROUND and place.y < self.land.ground + 0.02):
            shadow = mix(self.palette.water[1], (10, 10, 40), 0.3) if floats else (24, 18, 48)
            pen.oval(0, 0 if not floats else -0.02, min(kind.reach, 1.3) * 0.92, 0.045, shadow, alpha=0.3)
        kind.draw(pen, colour, Pose(t, place.stride, self.palette.darkness))

    def _pen(self, canvas: Canvas | None, view: View, place: Place) -> Pen:
        x, y = view.point(place.x, place.y, 1.0)
        veil = 0.16 if self.scene.weather is Weather.FOG else 0.0
        light = mix(self.palette.light, (255, 255, 255), 0.25)
        deep = self.scene.setting is Setting.UNDERWATER
        return Pen(
            canvas or Canvas(self.backdrop),
            x,
            y,
            place.size * view.scale(1.0),
            light,
            place.flip,
            place.turn,
            veil=self.palette.water[0] if deep else self.palette.haze,
            veil_part=0.1 if deep else veil,
        )


def draw(scene: Scene, width: int, height: int, t: float, seconds: float = 4.0) -> Picture:
    """One picture of `scene` at `t` of `seconds`. For many, make a `Animation`, which keeps what they share."""
    return Animation(scene, width, height, seconds).frame(t)
