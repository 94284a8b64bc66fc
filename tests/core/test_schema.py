import contextlib
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.errors import InvalidRequest
from backend.core.schema import (
    FPS,
    RANDOM_SEED,
    SEED,
    SETTINGS,
    USUAL_MINIMUM,
    Bounds,
    GenerationRequest,
    Mode,
    Orientation,
    SkyReelsOptions,
    parse_request,
    parse_resolution,
)


def test_a_prompt_is_enough_and_a_seed_is_drawn():
    first, second = (parse_request({"prompt": "a boat"}) for _ in range(2))
    assert first.mode is Mode.TEXT_TO_VIDEO
    assert first.size == (960, 540)
    assert first.seed != second.seed
    assert parse_request({"prompt": "a boat", "seed": None}).seed != first.seed


def test_seed_minus_one_stays_until_one_is_drawn():
    request = parse_request({"prompt": "a boat", "seed": -1})
    assert request.seed == RANDOM_SEED
    drawn = request.with_seed()
    assert SEED.least <= drawn.seed <= SEED.most
    assert drawn.seed != request.with_seed().seed
    assert "seed" not in drawn.model_fields_set
    chosen = parse_request({"prompt": "a boat", "seed": 5})
    assert chosen.with_seed() is chosen


def test_a_given_seed_and_zero_stay():
    assert parse_request({"prompt": "a boat", "seed": 0}).seed == 0


def test_a_request_survives_json():
    request = parse_request({"prompt": 'say "hi" \n 🙂', "seed": 5, "skyreels": {"overlap_history": 17}})
    assert GenerationRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("wish", "field", "value", "way_out"),
    [
        ({"prompt": "x", "fps": 99}, "fps", "99", "8 to 30"),
        ({"prompt": "x", "fps": "many"}, "fps", "many", "8 to 30"),
        ({"prompt": "x", "num_frames": 15}, "num_frames", "15", "16 to 1457"),
        ({"prompt": "x", "num_frames": 20.5}, "num_frames", "20.5", "16 to 1457"),
        ({"prompt": "x", "num_inference_steps": 9}, "num_inference_steps", "9", "10 to 50"),
        ({"prompt": "x", "guidance_scale": 0.5}, "guidance_scale", "0.5", "1 to 20"),
        ({"prompt": "x", "guidance_scale": float("nan")}, "guidance_scale", "nan", "1 to 20"),
        ({"prompt": "x", "seed": -2}, "seed", "-2", "0 to"),
        ({"prompt": "x", "seed": 2**32}, "seed", str(2**32), "0 to"),
        ({"prompt": "x", "resolution": "8k"}, "resolution", "8k", "540p, 720p"),
        ({"prompt": "x", "resolution": "641x360"}, "resolution", "641x360", "640 or 642"),
        ({"prompt": "x", "resolution": "10000x16"}, "resolution", "10000", "64 to 1920"),
        ({"prompt": "x", "orientation": "round"}, "orientation", "round", "portrait"),
        ({"prompt": "x", "mode": "film"}, "mode", "film", "text_to_video"),
        ({"prompt": "x", "frames": 64}, "frames", "frames", "num_frames"),
        ({"prompt": "x" * 4001}, "prompt", "4001", "4000"),
        ({"prompt": "   "}, "prompt", "prompt", "what the video should show"),
        ({"mode": "image_to_video"}, "image", "image", "upload"),
        ({"mode": "video_extension"}, "video", "video", "upload"),
        ({"mode": "image_to_video", "image": "../../etc/passwd"}, "image", "../../etc/passwd", "uploads"),
        ({"prompt": "x", "video": "0" * 20}, "video", "video", "mode"),
        ({"prompt": "x", "num_frames": 64, "seconds": 2}, "num_frames", "64", "send one"),
        ({"prompt": "x", "skyreels": {"overlap_history": 18}}, "skyreels.overlap_history", "18", "17 or 21"),
        ({"prompt": "x", "skyreels": {"overlap": 17}}, "skyreels.overlap", "overlap", "overlap_history"),
        ({"prompt": "x", "skyreels": {"ar_step": 51}}, "skyreels.ar_step", "51", "0 to 50"),
        (
            {"prompt": "x", "skyreels": {"ar_step": 5, "causal_block_size": 13}},
            "skyreels.causal_block_size",
            "13",
            "1 to 12",
        ),
        ({"prompt": "x", "skyreels": {"causal_block_size": 5}}, "skyreels.causal_block_size", "5", "leave it out"),
        ({"prompt": "x", "skyreels": {"storyboard": ["a"] * 31}}, "skyreels.storyboard", "31", "at most 30"),
        ({"prompt": "x", "skyreels": {"storyboard": ["a", " "]}}, "skyreels.storyboard.1", "empty", "leave it out"),
        ({"prompt": "x", "skyreels": {"storyboard": ["a" * 4001]}}, "skyreels.storyboard.0", "4001", "at most 4000"),
        ({"prompt": "x", "skyreels": {"storyboard": "a story"}}, "skyreels.storyboard", "a story", "list of prompts"),
        (
            {"prompt": "x", "skyreels": {"causal_attention": True, "fidelity": "diffusers"}},
            "skyreels.causal_attention",
            "true",
            "fidelity=original",
        ),
        (
            {"prompt": "x", "skyreels": {"batch_guidance": True, "fidelity": "diffusers"}},
            "skyreels.batch_guidance",
            "true",
            "fidelity=original",
        ),
        ({"prompt": "x", "skyreels": {"fidelity": "exact"}}, "skyreels.fidelity", "exact", "original"),
        ({"prompt": ["x"]}, "prompt", "['x']", "string"),
        ({"prompt": " \u200b\u2060\ufeff"}, "prompt", "prompt", "what the video should show"),
        ({"prompt": "\ud800"}, "prompt", r"\ud800", "string"),
        ({"prompt": "x", "negative_prompt": "\ud800"}, "negative_prompt", r"\ud800", "string"),
        ({"prompt": "x", "skyreels": {"storyboard": ["\u200b"]}}, "skyreels.storyboard.0", "empty", "leave it out"),
        ({"prompt": "x", "resolution": "９６０x５４０"}, "resolution", "９６０x５４０", "540p, 720p"),  # noqa: RUF001
        ({"prompt": "x", "resolution": "٩٦٠x٥٤٠"}, "resolution", "٩٦٠x٥٤٠", "540p, 720p"),  # noqa: RUF001
        ({"prompt": "x", "num_frames": True}, "num_frames", "true", "16 to 1457"),
        ({"prompt": "x", "num_frames": "64"}, "num_frames", "'64' is no number", "16 to 1457, without quotes"),
        ({"prompt": "x", "seconds": "2"}, "seconds", "'2' is no number", "0.5 to 182, without quotes"),
        ({"prompt": "x", "fps": "24"}, "fps", "'24' is no number", "8 to 30, without quotes"),
        ({"prompt": "x", "num_inference_steps": "20"}, "num_inference_steps", "'20'", "10 to 50, without quotes"),
        ({"prompt": "x", "guidance_scale": True}, "guidance_scale", "true is no number", "1 to 20"),
        ({"prompt": "x", "guidance_scale": "5.5"}, "guidance_scale", "'5.5'", "1 to 20, without quotes"),
        ({"prompt": "x", "seed": True}, "seed", "true is no number", "0 to"),
        ({"prompt": "x", "seed": False}, "seed", "false is no number", "0 to"),
        ({"prompt": "x", "seed": "12"}, "seed", "'12' is no number", "without quotes"),
        (
            {"prompt": "x", "skyreels": {"causal_attention": "yes"}},
            "skyreels.causal_attention",
            "'yes'",
            "true or false",
        ),
        ({"prompt": "x", "skyreels": {"batch_guidance": 1}}, "skyreels.batch_guidance", "1", "true or false"),
    ],
)
def test_a_bad_wish_names_the_value_the_reason_and_the_way_out(wish, field, value, way_out):
    with pytest.raises(InvalidRequest) as refused:
        parse_request(wish)
    assert refused.value.field == field
    assert value in str(refused.value)
    assert way_out in str(refused.value)
    assert "\n" not in str(refused.value)
    assert way_out in refused.value.hint


@pytest.mark.parametrize("model", [GenerationRequest, SkyReelsOptions])
def test_no_number_of_a_request_takes_what_only_looks_like_one(model):
    numbers = [
        name
        for name, info in model.model_fields.items()
        if {int, float} & {info.annotation, *get_args(info.annotation)}
    ]
    assert len(numbers) >= 6
    for name in numbers:
        for alike in (True, False, "20", "20.0", "２０"):  # noqa: RUF001
            wish = {name: alike} if model is GenerationRequest else {"skyreels": {name: alike}}
            with pytest.raises(InvalidRequest, match="is no number; use"):
                parse_request({"prompt": "x"} | wish)


def test_a_whole_number_may_be_written_as_one_with_a_point():
    request = parse_request({"prompt": "x", "num_frames": 64.0, "guidance_scale": 6})
    assert (request.num_frames, request.guidance_scale) == (64, 6.0)


def test_what_nobody_sees_is_no_negative_prompt():
    assert parse_request({"prompt": "x", "negative_prompt": "\u200b"}).negative_prompt == ""
    assert parse_request({"prompt": "👩\u200d🚀"}).prompt == "👩\u200d🚀"


def test_a_window_shows_its_prompt_of_the_storyboard_or_the_last():
    request = parse_request({"prompt": "dawn", "skyreels": {"storyboard": [" noon ", "dusk"]}})
    assert [request.prompt_of(window) for window in range(4)] == ["dawn", "noon", "dusk", "dusk"]
    assert parse_request({"prompt": "dawn"}).prompt_of(3) == "dawn"
    assert GenerationRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("options", "block"),
    [
        ({}, 1),
        ({"ar_step": 5}, 5),
        ({"causal_attention": True}, 5),
        ({"causal_attention": True, "causal_block_size": 2}, 2),
        ({"causal_attention": True, "ar_step": 3, "causal_block_size": 1}, 1),
    ],
)
def test_frames_come_in_blocks_that_wait_or_that_see_only_what_came_before(options, block):
    assert parse_request({"prompt": "x", "skyreels": options}).skyreels.block == block


FIELDS = st.sampled_from([*GenerationRequest.model_fields, "other"])


@given(st.dictionaries(FIELDS, st.none() | st.text() | st.integers()))
def test_any_json_is_a_request_or_a_refusal_in_words(wish):
    with contextlib.suppress(InvalidRequest):
        request = parse_request(wish)
        assert GenerationRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("resolution", "orientation", "size"),
    [
        ("540p", "landscape", (960, 540)),
        ("540p", "portrait", (540, 960)),
        ("540p", "square", (720, 720)),
        ("720p", "landscape", (1280, 720)),
        ("720p", "portrait", (720, 1280)),
        ("720p", "square", (960, 960)),
        ("640x360", "portrait", (640, 360)),
    ],
)
def test_sizes(resolution, orientation, size):
    request = parse_request({"prompt": "x", "resolution": resolution, "orientation": Orientation(orientation)})
    assert request.size == size


@given(st.integers(64, 1920), st.integers(64, 1920))
def test_every_even_size_in_bounds_is_a_resolution(width, height):
    text = f"{width}x{height}"
    if width % 2 or height % 2:
        with pytest.raises(ValueError, match="odd side"):
            parse_resolution(text)
    else:
        assert parse_resolution(text) == (width, height)


def test_bounds_are_a_pair():
    assert Bounds(8, 30) == FPS


def test_every_setting_has_a_title_a_line_of_help_and_bounds_where_it_is_a_number():
    for name, setting in SETTINGS.items():
        assert setting.title[0].isupper(), name
        assert setting.help.endswith("."), name
        assert "\n" not in setting.help
        is_number = bool({int, float} & {setting.annotation, *get_args(setting.annotation)})
        assert (setting.bounds is not None) == is_number, name
    assert {setting.name for setting in SETTINGS.values() if setting.is_skyreels} == set(SkyReelsOptions.model_fields)


def test_the_json_schema_says_of_every_field_what_doors_say():
    schema = GenerationRequest.model_json_schema()
    parts = {"": schema, "skyreels.": schema["$defs"]["SkyReelsOptions"]}
    for setting in SETTINGS.values():
        found = parts["skyreels." if setting.is_skyreels else ""]["properties"][setting.name]
        assert found.get("title", setting.name.title()) == setting.title  # the name of an enum is its own title
        assert found["description"].startswith(setting.help)
        if setting.bounds:
            [limits] = [one for one in [found, *found.get("anyOf", [])] if "maximum" in one]
            least = found.get(USUAL_MINIMUM, limits["minimum"])
            assert (least, limits["maximum"]) == setting.bounds


def test_a_bound_that_a_setting_shows_is_taken_and_the_next_value_is_not():
    for setting in SETTINGS.values():
        for bound, step in zip(setting.bounds or (), (-1, 1), strict=False):
            beyond = bound + (2 * step if bound + step == RANDOM_SEED else step)
            for value, fits in ((bound, True), (beyond, False)):
                wish = {setting.name: value} | ({"ar_step": 1} if setting.name == "causal_block_size" else {})
                wish = {"prompt": "x"} | ({"skyreels": wish} if setting.is_skyreels else wish)
                with contextlib.nullcontext() if fits else pytest.raises(InvalidRequest, match=str(setting.bounds)):
                    parse_request(wish)
