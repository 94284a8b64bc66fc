"""A video in other formats: WebM, AV1, GIF, animated WebP, ProRes, MP4, a ZIP of PNG frames, one still.

Frames stream from the guarded decoder into ffmpeg, which runs as a guarded child too (`encoder.py`); memory is flat.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import zipfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from backend.core.errors import RenderFailed
from backend.durable import sync
from backend.media import guard

if TYPE_CHECKING:
    from backend.media.fitting import Frames, Picture  # late: they need numpy, and the command line none


class ExportFormat(str, Enum):
    MP4 = "mp4"
    WEBM = "webm"
    AV1 = "av1"
    GIF = "gif"
    WEBP = "webp"
    PRORES = "prores"
    FRAMES = "frames"
    STILL = "still"


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """What a format is called, the file that it makes, and how ffmpeg encodes it. `bytes_per_pixel` and `s_per_pixel`
    are guesses for the forecast, on two cores. `passes` is how often the frames are read.
    """

    title: str
    suffix: str
    media_type: str
    arguments: tuple[str, ...] = ()
    bytes_per_pixel: float = 0.1
    s_per_pixel: float = 4e-8
    passes: int = 1


YUV420 = ("-pix_fmt", "yuv420p", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709")
# The encoder options alone do not do: newer versions of FFmpeg take primaries and transfer from the frames.
TO_BT709 = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int"
TO_BT709 += ",setparams=color_primaries=bt709:color_trc=bt709"
VIDEO = ("-vf", TO_BT709, *YUV420)

FORMATS = {
    ExportFormat.MP4: FormatInfo(
        "MP4 (H.264)",
        "mp4",
        "video/mp4",
        (*VIDEO, "-c:v", "libx264", "-crf", "18", "-movflags", "+faststart", "-f", "mp4"),
    ),
    ExportFormat.WEBM: FormatInfo(
        "WebM (VP9)",
        "webm",
        "video/webm",
        (*VIDEO, "-c:v", "libvpx-vp9", "-crf", "28", "-b:v", "0", "-row-mt", "1", "-cpu-used", "3", "-f", "webm"),
        s_per_pixel=2e-7,
    ),
    ExportFormat.AV1: FormatInfo(
        "MP4 (AV1)",
        "mp4",
        "video/mp4",
        (*VIDEO, "-c:v", "libsvtav1", "-crf", "30", "-preset", "8", "-movflags", "+faststart", "-f", "mp4"),
        s_per_pixel=1e-7,
    ),
    ExportFormat.GIF: FormatInfo("GIF", "gif", "image/gif", bytes_per_pixel=0.7, s_per_pixel=6e-8, passes=2),
    ExportFormat.WEBP: FormatInfo(
        "Animated WebP",
        "webp",
        "image/webp",
        # Each frame by itself: `libwebp_anim` keeps what changed little, and what moves leaves a trail.
        ("-c:v", "libwebp", "-quality", "80", "-compression_level", "3", "-loop", "0", "-f", "webp"),
        s_per_pixel=2e-7,
    ),
    ExportFormat.PRORES: FormatInfo(
        "ProRes 422 HQ (MOV)",
        "mov",
        "video/quicktime",
        (
            *("-vf", TO_BT709, "-pix_fmt", "yuv422p10le", "-c:v", "prores_ks", "-profile:v", "3", "-vendor", "apl0"),
            *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-f", "mov"),
        ),
        bytes_per_pixel=1.2,
    ),
    ExportFormat.FRAMES: FormatInfo(
        "PNG frames (ZIP)", "zip", "application/zip", bytes_per_pixel=2.0, s_per_pixel=1.5e-7
    ),
    ExportFormat.STILL: FormatInfo("Still (PNG)", "png", "image/png", bytes_per_pixel=2.0),
}

LOOKAHEAD = 25  # frames that video encoders hold back, to compare them, until the last one has come

Read: TypeAlias = "Callable[[], Generator[Frames]]"
Report = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """Width and height in pixels, frames in all, frames per second."""

    width: int
    height: int
    frames: int
    fps: float


def export_video(format: ExportFormat, read: Read, shape: Shape, target: Path, report: Report) -> int:
    """Write the frames that `read` yields, uint8 RGB chunks of `shape`, to `target`; returns how many were written.

    `report` is called with the part that is done, 0 to 1, after every chunk, and while the encoder keeps it waiting;
    what it raises ends the child. Raises RenderFailed where the encoder fails, OSError where the disk is full.
    """
    if format is ExportFormat.STILL:
        written = _write_still(read, target)
    elif format is ExportFormat.FRAMES:
        written = _write_zip(_Progress(shape, report).count(read()), target)
    elif format is ExportFormat.GIF:
        written = _write_gif(read, shape, target, report)
    else:
        progress = _Progress(shape, report, lookahead=LOOKAHEAD)
        written = _encode(read(), shape, [*FORMATS[format].arguments, f"file:{target}"], progress)
    sync(target)
    report(1.0)
    return written


class _Progress:
    """Counts the frames of pass number `done` of `of`, and reports the part of all work that is done."""

    def __init__(self, shape: Shape, report: Report, done: int = 0, of: int = 1, lookahead: int = 0) -> None:
        self._total = shape.frames + lookahead
        self._report, self._done, self._of = report, done, of
        self.frames = 0

    def report(self) -> None:
        self._report((self._done + min(1.0, self.frames / self._total)) / self._of)

    def count(self, chunks: Generator[Frames]) -> Iterator[Frames]:
        """The same chunks, each reported once it was used."""
        with contextlib.closing(chunks):
            for chunk in chunks:
                yield chunk
                self.frames += len(chunk)
                self.report()


def _encode(
    chunks: Generator[Frames], shape: Shape, arguments: list[str], progress: _Progress, palette: Path | None = None
) -> int:
    size = f"{shape.width}x{shape.height}"
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{shape.fps:.6f}", "-i", "pipe:0")
    further = ("-i", f"file:{palette}") if palette else ()
    with guard.encode(*raw, *further, *arguments, alive=progress.report) as encoder:
        for chunk in progress.count(chunks):
            encoder.write(chunk.data.cast("B"))
        encoder.finish()
    return progress.frames


def _write_gif(read: Read, shape: Shape, target: Path, report: Report) -> int:
    """In two passes: the palette of 256 colours that fits all frames best, then the frames in it."""
    palette = target.with_name("palette.png")
    to_palette = ["-vf", "palettegen=stats_mode=full", "-update", "1", "-frames:v", "1", f"file:{palette}"]
    _encode(read(), shape, to_palette, _Progress(shape, report, 0, 2))
    filters = "[0:v][1:v]paletteuse=dither=bayer:bayer_scale=4:diff_mode=rectangle"
    to_gif = ["-lavfi", filters, "-loop", "0", "-f", "gif", f"file:{target}"]
    written = _encode(read(), shape, to_gif, _Progress(shape, report, 1, 2), palette)
    palette.unlink()
    return written


def _write_zip(chunks: Iterator[Frames], target: Path) -> int:
    """PNG is compressed already, so the archive only stores."""
    numbers = itertools.count(1)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for chunk in chunks:
            for picture in chunk:
                archive.writestr(f"frame-{next(numbers):05}.png", _png(picture))
    return next(numbers) - 1


def _write_still(read: Read, target: Path) -> int:
    """The first frame that `read` yields."""
    chunks = read()
    with contextlib.closing(chunks):
        chunk = next(chunks, None)
    if chunk is None:
        raise RenderFailed("The video has no such frame;", hint="choose another one.")
    target.write_bytes(_png(chunk[0]))
    return 1


def _png(picture: Picture) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=3)
    return file.getvalue()
