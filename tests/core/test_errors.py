"""An error by its parts, and how a door words it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError, field_validator

from backend.core.errors import InvalidRequest, StudioError, UploadRefused, mention
from backend.core.schema import GenerationRequest, SkyReelsOptions, parse_request

DOTTED = [name for name in GenerationRequest.model_fields if name != "skyreels"]
DOTTED += [f"skyreels.{name}" for name in SkyReelsOptions.model_fields]
FLAGS = {name: f"--{name.rpartition('.')[2].replace('_', '-')}" for name in DOTTED}

# What looks like a setting is what a rewriting of sentences would take for one.
TYPED = st.text(max_size=60) | st.lists(
    st.sampled_from([*DOTTED, "seed=5", "{num_frames}", "{}", "'fps'", " ", "; use "]), min_size=1, max_size=6
).map("".join)


def refusal(wish):
    with pytest.raises(InvalidRequest) as refused:
        parse_request(wish)
    return refused.value


@given(typed=TYPED)
def test_a_file_keeps_its_name_at_every_door(typed):
    error = UploadRefused(f"{typed} is empty;", hint=["send another ", mention("image"), "."], field="file")
    assert str(error) == f"{typed} is empty; send another image."
    assert error.worded(FLAGS) == f"{typed} is empty; send another --image."


@given(typed=TYPED)
def test_a_value_stands_as_it_was_typed_at_every_door(typed):
    error = InvalidRequest("is not here;", hint="use auto.", field="model", value=typed)
    for words, start in ((str(error), "model="), (error.worded(FLAGS), "--model="), (error.worded({}, " "), "model ")):
        assert words == f"{start}{repr(typed)[:80]} is not here; use auto."
    assert error.value == typed


def test_every_door_calls_a_field_by_its_own_name():
    error = refusal({"prompt": "x", "preset": "turbo", "skyreels": {"fidelity": "diffusers"}})
    assert str(error).startswith("preset=turbo is not possible: ")
    assert str(error).endswith("; use preset=exact or skyreels.fidelity=original.")
    assert error.worded(FLAGS).endswith("; use --preset=exact or --fidelity=original.")
    assert error.worded({"preset": '"Quality"', "skyreels.fidelity": '"Reference"'}, " ").endswith(
        '; use "Quality" exact or "Reference" original.'
    )


def test_an_entry_of_a_list_is_called_by_the_list():
    error = refusal({"prompt": "x", "skyreels": {"storyboard": ["a", " "]}})
    assert error.field == "skyreels.storyboard.1"
    assert error.worded(FLAGS) == "--storyboard is empty; fill it in, or leave it out."


def test_a_field_that_is_misspelt_is_told_with_the_one_that_was_meant():
    error = refusal({"prompt": "x", "skyreels": {"overlap": 17}})
    assert error.worded(FLAGS) == "skyreels.overlap is not a field of a request; did you mean --overlap-history?"


def test_the_parts_are_data():
    error = refusal({"prompt": "x", "fps": 99})
    assert (error.field, error.value, error.reason) == ("fps", 99, ("is above the most that is possible;",))
    assert (error.message, error.hint) == ("fps=99 is above the most that is possible;", "use 8 to 30.")


def test_rest_has_the_sentence_and_the_pieces_that_name_fields():
    error = InvalidRequest("is too much;", hint=["lower ", mention("fps", 8), "."], field="seconds", value=9.0)
    assert error.as_dict() == {
        "code": "invalid_request",
        "message": "seconds=9 is too much; lower fps=8.",
        "field": "seconds",
        "parts": [
            {"field": "seconds", "value": "9"},
            " ",
            "is too much;",
            " ",
            "lower ",
            {"field": "fps", "value": "8"},
            ".",
        ],
    }
    assert StudioError("It broke;", hint="retry.").as_dict() == {
        "code": "studio_error",
        "message": "It broke; retry.",
        "field": None,
    }


def test_a_validator_may_raise_it():
    class Model(BaseModel):
        side: int

        @field_validator("side")
        @classmethod
        def _even(cls, side: int) -> int:
            raise InvalidRequest("is odd;", hint="use 2.", field="side", value=side)

    with pytest.raises(ValidationError) as caught:
        Model(side=1)
    assert isinstance(caught.value.errors()[0]["ctx"]["error"], InvalidRequest)
