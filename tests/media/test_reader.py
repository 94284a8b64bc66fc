"""Frames in: the right ones, as many as planned, at the right size and colour, and no process left behind."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from backend.core.errors import UploadRefused
from backend.core.plan import Source
from backend.core.planning import frames_at
from backend.core.schema import Fit
from backend.media import guard, reader
from backend.media.fitting import Picture, fit_picture
from backend.media.reader import read_frames, read_image
from backend.media.videos import VideoReader
from tests.media.conftest import PHONE_MATRIX
from tests.media_files import real_media

FILM = Fraction(24000, 1001)
SIZE = {"width": 96, "height": 64, "fit": Fit.CROP}


def close(picture: Picture, expected: Picture, most: int = 3) -> bool:
    return int(np.abs(picture.astype(int) - expected).max()) <= most


# --- time ---


@pytest.mark.parametrize("fps", [8, 24, 25, 30])
@pytest.mark.parametrize(
    ("name", "rate", "codec"),
    [
        ("a.mp4", 24, "libx264"),
        ("a.mov", 25, "libx264"),
        ("a.mkv", FILM, "libx264"),
        ("a.avi", 30, "mpeg4"),
        ("b.avi", 25, "libx264"),
    ],
)
def test_the_plan_and_the_reader_agree(make_video, numbers_of, name: str, rate: Fraction, codec: str, fps: int):
    """Output k shows what is on the screen in the middle of its time, worked out here in exact fractions."""
    path = make_video(name, 50, rate=rate, codec=codec)
    numbers = numbers_of(read_frames(path, fps=fps, **SIZE))
    middles = [(k + Fraction(1, 2)) / fps for k in range(frames_at(Source(96, 64, 50, float(rate)), fps))]
    assert numbers == [min(49, int(middle * rate)) for middle in middles]


@pytest.mark.parametrize("rate", [8, 24, 25, 30])
def test_at_its_own_rate_every_frame_comes_once(make_video, numbers_of, rate: int):
    path = make_video("a.mp4", 200, rate=rate)
    chunks = list(read_frames(path, fps=rate, **SIZE))
    assert numbers_of(chunks) == list(range(200))
    assert {len(chunk) for chunk in chunks} == {reader.CHUNK_FRAMES}
    assert chunks[0].dtype == np.uint8
    assert chunks[0].shape == (8, 64, 96, 3)


def test_jitter_does_not_repeat_or_drop_a_frame(make_video, numbers_of):
    stamps = [round(1000 * place / 25) + (place * 7 % 11) for place in range(60)]
    path = make_video("phone.mkv", 60, rate=25, stamps=stamps)
    assert numbers_of(read_frames(path, fps=25, **SIZE)) == list(range(60))


def test_uneven_times_keep_their_speed(make_video, numbers_of):
    stamps = [0, 100, 200, 1000, 1100, 2000]  # 10 frames a second, with two pauses
    numbers = numbers_of(read_frames(make_video("phone.mkv", 6, stamps=stamps), fps=10, **SIZE))
    assert numbers == [0, 1, *[2] * 8, 3, *[4] * 9, 5]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "12", "bf": "3"}),
        ("b.mp4", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
        ("a.mkv", "libvpx-vp9", {"g": "12"}),
        ("a.avi", "mpeg4", {"g": "12"}),
        ("b.avi", "libx264", {"g": "12", "bf": "3"}),
        ("b.mkv", "libx265", {"g": "12", "x265-params": "log-level=none"}),
    ],
)
def test_a_range_is_a_part_of_the_whole(make_video, name: str, codec: str, options: dict[str, str]):
    path = make_video(name, 60, codec=codec, options=options)
    whole = np.concatenate(list(read_frames(path, fps=24, **SIZE)))
    for start, stop in [(11, 14), (23, 40), (59, None)]:
        part = np.concatenate(list(read_frames(path, fps=24, **SIZE, start=start, stop=stop)))
        np.testing.assert_array_equal(part, whole[start:stop])


def test_the_end_of_a_long_video_is_not_reached_through_all_of_it(make_video):
    path = make_video("long.mp4", 500, options={"g": "24", "preset": "ultrafast"})
    place, _ = next(VideoReader(str(path)).decoded(490))
    assert 460 < place <= 490


def test_beyond_the_end_is_nothing(make_video):
    path = make_video("a.mp4", 10)
    assert list(read_frames(path, fps=24, **SIZE, start=10)) == []
    assert sum(map(len, read_frames(path, fps=24, **SIZE, start=8, stop=99))) == 2


def test_a_damaged_stretch_is_bridged(make_video, numbers_of):
    path = make_video("scratched.mp4", 100, options={"g": "10"})
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + (data.index(b"moov") - data.index(b"mdat")) // 2
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(data)
    numbers = numbers_of(read_frames(path, fps=24, **SIZE))
    assert len(numbers) == 100
    assert numbers[:30] == list(range(30))
    assert numbers[-30:] == list(range(70, 100))


# --- space and colour ---


def test_a_turned_video_comes_upright(make_video, corners: Picture):
    clockwise = np.rot90(corners, -1)
    path = make_video("phone.mp4", [corners] * 3, matrix=PHONE_MATRIX, options={"crf": "1"})
    (frames,) = read_frames(path, fps=24, width=48, height=80, fit=Fit.CROP)
    for y, x in [(20, 12), (20, 36), (60, 12), (60, 36)]:
        assert close(frames[0, y, x], clockwise[y, x], 6), (y, x)


def test_pixels_that_are_not_square_are_stretched(make_video, numbers_of):
    path = make_video("dv.mkv", 3, aspect=Fraction(4, 3))
    (frames,) = read_frames(path, fps=24, width=128, height=64, fit=Fit.LETTERBOX)
    assert numbers_of([frames]) == [0, 1, 2]
    assert frames[0].min() > 10  # no bars


@pytest.mark.parametrize("fit", list(Fit))
def test_frames_are_fitted_as_pictures_are(make_video, corners: Picture, fit: Fit):
    path = make_video("a.mkv", [corners] * 2, pix_fmt="yuv444p", options={"crf": "1"})
    (native,) = read_frames(path, fps=24, width=80, height=48, fit=fit)
    (fitted,) = read_frames(path, fps=24, width=64, height=64, fit=fit)
    np.testing.assert_array_equal(fitted[0], fit_picture(native[0], 64, 64, fit))


@pytest.mark.parametrize(("height", "guess"), [(480, 601), (720, 709)])
def test_colours_of_untagged_video_are_guessed_as_players_do(tmp_path: Path, height: int, guess: int):
    import av
    from av.video.reformatter import ColorRange, Colorspace

    colour = np.full((height, 128, 3), (30, 160, 70), np.uint8)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, height, "yuv420p"
        space = Colorspace.ITU709 if guess == 709 else Colorspace.ITU601
        frame = av.VideoFrame.from_ndarray(colour, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=space, dst_color_range=ColorRange.MPEG)
        frame.colorspace, frame.color_range = 2, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    (frames,) = read_frames(path, fps=24, width=128, height=height, fit=Fit.CROP)
    assert close(frames[0], colour, 3)


def test_a_real_film_comes_frame_by_frame():
    path = real_media("bigbuckbunny.mp4")
    assert sum(map(len, read_frames(path, fps=24, width=96, height=54, fit=Fit.CROP, start=120))) == 7
    frames = np.concatenate(list(read_frames(path, fps=25, width=96, height=54, fit=Fit.CROP)))
    assert len(frames) == 132
    assert all((a != b).any() for a, b in itertools.pairwise(frames))


# --- pictures ---


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(save, corners: Picture, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save("phone.jpg", corners, exif=exif, quality=100, subsampling=0)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    read = read_image(path, upright.shape[1], upright.shape[0], Fit.CROP)
    np.testing.assert_array_equal(read, upright)


def test_a_damaged_exif_block_does_not_cost_the_picture(save, corners: Picture):
    path = save("odd.jpg", corners, exif=b"Exif\0\0garbage", quality=100, subsampling=0)
    assert close(read_image(path, 80, 48, Fit.CROP), corners, 8)


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_transparency_becomes_white(save, corners: Picture, name: str):
    alpha = np.full((48, 80, 1), 255, np.uint8)
    alpha[:, :20] = 0
    alpha[:, 60:] = 128
    path = save(name, np.concatenate([corners, alpha], axis=2), **({"lossless": True} if name == "a.webp" else {}))
    read = read_image(path, 80, 48, Fit.CROP)
    assert (read[:, :20] == 255).all()
    np.testing.assert_array_equal(read[:, 20:60], corners[:, 20:60])
    assert close(read[0, 70], np.array([127, 255, 127]), 1)


def test_transparent_palettes_and_greys(save):
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    assert (read_image(save("p.png", palette), 32, 32, Fit.CROP) == [200, 100, 50]).all()
    assert (read_image(save("t.png", palette, transparency=1), 32, 32, Fit.CROP) == 255).all()
    assert (read_image(save("l.png", Image.new("LA", (32, 32), (10, 255))), 32, 32, Fit.CROP) == 10).all()


def test_sixteen_bits_are_scaled_not_clipped(save):
    grey = np.full((32, 32), 0x8000, np.uint16)
    assert close(read_image(save("deep.png", Image.fromarray(grey)), 32, 32, Fit.CROP), np.array(128), 1)


def test_print_colours(save):
    path = save("cmyk.jpg", Image.new("CMYK", (32, 32), (0, 255, 255, 0)), quality=100)
    assert close(read_image(path, 32, 32, Fit.CROP), np.array([255, 0, 0]), 3)


def test_a_colour_profile_is_applied(save, corners: Picture, turning_profile: bytes):
    path = save("wide.png", corners, icc_profile=turning_profile)
    assert close(read_image(path, 80, 48, Fit.CROP), corners[..., [2, 0, 1]], 12)
    broken = save("broken.png", corners, icc_profile=b"no profile")
    np.testing.assert_array_equal(read_image(broken, 80, 48, Fit.CROP), corners)


def test_the_first_photograph_of_several_in_a_jpeg(tmp_path: Path, corners: Picture):
    first, second = Image.fromarray(corners), Image.new("RGB", (80, 48))
    path = tmp_path / "phone.jpg"
    first.save(path, "MPO", save_all=True, append_images=[second], quality=100, subsampling=0)
    assert close(read_image(path, 80, 48, Fit.CROP), corners, 8)


def test_a_photograph_arrives_unchanged(save, photo: Picture):
    np.testing.assert_array_equal(read_image(save("a.png", photo), 512, 512, Fit.CROP), photo)


def test_a_video_is_no_picture(make_video):
    with pytest.raises(UploadRefused, match=r"no picture.*JPEG, PNG, WebP"):
        read_image(make_video("clip.mp4"), 64, 64, Fit.CROP)


def test_a_picture_is_no_video(save, photo: Picture):
    with pytest.raises(UploadRefused, match="is a picture, not a video"):
        next(read_frames(save("a.png", photo), fps=24, **SIZE))


# --- the child's end ---


def decoders(children: Callable[[], list[str]]) -> list[str]:
    return [line for line in children() if "backend.media.decoder" in line]


def test_the_child_ends_with_the_iterator(make_video, children):
    path = make_video("a.mp4", 200)
    frames = read_frames(path, fps=24, width=640, height=480, fit=Fit.CROP)
    next(frames)
    assert len(decoders(children)) == 1
    frames.close()
    assert decoders(children) == []
    for _ in read_frames(path, fps=24, width=640, height=480, fit=Fit.CROP, stop=20):
        assert len(decoders(children)) == 1
    assert decoders(children) == []


def test_a_child_that_stalls_is_ended(tmp_path: Path, monkeypatch, children):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(guard.sys, "executable", str(script))
    monkeypatch.setattr(guard, "STALL_S", 0.2)
    with pytest.raises(UploadRefused, match="takes too long"):
        next(read_frames(tmp_path / "a.mp4", fps=24, **SIZE))
    assert not any("sleep" in line for line in children())


def test_a_file_that_vanished(tmp_path: Path):
    with pytest.raises(UploadRefused, match=r"gone\.png"):
        read_image(tmp_path / "gone.png", 64, 64, Fit.CROP)


def test_bytes_are_recognised_from_memory_too(tmp_path: Path, photo: Picture):
    """A picture without any name ending, as uploads are kept."""
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    path = tmp_path / "media"
    path.write_bytes(buffer.getvalue())
    assert read_image(path, 256, 256, Fit.CROP).shape == (256, 256, 3)
