"""Films out: what is in the file is what was drawn, tagged so that every player shows the same."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
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
from backend.media.writer import join_segments, read_recipe, write_poster, write_preview, write_segment
from tests.media.conftest import numbered
from tests.media_files import write_film

RECIPE = {"prompt": 'A "red" boat; it\'s = 100 % \\ wet\nat sea 🌊', "seed": 7, "list": [1, 2.5, None]}


def write(path: Path, chunks: Any, **changes: Any) -> int:
    return write_film(
        path, chunks, **{"fps": 24, "width": 96, "height": 64, "recipe": RECIPE, "title": "Boat", **changes}
    )


def film(frames: int, chunk: int = 8) -> Iterator[Frames]:
    pictures = [numbered(number) for number in range(frames)]
    return (np.stack(pictures[at : at + chunk]) for at in range(0, frames, chunk))


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
    assert list(tmp_path.iterdir()) == []


def pictures_of(path: Path) -> list[Frames]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def times_of(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        decoding = [packet.dts for packet in packets]
        assert all(before < after for before, after in itertools.pairwise(decoding))
        shown = sorted(packet.pts for packet in packets)
        return [round(time * stream.time_base * stream.average_rate) for time in shown]


@pytest.mark.parametrize("fps", [8, 24, 30])
def test_joined_segments_show_their_pictures_in_order(tmp_path: Path, fps: int):
    segments, shown, at = [], [], 0
    for number, length in enumerate((17, 1, 80, 2, 3)):
        path = tmp_path / f"{number}.mp4"
        chunk = np.stack([numbered(at + n) for n in range(length)])
        assert write_segment(path, [chunk], fps=fps, width=96, height=64) == length
        shown += pictures_of(path)
        segments.append(path)
        at += length
    film_path = tmp_path / "film.mp4"
    join_segments(film_path, segments, recipe=RECIPE, title="Boat")
    joined = pictures_of(film_path)
    assert len(joined) == 103
    assert all(np.array_equal(a, b) for a, b in zip(joined, shown, strict=True))
    assert times_of(film_path) == list(range(103))
    assert probe(film_path) == MediaInfo("video", 96, 64, 103, float(fps))
    assert read_recipe(film_path) == RECIPE


def test_memory_that_others_left_changes_no_byte(tmp_path: Path):
    """Small pictures, among which x264 chose by what lay in memory before, in one encoding of two."""
    random = np.random.default_rng(0)
    large = random.integers(0, 255, (40, 24, 24, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    pictures = (large // 2 + random.integers(0, 100, (40, 96, 96, 3), dtype=np.uint8)).astype(np.uint8)
    found = set()
    for _ in range(10):
        litter = [random.bytes(int(size)) for size in random.integers(1000, 200_000, 50)]
        del litter[::2]
        write_segment(tmp_path / "film.mp4", [pictures], fps=24, width=96, height=96)
        found.add((tmp_path / "film.mp4").read_bytes())
    assert len(found) == 1


def test_the_same_frames_are_the_same_segment(tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        write_segment(tmp_path / name, film(40), fps=24, width=96, height=64)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_segments_that_do_not_fit_are_no_film(tmp_path: Path):
    write_segment(tmp_path / "a.mp4", film(4), fps=24, width=96, height=64)
    write_segment(tmp_path / "b.mp4", [np.zeros((4, 32, 32, 3), np.uint8)], fps=24, width=32, height=32)
    with pytest.raises(RenderFailed, match="do not fit together"):
        join_segments(tmp_path / "film.mp4", [tmp_path / "a.mp4", tmp_path / "b.mp4"], recipe={}, title="")
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:500])
    with pytest.raises(RenderFailed, match="cannot be read"):
        join_segments(tmp_path / "film.mp4", [tmp_path / "a.mp4", tmp_path / "b.mp4"], recipe={}, title="")
    assert not (tmp_path / "film.mp4").exists()


def run_limited(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_a_full_disk_is_an_os_error(tmp_path: Path):
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from tests.media_files import write_film
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
noise = np.random.default_rng(0).integers(0, 255, (8, 128, 128, 3), np.uint8)
try:
    write_film(Path(sys.argv[1]), [noise] * 4, fps=24, width=128, height=128, recipe={}, title="")
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
from tests.media_files import write_film
source, size, peaks = Path(sys.argv[1]), {"width": 1280, "height": 720}, []
def watched():
    for chunk in read_frames(source, fps=24, **size, fit=Fit.CROP):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        yield chunk
assert write_film(source.with_name("copy.mp4"), watched(), fps=24, **size, recipe={}, title="") == 160
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


@pytest.mark.parametrize("frames", [1, 25])
def test_a_live_picture_plays_over_and_over(tmp_path: Path, number_of, frames: int):
    path = tmp_path / "preview.webp"
    path.write_bytes(b"the one before")
    write_preview(path, np.stack([numbered(number) for number in range(frames)]), fps=8)
    with Image.open(path) as live:
        assert (live.format, live.size, live.n_frames) == ("WEBP", (96, 64), frames)
        for number in range(frames):
            live.seek(number)
            live.load()
            assert number_of(np.asarray(live.convert("RGB"))) == number
            assert frames == 1 or live.info["duration"] == 125  # ms
        assert frames == 1 or live.info["loop"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["preview.webp"]
