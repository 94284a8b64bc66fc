"""A video in every format has its size, rate, count and colours; what is stopped leaves no child behind."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import psutil
import pytest
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from backend.core.errors import RenderFailed
from backend.media import guard
from backend.media.export import FORMATS, ExportFormat, Shape, export_video

SHAPE = Shape(128, 96, 64, 24.0)
COLOURS = np.array([(220, 40, 40), (40, 180, 60), (40, 60, 200), (230, 220, 60)])
MOVING = [f for f in ExportFormat if f not in (ExportFormat.FRAMES, ExportFormat.STILL)]


def picture(number: int) -> np.ndarray:
    """Four flat quarters, and a white bar that moves with the number of the frame."""
    frame = np.empty((96, 128, 3), np.uint8)
    frame[:48, :64], frame[:48, 64:], frame[48:, :64], frame[48:, 64:] = COLOURS
    frame[:, 2 * number % 128 : 2 * number % 128 + 2] = 255
    return frame


def read(start: int = 0) -> Generator[np.ndarray]:
    for first in range(start, SHAPE.frames, 8):
        yield np.stack([picture(n) for n in range(first, min(first + 8, SHAPE.frames))])


def decoded(path: Path) -> tuple[list[np.ndarray], str, float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, stream.codec_context.name, container.duration / 1e6


def is_close(frame: np.ndarray, number: int, tolerance: float) -> bool:
    return np.abs(frame.astype(int) - picture(number)).mean() < tolerance


CODECS = {"mp4": "h264", "webm": "vp9 libvpx-vp9", "av1": "av1 libdav1d", "gif": "gif", "prores": "prores"}


@pytest.mark.parametrize("format", MOVING, ids=lambda format: format.value)
def test_a_moving_picture_keeps_its_size_rate_count_and_colours(format, tmp_path):
    target, parts = tmp_path / f"export.{FORMATS[format].suffix}", []
    assert export_video(format, read, SHAPE, target, parts.append) == 64
    if format is ExportFormat.WEBP:  # FFmpeg reads no animated WebP
        frames, durations = [], []
        with Image.open(target) as image:
            for number in range(image.n_frames):
                image.seek(number)
                frames.append(np.asarray(image.convert("RGB")))
                durations.append(image.info["duration"])
        rate = 64_000 / sum(durations)
    else:
        frames, codec, duration_s = decoded(target)
        rate = 64 / duration_s  # a GIF counts hundredths of a second: 4, 4, 5
        assert codec in CODECS[format.value]
    assert [len(frames), *frames[0].shape] == [64, 96, 128, 3]
    assert rate == pytest.approx(24, rel=0.02)
    assert all(is_close(frames[n], n, 9.0) for n in (0, 31, 63))
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


PIXELS = {
    "mp4": ("yuv420p", "High"),
    "webm": ("yuv420p", "Profile 0"),
    "av1": ("yuv420p", "Main"),
    "prores": ("yuv422p10le", "HQ"),
}


@pytest.mark.parametrize("format", PIXELS)
def test_a_player_shows_the_colours_as_the_file_says_they_are_meant(format, tmp_path):
    """BT.709 of the limited range, in pixels that players can decode, read without our own reader."""
    export_video(ExportFormat(format), read, SHAPE, tmp_path / "a", lambda part: None)
    with av.open(str(tmp_path / "a")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.pix_fmt, codec.profile) == PIXELS[format]
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        frame = next(container.decode(video=0))
    rgb = frame.reformat(format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG)
    shown = rgb.to_ndarray()[24:96:48, 32:128:64].reshape(4, 3)
    assert np.abs(shown.astype(int) - COLOURS).max() <= 4


@pytest.mark.parametrize("format", ["mp4", "av1"])
def test_an_mp4_can_be_played_before_it_is_there_whole(format, tmp_path):
    export_video(ExportFormat(format), read, SHAPE, tmp_path / "a", lambda part: None)
    data = (tmp_path / "a").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_an_animated_picture_plays_without_end(format, tmp_path):
    export_video(ExportFormat(format), read, SHAPE, tmp_path / "a", lambda part: None)
    with Image.open(tmp_path / "a") as image:
        assert image.info["loop"] == 0


def test_a_rate_that_is_no_whole_number_stays(tmp_path):
    shape = Shape(128, 96, 64, 24000 / 1001)
    export_video(ExportFormat.MP4, read, shape, tmp_path / "a.mp4", lambda part: None)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(24000 / 1001, abs=1e-4)


def test_frames_come_as_lossless_pictures(tmp_path):
    export_video(ExportFormat.FRAMES, read, SHAPE, tmp_path / "a.zip", lambda part: None)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert (len(names), names[0], names[-1]) == (64, "frame-00001.png", "frame-00064.png")
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(archive.read(names[10])))), picture(10))


def test_a_still_is_the_first_frame_that_is_read(tmp_path):
    export_video(ExportFormat.STILL, lambda: read(63), SHAPE, tmp_path / "a.png", lambda part: None)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture(63))
    with pytest.raises(RenderFailed, match="no such frame; choose another"):
        export_video(ExportFormat.STILL, lambda: read(64), SHAPE, tmp_path / "a.png", lambda part: None)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("format", [*MOVING, ExportFormat.FRAMES], ids=lambda format: format.value)
def test_what_report_raises_ends_the_children(format, tmp_path):
    closed = []

    def reading() -> Generator[np.ndarray]:
        try:
            yield from read()
        finally:
            closed.append(1)

    def report(part: float) -> None:
        if part > 0.6:
            raise Stopped

    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(Stopped):
        export_video(format, reading, SHAPE, tmp_path / "a", report)
    assert {child.pid for child in psutil.Process().children()} <= before
    assert len(closed) == FORMATS[format].passes


def program(monkeypatch, tmp_path, line: str) -> None:
    """Let this line of Python be the encoder."""
    file = tmp_path / "encoder"
    file.write_text(f"#!{sys.executable}\nimport time\n{line}\n")
    file.chmod(0o700)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(file))
    monkeypatch.setattr(guard, "ALIVE_EVERY_S", 0.05)


@pytest.mark.parametrize("sent", [0, 2**24], ids=["after the last frame", "amid the frames"])
def test_who_waits_for_an_encoder_that_computes_can_stop_it(sent, monkeypatch, tmp_path):
    program(monkeypatch, tmp_path, "while True: pass")

    def alive() -> None:
        raise Stopped

    def use() -> None:
        with guard.encode(alive=alive) as encoder:
            encoder.write(memoryview(bytes(sent)))
            encoder.finish()

    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(Stopped):
        use()
    assert {child.pid for child in psutil.Process().children()} <= before


def test_an_encoder_that_stands_still_is_not_called_alive(monkeypatch, tmp_path):
    program(monkeypatch, tmp_path, "time.sleep(1000)")
    calls, computed = [], iter([0.5, 0.5, 0.7, 0.7])
    with guard.encode(alive=lambda: calls.append(1)) as encoder:
        used = SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=next(computed), system=0.0))
        monkeypatch.setattr(guard.psutil, "Process", lambda pid: used)
        counts = []
        for _ in range(4):
            encoder._check_alive()
            counts.append(len(calls))
    assert counts == [1, 1, 2, 2]


def test_progress_leaves_room_for_the_frames_that_encoders_hold_back(tmp_path):
    parts = []
    export_video(ExportFormat.MP4, read, SHAPE, tmp_path / "a.mp4", parts.append)
    assert parts == sorted(parts)
    assert 0.5 < parts[-2] < 0.8  # 64 of 64 frames are sent, some of them not yet encoded


def test_an_encoder_that_fails_says_why(tmp_path):
    with pytest.raises(RenderFailed, match=r"The encoder .*; (choose another format|try again)"):
        export_video(ExportFormat.MP4, read, Shape(127, 96, 64, 24.0), tmp_path / "a.mp4", lambda part: None)


def test_a_full_disk_is_an_error_of_the_disk():
    raw = ("-f", "rawvideo", "-s", "16x16", "-pix_fmt", "rgb24")

    def fill() -> None:
        with guard.encode(*raw, "-i", "pipe:0", "-f", "rawvideo", "file:/dev/full") as encoder:
            encoder.write(memoryview(bytes(16 * 16 * 3 * 100)))
            encoder.finish()

    with pytest.raises(OSError, match="No space left"):
        fill()
