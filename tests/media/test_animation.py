"""Moving pictures look in every frame as a browser shows them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.core.schema import Fit
from backend.media.fitting import Picture
from backend.media.probe import probe
from backend.media.reader import read_frames, read_image
from tests.media.conftest import matrix_profile, png_of
from tests.media.test_colour import CHROMIUM, SRGB_PRIMARIES, patches

pytestmark = pytest.mark.usefixtures("decoder_in_process")

WHITE = "Its transparent parts are shown on white."


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def animated(still: np.ndarray, frames: list[np.ndarray]) -> bytes:
    """A PNG whose still is none of its frames, which are laid over each other in the upper left, 100 ms each."""
    whole = png_of(still)
    begin, end = whole.index(b"IDAT") - 4, len(whole) - 12
    data, number = b"", 0
    for frame in frames:
        height, width = frame.shape[:2]
        rows = b"".join(b"\0" + row.tobytes() for row in frame)
        data += chunk(b"fcTL", struct.pack(">5I2H2B", number, width, height, 0, 0, 1, 10, 0, 1))
        data += chunk(b"fdAT", struct.pack(">I", number + 1) + zlib.compress(rows))
        number += 2
    counted = chunk(b"acTL", struct.pack(">2I", len(frames), 0))
    return whole[:begin] + counted + whole[begin:end] + data + whole[end:]


def filled(*colour: int, side: int = 32) -> Picture:
    return np.full((side, side, len(colour)), colour, np.uint8)


def colours_of(path: Path, count: int) -> list[list[int]]:
    (frames,) = read_frames(path, fps=probe(path).fps, width=32, height=32, fit=Fit.CROP)
    return [frame[9, 9].tolist() for frame in frames[:count]]


def test_a_still_for_other_programs_is_no_frame(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(animated(filled(255, 0, 0), [filled(0, 255, 0), filled(0, 0, 255)]))
    assert probe(path).frames == 2
    assert colours_of(path, 2) == [[0, 255, 0], [0, 0, 255]]


def test_a_still_for_other_programs_is_not_seen_behind_the_frames(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(
        animated(filled(255, 0, 0, 255), [filled(0, 255, 0, 255, side=16), filled(0, 0, 255, 255, side=16)])
    )
    (frames,) = read_frames(path, fps=10, width=32, height=32, fit=Fit.CROP)
    assert frames[:, 24, 24].tolist() == [[255] * 3] * 2
    assert WHITE in probe(path).notes


def test_one_frame_beside_its_still_is_a_picture(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(animated(filled(255, 0, 0), [filled(0, 255, 0)]))
    assert probe(path).kind == "image"
    assert read_image(path, 32, 32, Fit.CROP)[9, 9].tolist() == [0, 255, 0]


@pytest.mark.parametrize("code", CHROMIUM)
def test_coded_colours_of_a_moving_png(tmp_path: Path, code: tuple[int, int]):
    signals = (patches(list(CHROMIUM[code])) // 257).astype(np.uint8)
    path = tmp_path / "a.png"
    images = [Image.fromarray(signals), Image.fromarray(255 - signals)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    data = path.read_bytes()
    path.write_bytes(data[:33] + chunk(b"cICP", bytes([*code, 0, 1])) + data[33:])
    (frames,) = read_frames(path, fps=10, width=signals.shape[1], height=16, fit=Fit.CROP)
    np.testing.assert_allclose(frames[0, 8, 8::16], list(CHROMIUM[code].values()), atol=3)
    assert ("HDR colours" in " ".join(probe(path).notes)) == (code[1] in (16, 18))


@pytest.mark.parametrize("code", [(9, 16), (9, 18), (12, 13)])
def test_coded_colours_of_a_moving_avif(tmp_path: Path, code: tuple[int, int]):
    signals = (patches(list(CHROMIUM[code])) // 257).astype(np.uint8)
    path = tmp_path / "a.avif"
    images = [Image.fromarray(signals), Image.fromarray(255 - signals)]
    options = {"quality": 100, "subsampling": "4:4:4"}
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, **options)
    parts = path.read_bytes().split(b"colrnclx")
    coded = [struct.pack(">HH", *code) + part[4:] for part in parts[1:]]
    path.write_bytes(b"colrnclx".join([parts[0], *coded]))
    (frames,) = read_frames(path, fps=10, width=signals.shape[1], height=16, fit=Fit.CROP)
    np.testing.assert_allclose(frames[0, 8, 8::16], list(CHROMIUM[code].values()), atol=4)
    assert ("HDR colours" in " ".join(probe(path).notes)) == (code[1] in (16, 18))


@pytest.mark.parametrize("alpha", [255, 128])
@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_the_profile_of_a_moving_picture(tmp_path: Path, name: str, alpha: int):
    """Linear light of 0.5 is 188 in sRGB (PNG, third edition; RFC 9649, 2.7.1.4), and on white only after that."""
    images = [Image.new("RGBA", (32, 32), (grey, grey, grey, alpha)) for grey in (128, 51)]
    path = tmp_path / name
    options = {"lossless": True} if name == "a.webp" else {"disposal": 1, "blend": 0}
    profile = matrix_profile(SRGB_PRIMARIES, 1.0)
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, icc_profile=profile, **options)
    shown = [188, 124] if alpha == 255 else [221.5, 189.5]
    np.testing.assert_allclose(np.array(colours_of(path, 2))[:, 0], shown, atol=2)
