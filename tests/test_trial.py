"""What a model's trial finds in films that are right, and in films that are wrong in one way each."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from backend.core.registry import MODELS, TINY
from backend.core.schema import parse_request
from backend.media.writer import join_segments, write_segment
from backend.trial import FRAMES, boat_at_sea, checks

SIZE = (320, 180)


@functools.cache
def drawn(frames: int) -> np.ndarray:
    return np.stack([boat_at_sea(*SIZE, number / (frames - 1)) for number in range(frames)])


def noise(frames: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, frames.shape, dtype=np.uint8)


def still(frames: np.ndarray) -> np.ndarray:
    return np.broadcast_to(frames[:1], frames.shape)


WRONG = {
    "right": (lambda frames: frames, {}),
    "grey": (lambda frames: np.full_like(frames, 127), {"text to video": "next to nothing"}),
    "noise": (noise, {"text to video": "it is noise"}),
    "still": (still, {"text to video": "nothing moves", "to an end picture": "end with the picture"}),
    "mirrored": (
        lambda frames: frames[:, :, ::-1],
        {"image to video": "begin with the picture", "to an end picture": "end with the picture"},
    ),
    "upside down": (lambda frames: frames[:, ::-1], {"video extension": "go on where the video ends"}),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_is_told(tmp_path, how):
    change, told = WRONG[how]
    asked, files = [], {}

    def make(wish):
        request = parse_request(wish)
        asked.append(request)
        new = request.num_frames or 0
        before = drawn(FRAMES) if request.video else None
        film = change(drawn(new) if before is None else before[::-1][:new])
        film = film if before is None else np.concatenate([before, film])
        segment = tmp_path / f"{len(asked)}.seg.mp4"
        write_segment(segment, [np.ascontiguousarray(film)], fps=TINY.fps, width=SIZE[0], height=SIZE[1])
        join_segments(tmp_path / f"{len(asked)}.mp4", [segment], recipe={}, title="")
        return f"job{len(asked)}", tmp_path / f"{len(asked)}.mp4"

    def upload(path):
        files[path.name] = path.stat().st_size
        return f"{len(files):020}"

    found = {check.what: " ".join(check.faults) for check in checks(TINY, make, upload)}
    kinds = ["text to video", "two windows", "frame by frame", "image to video", "to an end picture", "video extension"]
    assert list(found) == kinds
    assert set(files) >= {"image.jpg", "end_image.jpg"}
    for what, words in told.items():
        assert words in found[what], found
    if how == "right":
        assert set(found.values()) == {""}


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ("wan2.1-t2v-14b", ["text to video"]),
        ("wan2.1-i2v-14b-480p", ["image to video"]),
        ("wan2.2-i2v-a14b", ["image to video", "to an end picture"]),
        ("wan2.1-vace-1.3b", ["text to video", "image to video", "to an end picture", "video extension"]),
    ],
)
def test_a_model_is_tried_in_what_it_claims(monkeypatch, model, kinds):
    monkeypatch.setattr("backend.trial._faults", lambda *_: iter(()))
    monkeypatch.setattr("backend.trial._frames", lambda *_: None)
    made = checks(MODELS[model], lambda wish: (parse_request(wish).mode.value, "film"), lambda path: "0" * 20)
    assert [take.what for take in made] == kinds
