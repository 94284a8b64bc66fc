"""The table of inputs, and what follows from it."""

import pytest

from backend.core.errors import InvalidRequest
from backend.core.inputs import ANY_UPLOAD, INPUTS, Mode, mode_for, placeholders
from backend.core.schema import GenerationRequest, UploadId, parse_request


def test_every_input_is_a_field_that_holds_an_upload_and_no_other_field_does():
    fields = {name for name, info in GenerationRequest.model_fields.items() if info.annotation == UploadId | None}
    assert fields == set(INPUTS)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("row", INPUTS.values(), ids=INPUTS)
def test_an_input_is_taken_by_its_modes_and_refused_by_the_others(row, mode):
    wish = {"mode": mode, "prompt": "x"} | placeholders(mode) | {row.name: ANY_UPLOAD}
    if mode in row.modes:
        assert getattr(parse_request(wish), row.name) == ANY_UPLOAD
        return
    with pytest.raises(InvalidRequest, match=f"{row.name} is given, but {mode.value} does not use it") as refused:
        parse_request(wish)
    assert refused.value.field == row.name


@pytest.mark.parametrize("mode", Mode)
def test_an_input_that_a_mode_requires_is_missed(mode):
    complete = {"mode": mode, "prompt": "x"} | placeholders(mode)
    assert parse_request(complete).mode is mode
    for name in placeholders(mode):
        with pytest.raises(InvalidRequest, match=f"{name} is missing: .* give ") as refused:
            parse_request(complete | {name: None})
        assert refused.value.field == name


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ([], Mode.TEXT_TO_VIDEO),
        (["image"], Mode.IMAGE_TO_VIDEO),
        (["image", "end_image"], Mode.IMAGE_TO_VIDEO),
        (["video", "end_image"], Mode.VIDEO_EXTENSION),
        (["end_image"], Mode.TEXT_TO_VIDEO),
    ],
)
def test_the_mode_follows_from_the_inputs(given, mode):
    assert mode_for(given) is mode
