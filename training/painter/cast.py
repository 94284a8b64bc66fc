"""Who can appear: every kind with its drawing, where it belongs, how tall it is and what colours suit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial

from training.painter import crafts, creatures, things
from training.painter.brush import Pen
from training.painter.palette import Colour
from training.painter.pose import Pose
from training.painter.scene import Motion


class Realm(str, Enum):
    """Where a kind is at home."""

    GROUND = "ground"
    WATER = "water"  # on its surface
    AIR = "air"
    DEEP = "deep"  # under water


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of subject. `height` is in scene units (a landscape frame is about 1 high); `mark` is a point of its own
    coordinates that always shows its colour; `colours` are what it wears when nobody says.
    """

    draw: Callable[[Pen, Colour, Pose], None]
    realm: Realm
    height: float
    mark: tuple[float, float]
    colours: tuple[str, ...]
    motion: Motion | None = None  # what it does when nobody says; None goes left or right
    reach: float = 0.6  # half its width, in heights
    stride: float = 1.0  # steps, turns or beats a second
    flips: bool = True  # it looks where it goes


BRIGHT = ("red", "yellow", "blue", "orange", "teal", "pink", "purple")


def _animal(name: str, height: float, colours: tuple[str, ...], stride: float = 1.5) -> Kind:
    build = creatures.BUILDS[name]
    mark = (-0.02 * build.long, build.leg + build.thick * 0.55)
    return Kind(partial(creatures.quadruped, name=name), Realm.GROUND, height, mark, colours, reach=0.85, stride=stride)


def _fixture(
    draw: Callable[[Pen, Colour, Pose], None],
    height: float,
    mark: tuple[float, float],
    colours: tuple[str, ...],
    reach: float,
) -> Kind:
    """Something that stands on the ground and looks the same from both sides."""
    return Kind(draw, Realm.GROUND, height, mark, colours, Motion.STILL, reach, stride=0.0, flips=False)


CAST: dict[str, Kind] = {
    "boat": Kind(crafts.boat, Realm.WATER, 0.36, (0.0, 0.2), ("red", "blue", "yellow", "teal"), stride=0.0),
    "ship": Kind(crafts.ship, Realm.WATER, 0.34, (-0.3, 0.25), ("blue", "red", "black"), reach=1.0, stride=0.0),
    "duck": Kind(creatures.duck, Realm.WATER, 0.17, (0.05, 0.12), ("yellow", "white")),
    "whale": Kind(creatures.whale, Realm.WATER, 0.26, (0.1, 0.45), ("blue", "gray"), reach=1.2),
    "fish": Kind(creatures.fish, Realm.DEEP, 0.26, (0.04, 0.6), ("orange", "yellow", "red", "blue"), reach=0.8),
    "balloon": Kind(crafts.balloon, Realm.AIR, 0.46, (0.0, 0.6), BRIGHT, Motion.RISE, 0.4, 0.0, False),
    "bird": Kind(creatures.bird, Realm.AIR, 0.2, (0.12, 0.42), ("white", "blue", "red"), reach=0.8, stride=2.2),
    "butterfly": Kind(creatures.butterfly, Realm.AIR, 0.2, (0.13, 0.68), ("orange", "blue", "purple"), stride=1.4),
    "dragon": Kind(creatures.dragon, Realm.AIR, 0.38, (0.0, 0.42), ("green", "red", "purple"), reach=1.2, stride=1.2),
    "plane": Kind(crafts.plane, Realm.AIR, 0.26, (0.3, 0.48), ("white", "red", "blue"), reach=0.9, stride=0.0),
    "rocket": Kind(crafts.rocket, Realm.AIR, 0.46, (0.0, 0.41), ("red", "orange"), Motion.RISE, 0.4, 0.0),
    "ufo": Kind(crafts.ufo, Realm.AIR, 0.24, (0.11, 0.44), ("gray", "purple", "teal"), reach=0.7, stride=0.0),
    "kite": Kind(things.kite, Realm.AIR, 0.34, (0.1, 0.62), BRIGHT, Motion.CIRCLE, 0.35, 0.0),
    "star": Kind(things.star, Realm.AIR, 0.24, (0.0, 0.42), ("yellow",), Motion.STILL, 0.5, 0.0, False),
    "heart": Kind(things.heart, Realm.AIR, 0.26, (0.0, 0.5), ("red", "pink"), Motion.RISE, 0.5, 0.0, False),
    "car": Kind(crafts.car, Realm.GROUND, 0.19, (0.0, 0.4), BRIGHT, reach=1.15, stride=1.6),
    "bus": Kind(crafts.bus, Realm.GROUND, 0.27, (0.0, 0.36), ("red", "yellow", "blue"), reach=1.15, stride=1.2),
    "truck": Kind(crafts.truck, Realm.GROUND, 0.27, (0.62, 0.42), ("red", "blue", "orange"), reach=1.15, stride=1.2),
    "bicycle": Kind(crafts.bicycle, Realm.GROUND, 0.3, (-0.05, 0.74), BRIGHT, reach=0.6, stride=1.2),
    "train": Kind(crafts.train, Realm.GROUND, 0.2, (1.0, 0.5), ("red", "green", "blue"), reach=2.0, stride=1.5),
    "person": Kind(creatures.person, Realm.GROUND, 0.32, (-0.06, 0.5), BRIGHT, reach=0.25, stride=1.1),
    "robot": Kind(creatures.robot, Realm.GROUND, 0.32, (0.0, 0.54), ("teal", "gray", "orange"), reach=0.35, stride=1.1),
    "penguin": Kind(creatures.penguin, Realm.GROUND, 0.24, (-0.12, 0.68), ("black",), reach=0.35, stride=1.6),
    "cat": _animal("cat", 0.22, ("orange", "gray", "black", "white")),
    "dog": _animal("dog", 0.24, ("brown", "white", "black")),
    "fox": _animal("fox", 0.24, ("orange",)),
    "horse": _animal("horse", 0.36, ("brown", "white", "black")),
    "deer": _animal("deer", 0.34, ("brown",)),
    "bear": _animal("bear", 0.28, ("brown", "white")),
    "rabbit": _animal("rabbit", 0.18, ("white", "gray", "brown"), 2.2),
    "cow": _animal("cow", 0.28, ("white", "brown")),
    "sheep": _animal("sheep", 0.22, ("white",)),
    "elephant": _animal("elephant", 0.38, ("gray",), 0.9),
    "lion": _animal("lion", 0.27, ("yellow", "orange")),
    "ball": Kind(things.ball, Realm.GROUND, 0.17, (0.0, 0.5), BRIGHT, Motion.BOUNCE, 0.5, 0.7),
    "tree": _fixture(things.tree, 0.5, (0.0, 0.62), ("green",), 0.4),
    "flower": _fixture(things.flower, 0.3, (0.17, 0.72), BRIGHT, 0.35),
    "house": _fixture(things.house, 0.38, (-0.2, 0.47), ("white", "yellow", "red"), 0.6),
    "castle": _fixture(things.castle, 0.5, (0.0, 0.34), ("gray", "pink", "white"), 0.6),
    "lighthouse": _fixture(things.lighthouse, 0.62, (-0.04, 0.55), ("red", "blue"), 0.5),
    "windmill": _fixture(things.windmill, 0.5, (-0.06, 0.24), ("white", "red"), 0.45),
    "snowman": _fixture(things.snowman, 0.32, (-0.1, 0.3), ("white",), 0.4),
    "umbrella": _fixture(things.umbrella, 0.3, (0.3, 0.72), BRIGHT, 0.5),
}  # fmt: skip
