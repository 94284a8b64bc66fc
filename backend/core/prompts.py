"""A short prompt made longer by rules: what it leaves open (motion, place, light, camera, style) is filled in.

Video models are trained on captions that say all of that; where a prompt does not, the model decides by chance. Nothing
that was said is changed, and a person sees the result before it is used.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from backend.core.schema import PROMPT_LENGTH

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
TIMES = r"dawn|sunrise|morning|noon|midday|day|daylight|sunset|dusk|evening|night|moon|moonlight|stars"
CAMERA = r"camera|shot|close-?up|pans?|panning|zooms?|zoom|dolly|tracking|aerial|drone|angle|handheld|lens"


@dataclass(frozen=True, slots=True)
class Aspect:
    """Something that a caption says: the words by which it is told that a prompt says it, and ways to say it."""

    said_by: str  # a pattern of whole words
    ways: tuple[str, ...]

    def is_said(self, prompt: str) -> bool:
        return re.search(rf"\b(?:{self.said_by})\b", prompt, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Thing:
    """What the small painted world has, by the words that it understands."""

    names: str
    does: tuple[str, ...]
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expansion:
    """The longer prompt, what was added to it, and by whom."""

    prompt: str
    added: tuple[str, ...]
    by: str = "rules"


FILMED = (
    Aspect(
        r"lights?|lit|sunlit|lamps?|neon|golden hour|shadows?|glow\w*|bright|dark|overcast|fog|mist|" + TIMES,
        ("soft morning light", "warm light of the golden hour", "overcast daylight", "low sun, long shadows"),
    ),
    Aspect(
        CAMERA,
        ("slow camera push in", "steady tracking shot", "wide shot, the camera holds still", "slow pan to the right"),
    ),
    Aspect(
        r"cinematic|film|photo\w*|realistic|anime|cartoon|animation|painting|style|grain|documentary|black and white",
        ("cinematic, natural colours", "cinematic, shallow depth of field", "cinematic, fine film grain"),
    ),
    Aspect(r"detail\w*|textures?|8k|4k", ("rich in detail",)),
)

GROUND = ("in the city", "in the desert", "over green hills")
AIR = (*GROUND, "over the sea")
ALONG = ("left", "right")
THINGS = (
    Thing(r"(?:fishing |sail|sailing )?boat|ship", tuple(f"drifts {way}" for way in ALONG), ("on a calm sea",)),
    Thing(r"(?:hot air |air )?balloon", ("rises", "drifts left", "drifts right"), AIR),
    Thing(r"bird|gull|seagull", ("flies left", "flies right", "circles"), AIR),
    Thing(r"car|taxi|automobile", tuple(f"drives {way}" for way in ALONG), GROUND),
    Thing(r"(?:steam )?train|locomotive", tuple(f"rolls {way}" for way in ALONG), GROUND),
    Thing(r"rocket|spaceship", ("rises",), AIR),
    Thing(r"fish", tuple(f"swims {way}" for way in ALONG), ("under water",)),
    Thing(r"ball", ("bounces", "rolls left", "rolls right"), GROUND),
    Thing(r"star", ("grows", "stands still", "circles"), AIR),
    Thing(r"tree", ("stands still", "grows"), GROUND),
)
MOTION = r"drift\w*|sail\w*|float\w*|mov\w*|glid\w*|fl(?:y|ies|ying)|driv\w*|roll\w*|swim\w*|rise\w*|rising|sink\w*|"
MOTION += r"circl\w*|bounc\w*|grow\w*|stands?|still|rests?|waits?|climb\w*|go(?:es)?|comes?|soar\w*|left|right"
PLACE = r"sea|ocean|waves|hills?|countryside|meadow|city|street|downtown|desert|dunes|water|underwater|reef"
PAINTED_TIME = Aspect(TIMES, ("at dawn", "at noon", "at sunset", "at night"))
PAINTED_CAMERA = Aspect(CAMERA, ("slow camera push in", "the camera pans left", "still camera", "the camera zooms out"))


def expand(prompt: str, *, painted: bool = False, take: int = 0) -> Expansion:
    """`prompt` with what it leaves open, in words of the small painted world where the model is `painted`. Every `take`
    says it another way, the same one the same way.

    >>> expand("A boat", painted=True).prompt
    'A yellow boat drifts right on a calm sea at noon, still camera'
    """
    text = prompt.strip().rstrip(".,;")
    pick = _Choice(f"{text} {take}")
    if not text:
        return Expansion(prompt, ())
    longer, added = _paint(text, pick) if painted else _film(text, pick)
    if not added or len(longer) > PROMPT_LENGTH:
        return Expansion(prompt, ())
    return Expansion(longer, tuple(added))


class _Choice:
    """One of several, by the prompt alone."""

    def __init__(self, seed: str) -> None:
        self._left = int.from_bytes(hashlib.blake2b(seed.encode("utf-8", "replace"), digest_size=16).digest(), "big")

    def of(self, ways: tuple[str, ...]) -> str:
        self._left, place = divmod(self._left, len(ways))
        return ways[place]


def _film(text: str, pick: _Choice) -> tuple[str, list[str]]:
    added = [pick.of(aspect.ways) for aspect in FILMED if not aspect.is_said(text)]
    return ", ".join([text, *added]), added


def _paint(text: str, pick: _Choice) -> tuple[str, list[str]]:
    """In the order in which the captions of the painted world say it: colour and thing, motion, place, time, camera."""
    added: list[str] = []
    thing, found = next(
        ((thing, match) for thing in THINGS if (match := re.search(rf"\b(?:{thing.names})\b", text, re.IGNORECASE))),
        (None, None),
    )
    if thing and found:
        ends = found.end() == len(text)
        if not Aspect("|".join(COLOURS), ()).is_said(text):
            colour = pick.of(COLOURS)
            before = re.sub(r"\b([Aa])n?(\s+)$", rf"\1{'n' if colour == 'orange' else ''}\2", text[: found.start()])
            text = f"{before}{colour} {text[found.start() :]}"
            added.append(colour)
        if not Aspect(MOTION, ()).is_said(text):
            does = pick.of(thing.does)
            text += f" {does}" if ends else f", it {does}"
            added.append(does)
        if not Aspect(PLACE, ()).is_said(text):
            added.append(pick.of(thing.places))
            text += f" {added[-1]}"
    if not PAINTED_TIME.is_said(text):
        added.append(pick.of(PAINTED_TIME.ways))
        text += f" {added[-1]}"
    if not PAINTED_CAMERA.is_said(text):
        added.append(pick.of(PAINTED_CAMERA.ways))
        text += f", {added[-1]}"
    return text, added
