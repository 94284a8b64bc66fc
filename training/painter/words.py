"""From a sentence to a Scene. Every sentence gives one: what it does not say, or says in words that are not known here,
is chosen by a stable hash of the sentence, so that any other sentence looks different and the same one never does.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from training.painter.cast import CAST, Realm
from training.painter.palette import COLOURS
from training.painter.scene import Actor, Camera, Extra, Motion, Scene, Setting, Size, Time, Weather
from training.painter.vocabulary import (
    ANIMALS,
    BREAKS,
    CAMERAS,
    FAULTS_OF_PICTURES,
    GARMENTS,
    HOMES,
    LANDSCAPES,
    MOST_ACTORS,
    NATURE,
    NEGATIONS,
    PHRASES,
    REALM_HOMES,
    TABLE,
    Colour,
    Go,
    Meaning,
    Subject,
)

Choice = TypeVar("Choice")


def stable_hash(text: str) -> int:
    """The same 64 bits for the same text on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _plain(text: str) -> str:
    """Lower case without accents, emoji by their Unicode names: a rocket becomes `rocket`."""
    spelt = []
    for character in text:
        if unicodedata.category(character) == "So" or ord(character) > 0x1F000:
            spelt.append(f" {unicodedata.name(character, '')} ")
        else:
            spelt.append(character)
    folded = unicodedata.normalize("NFKD", "".join(spelt).casefold())
    return "".join(c for c in folded if not unicodedata.combining(c))


def find_camera(text: str) -> tuple[Camera | None, str]:
    """The camera's move that `text` asks for, and the text without it, so that its words move no subject."""
    text = _plain(text)
    for camera, pattern in CAMERAS:
        if re.search(pattern, text):
            return camera, re.sub(pattern, " ", text)
    return None, text


def look_up(word: str) -> tuple[Meaning | None, bool]:
    """What a word means, and whether it is a subject's plural; endings such as -s, -ing and -ed are understood."""
    if word in TABLE:
        return TABLE[word], False
    for ending, instead in (("ies", "y"), ("ves", "f"), ("es", ""), ("s", "")):
        stem = word.removesuffix(ending) + instead
        if word.endswith(ending) and stem in TABLE:
            return TABLE[stem], isinstance(TABLE[stem], Subject)
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if word.endswith(ending) and len(stem) > 2:
            for form in (stem, stem + "e", stem[:-1] if stem[-1] == stem[-2] else stem):
                # "fishing" is no fish: a verb's ending makes motions, never a subject.
                if isinstance(TABLE.get(form), Motion | Go):
                    return TABLE[form], False
    return None, False


class _Reader:
    """Reads a sentence word by word: adjectives wait for their noun, verbs go to the subject before them."""

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self.coloured: list[bool] = []
        self.moved: list[Motion | Go | None] = []
        self.time: Time | None = None
        self.setting: Setting | None = None
        self.weather: Weather | None = None
        self.extras: set[Extra] = set()
        self.refused: list[str] = []  # what follows "no" or "without"
        self._forget()

    def read(self, text: str) -> None:
        for pattern, instead in PHRASES:
            text = re.sub(pattern, instead, text)
        negated = 0
        for word in re.findall(r"[a-z][a-z-]*|[.,;:!?]", text):
            if word in ".,;:!?" or word in BREAKS:
                self._attach_colour()
                self._forget()
                negated = 0
            elif word in NEGATIONS:
                negated = 3
            elif negated:
                self.refused.append(word)
                negated -= 1
            elif word in GARMENTS:
                self._attach_colour()
            else:
                self._take(word)
        self._attach_colour()

    def _forget(self) -> None:
        """Drop the adjectives that found no noun."""
        self.colour: str | None = None
        self.size = Size.MEDIUM
        self.count: int | None = None
        self.motion: Motion | Go | None = None

    def _take(self, word: str) -> None:
        meaning, plural = look_up(word)
        if isinstance(meaning, Colour):
            self.colour = meaning.name
        elif isinstance(meaning, Size):
            self.size = meaning
        elif isinstance(meaning, int):
            self.count = meaning
        elif isinstance(meaning, Motion | Go):
            self._move(meaning)
        elif isinstance(meaning, Subject):
            self._enter(word, meaning.kind, plural)
            self._forget()
        elif meaning:
            # Of two places or times the first counts: "a street in Paris", "a moonlit lake in the forest".
            if isinstance(meaning, Time):
                self.time = self.time or meaning
            elif isinstance(meaning, Setting):
                self.setting = self.setting or meaning
            elif isinstance(meaning, Weather):
                self.weather = self.weather or meaning
            else:
                self.extras.add(meaning)
            self._forget()

    def _enter(self, word: str, kind: str, plural: bool) -> None:
        if len(self.actors) == MOST_ACTORS or any(actor.kind == kind for actor in self.actors):
            return
        colour = self.colour or NATURE.get(word) or NATURE.get(word.removesuffix("s")) or ""
        self.actors.append(Actor(kind, colour, self.size, Motion.STILL, self.count or (3 if plural else 1)))
        self.coloured.append(bool(colour))
        self.moved.append(self.motion)

    def _move(self, motion: Motion | Go) -> None:
        if not self.actors:
            self.motion = motion
            return
        before = self.moved[-1]
        # "left" sharpens "drifts", and "jumps" wakes who "sits"; otherwise the first motion stays.
        if before in (None, Go.GO) or (before is Motion.STILL and motion is not Go.GO):
            self.moved[-1] = motion

    def _attach_colour(self) -> None:
        """A colour with no noun after it belongs to the subject before: "a boat painted red", "in a red dress"."""
        if self.colour and self.actors and not self.coloured[-1]:
            self.actors[-1] = replace(self.actors[-1], colour=self.colour)
            self.coloured[-1] = True


def _refusals(text: str) -> frozenset[Meaning]:
    """What the words of a negative prompt name."""
    values: set[Meaning] = set()
    words = re.findall(r"[a-z][a-z-]*", re.sub(FAULTS_OF_PICTURES, " ", _plain(text)))
    for word in words:
        meaning, _ = look_up(word)
        if meaning is not None:
            values.add(meaning)
        values |= {extra for extra in Extra if extra.value.removesuffix("s") == word.removesuffix("s")}
        if word.removesuffix("s") == "animal":
            values |= {Subject(kind) for kind in ANIMALS}
    if Setting.MOUNTAINS in values or Setting.HILLS in values:
        values.add(Extra.PEAKS)
    if Setting.FOREST in values:
        values.add(Extra.TREES)
    # "stars" and "moon" are things here; the night stays.
    if values & {Extra.MOON, Extra.STARS} and not {"night", "dark"} & set(words):
        values.discard(Time.NIGHT)
    return frozenset(values)


def _chosen(options: Iterable[Choice], refused: Collection[object], draw: np.random.Generator) -> Choice:
    """One of `options` that is not refused; when all are, any."""
    every = list(options)
    allowed = [option for option in every if option not in refused] or every
    return allowed[int(draw.integers(1 << 30)) % len(allowed)]


def _unless(mentioned: Choice | None, refused: Collection[object], chosen: Choice) -> Choice:
    return chosen if mentioned is None or mentioned in refused else mentioned


def parse(prompt: str, seed: int = 0, negative_prompt: str = "") -> Scene:
    """The scene that `prompt` describes, without what `negative_prompt` names (nor what follows "no" or "without").

    The seed changes the composition, never what is shown. Any text at all gives a scene.
    """
    camera, text = find_camera(prompt)
    mentioned = _Reader()
    mentioned.read(text)
    refused = _refusals(f"{negative_prompt} {' '.join(mentioned.refused)}")
    key = " ".join(_plain(prompt).split())
    draw = np.random.default_rng(stable_hash(key))
    # Drawn in this order whatever the sentence says, so that one choice does not depend on another.
    time = _chosen(Time, refused, draw)
    setting = _chosen(LANDSCAPES, refused, draw)
    weather = _chosen((Weather.CLEAR, Weather.CLEAR, Weather.CLOUDS), refused, draw)
    way = _chosen((Motion.LEFT, Motion.RIGHT), refused, draw)
    move = _chosen((Camera.PUSH_IN, Camera.PAN_LEFT, Camera.PAN_RIGHT, Camera.PULL_OUT), refused, draw)
    tint = float(draw.uniform(-1, 1))
    everybody = [
        _finished(actor, moved, way, refused, draw)
        for actor, moved in zip(mentioned.actors, mentioned.moved, strict=True)
    ]
    actors = tuple(actor for actor in everybody if Subject(actor.kind) not in refused)
    if mentioned.time is None and Extra.SUN in mentioned.extras:
        time = Time.NOON
    if mentioned.weather is Weather.SNOW and mentioned.weather not in refused:
        setting = Setting.SNOWFIELD
    if mentioned.setting is None:
        setting = _home(actors, setting, int(draw.integers(1 << 30)))
    scene = Scene(
        time=_unless(mentioned.time, refused, time),
        setting=_unless(mentioned.setting, refused, setting),
        weather=_unless(mentioned.weather, refused, weather),
        actors=actors,
        camera=camera or (Camera.STILL if actors else move),
        extras=frozenset(mentioned.extras - refused),
        without=frozenset(extra for extra in Extra if extra in refused),
        tint=tint,
        seed=stable_hash(f"{key}|{seed}"),
    )
    return _settled(scene, mentioned.time is not None)


def parse_for_picture(prompt: str, seed: int = 0, negative_prompt: str = "") -> Scene:
    """What `prompt` adds to a given picture: weather, and a camera (a slow push in or a pan when it names none)."""
    camera, text = find_camera(prompt)
    mentioned = _Reader()
    mentioned.read(text)
    key = " ".join(_plain(prompt).split())
    number = stable_hash(f"{key}|{seed}")
    return Scene(
        time=Time.NOON,
        weather=_unless(mentioned.weather, _refusals(negative_prompt), Weather.CLEAR),
        camera=camera or (Camera.PUSH_IN, Camera.PUSH_IN, Camera.PAN_LEFT, Camera.PAN_RIGHT)[number % 4],
        seed=number,
    )


def _finished(
    actor: Actor, moved: Motion | Go | None, way: Motion, refused: Collection[object], draw: np.random.Generator
) -> Actor:
    """An actor with its colour and its motion, mentioned or chosen."""
    kind = CAST[actor.kind]
    names = {meaning.name for meaning in refused if isinstance(meaning, Colour)}
    chosen = _chosen(kind.colours, names, draw)
    if chosen in names:
        chosen = _chosen(COLOURS, names, draw)
    colour = actor.colour if actor.colour and actor.colour not in names else chosen
    motion = way if moved is Go.GO else moved or kind.motion or way
    return replace(actor, colour=colour, motion=motion)


def _home(actors: Sequence[Actor], setting: Setting, pick: int) -> Setting:
    """Where a subject is at home when the sentence names no place: `setting` if that will do."""
    if not actors:
        return setting
    options = HOMES.get(actors[0].kind) or REALM_HOMES.get(CAST[actors[0].kind].realm, (setting,))
    return setting if setting in options else options[pick % len(options)]


def _settled(scene: Scene, time_is_said: bool) -> Scene:
    """A scene in which everybody has the ground, water or air that they need."""
    realms = [CAST[actor.kind].realm for actor in scene.actors]
    first = realms[0] if realms else None
    setting: Setting = scene.setting
    time = scene.time
    if setting in (Setting.HILLS, Setting.MOUNTAINS, Setting.FOREST) and first is Realm.WATER:
        setting = Setting.LAKE
    elif setting in (Setting.SEA, Setting.LAKE, Setting.BEACH) and first is Realm.DEEP:
        setting = Setting.UNDERWATER
    elif (
        setting is Setting.SEA
        and first is Realm.GROUND
        and Realm.WATER not in realms
        and scene.actors[0].kind != "lighthouse"
    ):
        setting = Setting.BEACH
    if not time_is_said and setting is Setting.UNDERWATER:
        time = Time.NOON
    if not time_is_said and scene.extras & {Extra.AURORA, Extra.FIREWORKS}:
        time = Time.NIGHT
    weather = Weather.CLEAR if setting is Setting.SPACE else scene.weather
    return replace(scene, setting=setting, time=time, weather=weather)
