"""Films out: what is in the file is what was drawn, tagged so that every player shows the same."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from backend.core.config import ROOT
from backend.core.errors import RenderFailed, UploadRefused
from backend.core.schema import Fit
from backend.media.fitting import Frames, Picture
from backend.media.probe import MediaInfo, probe
from backend.media.reader import read_frames
from backend.media.writer import join_segments, read_recipe, write_live, write_poster, write_segment, write_video
from tests.media.conftest import numbered

RECIPE = {"prompt": 'A "red" boat; it\'s = 100 % \\ wet\nat sea 🌊', "seed": 7, "list": [1, 2.5, None]}


def write(path: Path, chunks: Any, **changes: Any) -> int:
    return write_video(
        path, chunks, **{"fps": 24, "width": 96, "height": 64, "recipe": RECIPE, "title": "Boat", **changes}
    )


def film(frames: int, chunk: int = 8) -> Iterator[Frames]:
    pictures = [numbered(number) for number in range(frames)]
    return (np.stack(pictures[at : at + chunk]) for at in range(0, frames, chunk))


def moving(start: int, frames: int) -> Frames:
    """Frames of a patterned picture that slides, so that the encoder has something to predict and to reorder."""
    pattern = np.random.default_rng(7).integers(0, 255, (16, 64, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    return np.stack([np.roll(pattern, -(start + n), axis=1)[:, :96] for n in range(frames)])


def segment(path: Path, start: int, frames: int, **changes: Any) -> Path:
    assert write_segment(path, [moving(start, frames)], **{"fps": 24, "width": 96, "height": 64, **changes}) == frames
    return path


def segments(folder: Path, lengths: Sequence[int]) -> list[Path]:
    starts = itertools.accumulate(lengths, initial=0)
    return [segment(folder / f"{at}.mp4", start, n) for at, (start, n) in enumerate(zip(starts, lengths, strict=False))]


def decoded(path: Path) -> list[Frames]:
    """The pictures as the decoder gives them, before any conversion."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


@pytest.mark.parametrize("lengths", [(1,), (1, 1, 2, 1), (17, 1, 3, 80, 2), (3, 2, 1, 17)], ids=str)
def test_joined_segments_show_the_frames_of_each_in_order(tmp_path: Path, lengths: tuple[int, ...]):
    parts = segments(tmp_path, lengths)
    film = tmp_path / "film.mp4"
    assert join_segments(film, parts, recipe=RECIPE, title="Boat") == sum(lengths)
    alone = [frame for part in parts for frame in decoded(part)]
    joined = decoded(film)
    assert len(joined) == len(alone) == sum(lengths)
    assert all((one == other).all() for one, other in zip(joined, alone, strict=True))
    assert probe(film) == MediaInfo("video", 96, 64, sum(lengths), 24.0)
    assert read_recipe(film) == RECIPE
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["film.mp4", *(part.name for part in parts)])


def test_a_join_keeps_time_over_reordered_frames(tmp_path: Path):
    film = tmp_path / "film.mp4"
    lengths = (3, 1, 17, 2, 80)
    join_segments(film, segments(tmp_path, lengths), recipe={}, title="")
    data = film.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.dts is not None]
        tick = 1 / (24 * stream.time_base)
        assert [packet.dts / tick for packet in packets] == list(range(-2, 101))
        assert sorted(packet.pts / tick for packet in packets) == list(range(103))
        assert [packet.pts for packet in packets] != sorted(packet.pts for packet in packets)  # there are B-frames
        assert (stream.start_time, stream.frames, stream.duration * stream.time_base) == (0, 103, Fraction(103, 24))
        starts = set(itertools.accumulate(lengths[:-1], initial=0))
        assert starts <= {packet.pts / tick for packet in packets if packet.is_keyframe}
    with av.open(str(film)) as container:
        shown = [frame.pts for frame in container.decode(video=0)]
    assert shown == sorted(set(shown))


def test_the_same_frames_give_the_same_segment(tmp_path: Path):
    one, other, later = (segment(tmp_path / f"{n}.mp4", start, 40) for n, start in enumerate((0, 0, 1)))
    assert one.read_bytes() == other.read_bytes() != later.read_bytes()


@pytest.mark.parametrize("other", [{"fps": 25}, {"height": 48}], ids=str)
def test_only_segments_of_one_kind_are_joined(tmp_path: Path, other: dict[str, int]):
    first, second = segment(tmp_path / "1.mp4", 0, 3), tmp_path / "2.mp4"
    height = other.get("height", 64)
    write_segment(second, [moving(3, 3)[:, :height]], **{"fps": 24, "width": 96, "height": height, **other})
    with pytest.raises(RenderFailed, match=r"2\.mp4 was encoded in another way"):
        join_segments(tmp_path / "film.mp4", [first, second], recipe={}, title="")
    with pytest.raises(RenderFailed, match="No segment"):
        join_segments(tmp_path / "film.mp4", [], recipe={}, title="")
    assert not (tmp_path / "film.mp4").exists()


def test_a_segment_has_its_name_only_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "segment.mp4"
    seen = []

    def drawing() -> Iterator[Frames]:
        yield moving(0, 100)  # more than the encoder looks ahead
        seen.extend(tmp_path.iterdir())
        raise RenderFailed("The engine gave up;")

    with pytest.raises(RenderFailed, match="gave up"):
        write_segment(path, drawing(), fps=24, width=96, height=64)
    assert [part.name for part in seen] == ["segment.mp4.part"]
    assert not path.exists()
    assert segment(path, 0, 3).exists()  # the next attempt does not mind what was left
    assert [part.name for part in tmp_path.iterdir()] == ["segment.mp4"]


@pytest.mark.parametrize("frames", [1, 25])
def test_a_live_picture_plays_over_and_over(tmp_path: Path, number_of, frames: int):
    path = tmp_path / "live.webp"
    path.write_bytes(b"the one before")
    write_live(path, np.stack([numbered(number) for number in range(frames)]), fps=8)
    with Image.open(path) as live:
        assert (live.format, live.size, live.n_frames) == ("WEBP", (96, 64), frames)
        for number in range(frames):
            live.seek(number)
            live.load()
            assert number_of(np.asarray(live.convert("RGB"))) == number
            assert frames == 1 or live.info["duration"] == 125  # ms
        assert frames == 1 or live.info["loop"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["live.webp"]


@pytest.mark.parametrize(("frames", "fps"), [(1, 8), (64, 24), (61, 30)])
def test_what_is_written_can_be_read(tmp_path: Path, numbers_of, frames: int, fps: int):
    path = tmp_path / "video.mp4"
    assert write(path, film(frames), fps=fps) == frames
    assert probe(path) == MediaInfo("video", 96, 64, frames, float(fps))
    read = read_frames(path, fps=fps, width=96, height=64, fit=Fit.CROP)
    assert numbers_of(read) == list(range(frames))


def test_the_file_is_what_browsers_play(tmp_path: Path):
    path = tmp_path / "video.mp4"
    write(path, film(30))
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.profile, codec.pix_fmt) == ("h264", "High", "yuv420p")
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        assert (stream.average_rate, stream.start_time, len(container.streams)) == (24, 0, 1)
        assert container.metadata["title"] == "Boat"
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255), (0, 0, 0)])
def test_pure_colours_come_back(tmp_path: Path, colour: tuple[int, int, int]):
    path = tmp_path / "video.mp4"
    write(path, [np.full((4, 64, 96, 3), colour, np.uint8)])
    with av.open(str(path)) as container:  # as any player reads BT.709, not through our own reader
        frame = next(container.decode(video=0))
    rgb = frame.reformat(format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG)
    assert np.abs(rgb.to_ndarray().astype(int) - colour).max() <= 2
    (read,) = read_frames(path, fps=24, width=96, height=64, fit=Fit.CROP)
    assert np.abs(read.astype(int) - colour).max() <= 2


def test_a_photograph_survives(tmp_path: Path, photo: Picture):
    path = tmp_path / "video.mp4"
    write(path, [np.stack([photo] * 3)], width=512, height=512)
    (read,) = read_frames(path, fps=24, width=512, height=512, fit=Fit.CROP)
    error = np.mean((read.astype(float) - photo) ** 2)
    assert 10 * np.log10(255**2 / error) > 35  # dB


def test_the_recipe_is_inside(tmp_path: Path):
    path = tmp_path / "video.mp4"
    recipe = {**RECIPE, "long": "x" * 100_000}
    write(path, film(3), recipe=recipe)
    assert read_recipe(path) == recipe


def test_timings_may_come_while_frames_are_drawn(tmp_path: Path):
    recipe: dict[str, Any] = {"seed": 7}

    def drawing() -> Iterator[Frames]:
        yield from film(3)
        recipe["seconds"] = 12.5

    write(tmp_path / "video.mp4", drawing(), recipe=recipe)
    assert read_recipe(tmp_path / "video.mp4") == {"seed": 7, "seconds": 12.5}


@pytest.mark.parametrize("comment", [None, "filmed on holiday", "[1, 2]", "{broken"])
def test_other_videos_have_no_recipe(make_video, comment: str | None):
    assert read_recipe(make_video(tags={"comment": comment} if comment else None)) is None


def test_a_picture_or_a_text_has_no_recipe_to_read(save, tmp_path: Path, photo: Picture):
    with pytest.raises(UploadRefused, match=r"a\.png is a picture; use a video"):
        read_recipe(save("a.png", photo))
    (tmp_path / "a.txt").write_text(json.dumps(RECIPE))
    with pytest.raises(UploadRefused, match=r"boat\.mp4 is neither"):
        read_recipe(tmp_path / "a.txt", "boat.mp4")


@pytest.mark.parametrize(
    "chunk",
    [
        np.zeros((2, 64, 97, 3), np.uint8),
        np.zeros((2, 64, 96, 4), np.uint8),
        np.zeros((64, 96, 3), np.uint8),
        np.zeros((2, 64, 96, 3), np.float32),
    ],
)
def test_chunks_of_another_shape(tmp_path: Path, chunk: Frames):
    with pytest.raises(RenderFailed, match=r"takes uint8 of shape \(n, 64, 96, 3\)"):
        write(tmp_path / "video.mp4", [np.zeros((2, 64, 96, 3), np.uint8), chunk])


def test_no_frames_are_no_film(tmp_path: Path):
    with pytest.raises(RenderFailed, match="No frame"):
        write(tmp_path / "video.mp4", [])


def test_an_error_while_drawing_comes_through(tmp_path: Path):
    def drawing() -> Iterator[Frames]:
        yield from film(10)
        raise RenderFailed("The engine gave up;")

    with pytest.raises(RenderFailed, match="gave up"):
        write(tmp_path / "video.mp4", drawing())
    assert not (tmp_path / "video.mp4").exists()


def run_limited(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_a_full_disk_is_an_os_error(tmp_path: Path):
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from backend.media.writer import write_video
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
noise = np.random.default_rng(0).integers(0, 255, (8, 128, 128, 3), np.uint8)
try:
    write_video(Path(sys.argv[1]), [noise] * 4, fps=24, width=128, height=128, recipe={}, title="")
except OSError as error:
    print("errno", error.errno)
"""
    assert run_limited(code, tmp_path / "video.mp4").stdout == "errno 27\n"


def test_memory_does_not_grow_with_length(make_video):
    """Read and write 1280x720 in a fresh process: the last 96 frames are 265 MB of pixels, and none may stay."""
    code = """
import resource, sys
from pathlib import Path
from backend.core.schema import Fit
from backend.media.reader import read_frames
from backend.media.writer import write_video
source, size, peaks = Path(sys.argv[1]), {"width": 1280, "height": 720}, []
def watched():
    for chunk in read_frames(source, fps=24, **size, fit=Fit.CROP):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        yield chunk
assert write_video(source.with_name("copy.mp4"), watched(), fps=24, **size, recipe={}, title="") == 160
print(peaks[64 // 8], peaks[-1])
"""
    path = make_video("source.mp4", [numbered(number, 160, 90) for number in range(160)])
    early, late = map(int, run_limited(code, path).stdout.split())
    assert late - early < 40, (early, late)


def test_a_poster(tmp_path: Path, photo: Picture):
    write_poster(tmp_path / "wide.jpg", np.concatenate([photo, photo], axis=1))
    write_poster(tmp_path / "small.jpg", photo, max_width=900)
    with Image.open(tmp_path / "wide.jpg") as wide, Image.open(tmp_path / "small.jpg") as small:
        assert (wide.format, wide.size, small.size) == ("JPEG", (640, 320), (512, 512))
        error = np.abs(np.asarray(small).astype(int) - photo).mean()
    assert error < 6
