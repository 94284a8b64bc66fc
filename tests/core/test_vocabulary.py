"""Which words of a prompt a small model was trained on; the truth is what its captions were made of."""

import numpy as np
import pytest

from backend.core.prompts import THINGS, expand
from backend.core.registry import MODELS, TINY
from backend.core.vocabulary import DIRECTED_FORMS, FUNCTION_WORDS, PAINTED_WORDS, unknown_words
from training.tiny import world

TABLES = (world.NAMES, world.SHADES, world.SIZES, world.GOES, world.DOES, world.WAYS)
TABLES += (world.PLACES, world.HOURS, world.SKIES, world.MOVES)
TRAINED = {
    word
    for phrase in (*(text for table in TABLES for text in table.values()), *world.FILLERS, *world.COLOURS)
    for word in phrase.replace("|", " ").replace("-", " ").split()
}


def test_the_words_are_those_of_the_captions():
    assert unknown_words(" ".join(sorted(TRAINED)), TINY.words) == ()
    assert set() == PAINTED_WORDS - TRAINED
    assert not PAINTED_WORDS & (FUNCTION_WORDS | DIRECTED_FORMS)


def test_a_caption_that_names_everything_has_no_unknown_word():
    random = np.random.default_rng(26)
    for _ in range(300):
        caption = world.caption(world.draw_scene(random), random, full=True)
        assert unknown_words(caption, TINY.words) == (), caption


def test_what_the_studio_adds_to_a_prompt_is_known():
    for thing in THINGS:
        name = thing.names.rpartition("|")[2].rpartition(")")[2].strip("?")
        for variation in range(20):
            assert unknown_words(expand(f"A {name}", painted=True, variation=variation).prompt, TINY.words) == ()


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("A cat runs", ("cat", "runs")),
        ("Red boats, two of them: the boats drifting LEFT", ("two",)),
        ("a balloon rising, a ball bouncing", ("rising", "bouncing")),  # its text encoder reads no motion in them
        ("the lion\u2019s boat and the lion's car", ("lion\u2019s",)),
        ("a snow-white 'cat'-boat (in 2 seas)", ("cat", "2")),
        ("ein rotes Boot fa\u0308hrt", ("ein", "rotes", "Boot", "fa\u0308hrt")),
        ("\u0928\u093e\u0935", ("\u0928\u093e\u0935",)),  # its vowel signs belong to the word
        ("cat CAT Cat", ("cat",)),
        ("?! -- '", ()),
        ("", ()),
    ],
)
def test_unknown_words_are_named_once_as_they_are_written(prompt, unknown):
    assert unknown_words(prompt, TINY.words) == unknown


def test_only_the_small_model_has_a_list_of_its_words():
    assert [spec.id for spec in MODELS.values() if spec.words is not None] == [TINY.id]
