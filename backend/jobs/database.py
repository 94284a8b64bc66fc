"""The SQLite file of a store: opened, created, migrated and checked. One connection holds it, in WAL mode.

`synchronous=FULL`, because an acknowledged job must survive a power cut; a single connection, because SQLite before
3.51.3 can damage a WAL that two connections share.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from backend.core.errors import NotEnoughSpace, StudioBusy, StudioError
from backend.jobs.migrations import (
    FIRST_VERSION,
    SCHEMA_VERSION,
    check_not_newer,
    create_tables,
    has_all_columns,
    layout,
    migrate_tables,
)

BeforeMigration = Callable[[sqlite3.Connection, int], None]  # gets the database and its schema version

BUSY_S = 5.0  # how long another program may hold the file
LEAST_FREE_BYTES = 2**20  # with less, an error of the disk is taken for a full one
MAKE_ROOM = "delete videos and empty the trash, or make room in another way; then it goes on."
# What says nothing about the file itself.
OF_THE_DISK = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_AUTH,
)


class StoreDamaged(StudioError):
    """The file is not a database of jobs that this studio can use; `backend.jobs.history` finds another."""


def is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def connect(path: Path, before_migration: BeforeMigration = lambda database, version: None) -> sqlite3.Connection:
    """A connection to the whole database at `path`, a new one if there is none. `before_migration` is called before an
    older one is changed. Raises as Store does.
    """
    check_not_newer(path)
    old = path.exists()
    if old and path.is_file() and not path.stat().st_size:
        raise StoreDamaged("it is empty")  # SQLite would take it for a new one
    database = None
    try:
        database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        database.row_factory = sqlite3.Row
        database.text_factory = lambda raw: raw.decode(errors="replace")  # damaged text must not hide its row
        pragmas = (
            f"busy_timeout={1000 * BUSY_S:.0f}",
            "locking_mode=EXCLUSIVE",
            "journal_mode=WAL",
            "synchronous=FULL",
        )
        for pragma in (*pragmas, "foreign_keys=ON"):
            database.execute(f"PRAGMA {pragma}")
        found = database.execute("PRAGMA user_version").fetchone()[0]
        if found == 0 and old:
            raise sqlite3.DatabaseError("it has no tables")  # they were in a WAL that is lost or damaged
        if found == 0:
            create_tables(database)
        elif not FIRST_VERSION <= found <= SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"schema version {found}, this studio reads {SCHEMA_VERSION}")
        elif found < SCHEMA_VERSION or layout(database) != _todays_layout():
            # Of this version: a column more, or damage to a constraint. The rows move into new tables if all are there.
            if found == SCHEMA_VERSION and not has_all_columns(database):
                raise sqlite3.DatabaseError("its tables are not those of this studio")
            before_migration(database, found)
            migrate_tables(database, found)
        if found != SCHEMA_VERSION:
            # Out of the WAL at once: SQLite leaves a damaged WAL out without a word.
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")  # a damaged header can forbid every write
        if _fault(database) is not None:
            database.execute("REINDEX")  # an index that forgot a row is made anew from the rows
            if fault := _fault(database):
                raise sqlite3.DatabaseError(fault)
        return database
    except (sqlite3.Error, UnicodeDecodeError, StudioError) as error:  # the second where damage is quoted
        if database is not None:
            database.close()
        if isinstance(error, StudioError):
            raise
        raise explained(path, error) from None


def explained(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> StudioError:
    """Whether the file is damaged, or the disk or another program does not let it be read and written now."""
    if isinstance(error, UnicodeDecodeError):
        return StoreDamaged("malformed")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind
    may_write = os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.W_OK)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StudioBusy(f"Another program uses the history {path.name};", hint="close it, then start again.")
    if code not in OF_THE_DISK or (code == sqlite3.SQLITE_READONLY and may_write):
        return StoreDamaged(str(error))
    if code == sqlite3.SQLITE_FULL or shutil.disk_usage(path.parent).free < LEAST_FREE_BYTES:
        return NotEnoughSpace("The disk is full, and the history cannot be opened;", hint=MAKE_ROOM)
    why = f"{path.name} is a folder" if path.is_dir() else str(error)
    return StudioError(
        f"The history {path.name} cannot be opened ({why});",
        hint="nothing was changed; see that the disk is well and lets this user write, or move the file away: then the"
        " newest copy is taken.",
    )


def _fault(database: sqlite3.Connection) -> str | None:
    answer = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
    return None if answer == "ok" else str(answer)


@functools.cache
def _todays_layout() -> list[str]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        create_tables(database)
        return layout(database)
