"""Pictures and videos from outside as arrays, fitted to the requested size."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np

from backend.core.plan import Source
from backend.core.planning import frames_at
from backend.core.schema import Fit
from backend.media import guard
from backend.media.decoder import HEADER
from backend.media.fitting import MIDDLE, Frames, Picture

CHUNK_FRAMES = 8


def read_image(path: Path, width: int, height: int, fit: Fit, position: float = MIDDLE) -> Picture:
    """The picture in the file, upright and opaque, fitted to `width` x `height` pixels by `fit_picture`; UploadRefused
    if there is none.
    """
    raw = guard.decode("picture", path, width, height, fit.value, position)
    return np.frombuffer(raw, np.uint8).reshape(height, width, 3).copy()


def read_frames(
    path: Path,
    *,
    fps: float,
    width: int,
    height: int,
    fit: Fit,
    position: float = MIDDLE,
    start: int = 0,
    stop: int | None = None,
) -> Generator[Frames]:
    """Frames `start` to `stop` (not included) of the video shown at `fps`, in chunks of at most CHUNK_FRAMES.

    The speed stays: frames are repeated or left out, and there are `planning.frames_at(source, fps)` in all, which is
    where `stop` ends at the latest. Where the source already runs at `fps` each of its frames comes once. Holds one
    chunk; the decoding child ends with the iterator. Raises UploadRefused.
    """
    with guard.stream("frames", path, width, height, fit.value, position, fps, start) as pipe:
        header = bytearray(HEADER.size)
        pipe.fill(memoryview(header))
        source = Source(width, height, *HEADER.unpack(header))
        total = frames_at(source, fps)
        stop = total if stop is None else min(stop, total)
        while start < stop:
            chunk = np.empty((min(CHUNK_FRAMES, stop - start), height, width, 3), np.uint8)
            pipe.fill(chunk.data.cast("B"))
            yield chunk
            start += len(chunk)
