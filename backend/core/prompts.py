"""Prompt expansion by rules: fills in what a short prompt leaves open (motion, place, light, camera, style).

Video models are trained on captions that describe all of these; what a prompt leaves open, the model chooses at random.
The words of the prompt are kept, and the user sees the result before it is used.
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
    """An aspect of a caption: the pattern by which a prompt is known to describe it, and phrases that do."""

    pattern: str  # of whole words
    phrases: tuple[str, ...]

    def is_in(self, prompt: str) -> bool:
        return re.search(rf"\b(?:{self.pattern})\b", prompt, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Thing:
    """A subject that the small model was trained on, with the words that its text encoder knows."""

    names: str
    motions: tuple[str, ...]
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expansion:
    """The expanded prompt, the phrases that were added, and the language model that wrote it, or "rules"."""

    prompt: str
    added: tuple[str, ...]
    by: str = "rules"


ASPECTS = (
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


def expand(prompt: str, *, painted: bool = False, variation: int = 0) -> Expansion:
    """Expand `prompt` by what it leaves open; `painted` uses only words that the small model was trained on. Another
    `variation` chooses other phrases, the same one the same phrases.

    >>> expand("A boat", painted=True).prompt
    'A yellow boat drifts right on a calm sea at noon, still camera'
    """
    text = prompt.strip().rstrip(".,;")
    pick = _Choice(f"{text} {variation}")
    if not text:
        return Expansion(prompt, ())
    longer, added = _expand_painted(text, pick) if painted else _expand_caption(text, pick)
    if not added or len(longer) > PROMPT_LENGTH:
        return Expansion(prompt, ())
    return Expansion(longer, tuple(added))


class _Choice:
    """Deterministic choices from lists, seeded by a text."""

    def __init__(self, seed: str) -> None:
        self._left = int.from_bytes(hashlib.blake2b(seed.encode("utf-8", "replace"), digest_size=16).digest(), "big")

    def of(self, phrases: tuple[str, ...]) -> str:
        self._left, place = divmod(self._left, len(phrases))
        return phrases[place]


def _expand_caption(text: str, pick: _Choice) -> tuple[str, list[str]]:
    added = [pick.of(aspect.phrases) for aspect in ASPECTS if not aspect.is_in(text)]
    return ", ".join([text, *added]), added


def _expand_painted(text: str, pick: _Choice) -> tuple[str, list[str]]:
    """In the order of the small model's captions: colour and subject, motion, place, time, camera."""
    added: list[str] = []
    thing, found = next(
        ((thing, match) for thing in THINGS if (match := re.search(rf"\b(?:{thing.names})\b", text, re.IGNORECASE))),
        (None, None),
    )
    if thing and found:
        ends = found.end() == len(text)
        if not Aspect("|".join(COLOURS), ()).is_in(text):
            colour = pick.of(COLOURS)
            before = re.sub(r"\b([Aa])n?(\s+)$", rf"\1{'n' if colour == 'orange' else ''}\2", text[: found.start()])
            text = f"{before}{colour} {text[found.start() :]}"
            added.append(colour)
        if not Aspect(MOTION, ()).is_in(text):
            motion = pick.of(thing.motions)
            text += f" {motion}" if ends else f", it {motion}"
            added.append(motion)
        if not Aspect(PLACE, ()).is_in(text):
            added.append(pick.of(thing.places))
            text += f" {added[-1]}"
    if not PAINTED_TIME.is_in(text):
        added.append(pick.of(PAINTED_TIME.phrases))
        text += f" {added[-1]}"
    if not PAINTED_CAMERA.is_in(text):
        added.append(pick.of(PAINTED_CAMERA.phrases))
        text += f", {added[-1]}"
    return text, added
