"""Pictures and videos made on the spot. Every frame of a numbered video carries its number in black and white."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
import psutil
import pytest
from PIL import Image

from backend.media import decoder, guard
from backend.media.fitting import Frames, Picture

BITS = 8
PHONE_MATRIX = [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]  # what a phone held upright writes: show turned clockwise

MakeVideo = Callable[..., Path]


def numbered(number: int, width: int = 96, height: int = 64) -> Picture:
    """A grey frame whose vertical stripes are the bits of `number`, the least first."""
    picture = np.full((height, width, 3), 128, np.uint8)
    for bit in range(BITS):
        picture[:, bit * width // BITS : (bit + 1) * width // BITS] = 235 if number >> bit & 1 else 20
    return picture


@pytest.fixture
def decoder_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole answers of the decoder without a process for each, which takes most of the time of a small file: for tests
    of what is decoded. What the process is for, its limits, is tested without this.
    """

    def decode(job: str, path: Path, *arguments: object, name: str = "", output: Any = None, **_: Any) -> bytes:
        answer = io.BytesIO()
        refusal = decoder.run(job, output or answer, str(path.absolute()), *map(str, arguments))
        if refusal is not None:
            raise guard._refusal(name or path.name, decoder.REFUSED, json.dumps(refusal).encode())
        return answer.getvalue()

    monkeypatch.setattr(guard, "decode", decode)


@pytest.fixture
def number_of() -> Callable[[Picture], int]:
    """Reads the number back, whatever size the frame has now."""

    def read(picture: Picture) -> int:
        height, width = picture.shape[:2]
        middles = [picture[height // 2, round((bit + 0.5) * width / BITS), 1] for bit in range(BITS)]
        return sum((value > 128) << bit for bit, value in enumerate(middles))

    return read


@pytest.fixture
def numbers_of(number_of: Callable[[Picture], int]) -> Callable[[Iterable[Frames]], list[int]]:
    return lambda chunks: [number_of(picture) for chunk in chunks for picture in chunk]


def interlaced(frame: av.VideoFrame, first_field: str) -> Any:
    """`frame` marked as interlaced, its "top" or "bottom" field first."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 25)
    )
    graph.link_nodes(
        source, graph.add("setfield", {"top": "tff", "bottom": "bff"}[first_field]), graph.add("buffersink")
    )
    graph.configure()
    graph.vpush(frame)
    return graph.vpull()


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Write a video; `pictures` are frames or a count of numbered ones, `stamps` their times in 1/1000 s if uneven."""

    def make(
        name: str = "clip.mp4",
        pictures: int | Sequence[Picture] = 30,
        *,
        rate: int | Fraction = 24,
        codec: str = "libx264",
        container: str | None = None,
        pix_fmt: str = "yuv420p",
        matrix: list[int] | None = None,
        stamps: Sequence[int] | None = None,
        aspect: Fraction | None = None,
        options: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
        file_options: dict[str, str] | None = None,
        first_field: str | None = None,
    ) -> Path:
        if isinstance(pictures, int):
            pictures = [numbered(number % 2**BITS) for number in range(pictures)]
        path = tmp_path / name
        with av.open(str(path), "w", format=container, options=file_options or {}) as output:
            output.metadata.update(tags or {})
            stream: Any = output.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = pix_fmt
            if matrix:
                stream.set_display_matrix(matrix)
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            if stamps:
                stream.codec_context.time_base = Fraction(1, 1000)
            for place, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = stamps[place] if stamps else place
                frame.time_base = Fraction(1, 1000) if stamps else 1 / Fraction(rate)
                if first_field:
                    frame = interlaced(frame, first_field)
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        return path

    return make


@pytest.fixture
def photo() -> Picture:
    """A photograph: NASA's astronaut Eileen Collins, 512x512."""
    import skimage.data

    picture: Picture = skimage.data.astronaut()
    return picture


@pytest.fixture
def corners() -> Picture:
    """80x48 with another colour in every quarter: red, green / blue, white."""
    picture = np.zeros((48, 80, 3), np.uint8)
    picture[:24, :40] = 255, 0, 0
    picture[:24, 40:] = 0, 255, 0
    picture[24:, :40] = 0, 0, 255
    picture[24:, 40:] = 255, 255, 255
    return picture


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write a picture (array or Pillow image) under a name, with Pillow's options."""

    def write(name: str, picture: Picture | Image.Image, **options: Any) -> Path:
        path = tmp_path / name
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        image.save(path, **options)
        return path

    return write


def png_of(pixels: np.ndarray, *chunks: tuple[bytes, bytes], bad_checksums: bool = False) -> bytes:
    """A PNG of uint8 or uint16 pixels (height, width, 1 to 4), with side chunks (name, data) before them."""

    def chunk(name: bytes, data: bytes, wrong: bool = False) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ wrong)

    height, width, channels = pixels.shape
    bits = 8 * pixels.itemsize
    header = struct.pack(">IIBBBBB", width, height, bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(pixels.dtype.newbyteorder(">")))
    side = b"".join(chunk(name, data, bad_checksums) for name, data in chunks)
    body = side + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def matrix_profile(primaries: list[tuple[float, float, float]], gamma: float) -> bytes:
    """An ICC display profile: the XYZ (D50) of its red, green and blue, and its gamma."""

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(81)
    tags = [(b"desc", text), (b"cprt", b"text\0\0\0\0none\0\0\0\0"), (b"wtpt", xyz((0.9642, 1.0, 0.8249)))]
    tags += [(b"rgb"[i : i + 1] + b"XYZ", xyz(primaries[i])) for i in range(3)]
    tags += [(b"rgb"[i : i + 1] + b"TRC", curve) for i in range(3)]
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags:
        table += name + struct.pack(">2I", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = offset + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", round(0.9642 * 65536), 65536, round(0.8249 * 65536))
    return header.ljust(128, b"\0") + table + body


@pytest.fixture
def turning_profile() -> bytes:
    """A colour profile whose red is sRGB's green, whose green is blue, whose blue is red: applied, colours go round."""
    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    return matrix_profile([green, blue, red], 2.2)


@pytest.fixture
def children() -> Callable[[], list[str]]:
    """The command lines of this process's children that still run."""

    def running() -> list[str]:
        return [" ".join(child.cmdline()) for child in psutil.Process().children() if child.status() != "zombie"]

    return running
