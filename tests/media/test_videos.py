"""Videos as cameras, phones, broadcasters and editors make them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image

from backend.core.errors import UploadRefused
from backend.core.schema import Fit
from backend.media.fitting import Frames, Picture
from backend.media.probe import MediaInfo, probe
from backend.media.reader import read_frames
from tests.media.conftest import numbered
from tests.media.test_colour import BT2020, HLG, PQ, SIGNALS
from tests.media.test_colour import FFMPEG as HDR_SHOWN

pytestmark = pytest.mark.usefixtures("decoder_in_process")

SIZE = {"width": 96, "height": 64, "fit": Fit.CROP}
ONE = 1 << 16


def frames_of(path: Path) -> Frames:
    info = probe(path)
    return np.concatenate(
        list(read_frames(path, fps=info.fps, width=info.width, height=info.height, fit=Fit.LETTERBOX))
    )


def quarters(picture: Picture) -> list[str]:
    """The colours of its four quarters, row by row."""
    height, width = picture.shape[:2]
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "white"}
    places = [(y, x) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    return [names[tuple(int(value > 128) for value in picture[place])] for place in places]


def ffmpeg(*arguments: str) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments], check=True, capture_output=True)


# --- display matrices ---

# What ISO/IEC 14496-12 says: a point (x, y) goes to (a x + c y, b x + d y). `corners` is red, green / blue, white.
MATRICES = [
    ((1, 0, 0, 1), "red green blue white"),
    ((-1, 0, 0, 1), "green red white blue"),
    ((1, 0, 0, -1), "blue white red green"),
    ((-1, 0, 0, -1), "white blue green red"),
    ((0, 1, 1, 0), "red blue green white"),
    ((0, 1, -1, 0), "blue red white green"),
    ((0, -1, 1, 0), "green white red blue"),
    ((0, -1, -1, 0), "white green blue red"),
]


def matrix(a: float, b: float, c: float, d: float) -> list[int]:
    return [round(a * ONE), round(b * ONE), 0, round(c * ONE), round(d * ONE), 0, 0, 0, 1 << 30]


@pytest.mark.parametrize(("turn", "shown"), MATRICES)
def test_the_eight_display_matrices(make_video, corners: Picture, turn: tuple[int, ...], shown: str):
    path = make_video("phone.mp4", [corners] * 3, matrix=matrix(*turn), options={"crf": "1"})
    frames = frames_of(path)
    assert frames.shape[1:3] == ((80, 48) if turn[0] == 0 else (48, 80))
    assert quarters(frames[0]) == shown.split()
    assert probe(path).notes == ()


@pytest.mark.parametrize("nonsense", [(0.7071, 0.7071, -0.7071, 0.7071), (1, 0, 1, 0), (0, 0, 0, 1), (1, 0.3, 0, 1)])
def test_a_display_matrix_that_is_none_of_the_eight_is_ignored(make_video, corners: Picture, nonsense):
    path = make_video("tilted.mp4", [corners] * 3, matrix=matrix(*nonsense), options={"crf": "1"})
    info = probe(path)
    assert (info.width, info.height) == (80, 48)
    assert quarters(frames_of(path)[0]) == ["red", "green", "blue", "white"]
    assert "display matrix" in " ".join(info.notes)


# --- time ---


def test_a_pause_does_not_change_the_rate(make_video, numbers_of):
    stamps = [round(1000 * place / 24) for place in range(12)]
    stamps += [stamp + 2500 for stamp in stamps]
    path = make_video("screen.mkv", 24, stamps=stamps)
    info = probe(path)
    assert (info.frames, info.fps) == (72, 24.0)
    assert "frame rate varies; 24 frames a second" in " ".join(info.notes)
    numbers = numbers_of(read_frames(path, fps=24, **SIZE))
    assert numbers == [*range(12), *[11] * 48, *range(12, 24)]


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), 25, Fraction(30000, 1001), 60])
def test_the_rate_of_a_phone_that_left_out_frames(make_video, rate: Fraction):
    shown = [place for place in range(200) if place % 37 not in (0, 5, 6)]
    path = make_video("phone.mkv", len(shown), stamps=[round(1000 * place / rate) for place in shown])
    info = probe(path)
    assert info.fps == pytest.approx(float(rate), rel=1e-6)
    assert info.frames == pytest.approx(shown[-1] - shown[0] + 1, abs=1)


def test_a_constant_rate_says_nothing(make_video):
    assert probe(make_video("a.mp4", 30, rate=Fraction(30000, 1001))).notes == ()


@pytest.mark.parametrize("again", [5, 18])
def test_a_time_stamp_that_is_there_twice(tmp_path: Path, make_video, numbers_of, again: int):
    stamps = [40 * place for place in range(12)]
    stamps += [stamp + 2400 for stamp in stamps]
    path = tmp_path / "a.mkv"
    options = {"bf": "0"}
    with av.open(str(make_video("clear.mkv", 24, stamps=stamps, rate=25, options=options))) as source:
        (track,) = source.streams.video
        with av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(track)
            for place, packet in enumerate(packet for packet in source.demux(track) if packet.size):
                if place == again:
                    packet.pts = packet.dts = packet.pts - 40
                packet.stream = stream
                output.mux(packet)
    info = probe(path)
    assert (info.frames, info.fps) == (72, 25.0)
    numbers = numbers_of(read_frames(path, fps=25, **SIZE))
    assert numbers == [*range(12), *[11] * 48, *range(12, 24)]


def avi(path: Path, codec: str, slots: Sequence[int], **options: str) -> Path:
    """An AVI of 25 slots a second; its muxer writes an empty chunk for a slot without a frame."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number, slot in enumerate(slots):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = slot, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_an_empty_chunk_of_avi_shows_the_frame_before(tmp_path: Path, numbers_of, codec: str):
    path = avi(tmp_path / "a.avi", codec, [slot for slot in range(60) if slot % 10 != 5 and not 20 < slot < 34])
    info = probe(path)
    assert (info.frames, info.fps) == (60, 25.0)
    numbers = numbers_of(read_frames(path, fps=25, **SIZE))
    shown = [sum(slot % 10 != 5 and not 20 < slot < 34 for slot in range(now + 1)) - 1 for now in range(60)]
    assert numbers == shown


def test_avi_whose_header_counts_several_slots_a_frame(tmp_path: Path, make_video, numbers_of):
    """As ffmpeg copies H.264 with B-frames into AVI: more slots than frames, those between them empty."""
    path = tmp_path / "a.avi"
    ffmpeg("-i", str(make_video("a.mp4", 40, rate=25, options={"bf": "2"})), "-c", "copy", str(path))
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate > 25
    info = probe(path)
    assert (info.frames, info.fps, info.notes) == (40, 25.0, ())
    assert numbers_of(read_frames(path, fps=25, **SIZE)) == list(range(40))


# --- tracks ---


def two_tracks(path: Path, sizes: Sequence[tuple[int, int]], default: int | None = None) -> Path:
    """A video of several tracks; each frame of track n carries the number n + 1. `default` is the one so marked."""
    with av.open(str(path), "w", options={"default_mode": "passthrough"} if default is not None else {}) as output:
        streams: list[Any] = []
        for place, (width, height) in enumerate(sizes):
            stream: Any = output.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if default is not None:
                stream.disposition = Disposition.default if place == default else Disposition(0)
            streams.append(stream)
        for number, stream in enumerate(streams, 1):
            for _ in range(5):
                picture = numbered(number, stream.width, stream.height)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            output.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize(("sizes", "read"), [([(64, 64), (96, 64)], 2), ([(96, 64), (64, 64)], 1)])
def test_the_largest_of_several_tracks(tmp_path: Path, number_of, name: str, sizes, read: int):
    path = two_tracks(tmp_path / name, sizes)
    info = probe(path)
    assert (info.width, info.height) == (96, 64)
    assert info.notes == ("It has 2 video tracks; the one of 96x64 pixels is used.",)
    assert number_of(frames_of(path)[0]) == read


def test_the_track_that_is_marked_as_default(tmp_path: Path):
    info = probe(two_tracks(tmp_path / "a.mkv", [(96, 64), (64, 64)], default=1))
    assert (info.width, info.height) == (64, 64)


@pytest.mark.parametrize(("name", "codec", "frames"), [("a.mp4", "mjpeg", 1), ("a.mkv", "huffyuv", 3)])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_larger_track_that_is_no_film_for_the_studio(make_video, numbers_of, name, codec, frames, order):
    """A cover that is not marked as one, and a codec that is not read."""
    film = make_video("film.mp4", 12)
    other = make_video("other.mkv", [numbered(255, 192, 128)] * frames)
    path = film.with_name(name)
    inputs = [part for place in order for part in ("-i", str((film, other)[place]))]
    codecs = [part for place, which in enumerate(order) for part in (f"-c:v:{place}", codec if which else "copy")]
    ffmpeg(*inputs, "-map", "0", "-map", "1", *codecs, "-disposition", "0", str(path))
    info = probe(path)
    assert (info.width, info.height, info.frames) == (96, 64, 12)
    assert info.notes == ("It has 2 video tracks; the one of 96x64 pixels is used.",)
    assert numbers_of(read_frames(path, fps=24, **SIZE)) == list(range(12))


# --- colours that the container alone states ---


def hdr_video(path: Path, transfer: int, codec: str, matrix: int = BT2020, **options: str) -> Path:
    """Three frames of the patches of test_colour.py, 64 pixels wide each, in primaries BT.2020, tagged so."""
    row = np.repeat(np.round(np.array(SIGNALS) * 65535).astype(np.uint16), 64, axis=0)
    with av.open(str(path), "w", options={"movflags": "write_colr"} if path.suffix == ".mov" else {}) as output:
        pixels = "yuv422p10le" if codec == "dnxhd" else "yuv420p10le"
        stream: Any = output.add_stream(codec, rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = len(row), 128, pixels
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = BT2020, transfer, matrix
        context.color_range = ColorRange.MPEG
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.repeat(row[None], 128, 0), format="rgb48le")
            coded = frame.reformat(
                format=pixels,
                dst_colorspace=Colorspace.BT2020,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
            )
            coded.color_primaries, coded.color_trc, coded.colorspace = BT2020, transfer, matrix
            output.mux(stream.encode(coded))
        output.mux(stream.encode())
    return path


def assert_tone_mapped(path: Path, transfer: int) -> None:
    assert "are tone-mapped" in " ".join(probe(path).notes)
    shown = frames_of(path)[1][32, 32::64].astype(int)
    assert np.abs(shown - HDR_SHOWN[transfer]).max() <= 12


UNTAGGED = "h264_metadata=colour_primaries=2:transfer_characteristics=2:matrix_coefficients=2"


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_hdr_that_the_container_alone_states(tmp_path: Path, name: str, transfer: int):
    tagged = hdr_video(tmp_path / "tagged.mkv", transfer, "libx264", crf="4")
    path = tmp_path / name
    ffmpeg("-i", str(tagged), "-c", "copy", "-bsf:v", UNTAGGED, "-movflags", "write_colr", str(path))
    assert_tone_mapped(path, transfer)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_each_track_has_the_colours_that_its_own_entry_states(tmp_path: Path, make_video, name: str):
    tagged = hdr_video(tmp_path / "tagged.mkv", PQ, "libx264", crf="4")
    path = tmp_path / name
    inputs = ["-i", str(make_video("small.mp4", 3)), "-i", str(tagged), "-map", "0", "-map", "1"]
    ffmpeg(*inputs, "-c", "copy", "-bsf:v:1", UNTAGGED, str(path))
    assert_tone_mapped(path, PQ)


def test_hdr_without_a_matrix_is_read_with_that_of_bt2020(tmp_path: Path):
    assert_tone_mapped(hdr_video(tmp_path / "a.mkv", HLG, "libx264", matrix=2, crf="4"), HLG)


def test_the_matrix_of_hdr_that_the_decoder_guesses_gives_way_to_the_stated_one(tmp_path: Path):
    """DNxHR states none in its bitstream as ffmpeg writes it, and its decoder says BT.709."""
    assert_tone_mapped(hdr_video(tmp_path / "a.mov", PQ, "dnxhd", profile="dnxhr_hqx"), PQ)


# --- fields ---


def moving_bar(count: int, first_field: str, width: int = 40) -> Frames:
    """A white bar of `width` pixels on grey that moves 8 pixels a field; fields woven into `count` frames."""
    fields = np.full((2 * count, 64, 320, 3), 60, np.uint8)
    for place, field in enumerate(fields):
        field[:, 20 + 8 * place : 20 + width + 8 * place] = 200
    woven = fields[::2].copy()
    second = 1 if first_field == "top" else 0
    woven[:, second::2] = fields[1::2, second::2]
    return woven


@pytest.mark.parametrize("first_field", ["top", "bottom"])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"flags": "+ildct+ilme", "crf": "1"}),
        ("a.ts", "libx264", {"flags": "+ildct+ilme", "crf": "1"}),
        ("a.mpg", "mpeg2video", {"flags": "+ildct+ilme", "qmin": "1", "b": "20M"}),
    ],
)
def test_interlaced_video_has_no_combs(make_video, name: str, codec: str, options: dict[str, str], first_field: str):
    woven = moving_bar(12, first_field)
    assert np.abs(np.diff(woven.astype(int), axis=1)).max() == 140
    path = make_video(name, list(woven), rate=25, codec=codec, options=options, first_field=first_field)
    info = probe(path)
    assert (info.frames, info.fps) == (24, 50.0)
    assert "deinterlaced" in info.notes[0]
    assert "its rate is 50" in info.notes[0]
    frames = frames_of(path)
    combs = np.abs(np.diff(frames[:, 2:-2].astype(int), axis=1)).max(axis=(1, 2, 3))
    assert combs.max() <= 4, combs
    lefts = [int(np.flatnonzero(frame[32, :, 0] > 130)[0]) for frame in frames]
    np.testing.assert_allclose(lefts, 20 + 8 * np.arange(24), atol=1)  # the motion of both fields


def test_the_first_and_last_interlaced_frame_have_no_combs_either(make_video):
    """They have one neighbour alone, and a bar that is narrower than its step is nowhere twice."""
    options = {"flags": "+ildct+ilme", "crf": "1"}
    woven = moving_bar(12, "top", width=6)
    frames = frames_of(make_video("a.mp4", list(woven), rate=25, options=options, first_field="top"))
    combs = np.abs(np.diff(frames[:, 2:-2].astype(int), axis=1)).max(axis=(1, 2, 3))
    assert combs.max() <= 4, combs


def test_a_range_of_interlaced_video_is_a_part_of_the_whole(make_video):
    options = {"flags": "+ildct+ilme", "g": "6"}
    path = make_video("a.mp4", list(moving_bar(12, "top")), rate=25, options=options, first_field="top")
    whole = frames_of(path)
    part = np.concatenate(list(read_frames(path, fps=50, width=320, height=64, fit=Fit.CROP, start=15, stop=20)))
    np.testing.assert_array_equal(part, whole[15:20])


def test_interlaced_frames_among_others(tmp_path: Path, make_video, numbers_of):
    """Progressive frames of a recording that switches stay as they are, each for both of its fields."""
    first = make_video("a.ts", 6, rate=25, codec="mpeg2video", options={"flags": "+ildct+ilme"}, first_field="top")
    second = make_video("b.ts", [numbered(number) for number in range(6, 12)], rate=25, codec="mpeg2video")
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    assert probe(path).fps == 50.0
    assert numbers_of(read_frames(path, fps=25, **SIZE))[:12] == list(range(12))


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_interlaced_frames_after_others(tmp_path: Path, make_video, codec: str, name: str):
    """A broadcast that begins with a progressive part: 40 frames, then 12 with a bar that moves from field to field."""
    quality = {"qmin": "1", "b": "20M"} if codec == "mpeg2video" else {"crf": "1", "bf": "0"}
    still = [np.full((64, 320, 3), 60, np.uint8)] * 40
    first = make_video("b.ts", still, rate=25, codec=codec, options={**quality, "g": "50"})
    flags = {**quality, "flags": "+ildct+ilme"}
    second = make_video("c.ts", list(moving_bar(12, "top")), rate=25, codec=codec, options=flags, first_field="top")
    later = tmp_path / "later.ts"
    ffmpeg("-i", str(second), "-c", "copy", "-output_ts_offset", "1.6", str(later))
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + later.read_bytes())
    if name == "a.mkv":
        ffmpeg("-i", str(path), "-c", "copy", str(tmp_path / name))
        path = tmp_path / name
    info = probe(path)
    assert info.fps == 50.0
    assert "is deinterlaced" in " ".join(info.notes)
    combs = np.abs(np.diff(frames_of(path)[:, 2:-2].astype(int), axis=1)).max()
    assert combs <= 4


def test_interlaced_frames_of_two_sizes(tmp_path: Path, make_video, numbers_of):
    options, path = {"flags": "+ildct+ilme"}, tmp_path / "both.ts"
    for name, numbers, width in (("a.ts", range(6), 96), ("b.ts", range(6, 12), 192)):
        pictures = [numbered(number, width, width * 2 // 3) for number in numbers]
        part = make_video(name, pictures, rate=25, codec="mpeg2video", options=options, first_field="top")
        ffmpeg("-i", str(part), "-c", "copy", "-output_ts_offset", str(numbers[0] / 25), str(tmp_path / "part.ts"))
        with path.open("ab") as both:
            both.write((tmp_path / "part.ts").read_bytes())
    assert probe(path).fps == 50.0
    numbers = numbers_of(read_frames(path, fps=50, **SIZE))
    assert set(numbers) >= set(range(12)) - {5}  # the decoder drops the frame that it holds back at the change
    assert numbers == sorted(numbers)


def test_one_interlaced_frame(make_video, numbers_of):
    path = make_video("a.mp4", 1, rate=25, options={"flags": "+ildct+ilme"}, first_field="top")
    assert numbers_of(read_frames(path, fps=50, **SIZE)) == [0, 0]


@pytest.mark.parametrize(("start", "length"), [("0.3", "9"), ("0.5", "9"), ("0.5", "0.2")])
@pytest.mark.parametrize("name", ["trimmed.mp4", "trimmed.mov"])
def test_interlaced_video_that_is_trimmed_between_key_frames(tmp_path: Path, make_video, name: str, start, length):
    """An edit list hides the frames before it, the only key frame among them; they are needed to decode the others."""
    options = {"flags": "+ildct+ilme", "g": "250", "crf": "1"}
    whole = make_video("a.mp4", list(moving_bar(24, "top")), rate=25, options=options, first_field="top")
    path = tmp_path / name
    ffmpeg("-ss", start, "-i", str(whole), "-t", length, "-c", "copy", str(path))
    info = probe(path)
    assert (info.fps, "is deinterlaced" in " ".join(info.notes)) == (50.0, True)
    combs = np.abs(np.diff(frames_of(path)[:, 2:-2].astype(int), axis=1)).max(axis=(1, 2, 3))
    assert combs[:-2].max() <= 4, combs  # the last frame may lack the one that it was coded after


def test_a_progressive_part_of_a_trimmed_video_stays_as_it_is(tmp_path: Path, make_video):
    whole = make_video("a.mp4", 24, rate=25, options={"g": "250"})
    ffmpeg("-ss", "0.5", "-i", str(whole), "-c", "copy", str(tmp_path / "b.mp4"))
    assert (probe(tmp_path / "b.mp4").fps, probe(tmp_path / "b.mp4").notes) == (25.0, ())


# --- files that lack their end ---


def with_sound(path: Path, video_s: int, sound_s: int) -> Path:
    """A film of noise at 24 frames a second, with a tone of another length."""
    noise = ["-f", "lavfi", "-i", f"testsrc2=s=96x64:r=24:d={video_s},noise=alls=30:allf=t"]
    tone = ["-f", "lavfi", "-i", f"sine=d={sound_s}", "-c:a", "libopus"]
    codec = "libvpx" if path.suffix == ".webm" else "libx264"
    ffmpeg(*noise, *tone, "-c:v", codec, "-g", "24", "-cluster_time_limit", "500", str(path))
    return path


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_matroska_that_is_cut_off_is_refused(tmp_path: Path, make_video, name: str, share: float):
    codec = {"a.mkv": "libx264", "a.webm": "libvpx"}[name]
    path = make_video(name, 72, codec=codec, options={"g": "24"})
    assert (probe(path).frames, probe(path).notes) == (72, ())
    with pytest.raises(UploadRefused, match=r"is cut off after \d+ frames; send the whole file"):
        probe(cut(path, share))


@pytest.mark.parametrize("name", ["b.mkv", "b.webm"])
def test_a_matroska_with_sound_that_is_cut_off_is_refused(tmp_path: Path, name: str):
    with pytest.raises(UploadRefused, match=r"is cut off after \d+ frames; send the whole file"):
        probe(cut(with_sound(tmp_path / name, 3, 3), 0.6))


def test_a_matroska_whose_sound_alone_is_cut_off_is_taken(tmp_path: Path):
    path = with_sound(tmp_path / "a.mkv", 1, 30)
    assert probe(path).frames == 24
    info = probe(cut(path, 0.95))
    assert (info.frames, info.notes) == (24, ())


def test_a_matroska_that_lacks_its_index_alone_is_taken(tmp_path: Path, make_video):
    path = make_video("a.mkv", 24)
    path.write_bytes(path.read_bytes()[:-20])
    assert (probe(path).frames, probe(path).notes) == (24, ())


@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize(("name", "codec"), [("live.webm", "libvpx"), ("live.mkv", "libx264")])
def test_a_live_recording_says_no_length_and_is_taken(tmp_path: Path, make_video, name: str, codec: str, share: float):
    """As MediaRecorder of browsers and a recording that stopped: Segment of unknown size, no Duration."""
    whole = make_video("a.mkv", 72, codec=codec, options={"g": "24"})
    live = tmp_path / name
    ffmpeg("-i", str(whole), "-c", "copy", "-live", "1", str(live))
    info = probe(cut(live, share))
    assert info.frames > 72 * share - 30
    assert "length" not in " ".join(info.notes)


def test_a_length_that_the_header_alone_states_is_said(tmp_path: Path, make_video):
    """As scripts of pages write it into what MediaRecorder made: a Duration, and a Segment of unknown size."""
    path = make_video("a.webm", 72, codec="libvpx", options={"g": "24"})
    data = bytearray(path.read_bytes())
    at = data.index(bytes.fromhex("18538067")) + 4
    data[at : at + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(data)
    assert (probe(path).frames, probe(path).notes) == (72, ())
    info = probe(cut(path, 0.4))
    assert info.frames < 40
    [note] = info.notes
    assert note.startswith("It states a length of 3 seconds, and its video ends after 0.9")


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_a_recording_that_was_not_finished_says_what_it_lacks(make_video, name: str):
    path = make_video(name, 72)
    with pytest.raises(UploadRefused, match=r"lacks the index .*\(moov\): the recording was not finished.*untrunc"):
        probe(cut(path, 0.6))


def test_an_index_that_is_cut_off_says_so(make_video):
    path = make_video("a.mp4", 72, file_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"trak") + 20])
    with pytest.raises(UploadRefused, match=r"is cut off; send the whole file"):
        probe(path)


def test_a_part_of_a_stream_says_what_it_lacks(make_video):
    path = make_video("a.mp4", 72, file_options={"movflags": "frag_keyframe+empty_moov"})
    data = path.read_bytes()
    path.write_bytes(data[data.index(b"moof") - 4 :])
    with pytest.raises(UploadRefused, match=r"is a part of a stream, without its beginning"):
        probe(path)


# --- matrices ---


def coded(rgb: np.ndarray, matrix: int) -> np.ndarray:
    """R'G'B' of 0 to 1 as Y'CbCr of 8 bits in limited range, by ITU-T H.273, 8.3: equations 38 to 43 and 56 to 59."""
    r, g, b = np.moveaxis(rgb, -1, 0)
    if matrix == 8:
        y, cb, cr = (r + 2 * g + b) / 4, (2 * g - r - b) / 4, (r - b) / 2
    else:
        kr, kb = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}[
            matrix
        ]
        y = kr * r + (1 - kr - kb) * g + kb * b
        cb, cr = (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))
    planes = np.stack([16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr])
    return np.clip(np.round(planes), 0, 255).astype(np.uint8)


def with_matrix(path: Path, planes: np.ndarray, matrix: int, primaries: int = 2) -> Path:
    """A lossless H.264 of planes (3, height, width) whose bitstream states the matrix."""
    height, width = planes.shape[1:]
    raw = path.with_suffix(".raw")
    raw.write_bytes(planes.tobytes() * 2)
    shape = ["-f", "rawvideo", "-pix_fmt", "yuv444p", "-s", f"{width}x{height}", "-r", "25", "-i", str(raw)]
    stated = f"h264_metadata=matrix_coefficients={matrix}:colour_primaries={primaries}"
    ffmpeg(*shape, "-c:v", "libx264", "-qp", "0", "-bsf:v", stated, str(path))
    return path


@pytest.fixture
def ramps() -> np.ndarray:
    y, x = np.mgrid[0:64, 0:96]
    return np.stack([x / 95, y / 63, 1 - x / 95], -1)


@pytest.mark.parametrize(
    ("code", "primaries", "like"),
    [
        (1, 2, 1),
        (4, 2, 4),
        (5, 2, 6),
        (6, 2, 6),
        (7, 2, 7),
        (8, 2, 8),
        (9, 2, 9),
        (10, 2, 9),
        (12, 1, 1),
        (12, 9, 9),
        (12, 6, 7),
    ],
)
def test_every_matrix_is_converted_by_its_own_numbers(tmp_path: Path, ramps, code: int, primaries: int, like: int):
    path = with_matrix(tmp_path / "a.mp4", coded(ramps, like), code, primaries)
    shown = frames_of(path)[0].astype(int)
    assert np.abs(shown - 255 * ramps).max() <= 4
    assert np.abs(shown - 255 * ramps).mean() <= 1


def test_ycgco_of_full_range_and_ten_bits(tmp_path: Path, ramps):
    r, g, b = np.moveaxis(ramps, -1, 0)
    values = np.stack([(r + 2 * g + b) / 4, (2 * g - r - b) / 4 + 0.5, (r - b) / 2 + 0.5])
    raw = tmp_path / "a.raw"
    raw.write_bytes(np.clip(np.round(values * 1023), 0, 1023).astype("<u2").tobytes() * 2)
    shape = ["-f", "rawvideo", "-pix_fmt", "yuv444p10le", "-s", "96x64", "-r", "25", "-i", str(raw)]
    stated = "h264_metadata=matrix_coefficients=8:video_full_range_flag=1"
    ffmpeg(*shape, "-c:v", "libx264", "-qp", "0", "-bsf:v", stated, str(tmp_path / "a.mp4"))
    assert np.abs(frames_of(tmp_path / "a.mp4")[0] - 255 * ramps).max() <= 2


@pytest.mark.parametrize(
    ("code", "name"), [(11, "Y'D'zD'x"), (12, "derived"), (13, "constant luminance"), (14, "ICtCp")]
)
def test_a_matrix_that_is_not_converted_is_refused_with_its_name(tmp_path: Path, ramps, code: int, name: str):
    with pytest.raises(UploadRefused, match=rf"has the colour matrix .*{name}.*; convert it to BT\.709"):
        probe(with_matrix(tmp_path / "a.mp4", coded(ramps, 1), code))


# --- transparency ---


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("b.mov", "qtrle", "argb"),
        ("c.mov", "png", "rgba"),
        ("a.mkv", "ffv1", "bgra"),
    ],
)
def test_transparent_video_is_shown_on_white(tmp_path: Path, name: str, codec: str, pixels: str):
    picture = np.zeros((64, 96, 4), np.uint8)
    picture[..., 0] = 255
    picture[16:48, 32:64] = 0, 200, 0, 255
    path = tmp_path / name
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
        if name.endswith("webm"):
            stream.metadata["alpha_mode"] = "1"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba")
            output.mux(stream.encode(frame.reformat(format=pixels)))
        output.mux(stream.encode())
    assert "on white" in " ".join(probe(path).notes)
    shown = frames_of(path)[1].astype(int)
    assert np.abs(shown[:8] - 255).max() <= 2
    assert np.abs(shown[32, 48] - [0, 200, 0]).max() <= 8


def test_an_opaque_video_with_alpha_says_nothing(make_video):
    assert probe(make_video("a.mkv", 3, codec="ffv1", pix_fmt="bgra")).notes == ()


# --- what is refused ---


@pytest.mark.parametrize("flags", ["", "frag_keyframe+empty_moov"])
def test_an_encrypted_clip_is_refused_with_the_reason(tmp_path: Path, make_video, flags: str):
    path = tmp_path / "rented.mp4"
    key = {"encryption_key": "76a6c65c5ea762046bd749a2e632ccbb", "encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
    options = [part for name, value in key.items() for part in (f"-{name}", value)]
    more = ["-movflags", flags] if flags else []
    clear = str(make_video())
    ffmpeg("-i", clear, "-c", "copy", "-encryption_scheme", "cenc-aes-ctr", *options, *more, str(path))
    with pytest.raises(UploadRefused, match=r"rented\.mp4 is encrypted; send a copy without"):
        probe(path)


def test_an_encrypted_sample_entry_is_enough(make_video):
    path = make_video()
    path.write_bytes(path.read_bytes().replace(b"avc1", b"encv"))
    with pytest.raises(UploadRefused, match="is encrypted"):
        probe(path)


def test_an_encrypted_track_that_cannot_be_opened_at_all(tmp_path: Path, make_video):
    """Its fragments begin with empty tables of auxiliary data (ISO/IEC 14496-12, 8.7.8), as some muxers write them."""
    path, key = tmp_path / "rented.mp4", "76a6c65c5ea762046bd749a2e632ccbb"
    names = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key, "-encryption_kid", key]
    ffmpeg("-i", str(make_video()), "-c", "copy", *names, "-movflags", "frag_keyframe+empty_moov", str(path))
    data = bytearray(path.read_bytes())
    samples, sizes = data.index(b"senc"), data.index(b"saiz")
    data[samples + 8 : samples + 12], data[sizes + 8 : sizes + 13] = bytes(4), bytes(5)
    path.write_bytes(data)
    with pytest.raises(av.error.InvalidDataError):
        av.open(str(path))
    with pytest.raises(UploadRefused, match="is encrypted"):
        probe(path)


@pytest.mark.parametrize("m2ts", ["0", "1"])
def test_a_scrambled_broadcast_is_refused_with_the_reason(make_video, m2ts: str):
    """Every packet of the video has its transport_scrambling_control set, and random bytes inside."""
    path = make_video("tv.ts", file_options={"mpegts_m2ts_mode": m2ts})
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(1)
    size, first, video = (192, 4, 0x1011) if m2ts == "1" else (188, 0, 0x100)
    for at in range(first, len(data), size):
        if (data[at + 1] & 31) << 8 | data[at + 2] == video:
            inside = at + 4 + (1 + data[at + 4] if data[at + 3] & 0x20 else 0)
            data[at + 3] |= 0x80
            data[inside : at + 188] = noise.bytes(max(0, at + 188 - inside))
    path.write_bytes(data)
    with pytest.raises(UploadRefused, match="is encrypted"):
        probe(path)


class OneWay:
    """A file that cannot be sought in: what the muxer does not know beforehand stays unsaid."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


def element(code: str, data: bytes) -> bytes:
    """An element of EBML (RFC 8794)."""
    return bytes.fromhex(code) + (2**28 | len(data)).to_bytes(4, "big") + data


def test_an_encrypted_matroska_track_is_refused_with_the_reason(tmp_path: Path):
    """With ContentEncodings (RFC 9559, 5.1.4.1.31) as WebM's encryption writes them: AES in counter mode."""
    clear = OneWay()
    with av.open(clear, "w", format="webm") as output:
        stream: Any = output.add_stream("libvpx", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1, 64, 64), format="rgb24")))
        output.mux(stream.encode())
    head, _, rest = clear.data.rpartition(bytes.fromhex("1654AE6B"))
    body, rest = rest[1 : 1 + (rest[0] & 127)], rest[1 + (rest[0] & 127) :]
    at = body.index(b"\xae\x01")
    entry = body[at + 9 : at + 9 + int.from_bytes(body[at + 2 : at + 9], "big")]
    cipher = element("47E1", b"\5") + element("47E2", b"k" * 16)
    encoding = element("6240", element("5033", b"\1") + element("5035", cipher))
    encrypted = element("AE", entry + element("6D80", encoding)) + body[at + 9 + len(entry) :]
    path = tmp_path / "rented.webm"
    path.write_bytes(clear.data)
    assert probe(path).frames == 1
    path.write_bytes(head + element("1654AE6B", body[:at] + encrypted) + rest)
    with pytest.raises(UploadRefused, match=r"rented\.webm is encrypted"):
        probe(path)


# --- formats ---

FORMATS = [
    ("a.ts", "libx264", "yuv420p", {"g": "12", "bf": "2"}),
    ("b.ts", "mpeg2video", "yuv420p", {"g": "12", "bf": "2"}),
    ("c.ts", "libx265", "yuv420p", {"g": "12", "x265-params": "log-level=none"}),
    ("a.mpg", "mpeg2video", "yuv420p", {"g": "12", "bf": "2"}),
    ("b.mpg", "mpeg1video", "yuv420p", {"g": "12", "bf": "2"}),
    ("a.mkv", "ffv1", "yuv420p", {}),
    ("b.mkv", "ffv1", "yuv444p16le", {}),
    ("c.mkv", "mpeg2video", "yuv420p", {"bf": "2"}),
    ("a.mov", "dnxhd", "yuv422p", {"profile": "dnxhr_hq"}),
    ("b.mov", "dnxhd", "yuv422p10le", {"profile": "dnxhr_hqx"}),
]


@pytest.mark.parametrize(("name", "codec", "pixels", "options"), FORMATS)
def test_formats_of_broadcast_and_editing(make_video, numbers_of, name: str, codec: str, pixels: str, options):
    size = (288, 192) if codec == "dnxhd" else (96, 64)
    path = make_video(
        name, [numbered(n, *size) for n in range(40)], rate=25, codec=codec, pix_fmt=pixels, options=options
    )
    assert probe(path) == MediaInfo("video", *size, 40, 25.0)
    whole = np.concatenate(list(read_frames(path, fps=25, **SIZE)))
    assert numbers_of([whole]) == list(range(40))
    part = np.concatenate(list(read_frames(path, fps=25, **SIZE, start=29, stop=32)))
    np.testing.assert_array_equal(part, whole[29:32])


@pytest.mark.parametrize(("name", "container"), [("a.dv", "dv"), ("a.avi", "avi"), ("a.mov", "mov")])
def test_dv(make_video, numbers_of, name: str, container: str):
    pictures = [numbered(number, 720, 576) for number in range(12)]
    path = make_video(name, pictures, rate=25, codec="dvvideo", container=container)
    info = probe(path)
    assert (info.kind, info.height, info.frames, info.fps) == ("video", 576, 24, 50.0)
    assert numbers_of(read_frames(path, fps=25, **SIZE)) == list(range(12))


def test_a_recording_that_begins_and_ends_anywhere(make_video):
    path = make_video("tv.ts", 200, options={"g": "12"})
    data = path.read_bytes()
    path.write_bytes(data[188 * (len(data) // 188 // 4) + 40 : -60_00])
    info = probe(path)
    assert 50 < info.frames < 200
    assert len(frames_of(path)) == info.frames


def test_a_recording_with_a_gap_in_its_reception(make_video):
    path = make_video("tv.ts", 60, options={"g": "12"})
    data = path.read_bytes()
    lost = 188 * (len(data) // 188 // 2)
    path.write_bytes(data[:lost] + data[lost + 188 * 3 :])
    info = probe(path)
    assert 50 < info.frames <= 60
    assert len(frames_of(path)) == info.frames


@pytest.mark.parametrize(("stated_ms", "fps"), [(0, 10.0), (10, 10.0), (20, 50.0)])
def test_a_gif_that_is_in_too_great_a_hurry_is_as_slow_as_in_browsers(tmp_path: Path, stated_ms: int, fps: float):
    pictures = [Image.fromarray(numbered(number)) for number in range(5)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=stated_ms)
    assert probe(tmp_path / "a.gif").fps == fps


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif"])
def test_moving_pictures_are_videos(tmp_path: Path, numbers_of, name: str):
    pictures = [Image.fromarray(numbered(number)) for number in range(20)]
    path = tmp_path / name
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, loop=0)
    assert probe(path) == MediaInfo("video", 96, 64, 20, 25.0)
    whole = np.concatenate(list(read_frames(path, fps=25, **SIZE)))
    assert numbers_of([whole]) == list(range(20))
    part = np.concatenate(list(read_frames(path, fps=25, **SIZE, start=11, stop=14)))
    np.testing.assert_array_equal(part, whole[11:14])


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_a_moving_picture_that_holds_a_frame(tmp_path: Path, numbers_of, name: str):
    pictures = [Image.fromarray(numbered(number)) for number in range(8)]
    path = tmp_path / name
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[40] * 3 + [1000] + [40] * 4, loop=0)
    info = probe(path)
    assert (info.frames, info.fps) == (32, 25.0)
    assert "frame rate varies" in info.notes[0]
    assert numbers_of(read_frames(path, fps=25, **SIZE)) == [0, 1, 2, *[3] * 25, 4, 5, 6, 7]


def test_a_transparent_moving_picture_is_shown_on_white(tmp_path: Path):
    pictures = [Image.new("RGBA", (64, 64), (255, 0, 0, 0)) for _ in range(3)]
    for place, picture in enumerate(pictures):
        picture.paste((0, 200, 0, 255), (16 + place, 16, 48, 48))
    path = tmp_path / "a.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, lossless=True)
    assert probe(path).notes == ("Its transparent parts are shown on white.",)
    frames = frames_of(path)
    assert (frames[:, 4, 4] == 255).all()
    assert (frames[:, 32, 32] == [0, 200, 0]).all()


def test_a_moving_picture_that_is_too_long(tmp_path: Path):
    pictures = [Image.new("RGB", (32, 32), (value, 0, 0)) for value in (0, 90, 180)]
    path = tmp_path / "slow.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=300_000)
    with pytest.raises(UploadRefused, match=r"slow\.webp is 900 seconds long"):
        probe(path)
