from __future__ import annotations

import numpy as np
import pytest

from backend.core.schema import Fit
from backend.media.fitting import Picture, fit_picture


def test_crop_keeps_the_middle(corners: Picture):
    wide = np.concatenate([np.zeros((48, 30, 3), np.uint8), corners, np.zeros((48, 30, 3), np.uint8)], axis=1)
    np.testing.assert_array_equal(fit_picture(wide, 80, 48, Fit.CROP), corners)
    tall = np.concatenate([np.zeros((30, 80, 3), np.uint8), corners, np.zeros((30, 80, 3), np.uint8)], axis=0)
    np.testing.assert_array_equal(fit_picture(tall, 80, 48, Fit.CROP), corners)


@pytest.mark.parametrize(("position", "cut"), [(0, 0), (0.25, 15), (0.5, 30), (0.9, 54), (1, 60)])
def test_crop_keeps_the_part_that_is_named(corners: Picture, position: float, cut: int):
    """Of 60 pixels too many, `cut` are taken off at the left or upper end."""
    black = np.zeros((48, 60, 3), np.uint8)
    wide = np.concatenate([black[:, :cut], corners, black[:, cut:]], axis=1)
    np.testing.assert_array_equal(fit_picture(wide, 80, 48, Fit.CROP, position), corners)
    black = np.zeros((60, 80, 3), np.uint8)
    tall = np.concatenate([black[:cut], corners, black[cut:]], axis=0)
    np.testing.assert_array_equal(fit_picture(tall, 80, 48, Fit.CROP, position), corners)


def test_letterbox_shows_everything_between_black_bars(corners: Picture):
    framed = fit_picture(corners, 160, 160, Fit.LETTERBOX)
    assert framed.shape == (160, 160, 3)
    assert not framed[:32].any()
    assert not framed[128:].any()
    quarters = [tuple(framed[y, x]) for y in (50, 110) for x in (40, 120)]
    assert quarters == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize(("width", "height"), [(1, 1), (37, 91), (91, 37), (79, 49), (960, 540), (540, 960)])
def test_any_shape_meets_any_frame(corners: Picture, fit: Fit, width: int, height: int):
    fitted = fit_picture(corners, width, height, fit)
    assert fitted.shape == (height, width, 3)
    assert fitted.dtype == np.uint8


def test_shrinking_averages_fine_detail():
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    assert noise.std() > 70
    assert fit_picture(noise, 64, 64, Fit.CROP).std() < 12


def test_enlarging_is_smooth():
    ramp = np.repeat(np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)
    enlarged = fit_picture(ramp, 320, 320, Fit.CROP)[160, :, 0].astype(int)
    assert np.abs(np.diff(enlarged)).max() <= 2


def test_a_picture_of_the_right_size_is_not_touched(photo: Picture):
    assert fit_picture(photo, 512, 512, Fit.CROP) is photo
