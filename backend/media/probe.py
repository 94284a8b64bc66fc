"""What a file is: recognised by decoding it in the guarded child."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backend.core.planning import Source
from backend.media import guard
from backend.media.decoder import VIDEO_SECONDS

FILM_SECONDS = 2 * VIDEO_SECONDS  # a film of our own may be an upload of full length and what continues it


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Width and height in pixels as shown, turned upright; the frames in the file. A picture has 1 frame and no fps."""

    kind: Literal["image", "video"]
    width: int
    height: int
    frames: int = 1
    fps: float = 0.0

    @property
    def source(self) -> Source:
        """The same as planning knows it; of a video only."""
        return Source(self.width, self.height, self.frames, self.fps)


def probe(
    path: Path, name: str = "", *, longest_s: float = VIDEO_SECONDS, patience_s: float = guard.ANSWER_S
) -> MediaInfo:
    """What is in the file; UploadRefused, which calls it `name`, unless it is a picture or video within the limits."""
    found = facts(path, name, longest_s, patience_s)
    return MediaInfo(found["kind"], found["width"], found["height"], found["frames"], found["fps"])


def facts(path: Path, name: str, longest_s: float, patience_s: float = guard.ANSWER_S) -> dict[str, Any]:
    """All that the child says: what MediaInfo holds, and `comment`, the video's tag of that name."""
    answer: dict[str, Any] = json.loads(guard.ask("probe", path, longest_s, name=name, patience_s=patience_s))
    return answer
