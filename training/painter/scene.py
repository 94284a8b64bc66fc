"""What an animation shows, as data: a prompt is parsed into a `Scene`, and a `Scene` is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Time(str, Enum):
    DAWN = "dawn"
    NOON = "noon"
    SUNSET = "sunset"
    NIGHT = "night"


class Setting(str, Enum):
    SEA = "sea"
    BEACH = "beach"
    LAKE = "lake"
    HILLS = "hills"
    MOUNTAINS = "mountains"
    FOREST = "forest"
    CITY = "city"
    DESERT = "desert"
    SNOWFIELD = "snowfield"
    UNDERWATER = "underwater"
    SPACE = "space"


class Weather(str, Enum):
    CLEAR = "clear"
    CLOUDS = "clouds"
    RAIN = "rain"
    SNOW = "snow"
    FOG = "fog"
    STORM = "storm"


class Motion(str, Enum):
    STILL = "still"
    LEFT = "left"
    RIGHT = "right"
    RISE = "rise"
    SINK = "sink"
    CIRCLE = "circle"
    BOUNCE = "bounce"
    GROW = "grow"


class Camera(str, Enum):
    STILL = "still"
    PAN_LEFT = "pan left"
    PAN_RIGHT = "pan right"
    PUSH_IN = "push in"
    PULL_OUT = "pull out"


class Size(str, Enum):
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Extra(str, Enum):
    """Things that belong to the world rather than to its cast. A negative prompt may forbid any of them."""

    SUN = "sun"
    MOON = "moon"
    STARS = "stars"
    CLOUDS = "clouds"
    TREES = "trees"
    PEAKS = "peaks"
    RAINBOW = "rainbow"
    AURORA = "aurora"
    FIREWORKS = "fireworks"
    AUTUMN = "autumn"
    BLOSSOM = "blossom"


@dataclass(frozen=True, slots=True)
class Actor:
    """One subject, or `count` alike. `kind` is a key of `cast.CAST`, `colour` one of `palette.COLOURS`."""

    kind: str
    colour: str
    size: Size = Size.MEDIUM
    motion: Motion = Motion.STILL
    count: int = 1


@dataclass(frozen=True, slots=True)
class Scene:
    """One complete scene: equal scenes give equal pictures.

    The first actor is the subject. `seed` shapes what the fields leave open (hills, stars, places); `tint` in -1..1
    leans the palette towards warm or cool.
    """

    time: Time = Time.NOON
    setting: Setting = Setting.HILLS
    weather: Weather = Weather.CLEAR
    actors: tuple[Actor, ...] = ()
    camera: Camera = Camera.STILL
    extras: frozenset[Extra] = frozenset()
    without: frozenset[Extra] = frozenset()
    tint: float = 0.0
    seed: int = 0
