"""The files that a request may refer to, one row each, and the modes that take them.

Everything that handles inputs reads `INPUTS`: validation, planning, clean-up of uploads, command line and pages. A row
needs a field of the same name in `GenerationRequest`, which holds the id of an upload.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum


class Mode(str, Enum):
    TEXT_TO_VIDEO = "text_to_video"
    IMAGE_TO_VIDEO = "image_to_video"
    VIDEO_EXTENSION = "video_extension"


def mode_title(mode: str) -> str:
    """What a video without a prompt is called.

    >>> mode_title("video_extension")
    'Video extension'
    """
    return mode.replace("_", " ").capitalize()


class MediaKind(str, Enum):
    """What a file holds, as the studio found by decoding it."""

    IMAGE = "image"
    VIDEO = "video"

    @property
    def noun(self) -> str:
        return {MediaKind.IMAGE: "a picture", MediaKind.VIDEO: "a video"}[self]

    @property
    def formats(self) -> str:
        return {MediaKind.IMAGE: "a JPG, PNG or WebP", MediaKind.VIDEO: "an MP4, MOV, AVI or MKV"}[self]


@dataclass(frozen=True, slots=True)
class Input:
    """A field of a request whose value is the id of an upload, or a list of ids where `most` is more than 1."""

    name: str
    kind: MediaKind
    modes: frozenset[Mode]  # that take it
    label: str
    help: str
    required_by: frozenset[Mode] = frozenset()
    most: int = 1


INPUTS: dict[str, Input] = {
    row.name: row
    for row in (
        Input(
            "image",
            MediaKind.IMAGE,
            modes=frozenset({Mode.IMAGE_TO_VIDEO}),
            required_by=frozenset({Mode.IMAGE_TO_VIDEO}),
            label="First frame",
            help="A picture that the video begins with.",
        ),
        Input(
            "end_image",
            MediaKind.IMAGE,
            modes=frozenset({Mode.IMAGE_TO_VIDEO, Mode.VIDEO_EXTENSION}),
            label="Last frame",
            help="A picture that the video ends with, for models that can do so.",
        ),
        Input(
            "video",
            MediaKind.VIDEO,
            modes=frozenset({Mode.VIDEO_EXTENSION}),
            required_by=frozenset({Mode.VIDEO_EXTENSION}),
            label="Video to extend",
            help="A video that is continued from its end.",
        ),
    )
}

ANY_UPLOAD = "0" * 20  # stands for an upload where a request is only checked


def required_inputs(mode: Mode) -> list[Input]:
    """The inputs without which `mode` cannot be requested."""
    return [row for row in INPUTS.values() if mode in row.required_by]


def placeholders(mode: Mode) -> dict[str, str]:
    """Fields that make a request of `mode` complete before its files are there.

    >>> placeholders(Mode.VIDEO_EXTENSION), placeholders(Mode.TEXT_TO_VIDEO)
    ({'video': '00000000000000000000'}, {})
    """
    return {row.name: ANY_UPLOAD for row in required_inputs(mode)}


def mode_for(given: Collection[str]) -> Mode:
    """The mode that follows from the names of the inputs that are given: the last one that has all it requires.

    >>> mode_for(["image", "end_image"]), mode_for([])
    (<Mode.IMAGE_TO_VIDEO: 'image_to_video'>, <Mode.TEXT_TO_VIDEO: 'text_to_video'>)
    """
    able = [mode for mode in Mode if required_inputs(mode) and {row.name for row in required_inputs(mode)} <= {*given}]
    return able[-1] if able else Mode.TEXT_TO_VIDEO
