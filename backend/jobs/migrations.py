"""Schema migrations: numbered changes of the job tables and of the stored JSON of requests, plans, artifacts, recipes.

`user_version` of a database and `schema_version` of a recipe name the last migration that was applied; a recipe
without one was written by version 0.1 and is at 1. To change a stored name, add a migration with the next number here
and a data folder of the release before it in tests/compat/. Never change a migration that was released.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.core.errors import NewerData
from backend.jobs.job import JobState

Document = dict[str, Any]  # a JSON object
Change = Callable[[Document], Document]

TABLES = ("jobs", "settings")
STATES = ", ".join(repr(state.value) for state in JobState)
SCHEMA = (
    f"""CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL DEFAULT 'render',
    parent TEXT,
    batch TEXT,
    state TEXT NOT NULL CHECK (state IN ({STATES})),
    state_before TEXT,
    position REAL NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    trashed_at REAL,
    cancel_requested_at REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    crash_count INTEGER NOT NULL DEFAULT 0,
    favourite INTEGER NOT NULL DEFAULT 0,
    rating INTEGER,
    note TEXT,
    approved INTEGER NOT NULL DEFAULT 0,
    collections TEXT NOT NULL DEFAULT '[]',
    key TEXT UNIQUE,
    prompt TEXT,
    mode TEXT,
    model TEXT,
    request TEXT NOT NULL,
    plan TEXT NOT NULL,
    progress TEXT,
    error TEXT,
    artifact TEXT
) STRICT""",
    "CREATE INDEX jobs_by_state ON jobs (state, position)",
    "CREATE INDEX jobs_by_model ON jobs (model, state, finished_at)",
    "CREATE INDEX jobs_by_parent ON jobs (parent)",
    "CREATE INDEX jobs_by_batch ON jobs (batch)",
    "CREATE INDEX jobs_by_end ON jobs (finished_at)",
    "CREATE INDEX jobs_as_videos ON jobs (kind, state, trashed_at, finished_at, id)",
    "CREATE INDEX jobs_by_prompt ON jobs (kind, trashed_at, prompt, id)",
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
)


def _unchanged(document: Document) -> Document:
    return document


@dataclass(frozen=True, slots=True)
class Migration:
    """The change from `version` - 1 to `version`: SQL for the tables, then one function for each kind of JSON.

    New columns and constraints need no SQL here: at the end all rows move into tables made by today's SCHEMA.
    """

    version: int
    statements: tuple[str, ...] = ()
    request: Change = _unchanged
    plan: Change = _unchanged
    artifact: Change = _unchanged


def _rename(document: Document, **names: str) -> Document:
    """`document` with other names for its keys, in their order.

    >>> _rename({"a": 1, "b": 2}, a="c")
    {'c': 1, 'b': 2}
    """
    return {names.get(key, key): value for key, value in document.items()}


PLACEMENTS_0_2 = {"in_turns": "model_offload", "streamed": "group_offload"}
SIZES_0_2 = {"width", "height", "render_width", "render_height", "enlarged"}


def _plan_0_2(plan: Document) -> Document:
    plan = _rename(plan, eight_bits="fp8")
    if "placement" in plan:
        plan["placement"] = PLACEMENTS_0_2.get(plan["placement"], plan["placement"])
    if plan.keys() >= SIZES_0_2:
        plan["finishing_steps"] = _steps_0_2(plan)
    return plan


def _steps_0_2(plan: Document) -> list[Document]:
    """The finishing steps of a plan of version 0.1, whose frames were cropped or enlarged where the sizes differ."""
    size = {"width": plan["width"], "height": plan["height"]}
    if size == {"width": plan["render_width"], "height": plan["render_height"]}:
        return []
    return [{"step": "fit", "version": 1, **size, "method": "enlarge" if plan["enlarged"] else "crop"}]


MIGRATIONS = (
    # 0.1 -> 0.2: jobs have a kind and a parent, a cancellation is a column, plans name their finishing steps.
    Migration(
        2,
        (
            "ALTER TABLE jobs RENAME COLUMN deaths TO crash_count",
            "ALTER TABLE jobs ADD COLUMN cancel_requested_at REAL",
            "UPDATE jobs SET cancel_requested_at = started_at WHERE state IN ('running', 'paused')"
            " AND id || ' ' || attempts = (SELECT value FROM settings WHERE name = 'cancelled')",
            "DELETE FROM settings WHERE name = 'cancelled'",
        ),
        plan=_plan_0_2,
        artifact=lambda artifact: _rename(artifact, ran="runtime"),
    ),
    # 0.2 -> 0.3: jobs have marks (rating, note, approved, collections), which are new columns.
    Migration(3),
)
FIRST_VERSION = MIGRATIONS[0].version - 1
SCHEMA_VERSION = MIGRATIONS[-1].version
PLAUSIBLE_VERSIONS = 10_000  # a larger number is no version but damage


def check_not_newer(path: Path) -> None:
    """Raise NewerData, before anything is changed, for a database that a newer version of the studio has migrated."""
    version = stored_version(path)
    if version is not None and SCHEMA_VERSION < version < PLAUSIBLE_VERSIONS:
        raise NewerData(
            f"The history {path.name} was written by a newer version of the studio (schema {version}; this version"
            f" reads up to {SCHEMA_VERSION}). It was not changed;",
            hint="start that version again, or name another data folder with --data.",
        )


def stored_version(path: Path) -> int | None:
    """`user_version` of a database without opening it, because opening changes its files; None if it has none.

    What a killed process left in the WAL counts: that is read from a copy.
    """
    try:
        header = path.open("rb").read(64)
        wal = path.with_name(f"{path.name}-wal")
        if not header.startswith(b"SQLite format 3\0") or len(header) < 64:
            return None
        if not wal.exists() or not wal.stat().st_size:
            return int.from_bytes(header[60:64], "big")
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            shutil.copyfile(path, copy)
            shutil.copyfile(wal, copy.with_name(wal.name))
            with contextlib.closing(sqlite3.connect(copy)) as database:
                return int(database.execute("PRAGMA user_version").fetchone()[0])
    except (OSError, sqlite3.Error):
        return None


def create_tables(database: sqlite3.Connection) -> None:
    """Make today's tables in an empty database, in one transaction."""
    with transaction(database):
        for statement in SCHEMA:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def migrate_tables(database: sqlite3.Connection, version: int) -> None:
    """Bring the tables and the JSON in them from `version` to today's, in one transaction: all of it or nothing.

    JSON that cannot be changed stays as it is. Raises sqlite3.Error where the tables are not those of `version`.
    """
    with transaction(database):
        for migration in MIGRATIONS:
            if migration.version > version:
                for statement in migration.statements:
                    database.execute(statement)
                _migrate_rows(database, migration)
        _rebuild(database)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Any:
    """Commit what is done inside, or nothing of it; for a connection with `isolation_level=None`."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def layout(database: sqlite3.Connection) -> list[str]:
    """The statements that made the tables and indexes of a database, as SQLite keeps them."""
    return [row[0] for row in database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")]


def has_all_columns(database: sqlite3.Connection) -> bool:
    """Whether every column of today's tables is there, of its type; there may be others."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as todays:
        create_tables(todays)
        return all(_columns(todays, table) <= _columns(database, table) for table in TABLES)


def _columns(database: sqlite3.Connection, table: str) -> set[tuple[str, str]]:
    return {(str(row[1]), str(row[2])) for row in database.execute(f"PRAGMA table_info({table})")}


def _migrate_rows(database: sqlite3.Connection, migration: Migration) -> None:
    changes = {"request": migration.request, "plan": migration.plan, "artifact": migration.artifact}
    changes = {column: change for column, change in changes.items() if change is not _unchanged}
    for column, change in changes.items():
        rows = database.execute(f"SELECT rowid, {column} FROM jobs WHERE {column} IS NOT NULL").fetchall()
        for number, text in rows:
            migrated = _migrated(text, change)
            if migrated is not None:
                database.execute(f"UPDATE jobs SET {column} = ? WHERE rowid = ?", (migrated, number))


def _migrated(text: str, change: Change) -> str | None:
    """The JSON after `change`; None where it is the same, or no object that could be changed."""
    try:
        before = json.loads(text)
        after = change(before)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return json.dumps(after, ensure_ascii=False) if after != before else None


def _rebuild(database: sqlite3.Connection) -> None:
    """Move all rows into tables made by today's SCHEMA; columns that it does not have are left behind, and a job in a
    state that it does not have becomes unreadable.
    """
    indexes = database.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
    for (name,) in indexes:
        database.execute(f'DROP INDEX "{name}"')
    for table in TABLES:
        database.execute(f"ALTER TABLE {table} RENAME TO {table}_before")
    for statement in SCHEMA:
        database.execute(statement)
    for table in TABLES:
        before = {name for name, _ in _columns(database, f"{table}_before")}
        columns = {name: name for name, _ in _columns(database, table) if name in before}
        if "state" in columns:
            columns |= {
                "state": f"CASE WHEN state IN ({STATES}) THEN state ELSE 'unreadable' END",
                "state_before": f"CASE WHEN state NOT IN ({STATES}) THEN state"
                f" ELSE {columns.get('state_before', 'NULL')} END",
            }
        into, what = ", ".join(columns), ", ".join(columns.values())
        database.execute(f"INSERT INTO {table} ({into}) SELECT {what} FROM {table}_before ORDER BY rowid")
        database.execute(f"DROP TABLE {table}_before")


def migrate_recipe(recipe: Mapping[str, Any]) -> Document:
    """A recipe, of a sidecar or inside an MP4, in today's names; what cannot be changed stays as it is.

    Raises NewerData for the recipe of a newer version, whose names this version does not know.
    """
    migrated = dict(recipe)
    version = migrated.get("schema_version", FIRST_VERSION)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise NewerData(
            f"The recipe was written by a newer version of the studio (schema {version}; this version reads up to"
            f" {SCHEMA_VERSION});",
            hint="open it with that version.",
        )
    for migration in MIGRATIONS:
        if migration.version > version:
            for part in ("request", "plan", "artifact"):
                if isinstance(migrated.get(part), dict):
                    with contextlib.suppress(TypeError, LookupError, AttributeError):
                        migrated[part] = getattr(migration, part)(migrated[part])
    return migrated | {"schema_version": SCHEMA_VERSION}
