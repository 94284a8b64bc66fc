"""A ZIP of stored files as a stream: no copy on the disk, and no more than a piece of one file in memory."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.core.units import MIB

PIECE = MIB
# Sizes of the records in bytes, without names and extra fields (APPNOTE.TXT of PKWARE, sections 4.3.7 to 4.3.16).
LOCAL_HEADER, DESCRIPTOR, CENTRAL_HEADER, END = 30, 16, 46, 22
ZIP64_LOCAL_FIELD, ZIP64_DESCRIPTOR, ZIP64_END = 20, 24, 56 + 20
FIRST, LATEST = 315_619_200, 4_354_700_000  # times that a ZIP can have: the years 1980 to 2107
EXTRA_FIELD = 4  # id and length of an extra field, before its numbers of 8 bytes


@dataclass(frozen=True, slots=True)
class Member:
    """A file, its ASCII name in the archive, its size in bytes and when it was made, in seconds since 1970."""

    name: str
    path: Path
    size: int
    made_at: float

    @classmethod
    def of(cls, name: str, path: Path) -> Member:
        """Raises OSError where there is no such file."""
        status = path.stat()
        return cls(name, path, status.st_size, status.st_mtime)

    @property
    def info(self) -> zipfile.ZipInfo:
        made = time.localtime(min(max(self.made_at, FIRST), LATEST))
        info = zipfile.ZipInfo(self.name, made[:6])
        info.file_size = self.size
        info.external_attr = 0o644 << 16
        return info


def zip_size(members: Sequence[Member]) -> int:
    """The bytes of the archive that `stream_zip` makes, whose larger offsets and sizes are in fields of ZIP64."""
    limit, offset, directory = zipfile.ZIP64_LIMIT, 0, 0
    for member in members:
        numbers = 2 * (member.size > limit) + (offset > limit)
        directory += CENTRAL_HEADER + len(member.name) + (EXTRA_FIELD + 8 * numbers if numbers else 0)
        zip64 = member.size * 1.05 > limit  # as zipfile decides it before it has the data
        offset += LOCAL_HEADER + len(member.name) + (ZIP64_LOCAL_FIELD if zip64 else 0)
        offset += member.size + (ZIP64_DESCRIPTOR if zip64 else DESCRIPTOR)
    large = offset > limit or directory > limit or len(members) > zipfile.ZIP_FILECOUNT_LIMIT
    return offset + directory + (ZIP64_END if large else 0) + END


def stream_zip(members: Sequence[Member]) -> Iterator[bytes]:
    """The archive in pieces. Raises OSError where a file has gone meanwhile: then the stream ends too early."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for member in members:
            with member.path.open("rb") as file, archive.open(member.info, "w") as entry:
                while piece := file.read(PIECE):
                    entry.write(piece)
                    yield sink.drain()
    yield sink.drain()


class _Sink:
    """What `zipfile` writes to, which cannot go back in it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None: ...

    def drain(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
