"""Colours: the named ones, the light of each time of day, and what weather does to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from training.painter.scene import Scene, Setting, Time, Weather

Colour = tuple[float, float, float]  # red, green, blue, 0 to 255


@lru_cache(maxsize=512)
def rgb(code: str) -> Colour:
    """The colour of `#rrggbb`."""
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


COLOURS: dict[str, Colour] = {
    "red": rgb("#e03a3a"),
    "orange": rgb("#f2872b"),
    "yellow": rgb("#f6c731"),
    "green": rgb("#43a650"),
    "teal": rgb("#1fa9a4"),
    "blue": rgb("#2f6fe0"),
    "purple": rgb("#8b50cc"),
    "pink": rgb("#f47fb2"),
    "white": rgb("#f7f4ec"),
    "black": rgb("#2e2d38"),
    "gray": rgb("#8f95a1"),
    "brown": rgb("#8f5b36"),
}


def mix(one: Colour, other: Colour, part: float) -> Colour:
    """`one` with `part` (0 to 1) of `other` in it."""
    keep = 1 - part
    return (
        one[0] * keep + other[0] * part,
        one[1] * keep + other[1] * part,
        one[2] * keep + other[2] * part,
    )


def darker(colour: Colour, part: float = 0.22) -> Colour:
    """A shade that leans to blue, as shadows out of doors do."""
    return mix(colour, (28, 20, 60), part)


def lighter(colour: Colour, part: float = 0.25) -> Colour:
    return mix(colour, (255, 250, 235), part)


def lit(colour: Colour, light: Colour) -> Colour:
    """`colour` under a light whose channels are 0 to 255."""
    return colour[0] * light[0] / 255, colour[1] * light[1] / 255, colour[2] * light[2] / 255


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one light. `sky` goes from the zenith to the horizon, `water` from the horizon to the viewer;
    `ridge` is what far land fades to, `haze` the mist at its foot; `darkness` is 0 by day and 1 by night.
    """

    sky: tuple[Colour, Colour, Colour]
    water: tuple[Colour, Colour]
    ridge: Colour
    haze: Colour
    sun: Colour
    glow: Colour
    cloud: Colour
    light: Colour
    darkness: float


PALETTES: dict[Time, Palette] = {
    Time.DAWN: Palette(
        sky=(rgb("#8ea9e6"), rgb("#f3b6cb"), rgb("#ffe7c7")),
        water=(rgb("#e3b9c4"), rgb("#5b79b0")),
        ridge=rgb("#9a8fc4"),
        haze=rgb("#ffdfd0"),
        sun=rgb("#fff3d6"),
        glow=rgb("#ffc48f"),
        cloud=rgb("#fff0ee"),
        light=rgb("#fff0ea"),
        darkness=0.1,
    ),
    Time.NOON: Palette(
        sky=(rgb("#3f97ee"), rgb("#86c6f8"), rgb("#e2f4ff")),
        water=(rgb("#58b4e4"), rgb("#1a5fae")),
        ridge=rgb("#86aedd"),
        haze=rgb("#d9efff"),
        sun=rgb("#fffbe0"),
        glow=rgb("#fff0b0"),
        cloud=rgb("#ffffff"),
        light=rgb("#ffffff"),
        darkness=0.0,
    ),
    Time.SUNSET: Palette(
        sky=(rgb("#79509f"), rgb("#fb8167"), rgb("#ffd592")),
        water=(rgb("#e98a72"), rgb("#4f3570")),
        ridge=rgb("#635194"),
        haze=rgb("#ffb585"),
        sun=rgb("#fff0c4"),
        glow=rgb("#ff9a50"),
        cloud=rgb("#ffc3a0"),
        light=rgb("#ffe0cc"),
        darkness=0.25,
    ),
    Time.NIGHT: Palette(
        sky=(rgb("#0b0f31"), rgb("#1c2158"), rgb("#4b4789")),
        water=(rgb("#343a7c"), rgb("#0a0e2c")),
        ridge=rgb("#35397a"),
        haze=rgb("#4f5096"),
        sun=rgb("#f6f0da"),
        glow=rgb("#7f86d8"),
        cloud=rgb("#4a4d8c"),
        light=rgb("#a6aadc"),
        darkness=1.0,
    ),
}

# How much of which colour each weather puts before the sky, and how much light it leaves.
VEILS: dict[Weather, tuple[Colour, float, float]] = {
    Weather.CLEAR: (rgb("#ffffff"), 0.0, 1.0),
    Weather.CLOUDS: (rgb("#dfe6ee"), 0.12, 0.98),
    Weather.RAIN: (rgb("#76879f"), 0.5, 0.9),
    Weather.SNOW: (rgb("#c3cfe2"), 0.4, 0.97),
    Weather.FOG: (rgb("#dfe3e8"), 0.5, 0.97),
    Weather.STORM: (rgb("#4d5a7c"), 0.6, 0.88),
}


def palette_of(scene: Scene) -> Palette:
    """The light of `scene`: its time of day, its tint, its weather."""
    base = PALETTES[scene.time]
    if scene.setting is Setting.SPACE:
        base = replace(PALETTES[Time.NIGHT], light=(244, 242, 255))
    lean: Colour = (255, 150, 120) if scene.tint > 0 else (120, 170, 255)
    veil, part, left = VEILS[scene.weather]
    veil = mix(veil, lit(veil, base.light), 0.6)
    veil = mix(veil, (16, 20, 52), base.darkness * 0.72)

    def veiled(colour: Colour, share: float = 1.0) -> Colour:
        return mix(mix(colour, lean, 0.14 * abs(scene.tint)), veil, part * share)

    return replace(
        base,
        sky=(veiled(base.sky[0]), veiled(base.sky[1]), veiled(base.sky[2])),
        water=(veiled(base.water[0], 0.8), veiled(base.water[1], 0.6)),
        ridge=veiled(base.ridge, 0.7),
        haze=veiled(base.haze),
        cloud=veiled(base.cloud, 0.7),
        light=(base.light[0] * left, base.light[1] * left, base.light[2] * left),
    )
