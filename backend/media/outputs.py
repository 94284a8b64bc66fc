"""The folder of a finished video: checked, published in one step, moved to the trash and restored."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.core.errors import Conflict, NotFound, RenderFailed, UploadRefused
from backend.core.ids import is_id
from backend.durable import move_folder
from backend.media.guard import RENDER_ANSWER_TIMEOUT_S
from backend.media.probe import OWN_VIDEO_SECONDS, MediaInfo, probe

VIDEO = "video.mp4"
THUMBNAIL = "thumbnail.jpg"
METADATA = "metadata.json"
PARTIAL_VIDEO = "partial.mp4"  # in the work folder while a video is rendered: the partial video,
PREVIEW = "preview.webp"  # and the preview of the latents that are being denoised
TRASH = ".trash"


def publish(work: Path, outputs: Path, name: str, *, expect: MediaInfo) -> Path:
    """Move the folder `work` to `outputs`/`name`, synced to the disk, and return that; its video must match `expect`.

    Raises RenderFailed if the video is damaged, has no poster or another size, rate or number of frames, Conflict if
    `outputs`/`name` exists.
    """
    from PIL import Image

    try:
        found = probe(work / VIDEO, longest_s=OWN_VIDEO_SECONDS, timeout_s=RENDER_ANSWER_TIMEOUT_S)
    except UploadRefused as error:
        raise RenderFailed(f"The finished video cannot be read back: {error.message}", hint="try again.") from error
    if replace(found, fps=expect.fps) != expect or abs(found.fps - expect.fps) > 0.001 * expect.fps:
        raise RenderFailed(f"The finished video has {_shape(found)}, not {_shape(expect)};", hint="try again.")
    try:
        Image.open(work / THUMBNAIL).load()
    except OSError as error:
        raise RenderFailed(f"The poster of the video cannot be read back: {error}", hint="try again.") from error
    return move_result(work, outputs, name)


def move_result(work: Path, outputs: Path, name: str) -> Path:
    """Move a finished result to `outputs`/`name` and return that; it is whole and on the disk. Raises Conflict."""
    return _move(work, _folder(outputs, name))


def write_metadata(work: Path, metadata: Mapping[str, Any]) -> None:
    """Write the sidecar file of the video, metadata.json."""
    (work / METADATA).write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_metadata(folder: Path) -> dict[str, Any]:
    """The sidecar of a video's folder. Raises NotFound where there is none that can be read."""
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        metadata = None
    if not isinstance(metadata, dict):
        raise NotFound(f"{folder.name} has no metadata that can be read;", hint="its video may still be there.")
    return metadata


def move_to_trash(outputs: Path, name: str) -> None:
    """Move a video to the trash; `purge_trash` counts its age from now on. Raises NotFound, Conflict."""
    folder = _existing(outputs, name)
    trash = outputs / TRASH
    trash.mkdir(exist_ok=True)
    os.utime(folder)
    _move(folder, _folder(trash, name))


def restore_from_trash(outputs: Path, name: str) -> None:
    """Move a video back from the trash. Raises NotFound, Conflict."""
    _move(_existing(outputs / TRASH, name), _folder(outputs, name))


def purge_trash(outputs: Path, older_than_s: float, now: float) -> list[str]:
    """Delete what was moved to the trash more than `older_than_s` before `now` (seconds since 1970); the names."""
    trash = outputs / TRASH
    if not trash.is_dir():
        return []
    old = [f for f in sorted(trash.iterdir()) if _is_video_folder(f) and now - f.stat().st_mtime > older_than_s]
    for folder in old:
        shutil.rmtree(folder)
    return [folder.name for folder in old]


def _folder(parent: Path, name: str) -> Path:
    if not is_id(name):
        raise NotFound(f"{name[:40]!r} is not the id of a job;", hint="it has 20 characters of 0-9 and a-z.")
    return parent / name


def _existing(parent: Path, name: str) -> Path:
    folder = _folder(parent, name)
    if not _is_video_folder(folder):
        raise NotFound(f"There is no video {name} here;", hint="look in the gallery, or in the trash.")
    return folder


def _is_video_folder(folder: Path) -> bool:
    return is_id(folder.name) and folder.is_dir() and not folder.is_symlink()


def _move(folder: Path, target: Path) -> Path:
    try:
        move_folder(folder, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise Conflict(f"A video {target.name} is there already;", hint="it was left as it is.") from None
    return target


def _shape(info: MediaInfo) -> str:
    return f"{info.frames} frames of {info.width}x{info.height} at {info.fps:g} fps"
