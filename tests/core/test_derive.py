import pytest

from backend.core.derive import VARIATIONS_MOST, Variations, again, edit, extend, promote, vary
from backend.core.errors import InvalidRequest
from backend.core.schema import SEED, Mode, SkyReelsOptions, parse_request

UPLOAD = "0" * 20


@pytest.fixture
def request_():
    return parse_request(
        {
            "mode": "image_to_video",
            "image": "1" * 20,
            "prompt": "a boat",
            "num_frames": 40,
            "seed": 7,
            "preset": "turbo",
            "skyreels": {"storyboard": ["a storm"], "base_num_frames": 25, "overlap_history": 5},
        }
    )


def test_again_changes_nothing_but_the_seed(request_):
    other = again(request_)
    assert other.seed != request_.seed
    assert other.model_copy(update={"seed": 7}) == request_
    assert again(request_, {"seed": 9, "prompt": "a ship"}) == request_.model_copy(
        update={"seed": 9, "prompt": "a ship"}
    )


def test_edit_keeps_the_seed_and_gives_single_options_back_to_the_model(request_):
    edited = edit(request_, {"seconds": 2, "preset": None, "skyreels": {"base_num_frames": None, "ar_step": 5}})
    assert (edited.seed, edited.seconds, edited.num_frames, edited.preset.value) == (7, 2, None, "exact")
    assert edited.skyreels.base_num_frames is None
    assert (edited.skyreels.ar_step, edited.skyreels.overlap_history) == (5, 5)
    assert edit(request_, {}) == request_


def test_either_way_to_give_the_length_takes_the_place_of_the_other(request_):
    in_seconds = edit(request_, {"seconds": 2})
    in_frames = edit(in_seconds, {"num_frames": 30})
    assert (in_seconds.seconds, in_seconds.num_frames) == (2, None)
    assert (in_frames.seconds, in_frames.num_frames) == (None, 30)


def test_all_options_together_go_back_to_the_model(request_):
    assert edit(request_, {"skyreels": None}) == request_.model_copy(update={"skyreels": SkyReelsOptions()})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 3}, "steps is not a field"),
        ({"num_frames": 3}, "num_frames=3 is below"),
        ({"skyreels": 3}, "skyreels=3"),
    ],
)
def test_changes_that_make_no_request_are_refused(request_, changes, said):
    with pytest.raises(InvalidRequest, match=said):
        edit(request_, changes)


def test_extend_takes_the_video_and_leaves_what_belonged_to_the_first_one(request_):
    further = extend(request_, UPLOAD, {"num_frames": 24})
    assert (further.mode, further.video, further.image, further.num_frames) == (Mode.VIDEO_EXTENSION, UPLOAD, None, 24)
    assert further.skyreels.storyboard == ()
    assert further.skyreels.base_num_frames == 25
    assert further.prompt == "a boat"
    assert further.seed != 7


def test_extend_leaves_the_last_picture_of_the_first_one(request_):
    first = edit(request_, {"end_image": "2" * 20, "skyreels": {"storyboard": None}})
    assert extend(first, UPLOAD).end_image is None


def test_extend_with_options_takes_no_storyboard_but_one_that_is_given(request_):
    further = extend(request_, UPLOAD, {"skyreels": {"ar_step": 5}})
    assert (further.skyreels.storyboard, further.skyreels.ar_step) == ((), 5)
    assert further.skyreels.base_num_frames == 25
    assert extend(request_, UPLOAD, {"skyreels": {"storyboard": ["a calm"]}}).skyreels.storyboard == ("a calm",)
    with pytest.raises(InvalidRequest, match="skyreels=3"):
        extend(request_, UPLOAD, {"skyreels": 3})


def test_vary_counts_seeds_or_goes_through_values(request_):
    assert [one.seed for one in vary(request_, Variations())] == [8]
    assert [one.seed for one in vary(request_, Variations(count=3))] == [8, 9, 10]
    assert [one.seed for one in vary(request_, Variations(count=3), first=0)] == [7, 8, 9]
    last = request_.model_copy(update={"seed": int(SEED.most)})
    assert [one.seed for one in vary(last, Variations(count=2))] == [0, 1]
    swept = vary(request_, Variations(field="guidance_scale", values=(3, 6.5)))
    assert [(one.guidance_scale, one.seed) for one in swept] == [(3, 7), (6.5, 7)]
    for name in ("flow_shift", "skyreels.flow_shift"):
        found = vary(request_, Variations(field=name, values=(5.0, 9.0)))
        assert [one.skyreels.flow_shift for one in found] == [5.0, 9.0]
    prompts = vary(request_, Variations(prompts=("a ship", "a raft")))
    assert [(one.prompt, one.seed) for one in prompts] == [("a ship", 7), ("a raft", 7)]


def test_variations_can_be_drafts(request_):
    for wanted in ({"count": 2}, {"field": "fps", "values": (8, 9)}, {"prompts": ("a ship",)}):
        assert {one.draft_steps for one in vary(request_, Variations(**wanted, draft_steps=5))} == {5}
    draft = edit(request_, {"draft_steps": 5})
    assert {one.draft_steps for one in vary(draft, Variations(count=2))} == {5}
    swept = vary(draft, Variations(field="draft_steps", values=(3, 9)))
    assert [one.draft_steps for one in swept] == [3, 9]


def test_a_promoted_draft_differs_in_nothing_else(request_):
    assert promote(edit(request_, {"draft_steps": 5})) == request_


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"count": VARIATIONS_MOST + 1},
        {"values": (1, 2)},
        {"field": "mood", "values": (1,)},
        {"field": "seed"},
        {"count": 2, "field": "seed", "values": (1,)},
        {"count": 2, "prompts": ("a ship",)},
        {"field": "seed", "values": (1,), "prompts": ("a ship",)},
        {"prompts": ("a ship",) * (VARIATIONS_MOST + 1)},
        {"draft_steps": 0},
    ],
)
def test_variations_have_bounds(request_, wrong):
    with pytest.raises(InvalidRequest):
        vary(request_, Variations(**wrong))
