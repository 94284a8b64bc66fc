"""Encoding: frames to an MP4 that plays in a browser and holds its own recipe, a picture to a JPEG."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.core.errors import RenderFailed, UploadRefused, WorkDamaged
from backend.durable import replace_file, sync
from backend.media.fitting import Frames, Picture
from backend.media.probe import OWN_VIDEO_SECONDS, probe_details

if TYPE_CHECKING:
    from av.container import OutputContainer

CRF = 18
POSTER_WIDTH = 640
JPEG_QUALITY = 88
THREADS = 4  # each holds frames of its own; another number is another file, so it is not the machine's
# Among the AVX-512 routines of x264 is one whose result depends on what lay in memory before. This leaves those out
# that are not exact, and costs no time that can be measured.
X264 = {"crf": str(CRF), "preset": "medium", "profile": "high", "x264-params": "cpu-independent=1"}
DELAY = 2  # frames by which x264 decodes ahead of display, because of its B-frames
BT709 = 1  # the same number for matrix, primaries and transfer; a range of 1 is the limited one


def write_segment(path: Path, chunks: Iterable[Frames], *, fps: int, width: int, height: int) -> int:
    """Encode `chunks` (RGB, each of shape (n, height, width, 3)) as H.264 and return how many frames were written.

    The file has yuv420p in BT.709. It is there only when it is whole and on the disk. Raises RenderFailed for a chunk
    of another shape or none at all, OSError where the disk is full.
    """
    import av

    with _atomic(path) as part, av.open(f"file:{part}", "w", format="mp4") as container:
        return _encode(container, chunks, fps, width, height)


def join_segments(path: Path, segments: Sequence[Path], *, recipe: Mapping[str, Any], title: str) -> None:
    """Put files of `write_segment`, of one size and rate, one after the other, without encoding them again.

    The file has its index first, `title`, and `recipe` as JSON in the comment tag. Raises WorkDamaged for a segment
    that cannot be read or does not fit, OSError where the disk is full.
    """
    import av

    with (
        _atomic(path) as part,
        av.open(f"file:{part}", "w", format="mp4", options={"movflags": "+faststart"}) as output,
    ):
        # FFmpeg takes tags only before the first packet.
        output.metadata.update({"title": title, "comment": json.dumps(recipe, ensure_ascii=False)})
        try:
            _copy_packets(segments, output)
        except av.error.InvalidDataError as error:
            raise WorkDamaged(f"A part of the video cannot be read ({error.strerror});", hint="try again.") from None


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary path whose file is renamed to `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have removed it meanwhile
    part = path.with_name(path.name + ".part")
    try:
        yield part
        replace_file(part, path)
    finally:
        part.unlink(missing_ok=True)


def _copy_packets(segments: Sequence[Path], output: OutputContainer) -> None:
    import av

    stream, written = None, 0
    for segment in segments:
        with av.open(f"file:{segment}") as source:
            given = source.streams.video[0]
            if stream is None:
                stream = output.add_stream_from_template(given)
                stream.time_base = given.time_base
            if given.codec_context.extradata != stream.codec_context.extradata:
                raise WorkDamaged("The parts of the video do not fit together;", hint="try again.")
            frame = int(1 / (given.average_rate * given.time_base))
            packets = (packet for packet in source.demux(given) if packet.dts is not None)
            for number, packet in enumerate(packets, start=written):
                packet.pts += written * frame
                # A segment of one or two frames has no delay, but all must have the same for times to go up.
                packet.dts = (number - DELAY) * frame
                packet.stream = stream
                output.mux(packet)
            written += given.frames


def _encode(container: OutputContainer, chunks: Iterable[Frames], fps: int, width: int, height: int) -> int:
    import av
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    stream = container.add_stream("libx264", rate=fps, options=X264)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    codec = stream.codec_context
    codec.colorspace = codec.color_primaries = codec.color_trc = codec.color_range = BT709
    codec.thread_count = THREADS
    written = 0
    for chunk in chunks:
        _check(chunk, width, height)
        for picture in chunk:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
                threads=1,
            )
            frame.pts = written
            container.mux(stream.encode(frame))
            written += 1
    if not written:
        raise RenderFailed("No frame was drawn;", hint="try again.")
    container.mux(stream.encode())
    return written


def _check(chunk: Frames, width: int, height: int) -> None:
    if chunk.dtype != np.uint8 or chunk.ndim != 4 or chunk.shape[1:] != (height, width, 3):
        raise RenderFailed(
            f"The frames are {chunk.dtype} of shape {chunk.shape};",
            hint=f"the video takes uint8 of shape (n, {height}, {width}, 3).",
        )


def read_recipe(path: Path, name: str = "") -> dict[str, Any] | None:
    """The recipe that `join_segments` put into the file, None if there is none.

    The file may come from outside: UploadRefused, which calls it `name`, if it is no video.
    """
    found = probe_details(path, name, OWN_VIDEO_SECONDS)
    if found["kind"] != "video":
        raise UploadRefused(f"{name or path.name} is a picture;", hint="use a video of the studio.", field="file")
    try:
        recipe = json.loads(found["comment"])
    except ValueError:
        return None
    return recipe if isinstance(recipe, dict) else None


def write_preview(path: Path, frames: Frames, fps: float) -> None:
    """`frames`, small ones, as an animated WebP that plays over and over, in place of the one before.

    25 frames of 256x144 take about 50 ms and 75 KB. Not synced: it is worth nothing after a power cut.
    """
    from PIL import Image

    first, *others = [Image.fromarray(picture) for picture in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    times = {"duration": round(1000 / fps), "loop": 0}
    first.save(part, "WEBP", save_all=True, append_images=others, **times, quality=50, method=0)
    part.replace(path)


def write_poster(path: Path, picture: Picture, max_width: int = POSTER_WIDTH) -> None:
    """`picture` as a JPEG, shrunk to `max_width` pixels if it is wider."""
    from PIL import Image

    image = Image.fromarray(picture)
    if image.width > max_width:
        height = max(1, round(image.height * max_width / image.width))
        image = image.resize((max_width, height), Image.Resampling.LANCZOS)
    image.save(path, "JPEG", quality=JPEG_QUALITY)
    sync(path)
