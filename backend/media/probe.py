"""Kind, size, length and rate of a media file, found by decoding it in the sandboxed decoder process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backend.core.plan import Source
from backend.media import guard
from backend.media.refusal import SECONDS

OWN_VIDEO_SECONDS = 2 * SECONDS  # the studio's own may be an upload of full length and its continuation


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Width and height in pixels as shown, turned upright; the frames that the file has at its rate. A picture has 1
    frame and no fps. `notes` are sentences about what is done to the file unasked.
    """

    kind: Literal["image", "video"]
    width: int
    height: int
    frames: int = 1
    fps: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> Source:
        """The video as planning needs it."""
        return Source(self.width, self.height, self.frames, self.fps)


def probe(
    path: Path, name: str = "", *, longest_s: float = SECONDS, timeout_s: float = guard.ANSWER_TIMEOUT_S
) -> MediaInfo:
    """Kind, size, frames and rate of the file. Raises UploadRefused, which calls it `name`, unless it is a picture or
    video within the limits, decoded within `timeout_s` seconds.
    """
    found = probe_details(path, name, longest_s, timeout_s)
    return MediaInfo(
        found["kind"], found["width"], found["height"], found["frames"], found["fps"], tuple(found["notes"])
    )


def probe_details(path: Path, name: str, longest_s: float, timeout_s: float = guard.ANSWER_TIMEOUT_S) -> dict[str, Any]:
    """The fields of MediaInfo, and `comment`, the video's tag of that name. Raises UploadRefused as `probe` does."""
    answer: dict[str, Any] = json.loads(guard.decode("probe", path, longest_s, name=name, timeout_s=timeout_s))
    return answer
