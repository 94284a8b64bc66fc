import pytest
from pydantic import TypeAdapter, ValidationError

from backend.core.config import GIB
from backend.core.delivery import (
    FinishingStep,
    FitStep,
    Strip,
    check_delivery,
    finishing_gib,
    finishing_seconds,
    plan_fitting,
    strips,
)

RENDERED = Strip(960, 544, 24, 64, has_sound=True)
ENLARGE = FitStep(width=1280, height=720, method="enlarge")
CROP = FitStep(width=1280, height=700, method="crop")


def test_steps_are_folded_in_their_order():
    assert strips(RENDERED, [ENLARGE, CROP]) == [
        RENDERED,
        Strip(1280, 720, 24, 64, has_sound=True),
        Strip(1280, 700, 24, 64, has_sound=True),
    ]
    assert strips(RENDERED, []) == [RENDERED]


def test_a_step_changes_neither_rate_nor_length_nor_sound_that_it_does_not_name():
    with pytest.raises(ValueError, match=r"64 frames of 960x544 at 24 fps with sound into .*, not into 63 frames"):
        check_delivery(RENDERED, [ENLARGE], Strip(1280, 720, 24, 63, has_sound=True))
    for other in (
        Strip(1280, 718, 24, 64, has_sound=True),
        Strip(1280, 720, 25, 64, has_sound=True),
        Strip(1280, 720, 24, 64),
    ):
        with pytest.raises(ValueError, match="not into"):
            check_delivery(RENDERED, [ENLARGE], other)
    check_delivery(RENDERED, [ENLARGE], Strip(1280, 720, 24, 64, has_sound=True))


@pytest.mark.parametrize("enlarged", [False, True])
def test_what_is_delivered_in_another_size_is_fitted(enlarged):
    wanted = Strip(1280, 720, 24, 64, has_sound=True)
    assert plan_fitting(RENDERED, RENDERED, enlarged) == ()
    [step] = plan_fitting(RENDERED, wanted, enlarged)
    assert step == FitStep(width=1280, height=720, method="enlarge" if enlarged else "crop")
    with pytest.raises(ValueError, match="not into"):
        plan_fitting(RENDERED, Strip(1280, 720, 48, 128, has_sound=True), enlarged)


def test_the_cost_of_all_steps_is_that_of_each_on_what_reaches_it():
    enlarged = ENLARGE.after(RENDERED)
    assert finishing_seconds(RENDERED, [ENLARGE, CROP]) == ENLARGE.seconds(RENDERED) + CROP.seconds(enlarged)
    assert finishing_gib(RENDERED, [CROP, CROP], on_gpu=False) == (
        CROP.memory_gib(RENDERED, False) + CROP.memory_gib(CROP.after(RENDERED), False)
    )
    assert finishing_seconds(RENDERED, []) == finishing_gib(RENDERED, [], on_gpu=False) == 0


def test_fitting_takes_a_chunk_of_main_memory_and_none_of_the_gpu():
    assert ENLARGE.memory_gib(RENDERED, on_gpu=True) == 0
    assert 3 * 4 * 1280 * 720 / GIB < ENLARGE.memory_gib(RENDERED, on_gpu=False) < 0.1
    assert ENLARGE.seconds(Strip(960, 544, 24, 640)) == pytest.approx(10 * ENLARGE.seconds(RENDERED))


@pytest.mark.parametrize(
    "change",
    [{"step": "sharpen"}, {"version": 2}, {"method": "stretch"}, {"strength": 1}, {"width": None}],
    ids=str,
)
def test_a_stored_step_that_is_not_known_is_refused(change):
    adapter = TypeAdapter(FinishingStep)
    stored = {"step": "fit", "version": 1, "width": 1280, "height": 720, "method": "enlarge"}
    assert adapter.validate_python(stored) == ENLARGE
    assert adapter.dump_python(ENLARGE, mode="json") == stored
    with pytest.raises(ValidationError):
        adapter.validate_python(stored | change)
