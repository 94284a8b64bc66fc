"""Moving pictures (GIF, animated WebP, PNG and AVIF) as videos."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from itertools import accumulate, count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.media import notes
from backend.media.fitting import Picture
from backend.media.pictures import as_shown, open_picture, orientation, remarks_of, rotated, seek, space_of
from backend.media.refusal import Refused, check_shape
from backend.media.timing import even_times, is_even, moving_rate

if TYPE_CHECKING:
    from PIL.Image import Image

SHORTEST_MS = 10  # a frame that is not longer is shown for USUAL_MS, as browsers do
USUAL_MS = 100


class AnimationReader:
    """A moving picture, read as VideoReader reads a video. A loop is played once."""

    comment = ""

    def __init__(self, path: str, longest_s: float, most_pixels: int, most_frames: int) -> None:
        self.path = path
        image = self._opened()
        check_shape(*image.size, most_pixels)
        self.space = space_of(image, path)
        durations = [ms if ms > SHORTEST_MS else USUAL_MS for ms in self._durations(image, most_frames)]
        *times, length = (ms / 1000 for ms in accumulate(durations, initial=0))
        if length > longest_s:
            raise Refused(f"is {length:,.0f} seconds long", f"cut it to {longest_s:g} seconds.")
        self.count = self.frames = len(durations)
        self.fps = self.count / length
        self.varies = not is_even(times, self.fps)
        if self.varies:
            self.fps = moving_rate(times)
            self.frames = max(1, round(length * self.fps))
        self.times = times if self.varies else even_times(self.count, self.fps)

    def _opened(self) -> Image:
        image = open_picture(self.path)
        if image is None:
            raise Refused("is no moving picture", "convert it to MP4.")
        return image

    def _durations(self, image: Image, most_frames: int) -> list[int]:
        """Milliseconds of every frame."""
        stated = webp_durations(Path(self.path)) if image.format == "WEBP" else _durations_by_seeking(image)
        durations = list(islice(stated, most_frames + 1))
        if len(durations) > most_frames:
            raise Refused(f"has more than {most_frames:,} frames", "cut it shorter.")
        return durations

    def decoded(self, first: int = 0) -> Iterator[tuple[int, Image]]:
        """Frames with their place, from the beginning on: each is drawn over the one before it."""
        image = self._opened()
        for place in range(self.count):
            seek(image, place)
            yield place, image.copy()  # the next one is drawn into it

    def picture(self, frame: Image) -> Picture:
        """One frame as RGB, upright, transparent parts white."""
        shown, _ = as_shown(frame, self.space)
        return np.asarray(rotated(shown, orientation(frame)))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown. Raises what Pillow raises for a damaged first frame."""
        _, first = next(self.decoded())
        height, width = self.picture(first).shape[:2]
        return width, height

    @property
    def notes(self) -> list[str]:
        remarks = [notes.varying_rate(self.fps)] if self.varies else []
        _, first = next(self.decoded())
        _, was_transparent = as_shown(first, self.space)
        return remarks + remarks_of(self.space, was_transparent)


def _durations_by_seeking(image: Image) -> Iterator[int]:
    for place in count():
        try:
            seek(image, place)
        except EOFError:
            return
        if image.format == "AVIF":
            image.load()  # where it finds the duration
        yield round(image.info.get("duration", 0))


def webp_durations(path: Path) -> Iterator[int]:
    """Milliseconds of every frame by the ANMF chunks (RFC 9649, 2.7.1.1): Pillow knows them only by decoding."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 12
        while at + 24 <= len(data):
            name, size = struct.unpack_from("<4sI", data, at)
            if name == b"ANMF":
                yield int.from_bytes(data[at + 20 : at + 23], "little")
            at += 8 + size + size % 2
