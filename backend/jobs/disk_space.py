"""Disk space: checked before a job is accepted, and waited for where the disk fills up all the same."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from backend.core.config import MIB, Settings
from backend.core.errors import NotEnoughSpace
from backend.jobs.job import JobPlan

log = logging.getLogger(__name__)

CHECK_S = 5.0  # how often a full disk is checked for free space
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Refusals of the disk or the system that may pass, and that say nothing about what was read or written.
PASSING = FULL | {
    *(errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENODEV, errno.ENXIO, errno.ESTALE),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBUSY, errno.ETIMEDOUT),
}
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors words it


class DiskSpace:
    """Free space for videos: on the disk of the data folder, or those that its folders are links to."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._needed = 0  # bytes that must be free before another job is taken; 0 while nothing was wrong
        self._next_check = 0.0

    def check(self, plan: JobPlan) -> None:
        """Raise NotEnoughSpace if the result of `plan` does not fit."""
        free, needed = self._free(), self._bytes_for(plan)
        if free < needed:
            raise NotEnoughSpace(
                f"{_gb(free)} of disk are free, {_gb(needed)} are needed (with the reserve);",
                hint="delete videos and empty the trash, or move the data folder with --data.",
            )

    def wait_for(self, plan: JobPlan) -> NotEnoughSpace:
        """From now on `has_space` is False, until the result of `plan` fits. Returns the message for users."""
        self._needed = self._bytes_for(plan)
        # Not at once, even if there is room by the numbers: what filled the disk may do so again.
        self._next_check = time.monotonic() + CHECK_S
        return NotEnoughSpace(
            f"Waits for space on the disk: {_gb(self._needed)} must be free;",
            hint="delete videos and empty the trash. Then it goes on by itself.",
        )

    def has_space(self) -> bool:
        """Whether nothing is waited for; the disk is checked at most every CHECK_S."""
        if self._needed and time.monotonic() >= self._next_check:
            self._next_check += CHECK_S
            if self._free() >= self._needed:
                log.info("there is space on the disk again")
                self._needed = 0
        return not self._needed

    def _free(self) -> int:
        folders = (self._settings.data, self._settings.temp, self._settings.outputs)
        return min(shutil.disk_usage(folder).free for folder in folders if folder.is_dir())

    def _bytes_for(self, plan: JobPlan) -> int:
        return plan.forecast.disk_bytes + self._settings.disk_reserve_bytes


def _gb(size: int) -> str:
    """
    >>> _gb(0), _gb(2_340_000), _gb(5 * 10**9)
    ('0.0 MB', '2.3 MB', '5.0 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"


class ReserveFile:
    """A file of a few MB that is removed when the disk is full, so that the history can still be opened and written:
    cancelling and deleting, by which space is freed, must work then.
    """

    BYTES = 4 * MIB

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Create it, if the disk has space for a hundred of it. Raises OSError."""
        if not self._path.exists() and shutil.disk_usage(self._path.parent).free > 100 * self.BYTES:
            self._path.write_bytes(os.urandom(self.BYTES))  # which no file system makes smaller

    def release(self) -> bool:
        """Remove it; whether it was there."""
        try:
            self._path.unlink()
        except OSError:
            return False
        log.warning("the disk is full; the reserve of %d MB was released for the history", self.BYTES // MIB)
        return True


def is_of_the_disk(error: BaseException) -> bool:
    """Whether the disk or the system refused, for a reason that may pass."""
    return is_disk_full(error) or bool(PASSING & set(map(_number, _chain(error))))


def is_disk_full(error: BaseException | None) -> bool:
    """Whether that, or what it came from, says that nothing more can be written."""
    return any(
        isinstance(link, NotEnoughSpace)
        or _number(link) in FULL
        or getattr(link, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        for link in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _number(error: BaseException) -> int | None:
    """The errno of an error of the system, whoever words it."""
    worded = OS_ERROR.search(str(error))
    found = int(worded[1]) if worded else getattr(error, "errno", None)
    return found if isinstance(found, int) else None
