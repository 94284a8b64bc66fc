"""Frames into an MP4 that plays in a browser and carries its own recipe, at once or in segments; pictures for pages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.core.errors import RenderFailed, UploadRefused
from backend.media.durable import put, sync
from backend.media.fitting import Frames, Picture
from backend.media.probe import FILM_SECONDS, facts

if TYPE_CHECKING:
    from av.container import OutputContainer

CRF = 18
POSTER_WIDTH = 640
JPEG_QUALITY = 88
THREADS = min(4, os.cpu_count() or 1)  # each thread of the encoder holds frames of its own
REORDERED = 2  # how many frames x264 decodes ahead of the one that is shown (the depth of its B-pyramid)
BT709 = 1  # the same number for matrix, primaries and transfer; a range of 1 is the limited one


def write_video(
    path: Path, chunks: Iterable[Frames], *, fps: int, width: int, height: int, recipe: Mapping[str, Any], title: str
) -> int:
    """A film of one segment: `write_segment`, then `join_segments`, which see.

    `recipe` is read after the last chunk, so a caller may still put timings in while frames are drawn.
    """
    segment = path.with_name(path.name + ".segment")
    write_segment(segment, chunks, fps=fps, width=width, height=height)
    written = join_segments(path, [segment], recipe=recipe, title=title)
    segment.unlink()
    return written


def write_segment(path: Path, chunks: Iterable[Frames], *, fps: int, width: int, height: int) -> int:
    """Encode `chunks` (RGB, each of shape (n, height, width, 3)) as H.264 and return how many frames were written.

    The MP4 has yuv420p in BT.709 and no tags; the same frames give the same bytes. A file of that name is whole: until
    then it is called `path`.part, which is the caller's after an error. Raises RenderFailed for a chunk of another
    shape or none at all, OSError where the disk is full.
    """
    import av

    part = _part(path)
    with av.open(f"file:{part}", "w", format="mp4") as container:
        written = _encode(container, chunks, fps, width, height)
    put(part, path)
    return written


def _encode(container: OutputContainer, chunks: Iterable[Frames], fps: int, width: int, height: int) -> int:
    import av
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    stream = container.add_stream("libx264", rate=fps, options={"crf": str(CRF), "preset": "medium", "profile": "high"})
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
            hint=f"the film takes uint8 of shape (n, {height}, {width}, 3).",
        )


def join_segments(path: Path, segments: Sequence[Path], *, recipe: Mapping[str, Any], title: str) -> int:
    """Copy what `write_segment` wrote into one film, nothing encoded again, and return how many frames it has.

    The file has its index first, `title`, and `recipe` as JSON in the comment tag. Named and refused as a segment is:
    RenderFailed for no segments, or for some of another size, rate or encoder; OSError where the disk is full.
    """
    import av

    if not segments:
        raise RenderFailed("No segment is there to join;", hint="try again.")
    part = _part(path)
    with av.open(f"file:{part}", "w", format="mp4", options={"movflags": "+faststart"}) as target:
        target.metadata.update({"title": title, "comment": json.dumps(recipe, ensure_ascii=False)})
        joined = _copy(target, segments)
    put(part, path)
    return joined


def _copy(target: OutputContainer, segments: Sequence[Path]) -> int:
    """Mux the packets of all segments one after the other, in time too, and return how many there were."""
    import av

    stream = None
    joined = 0
    for segment in segments:
        with av.open(f"file:{segment}") as source:
            given = source.streams.video[0]
            if stream is None:
                stream = target.add_stream_from_template(given)
                stream.time_base = given.time_base
            elif given.codec_context.extradata != stream.codec_context.extradata:
                raise RenderFailed(f"{segment.name} was encoded in another way than the first segment;", hint="retry.")
            first = joined
            for packet in source.demux(given):
                if packet.dts is None:  # the end of the file
                    continue
                # A short segment reorders nothing, so its own decoding times lie closer to the shown ones than the next
                # segment's: all are counted anew. Every frame lasts as long as every other.
                packet.pts += first * packet.duration
                packet.dts = (joined - REORDERED) * packet.duration
                packet.stream = stream
                target.mux(packet)
                joined += 1
    return joined


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def write_live(path: Path, frames: Frames, fps: float) -> None:
    """`frames`, small ones, as an animated WebP that plays over and over, in place of the one before.

    25 frames of 256x144 take about 50 ms and 75 KB. Not synced: it is worth nothing after a power cut.
    """
    from PIL import Image

    first, *others = [Image.fromarray(picture) for picture in frames]
    part = _part(path)
    first.save(
        part, "WEBP", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=50, method=0
    )
    part.replace(path)


def read_recipe(path: Path, name: str = "") -> dict[str, Any] | None:
    """The recipe that `join_segments` put into the file, None if there is none.

    The file may come from outside: UploadRefused, which calls it `name`, if it is no video.
    """
    found = facts(path, name, FILM_SECONDS)
    if found["kind"] != "video":
        raise UploadRefused(f"{name or path.name} is a picture;", hint="use a video of the studio.", field="file")
    try:
        recipe = json.loads(found["comment"])
    except ValueError:
        return None
    return recipe if isinstance(recipe, dict) else None


def write_poster(path: Path, picture: Picture, max_width: int = POSTER_WIDTH) -> None:
    """`picture` as a JPEG, shrunk to `max_width` pixels if it is wider."""
    from PIL import Image

    image = Image.fromarray(picture)
    if image.width > max_width:
        height = max(1, round(image.height * max_width / image.width))
        image = image.resize((max_width, height), Image.Resampling.LANCZOS)
    image.save(path, "JPEG", quality=JPEG_QUALITY)
    sync(path)
