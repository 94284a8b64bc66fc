"""A disk that is full when one certain thing is written to it, as SQLite's own tests have one."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import sys
import threading
from collections import Counter
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR
JOB_ID = re.compile(r"\b[a-z0-9]{20}\b")
STATEMENTS = ("INSERT", "UPDATE", "DELETE", "BEGIN", "VACUUM")


class FaultyDisk:
    """While `armed`, counts by name every file opened for writing, renamed, synced or made below `folder`, and every
    statement that writes to a store. `fails_at` names one, (what, how many of them so far), which is refused.
    """

    def __init__(self, folder: Path, fails_at: tuple[str, int] | None = None) -> None:
        self.folder = os.fsencode(str(folder)).decode()
        self.fails_at = fails_at
        self.seen: Counter[str] = Counter()
        self.armed = False
        self.failed = False
        self._lock = threading.Lock()

    def point(self, what: str) -> bool:
        with self._lock:
            if not self.armed:
                return False
            self.seen[what] += 1
            if (what, self.seen[what]) != self.fails_at:
                return False
            self.failed = True
            return True

    def touch(self, what: str) -> None:
        if self.point(what):
            raise OSError(errno.ENOSPC, "No space left on device")

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._file("open", arguments[0])
        elif event in ("os.rename", "os.mkdir"):
            self._file(event, arguments[1] if event == "os.rename" else arguments[0])

    def _file(self, what: str, path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            name = os.fsdecode(path)
            if name.startswith(self.folder):
                self.touch(f"{what} {JOB_ID.sub('*', name.removeprefix(self.folder))}")


_current: FaultyDisk | None = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _current is not None and event in ("open", "os.rename", "os.mkdir"):
        _current.audit(event, arguments)


sys.addaudithook(_hook)  # for good: there is no taking it back


def install(disk: FaultyDisk | None) -> None:
    global _current
    _current = disk


class FullDatabase:
    """A connection whose writing statements meet the faulty disk."""

    def __init__(self, real: sqlite3.Connection, disk: FaultyDisk) -> None:
        self._real, self._disk = real, disk

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        if sql.startswith(STATEMENTS) and self._disk.point(sql[:36]):
            full = sqlite3.OperationalError("database or disk is full")
            full.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise full
        return self._real.execute(sql, *values)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def __enter__(self) -> object:
        return self._real.__enter__()

    def __exit__(self, *arguments: object) -> object:
        return self._real.__exit__(*arguments)
