"""Prompts made longer by rules: what was said stays, what was open is filled in, nothing is said twice."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.prompts import CAMERA, COLOURS, THINGS, TIMES, expand
from backend.core.registry import MODELS, TINY
from backend.core.schema import PROMPT_LENGTH

WORDS = ["boat", "balloon", "bird", "car", "train", "rocket", "fish", "ball", "star", "tree"]


@pytest.mark.parametrize("word", WORDS)
def test_a_thing_of_the_painted_world_gets_all_that_its_captions_say(word):
    said = expand(f"A {word}", painted=True)
    (thing,) = (thing for thing in THINGS if re.fullmatch(thing.names, word))
    assert re.match(rf"An? ({'|'.join(COLOURS)}) {word} ({'|'.join(thing.motions)}) ", said.prompt)
    assert any(place in said.prompt for place in thing.places)
    assert re.search(rf"\b({TIMES})\b", said.prompt)
    assert re.search(rf"\b({CAMERA})\b", said.prompt)


@pytest.mark.parametrize(
    ("prompt", "painted", "kept", "never"),
    [
        ("A red boat", True, "A red boat drifts", "blue|green|white"),
        ("A balloon over the city at night", True, "balloon over the city", "at noon|at dawn|desert|hills"),
        ("An old fishing boat sinks", True, "fishing boat sinks", "drifts"),
        (
            "A fox, close-up at dawn, photorealistic, 8k textures",
            False,
            "A fox, close-up at dawn",
            "shot|light|cinematic",
        ),
        ("A dragon.", True, "A dragon ", "red|blue|drifts"),
        ("Ein Hund rennt", False, "Ein Hund rennt, ", "left"),
    ],
)
def test_what_was_said_is_not_said_again_or_otherwise(prompt, painted, kept, never):
    for variation in range(20):
        said = expand(prompt, painted=painted, variation=variation).prompt
        assert kept in said
        assert not re.search(rf"\b({never})\b", said.removeprefix(kept)), said


def test_every_variation_differs_and_the_same_one_is_the_same():
    variations = [expand("A boat", painted=True, variation=variation).prompt for variation in range(8)]
    assert len(set(variations)) > 5
    assert variations == [expand("A boat", painted=True, variation=variation).prompt for variation in range(8)]


@given(prompt=st.text(max_size=300), painted=st.booleans(), variation=st.integers(0, 99))
def test_nothing_is_lost_and_nothing_grows_too_long(prompt, painted, variation):
    found = expand(prompt, painted=painted, variation=variation)
    assert len(found.prompt) <= max(PROMPT_LENGTH, len(prompt))
    assert bool(found.added) == (found.prompt != prompt)
    words = found.prompt.split()
    for word in prompt.strip().rstrip(".,;").split():
        assert word in words or word.lower() in ("a", "an") or f"{word}," in words


def test_a_prompt_that_says_all_stays_as_it_is():
    told = "A red boat drifts left on a calm sea at sunset, slow camera push in"
    assert expand(told, painted=True).prompt == told
    assert expand("   ").added == ()
    assert expand("boat " * 799, painted=False).added == ()


def test_a_model_says_whether_its_world_is_the_painted_one():
    assert [spec.id for spec in MODELS.values() if spec.painted] == [TINY.id]
