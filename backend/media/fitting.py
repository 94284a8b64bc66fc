"""Resizing a picture to a frame of another aspect ratio: `crop` fills the frame, `letterbox` adds black bars.

Also the array types of pictures and frames. The decoder process imports this, so nothing slow is imported here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]  # RGB, shape (frames, height, width, 3)
Picture = NDArray[np.uint8]  # RGB, shape (height, width, 3)

MIDDLE = 0.5  # the position of what is kept of a cropped picture


def fit_back(picture: Picture, width: int, height: int) -> Picture:
    """The picture of `width` x `height` that `fit_picture(..., CROP)` turns into `picture`: the same part at the same
    place, what lies outside continued from the edge.
    """
    import cv2

    shown_height, shown_width = picture.shape[:2]
    if (shown_width, shown_height) == (width, height):
        return picture
    scale = max(shown_width / width, shown_height / height)
    # cv2 counts from the middle of the first pixel, hence the halves
    left = (shown_width - width * scale) / 2 + (scale - 1) / 2
    top = (shown_height - height * scale) / 2 + (scale - 1) / 2
    inverse = np.array([[scale, 0, left], [0, scale, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    back = cv2.warpAffine(picture, inverse, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(back, np.uint8)


def fit_picture(picture: Picture, width: int, height: int, fit: str, position: float = MIDDLE) -> Picture:
    """`picture` as `width` x `height` pixels, by a Fit or its value: scaled and cropped, or scaled between black bars.

    `position` says which part cropping keeps, from 0, the left or upper end, to 1, the right or lower one. A picture
    that has this size already is returned as it is.
    """
    if picture.shape[:2] == (height, width):
        return picture
    return _crop(picture, width, height, position) if fit == "crop" else _letterbox(picture, width, height)


def _crop(picture: Picture, width: int, height: int, position: float) -> Picture:
    """A part of the picture, as large as the frame's shape allows, scaled to cover the frame."""
    tall, wide = picture.shape[:2]
    scale = max(width / wide, height / tall)
    inner_width, inner_height = _scaled(width, 1 / scale, wide), _scaled(height, 1 / scale, tall)
    left, top = int((wide - inner_width) * position), int((tall - inner_height) * position)
    return _resize(picture[top : top + inner_height, left : left + inner_width], width, height)


def _letterbox(picture: Picture, width: int, height: int) -> Picture:
    """All of the picture, scaled until it touches the frame, in the middle of black."""
    tall, wide = picture.shape[:2]
    scale = min(width / wide, height / tall)
    inner_width, inner_height = _scaled(wide, scale, width), _scaled(tall, scale, height)
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    frame = np.zeros((height, width, 3), np.uint8)
    frame[top : top + inner_height, left : left + inner_width] = _resize(picture, inner_width, inner_height)
    return frame


def _scaled(side: int, scale: float, most: int) -> int:
    return min(max(1, round(side * scale)), most)


def _resize(picture: Picture, width: int, height: int) -> Picture:
    import cv2

    # Averaging areas keeps a shrunk picture free of moiré; cubic is nearly as sharp as Lanczos in a tenth of the time.
    shrinks = width < picture.shape[1] or height < picture.shape[0]
    resized: Any = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)
