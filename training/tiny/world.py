"""The training distribution of SkyReels V2 Tiny: random scenes, their captions and their pictures.

A scene is one of `training.painter`, with one subject. A caption describes it in one of many ways, sometimes not
all of it, so that a prompt that leaves the weather open gets any. The given random generator determines everything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from backend.media.fitting import Frames
from training.painter.animation import Animation
from training.painter.scene import Actor, Camera, Motion, Scene, Setting, Size, Time, Weather

WIDTH, HEIGHT, FPS = 160, 96, 24
SQUARE = 128
LAYOUTS = 4  # of each setting: few enough that a small model knows every hill and window of them

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
LAND = (Setting.HILLS, Setting.CITY, Setting.DESERT)
ALONG = (Motion.LEFT, Motion.RIGHT)


@dataclass(frozen=True, slots=True)
class Role:
    """What a kind of subject does, and where; `small` kinds are drawn larger than life, to be recognisable."""

    settings: tuple[Setting, ...]
    motions: tuple[Motion, ...]
    small: bool = False


ROLES = {
    "boat": Role((Setting.SEA,), (*ALONG, Motion.STILL)),
    "balloon": Role((*LAND, Setting.SEA), (Motion.RISE, Motion.SINK, *ALONG, Motion.STILL, Motion.GROW)),
    "bird": Role((*LAND, Setting.SEA), (*ALONG, Motion.CIRCLE, Motion.RISE), small=True),
    "car": Role(LAND, (*ALONG, Motion.STILL), small=True),
    "train": Role(LAND, (*ALONG, Motion.STILL)),
    "rocket": Role((*LAND, Setting.SEA), (Motion.RISE, Motion.SINK)),
    "fish": Role((Setting.UNDERWATER,), (*ALONG, Motion.CIRCLE, Motion.RISE, Motion.SINK)),
    "ball": Role(LAND, (Motion.BOUNCE, *ALONG, Motion.GROW), small=True),
    "star": Role(
        (*LAND, Setting.SEA),
        (Motion.STILL, Motion.GROW, Motion.RISE, Motion.SINK, Motion.CIRCLE, Motion.BOUNCE),
        small=True,
    ),
    "tree": Role(LAND, (Motion.STILL, Motion.GROW)),
}
KINDS = tuple(ROLES)
TIMES = tuple(Time)
MOTIONS = tuple(Motion)
WEATHERS = (Weather.CLEAR, Weather.CLOUDS, Weather.RAIN, Weather.SNOW)
CAMERAS = tuple(Camera)
SETTINGS = (*LAND, Setting.SEA, Setting.UNDERWATER)

NAMES = {
    "boat": "boat|sailboat|sailing boat|fishing boat|little ship",
    "balloon": "balloon|hot air balloon|air balloon",
    "bird": "bird|gull|seagull|flying bird",
    "car": "car|automobile|small car|taxi",
    "train": "train|steam train|locomotive|railway train",
    "rocket": "rocket|spaceship|space rocket",
    "fish": "fish|tropical fish|swimming fish",
    "ball": "ball|beach ball|toy ball|rubber ball",
    "star": "star|shining star|bright star",
    "tree": "tree|tall tree|leafy tree",
}
SHADES = {
    "red": "red|red|red|bright red|scarlet|crimson",
    "orange": "orange|orange|orange|bright orange|amber",
    "yellow": "yellow|yellow|yellow|bright yellow|golden",
    "green": "green|green|green|bright green|emerald",
    "blue": "blue|blue|blue|bright blue|azure",
    "purple": "purple|purple|purple|violet|lilac",
    "pink": "pink|pink|pink|rosy|bright pink",
    "white": "white|white|white|snow-white|pure white",
}
SIZES = {Size.SMALL: "small|little|tiny", Size.MEDIUM: "", Size.LARGE: "big|large|huge"}
GOES = {
    "boat": "drifts|sails|floats|moves|glides",
    "balloon": "drifts|floats|flies|moves",
    "bird": "flies|glides|soars|moves",
    "car": "drives|rolls|goes|moves|races",
    "train": "rolls|drives|goes|moves|travels",
    "fish": "swims|glides|moves|darts",
    "ball": "rolls|goes|moves",
}
DOES = {
    Motion.STILL: "stands still|is still|does not move|rests|stays where it is|waits",
    Motion.RISE: "rises|rises slowly|goes up|climbs|ascends|moves up",
    Motion.SINK: "sinks|sinks slowly|comes down|descends|goes down|moves down",
    Motion.CIRCLE: "circles|flies in a circle|goes round and round|turns in circles",
    Motion.BOUNCE: "bounces|bounces up and down|hops|jumps up and down",
    Motion.GROW: "grows|comes closer|grows larger|comes nearer|gets bigger",
}
WAYS = {
    Motion.LEFT: "left|to the left|leftwards|from right to left",
    Motion.RIGHT: "right|to the right|rightwards|from left to right",
}
PLACES = {
    Setting.SEA: "on the sea|on a calm sea|over the sea|over the ocean|at sea|above the waves",
    Setting.HILLS: "over green hills|in the hills|in the countryside|on a meadow|among green hills",
    Setting.CITY: "in the city|in a city|over the city|through the city|in a street|downtown",
    Setting.DESERT: "in the desert|over the desert|through the desert|among sand dunes",
    Setting.UNDERWATER: "under water|underwater|in the deep sea|above a reef|in the blue water",
}
HOURS = {
    Time.DAWN: "at dawn|in the early morning|at sunrise|in the morning",
    Time.NOON: "at noon|by day|at midday|in bright daylight|on a sunny day",
    Time.SUNSET: "at sunset|in the evening|at dusk|in the evening light",
    Time.NIGHT: "at night|under the moon|in the moonlight|under the stars|on a dark night",
}
SKIES = {
    Weather.CLEAR: "under a clear sky|in clear weather|the sky is clear",
    Weather.CLOUDS: "under a cloudy sky|with many clouds|on a cloudy day|clouds above",
    Weather.RAIN: "in the rain|while it rains|on a rainy day|rain is falling",
    Weather.SNOW: "in the snow|while it snows|snow is falling|as snow falls",
}
MOVES = {
    Camera.STILL: "still camera|the camera stays still|static shot",
    Camera.PAN_LEFT: "the camera pans left|slow pan to the left|pan left",
    Camera.PAN_RIGHT: "the camera pans right|slow pan to the right|pan right",
    Camera.PUSH_IN: "slow camera push in|the camera zooms in|zoom in|camera push in",
    Camera.PULL_OUT: "the camera zooms out|zoom out|slow pull back|camera pull out",
}
# Words that cannot be drawn; captions contain some, so that they do not disturb the model.
FILLERS = (
    "beautiful", "cinematic", "old", "lonely", "lovely", "happy", "funny", "wonderful", "strange", "shiny", "wooden",
    "cute", "friendly", "magic", "quiet", "highly detailed", "4k", "masterpiece", "in a flat illustrated style",
    "illustration", "cartoon", "peaceful mood", "dreamy", "shallow depth of field", "film grain", "soft light",
    "slowly", "for a long time", "with a smile", "like in a dream", "far from home",
)  # fmt: skip
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


def draw_scene(random: np.random.Generator) -> Scene:
    """A random scene; kinds, colours, times and motions are about equally frequent."""
    kind = KINDS[random.integers(len(KINDS))]
    role = ROLES[kind]
    setting = role.settings[random.integers(len(role.settings))]
    motion = role.motions[random.integers(len(role.motions))]
    size = list(Size)[random.choice(3, p=(0.15, 0.6, 0.25))]
    weather = WEATHERS[random.choice(4, p=(0.45, 0.25, 0.15, 0.15))]
    return Scene(
        time=TIMES[random.integers(len(TIMES))],
        setting=setting,
        weather=Weather.CLEAR if setting is Setting.UNDERWATER else weather,
        actors=(Actor(kind, COLOURS[random.integers(len(COLOURS))], size, motion),),
        camera=CAMERAS[random.choice(5, p=(0.8, 0.05, 0.05, 0.05, 0.05))],
        tint=float(random.uniform(-1, 1)),
        seed=int(random.integers(LAYOUTS)),
    )


def mirrored(scene: Scene) -> Scene:
    """The scene that the mirrored pictures of `scene` show."""
    ways = {Motion.LEFT: Motion.RIGHT, Motion.RIGHT: Motion.LEFT}
    pans = {Camera.PAN_LEFT: Camera.PAN_RIGHT, Camera.PAN_RIGHT: Camera.PAN_LEFT}
    actors = tuple(replace(actor, motion=ways.get(actor.motion, actor.motion)) for actor in scene.actors)
    return replace(scene, actors=actors, camera=pans.get(scene.camera, scene.camera))


def animation_of(scene: Scene, seconds: float, width: int = WIDTH, height: int = HEIGHT) -> Animation:
    """The moving picture of `scene`. Small kinds are 1.5 times as large, unless the scene calls them small."""
    (actor,) = scene.actors
    if ROLES[actor.kind].small and actor.size is Size.MEDIUM:
        scene = replace(scene, actors=(replace(actor, size=Size.LARGE),))
    return Animation(scene, width, height, seconds)


def pictures(animation: Animation, frames: int, first: int = 0) -> Frames:
    """Frames `first` to `first + frames` of an animation at 24 fps, uint8 RGB of (frames, height, width, 3)."""
    return np.stack([animation.frame((first + n) / FPS) for n in range(frames)])


def caption(scene: Scene, random: np.random.Generator, full: bool = False) -> str:
    """A random caption of `scene`, now and then a word or two alone. With `full` it names kind, colour, motion, place
    and time, and nothing that cannot be drawn.
    """

    def one(alternatives: str) -> str:
        options = alternatives.split("|")
        return options[random.integers(len(options))]

    def mentions(often: float) -> bool:
        return full or bool(random.random() < often)

    def filler(often: float) -> str:
        return FILLERS[random.integers(len(FILLERS))] if not full and random.random() < often else ""

    (actor,) = scene.actors
    if not full and random.random() < 0.06:
        return one(
            f"{HOURS[scene.time]}|{PLACES[scene.setting]}|{SKIES[scene.weather]}|{NAMES[actor.kind]}|{actor.colour}"
        )
    size = one(SIZES[actor.size]) if random.random() < 0.85 else ""
    shade = one(SHADES[actor.colour]) if mentions(0.95) else ""
    who = f"{size} {filler(0.1)} {shade} {one(NAMES[actor.kind])}"
    goes = f"{one(GOES[actor.kind])} {one(WAYS[actor.motion])}" if actor.motion in WAYS else ""
    does = goes or one(DOES[actor.motion])
    where = one(PLACES[scene.setting]) if mentions(0.92) else ""
    when = one(HOURS[scene.time]) if mentions(0.92) else ""
    sky = "" if scene.setting is Setting.UNDERWATER or random.random() < 0.15 else one(SKIES[scene.weather])
    if scene.weather is Weather.CLEAR and random.random() < 0.7:
        sky = ""
    camera = one(MOVES[scene.camera]) if random.random() < (0.06 if scene.camera is Camera.STILL else 0.95) else ""
    does = does if mentions(0.95) else ""
    article = "" if random.random() < 0.1 else "the " if random.random() < 0.1 else _article(who)
    order = random.random()
    if order < 0.65:
        text = f"{article}{who} {does} {where} {when} {filler(0.06)}"
    elif order < 0.8:
        text = f"{when}, {article}{who} {does} {where}"
    elif order < 0.9:
        text = f"{where}, {article}{who} {does} {when}"
    else:
        text = f"{article}{who} {where} {when}, it {does or one('is there')}"
    nonsense = _nonsense(random) if not full and random.random() < 0.04 else ""
    tail = [sky, camera, filler(0.1), nonsense]
    random.shuffle(tail)
    text = ", ".join(part for part in (text, *tail) if part)
    text = " ".join(text.replace(" ,", ",").split()).strip(" ,")
    text = text.replace(" ,", ",")
    if random.random() < 0.6:
        text = text[0].upper() + text[1:]
    return text + ("." if random.random() < 0.3 else "")


def _article(who: str) -> str:
    return "an " if who.split()[0][0] in "aeiou" else "a "


def _nonsense(random: np.random.Generator) -> str:
    """One or two random words without a meaning."""
    words = ["".join(random.choice(LETTERS, random.integers(3, 9))) for _ in range(random.integers(1, 3))]
    return " ".join(words)
