"""Uploaded files: received in pieces, recognised by decoding, kept until no job needs them.

An upload is a folder `<id>` with `media` (a video as it came, a picture as our own PNG), `upload.json` and previews.
Uploads that are not complete, or being removed, are in `.parts`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import unicodedata
from collections.abc import Iterator, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from backend.core.config import GIB, MIB, Settings
from backend.core.errors import InvalidRequest, NotEnoughSpace, NotFound, UploadRefused
from backend.core.ids import is_id, new_id
from backend.core.plan import Source
from backend.core.planning import frames_at
from backend.core.schema import FPS, SIDE, Fit
from backend.durable import move_folder
from backend.media import guard
from backend.media.fitting import MIDDLE, Picture
from backend.media.probe import MediaInfo, probe
from backend.media.reader import read_frames, read_image
from backend.media.writer import write_poster

MEDIA = "media"
RECORD = "upload.json"
PARTS = ".parts"
PARTS_KEEP_S = 3600.0  # an upload that has not grown for an hour is not coming
NAME_LENGTH = 100
LEAST_FPS = 1e-3  # of a video; anything slower is a damaged record
PREVIEWS = 24  # sizes of one upload that are kept; a page asks for one or two

Count = Annotated[int, Field(gt=0, lt=2**31)]


@dataclass(frozen=True, slots=True)
class Upload:
    """An accepted file; `filename` is the sender's name for it, for display only."""

    id: str
    kind: Literal["image", "video"]
    width: Count
    height: Count
    frames: Count
    fps: Annotated[float, Field(ge=0, le=1e6)]  # 0 of a picture
    filename: str
    bytes: int
    notes: tuple[str, ...] = ()  # what is done to it unasked, in sentences

    @property
    def source(self) -> Source:
        """The video as planning knows it."""
        return Source(self.width, self.height, self.frames, self.fps)


UPLOAD = TypeAdapter(Upload)


class Uploads:
    """The uploads of one data folder."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.uploads
        self._parts = settings.uploads / PARTS
        self._limit_bytes = settings.upload_limit_bytes
        self._quota_bytes = settings.uploads_quota_bytes

    def receive(self, filename: str) -> UploadWriter:
        """Begin an upload. Use it as a context: leaving it without `accept` removes what was written.

        Raises NotEnoughSpace when the quota of all uploads is used up, and later when the disk is full.
        """
        used = sum(folder_bytes(folder) for folder in (*_folders(self._folder), *_folders(self._parts)))
        if used + self._limit_bytes > self._quota_bytes:
            raise NotEnoughSpace(
                f"Uploads take {used / GIB:.1f} of {self._quota_bytes / GIB:g} GiB;",
                hint="delete videos that used some, or wait: what no job needs goes after a day.",
                field="file",
            )
        upload_id = new_id()
        folder = self._parts / upload_id
        folder.mkdir(parents=True)
        return UploadWriter(folder, self._folder / upload_id, shown_name(filename), self._limit_bytes)

    def add(self, path: Path, filename: str = "") -> Upload:
        """Take a copy of a file of this machine; by `filename`, its own name by default. Raises as `receive` does."""
        with self.receive(filename or path.name) as incoming, path.open("rb") as file:
            while chunk := file.read(MIB):
                incoming.write(chunk)
            return incoming.accept()

    def get(self, upload_id: str) -> Upload:
        """The upload of that id; NotFound otherwise."""
        return self._record(self._existing(upload_id))

    def file(self, upload_id: str) -> Path:
        """Its picture or video; NotFound otherwise."""
        return self._existing(upload_id) / MEDIA

    def preview(self, upload_id: str, width: int, height: int, fit: Fit, position: float = MIDDLE) -> Path:
        """A JPEG of the picture, or of the video's last frame, as the model will see it at `width` x `height`.

        Raises NotFound, and InvalidRequest for a size that no video can have.
        """
        folder = self._existing(upload_id)
        if not all(SIDE.least <= side <= SIDE.most for side in (width, height)):
            sides = f"both sides go from {SIDE.least} to {SIDE.most}."
            raise InvalidRequest(f"{width}x{height} is no size of a video;", hint=sides, field="width")
        path = folder / f"preview-{width}x{height}-{fit.value}-{position:.3f}.jpg"
        if not path.exists():
            picture = self._as_model_input(folder, width, height, fit, position)
            part = folder / f"{path.name}.{new_id()}"
            write_poster(part, picture, max_width=width)
            part.replace(path)
            for old in sorted(folder.glob("preview-*.jpg"), key=lambda found: found.lstat().st_mtime_ns)[:-PREVIEWS]:
                old.unlink(missing_ok=True)
        return path

    def remove(self, upload_id: str) -> None:
        """Remove an upload that no job needs. Raises NotFound."""
        folder = self._existing(upload_id)
        self._parts.mkdir(exist_ok=True)
        # Moved away first: a half-removed upload must never be found.
        shutil.rmtree(folder.rename(self._parts / folder.name))

    def sweep(self, needed: Set[str], older_than_s: float, now: float) -> list[str]:
        """Remove uploads older than `older_than_s` that are not in `needed`, and parts that stopped growing; their ids.

        `now` is in seconds since 1970. Touches only what it made itself: real folders named by an id.
        """
        gone = []
        for folder in _folders(self._folder):
            if folder.name not in needed and now - _made_at(folder) > older_than_s:
                self.remove(folder.name)
                gone.append(folder.name)
        for folder in _folders(self._parts):
            if now - _last_change(folder, now) > PARTS_KEEP_S:
                shutil.rmtree(folder)
        return gone

    def _existing(self, upload_id: str) -> Path:
        folder = self._folder / upload_id
        if not is_id(upload_id) or not _is_real(folder):
            raise NotFound(f"There is no upload {upload_id[:40]!r};", hint="it may be cleaned up: send it again.")
        return folder

    def _record(self, folder: Path) -> Upload:
        with contextlib.suppress(OSError, ValueError):
            upload = UPLOAD.validate_json((folder / RECORD).read_bytes(), strict=True)
            has_a_rate = upload.fps >= LEAST_FPS or upload.kind == "image"
            if upload.id == folder.name and has_a_rate and (folder / MEDIA).is_file():
                return upload
        raise NotFound(f"The upload {folder.name} is damaged;", hint="send the file again.")

    def _as_model_input(self, folder: Path, width: int, height: int, fit: Fit, position: float) -> Picture:
        upload = self._record(folder)
        if upload.kind == "image":
            return read_image(folder / MEDIA, width, height, fit, position)
        fps = min(max(round(upload.fps), int(FPS.least)), int(FPS.most))
        last = frames_at(upload.source, fps) - 1
        file = folder / MEDIA
        frames = read_frames(file, fps=fps, width=width, height=height, fit=fit, position=position, start=last)
        picture: Picture = next(frames)[-1]
        frames.close()
        return picture


class UploadWriter:
    """An upload in progress: `write` the pieces, then `accept`."""

    def __init__(self, folder: Path, target: Path, name: str, limit_bytes: int) -> None:
        self._folder = folder
        self._target = target
        self._name = name
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._file = (folder / MEDIA).open("xb")

    def __enter__(self) -> UploadWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def write(self, data: bytes) -> None:
        """Append the next piece; UploadRefused as soon as there are more bytes than the limit."""
        self._bytes += len(data)
        if self._bytes > self._limit_bytes:
            self.discard()
            limit = self._limit_bytes / MIB
            raise UploadRefused(
                f"{self._name} is larger than {limit:g} MiB;", hint="make it smaller or shorter.", field="file"
            )
        try:
            self._file.write(data)
        except OSError as error:
            self.discard()
            raise _write_error(error) from error

    def accept(self) -> Upload:
        """Check the file by decoding it, and keep it. Raises UploadRefused, NotEnoughSpace."""
        try:
            self._file.close()
            upload = self._recognised()
            (self._folder / RECORD).write_text(json.dumps(asdict(upload), ensure_ascii=False), encoding="utf-8")
            move_folder(self._folder, self._target)
        except OSError as error:
            raise _write_error(error) from error
        return upload

    def discard(self) -> None:
        """Remove what was written, unless it was accepted."""
        with contextlib.suppress(OSError):  # buffered bytes may not fit on the disk
            self._file.close()
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _recognised(self) -> Upload:
        if not self._bytes:
            raise UploadRefused(f"{self._name} is empty;", hint="send a file with something in it.", field="file")
        media = self._folder / MEDIA
        info = probe(media, self._name)
        if info.kind == "image":
            self._normalise(media)
        return self._upload(info)

    def _normalise(self, media: Path) -> None:
        """Replace the picture by our own PNG of it, so that no hidden data or malformed file is read later."""
        png = self._folder / "png"
        with png.open("xb") as output:
            guard.decode("normalise", media, name=self._name, output=output)
        png.replace(media)

    def _upload(self, info: MediaInfo) -> Upload:
        return Upload(
            id=self._target.name,
            kind=info.kind,
            width=info.width,
            height=info.height,
            frames=info.frames,
            fps=info.fps,
            filename=self._name,
            bytes=self._bytes,
            notes=info.notes,
        )


def shown_name(filename: str) -> str:
    """`filename` without folders and without characters that are invisible, change the line or its direction.

    >>> shown_name("C:\\\\videos\\\\../a\\u202e cat.mp4")
    'a cat.mp4'
    """
    last = re.split(r"[/\\]", filename)[-1]
    visible = "".join(c for c in last if unicodedata.category(c) not in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))
    return visible.strip()[:NAME_LENGTH] or "upload"


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; files that are removed meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


def _write_error(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NotEnoughSpace("The disk is full;", hint="delete videos and empty the trash.", field="file")
    return error


def _is_real(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink()


def _folders(parent: Path) -> Iterator[Path]:
    if parent.is_dir():  # or a link of the user's to another disk
        yield from [path for path in parent.iterdir() if is_id(path.name) and _is_real(path)]


def _last_change(folder: Path, now: float) -> float:
    """When a file in it was last written; `now` if it was accepted or discarded this moment."""
    try:
        return max(path.lstat().st_mtime for path in [folder, *folder.iterdir()])
    except FileNotFoundError:
        return now


def _made_at(folder: Path) -> float:
    """When it was accepted: the record does not change afterwards, the folder does with every preview."""
    record = folder / RECORD
    return (record if record.exists() else folder).lstat().st_mtime
