"""The step `fit` crops or enlarges each frame to the delivered size."""

import numpy as np
import pytest

from backend.core.delivery import FitStep, Strip
from backend.core.schema import Fit
from backend.finishing import apply_steps
from backend.media.fitting import fit_picture

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)


def fitted(step):
    [chunk] = apply_steps(iter([FRAMES]), [step], "cpu")
    return chunk


def test_what_was_rendered_too_much_is_cut_off_on_both_sides():
    assert np.array_equal(fitted(FitStep(width=92, height=64, method="crop")), FRAMES[:, :, 2:94])


@pytest.mark.parametrize(("width", "height"), [(192, 128), (150, 96), (94, 60)])
def test_each_frame_is_resized_as_a_picture_is(width, height):
    out = fitted(FitStep(width=width, height=height, method="enlarge"))
    assert out.dtype == np.uint8
    assert out.shape == (3, height, width, 3)
    assert all(np.array_equal(a, fit_picture(b, width, height, Fit.CROP)) for a, b in zip(out, FRAMES, strict=True))


def test_frames_of_the_size_pass_as_they_are():
    assert fitted(FitStep(width=96, height=64, method="crop")) is FRAMES


def test_the_shape_that_comes_out_is_the_shape_that_was_foreseen():
    step = FitStep(width=192, height=128, method="enlarge")
    after = step.after(Strip(96, 64, 24, 3))
    assert fitted(step).shape == (after.frames, after.height, after.width, 3)
