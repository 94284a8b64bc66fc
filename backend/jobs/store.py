"""Where jobs are kept: one SQLite file, one connection, one lock. A call that returns is on the disk.

WAL with `synchronous=FULL`, because an acknowledged job must survive a power cut; a single connection, because SQLite
before 3.51.3 can damage a WAL that two connections share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import shutil
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from backend.core.errors import Conflict, NotEnoughSpace, NotFound, QueueFull, StudioBusy, StudioError, no_such_job
from backend.core.ids import is_id, new_id
from backend.core.inputs import INPUTS
from backend.core.planning import Plan, Progress, Stage
from backend.core.schema import GenerationRequest
from backend.durable import replace_file
from backend.jobs.job import (
    ACTIVE,
    ARTIFACT,
    ERROR,
    PLAN,
    PROGRESS,
    RETRIABLE,
    TRANSITIONS,
    Artifact,
    Job,
    JobError,
    JobState,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

SCHEMA_VERSION = 1
DEATH = 4  # what a death counts; and where the whole studio was killed with it, so that the job need not be the reason
WITH_ALL = 1
DEATHS_TO_QUARANTINE = 3 * DEATH
# How far a job is that waits again: as far as it was, if that was saved, but nothing of the next attempt is saved yet.
WHERE_IT_WAS = "CASE WHEN json_extract(progress, '$.saved_at') IS NULL THEN NULL"
WHERE_IT_WAS += " ELSE json_remove(progress, '$.saved_at') END"
BUSY_S = 5.0  # how long another program may hold the file
LEAST_FREE_BYTES = 2**20  # with less, an error of the disk is taken for a full one
MAKE_ROOM = "delete films and empty the trash, or make room in another way; then it goes on."
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
SEARCH_WORDS = 50  # SQLite refuses conditions without end
LATEST = 253402300799.0  # the last second of the year 9999

SCHEMA = f"""
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ({", ".join(repr(s.value) for s in JobState)})),
    position REAL NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    trashed_at REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    favourite INTEGER NOT NULL DEFAULT 0,
    key TEXT UNIQUE,
    prompt TEXT NOT NULL,
    mode TEXT NOT NULL,
    model TEXT NOT NULL,
    request TEXT NOT NULL,
    plan TEXT NOT NULL,
    progress TEXT,
    error TEXT,
    artifact TEXT
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, position);
CREATE INDEX jobs_by_model ON jobs (model, state, finished_at);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
PRAGMA user_version = {SCHEMA_VERSION};
"""


class StoreDamaged(StudioError):
    """The file is not a database of jobs that this studio can use; `backend.jobs.history` finds another."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs to list; what is left out does not narrow. `before` is the id after which a list goes on."""

    states: Sequence[JobState] = ()
    search: str = ""
    mode: str | None = None
    model: str | None = None
    favourite: bool = False
    trashed: bool = False
    before: str | None = None
    ended_since: float | None = None
    last_ended_first: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """How the jobs of one model went: how many succeeded and failed, and the median seconds of a render."""

    model: str
    succeeded: int
    failed: int
    median_s: float | None


class Store:
    """The jobs table and a few settings. Thread-safe; `version` grows with every change, so pollers can skip work.

    Its files belong to it alone while it is open, and what a call has written stands in them under their names: where
    somebody removes them meanwhile, they are written anew. On a full disk `make_room` is asked once for some more.

    Raises StoreDamaged for a file that is no whole database of this schema; and where the disk is to blame and the file
    may be whole, NotEnoughSpace, StudioBusy (another program holds it) or StudioError. Every call raises NotEnoughSpace
    where the disk is full.
    """

    def __init__(self, path: Path, make_room: Callable[[], bool] = lambda: False) -> None:
        self.version = 0
        self._path = path
        self._make_room = make_room
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = _connect(path)
        except NotEnoughSpace:
            if not make_room():
                raise
            self._db = _connect(path)
        self._files = self._seen()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # --- its files ---

    def keep_files(self) -> None:
        """Write the files anew if they are not those that were opened, or were cut. Raises as Store does: StoreDamaged
        where what they held cannot be read any more.
        """
        with self._lock:
            seen = self._seen()
            if all(old[0] == new[0] and old[1] <= new[1] for old, new in zip(self._files, seen, strict=True)):
                self._files = seen
                return
            log.error("the files of the history were removed or cut while it was open; they are written anew")
            part = self._path.with_name(self._path.name + ".part")
            try:
                part.unlink(missing_ok=True)
                self._db.execute("VACUUM INTO ?", (str(part),))
            except sqlite3.Error as error:
                with contextlib.suppress(OSError):
                    part.unlink()
                raise _explained(self._path, error) from error
            self._db.close()
            for companion in ("-wal", "-shm"):
                self._path.with_name(self._path.name + companion).unlink(missing_ok=True)
            replace_file(part, self._path)
            self._db = _connect(self._path)
            self._files = self._seen()

    def _seen(self) -> list[tuple[int, int]]:
        """Inode and size of the database and of its WAL; zeros for one that is not there."""
        found = []
        for companion in ("", "-wal"):
            try:
                status = os.stat(f"{self._path}{companion}")
                found.append((status.st_ino, status.st_size))
            except FileNotFoundError:
                found.append((0, 0))
        return found

    # --- copies, and what damage leaves ---

    def copy_to(self, file: Path) -> None:
        """Write a copy of everything to a new file."""
        self._run("VACUUM INTO ?", str(file))

    def take_out_unreadable(self) -> list[str]:
        """Remove the rows that make no job any more; their ids."""
        with self._lock:
            lost = [row for row in self._all("SELECT rowid, * FROM jobs") if not _is_whole(row)]
            for row in lost:  # by its number: a damaged id need not equal itself once it is decoded
                self._run("DELETE FROM jobs WHERE rowid = ?", row["rowid"])
            self.version += bool(lost)
            return [str(row["id"]) for row in lost]

    def take_back(self, copy: Path, job_ids: Iterable[str] | None = None) -> int:
        """Add those of `job_ids` that are not here from an earlier copy of the store, or all that waited there; an
        unusable copy has none. How many were added.
        """
        try:
            source = Store(copy)
        except StudioError:
            return 0
        source.take_out_unreadable()
        added = 0
        for job_id in [job_id for job_id, _ in source.queue()] if job_ids is None else job_ids:
            with contextlib.suppress(NotFound):
                added += self.adopt(source.get(job_id))
        source.close()
        return added

    def has(self, job_id: str) -> bool:
        return self._one("SELECT 1 FROM jobs WHERE id = ?", job_id) is not None

    def adopt(self, job: Job) -> bool:
        """Add a job as it is, unless one with its id is here or it could not be read again; whether it was added."""
        try:
            if not _is_plausible(_again(job)):
                return False
        except (ValueError, TypeError):
            return False
        return self._change(
            "INSERT OR IGNORE INTO jobs (id, state, position, created_at, started_at, finished_at, trashed_at,"
            " attempts, deaths, favourite, prompt, mode, model, request, plan, error, artifact)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(job.id, job.state.value, job.position, job.created_at, job.started_at, job.finished_at, job.trashed_at),
            *(job.attempts, job.deaths, int(job.favourite), job.request.prompt, job.request.mode.value, job.plan.model),
            *(job.request.model_dump_json(), PLAN.dump_json(job.plan).decode()),
            ERROR.dump_json(job.error).decode() if job.error else None,
            ARTIFACT.dump_json(job.artifact).decode() if job.artifact else None,
        )

    # --- in ---

    def add(self, request: GenerationRequest, plan: Plan, *, key: str | None = None, limit: int = 1000) -> Job:
        """Queue a job, or return the one that `key` made already.

        Raises Conflict if `key` came with another request, QueueFull at `limit` waiting jobs.
        """
        with self._lock:
            if key:
                row = self._one("SELECT * FROM jobs WHERE key = ?", key)
                if row:
                    return _same_request(_job(row), request, key)
            waiting = self._one("SELECT count(*) AS n FROM jobs WHERE state = 'queued'")["n"]
            if waiting >= limit:
                raise QueueFull(
                    f"{waiting} jobs are waiting, which is the limit;", hint="try again when some are done."
                )
            last = self._one("SELECT (SELECT max(position) FROM jobs) AS position, (SELECT max(id) FROM jobs) AS id")
            row = self._one(
                "INSERT INTO jobs (id, state, position, created_at, key, prompt, mode, model, request, plan)"
                " VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
                *(new_id(after=last["id"] or ""), (last["position"] or 0) + 1, time.time(), key or None),
                *(request.prompt, request.mode.value, plan.model),
                *(request.model_dump_json(), PLAN.dump_json(plan).decode()),
            )
            self.version += 1
            return _job(row)

    # --- the worker's side; `attempt` fences a worker that lost its job ---

    def claim(self) -> Job | None:
        """The first waiting job, now RUNNING with one more attempt; None if there is none or the queue is paused."""
        with self._lock:
            if self.queue_paused:
                return None
            row = self._one(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, started_at = ?, finished_at = NULL,"
                " error = NULL WHERE id = (SELECT id FROM jobs WHERE state = 'queued'"
                " ORDER BY position LIMIT 1) RETURNING *",
                time.time(),
            )
            self.version += row is not None
            return _job(row) if row else None

    def set_progress(self, job: Job, progress: Progress) -> None:
        text = PROGRESS.dump_json(progress).decode()
        self._change("UPDATE jobs SET progress = ? WHERE id = ? AND attempts = ?", text, job.id, job.attempts)

    def note_cancelled(self, job: Job) -> None:
        """Keep that this attempt is to end, should the process die before it has."""
        self._change("INSERT OR REPLACE INTO settings VALUES ('cancelled', ?)", f"{job.id} {job.attempts}")

    def finish(
        self, job: Job, state: JobState, *, error: JobError | None = None, artifact: Artifact | None = None
    ) -> bool:
        """Write how this attempt ended; False if the row belongs to a later attempt or has ended already."""
        return self._change(
            "UPDATE jobs SET state = ?, finished_at = ?, error = ?, artifact = ?"
            " WHERE id = ? AND attempts = ? AND state IN ('running', 'paused')",
            *(state.value, time.time()),
            ERROR.dump_json(error).decode() if error else None,
            ARTIFACT.dump_json(artifact).decode() if artifact else None,
            *(job.id, job.attempts),
        )

    def give_back(self, job: Job, why: JobError | None = None) -> bool:
        """Queue a running job again, where it was in the line; not counted as a death. `why` says what it waits for."""
        return self._change(
            f"UPDATE jobs SET state = 'queued', progress = {WHERE_IT_WAS}, error = ?"
            " WHERE id = ? AND attempts = ? AND state = 'running'",
            *(ERROR.dump_json(why).decode() if why else None, job.id, job.attempts),
        )

    def recover(self, last_words: Callable[[str], tuple[str, ...]] = lambda _: (), *, death: int = DEATH) -> list[Job]:
        """Queue again what a dead process left RUNNING, unless it was being cancelled; the third death of a job
        quarantines it, with `last_words`, the end of the log about it. `death` is what this one counts.

        An attempt that saved where it stood got further than the one before, so its death counts as the first.
        """
        with self._lock:
            self._change(
                "UPDATE jobs SET state = 'cancelled', finished_at = ? WHERE state IN ('running', 'paused')"
                " AND id || ' ' || attempts = (SELECT value FROM settings WHERE name = 'cancelled')",
                time.time(),
            )
            rows = self._all(
                "UPDATE jobs SET deaths = CASE WHEN json_extract(progress, '$.saved_at') IS NULL THEN deaths + ?"
                " ELSE ? END WHERE state = 'running' RETURNING *",
                death,
                death,
            )
            for row in rows:
                if row["deaths"] >= DEATHS_TO_QUARANTINE:
                    error = JobError.of(
                        "quarantined",
                        "The studio died several times before this job had saved any further; it is set aside.",
                        "Retry it: it goes on from its last saved step. If it ends the studio again, lower its size.",
                        last_words(row["id"]),
                    )
                    self.finish(_job(row), JobState.QUARANTINED, error=error)
                else:
                    self._run(f"UPDATE jobs SET state = 'queued', progress = {WHERE_IT_WAS} WHERE id = ?", row["id"])
            self.version += bool(rows)
            return [self.get(row["id"]) for row in rows]

    # --- everybody's side ---

    def move_to_state(self, job_id: str, to: JobState) -> Job:
        """Change the state by hand: cancel, pause, resume, retry. Raises Conflict if `to` cannot follow."""
        with self._lock:
            job = self.get(job_id)
            if job.trashed_at is not None:
                raise Conflict(f"Job {job_id} is in the trash;", hint="restore it first.")
            if to not in TRANSITIONS[job.state]:
                already = (
                    f"is {to.value} already" if to is job.state else f"is {job.state.value} and cannot be {to.value}"
                )
                raise Conflict(f"Job {job_id} {already};", hint=_way_out(job))
            ended = time.time() if to is JobState.CANCELLED else None
            retried = job.state in RETRIABLE
            self._run(
                "UPDATE jobs SET state = ?, finished_at = ?, deaths = CASE ? WHEN 1 THEN 0 ELSE deaths END,"
                " position = CASE ? WHEN 1 THEN (SELECT max(position) + 1 FROM jobs) ELSE position END,"
                " error = CASE ? WHEN 1 THEN NULL ELSE error END,"
                " progress = CASE ? WHEN 1 THEN NULL ELSE progress END WHERE id = ?",
                *(to.value, ended, retried, retried, retried, retried, job_id),
            )
            self.version += 1
            return self.get(job_id)

    def move(self, job_id: str, places: int | None) -> Job:
        """Move a waiting job by `places` (negative: earlier); None: to the front. Others keep their order."""
        with self._lock:
            if self.get(job_id).state is not JobState.QUEUED:
                raise Conflict(f"Job {job_id} is not waiting;", hint="only waiting jobs can be moved.")
            order = [row["id"] for row in self._all("SELECT id FROM jobs WHERE state = 'queued' ORDER BY position")]
            at = order.index(job_id)
            order.insert(0 if places is None else max(0, at + places), order.pop(at))
            positions = [
                r["position"] for r in self._all("SELECT position FROM jobs WHERE state = 'queued' ORDER BY 1")
            ]
            places_of = list(zip(positions, order, strict=True))

            def write() -> None:
                with self._db:
                    self._db.execute("BEGIN")
                    self._db.executemany("UPDATE jobs SET position = ? WHERE id = ?", places_of)

            self._do(write)
            self.version += 1
            return self.get(job_id)

    def set_favourite(self, job_id: str, favourite: bool) -> Job:
        self.get(job_id)
        self._change("UPDATE jobs SET favourite = ? WHERE id = ?", int(favourite), job_id)
        return self.get(job_id)

    def set_trashed(self, job_id: str, trashed: bool) -> Job:
        """Into the trash or out of it. Raises Conflict for a job that has not ended."""
        with self._lock:
            job = self.get(job_id)
            if job.state in ACTIVE:
                raise Conflict(f"Job {job_id} is {job.state.value};", hint="cancel it first.")
            self._run("UPDATE jobs SET trashed_at = ? WHERE id = ?", time.time() if trashed else None, job_id)
            self.version += 1
            return self.get(job_id)

    def purge(self, before: float) -> list[str]:
        """Forget the jobs that went into the trash before that time; returns their ids."""
        with self._lock:
            rows = self._all(
                "DELETE FROM jobs WHERE trashed_at < ? AND state NOT IN ('running', 'queued') RETURNING id", before
            )
            self.version += bool(rows)
            return [row["id"] for row in rows]

    # --- out ---

    def get(self, job_id: str) -> Job:
        row = self._one("SELECT * FROM jobs WHERE id = ?", job_id)
        if row is None:
            raise no_such_job(job_id)
        return _job(row)

    def find(self, wanted: Filter = Filter(), *, limit: int = 50, offset: int = 0) -> list[Job]:
        """Jobs that match, the newest first."""
        where, values = _where(wanted)
        order = "finished_at DESC" if wanted.last_ended_first else "id DESC"
        rows = self._all(f"SELECT * FROM jobs WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?", *values, limit, offset)
        return [_job(row) for row in rows]

    def queue(self) -> list[tuple[str, str]]:
        """Id and state of every job that has not ended, in order: cheap enough to be asked at every poll."""
        rows = self._all(
            "SELECT id, state FROM jobs WHERE state IN ('running', 'paused', 'queued')"
            " ORDER BY CASE state WHEN 'running' THEN 0 WHEN 'paused' THEN 1 ELSE 2 END, position"
        )
        return [(row["id"], row["state"]) for row in rows]

    def count(self, wanted: Filter = Filter()) -> int:
        where, values = _where(wanted)
        return int(self._one(f"SELECT count(*) AS n FROM jobs WHERE {where}", *values)["n"])

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state, those in the trash too."""
        return {
            JobState(row["state"]): row["n"]
            for row in self._all("SELECT state, count(*) AS n FROM jobs GROUP BY state")
        }

    def uploads_in_use(self) -> set[str]:
        """Ids of the uploads that a job in the history refers to; those in the trash count until it is emptied."""
        rows = self._all(
            "SELECT id.value AS id FROM jobs, json_each(?) AS name, json_each(jobs.request, '$.' || name.value) AS id"
            " WHERE id.value IS NOT NULL",
            json.dumps(list(INPUTS)),
        )
        return {row["id"] for row in rows}

    def calibration(self, model: str, last: int = 5) -> dict[Stage, float]:
        """How many times as long the stages of the last renders of `model` took as was guessed: medians, of the stages
        that were measured.
        """
        rows = self._all(
            "SELECT plan, artifact FROM jobs WHERE model = ? AND state = 'succeeded' ORDER BY finished_at DESC LIMIT ?",
            *(model, last),
        )
        ratios: dict[Stage, list[float]] = {}
        for row in rows:
            guess = PLAN.validate_json(row["plan"]).forecast.guess
            for stage, seconds in ARTIFACT.validate_json(row["artifact"]).stage_s.items():
                if guess.get(stage, 0.0) > 0:
                    ratios.setdefault(stage, []).append(seconds / guess[stage])
        return {stage: statistics.median(found) for stage, found in ratios.items()}

    def tallies(self) -> list[Tally]:
        """Successes, failures and median render time of each model that was ever used."""
        counts = self._all(
            "SELECT model, sum(state = 'succeeded') AS good, sum(state IN ('failed', 'quarantined')) AS bad"
            " FROM jobs GROUP BY model HAVING good + bad > 0 ORDER BY model"
        )
        return [Tally(row["model"], row["good"], row["bad"], self._median_s(row["model"])) for row in counts]

    def _median_s(self, model: str) -> float | None:
        rows = self._all(
            "SELECT json_extract(artifact, '$.render_s') AS s FROM jobs WHERE model = ? AND state = 'succeeded'"
            " ORDER BY finished_at DESC LIMIT 50",
            model,
        )
        return statistics.median(row["s"] for row in rows) if rows else None

    # --- settings ---

    @property
    def queue_paused(self) -> bool:
        return self._one("SELECT value FROM settings WHERE name = 'queue_paused'") is not None

    def set_queue_paused(self, paused: bool) -> None:
        if paused:
            self._change("INSERT OR IGNORE INTO settings VALUES ('queue_paused', '1')")
        else:
            self._change("DELETE FROM settings WHERE name = 'queue_paused'")

    # --- SQL ---

    def _run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._do(lambda: self._db.execute(sql, values))

    def _change(self, sql: str, *values: Any) -> bool:
        with self._lock:
            changed: bool = self._do(lambda: self._db.execute(sql, values)).rowcount > 0
            self.version += changed
            return changed

    def _one(self, sql: str, *values: Any) -> Any:
        return self._do(lambda: self._db.execute(sql, values).fetchone())

    def _all(self, sql: str, *values: Any) -> list[Any]:
        return self._do(lambda: self._db.execute(sql, values).fetchall())

    def _do(self, work: Callable[[], T]) -> T:
        """The result of `work`, one statement or transaction; what it wrote is under the files' names on return."""
        with self._lock:
            before = self._db.total_changes
            try:
                found = work()
            except sqlite3.Error as error:
                if not is_full(error):
                    raise
                if not self._make_room():
                    raise NotEnoughSpace("The disk is full;", hint=MAKE_ROOM) from error
                return self._do(work)
            if self._db.total_changes != before:
                self.keep_files()
            return found


def is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to the whole database at `path`, a new one if there is none. Raises as Store does."""
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
            # Out of the WAL at once: SQLite leaves a damaged WAL out without a word.
            database.executescript(f"BEGIN; {SCHEMA} COMMIT; PRAGMA wal_checkpoint(TRUNCATE);")
        elif found != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"schema version {found}, this studio reads {SCHEMA_VERSION}")
        if _layout(database) != _expected_layout():
            raise sqlite3.DatabaseError("its tables are not those of this studio")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")  # a damaged header can forbid every write
        if _fault(database) is not None:
            database.execute("REINDEX")  # an index that forgot a row is made anew from the rows
            if fault := _fault(database):
                raise sqlite3.DatabaseError(fault)
        return database
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where damage is quoted
        if database is not None:
            database.close()
        raise _explained(path, error) from None


def _explained(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> StudioError:
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


def _layout(database: sqlite3.Connection) -> list[str]:
    """The statements that made the tables and indexes of a database, as it keeps them."""
    return [row[0] for row in database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")]


@functools.cache
def _expected_layout() -> list[str]:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.executescript(SCHEMA)
        return _layout(database)


def _is_whole(row: sqlite3.Row) -> bool:
    try:
        return _is_plausible(_job(row))
    except (ValueError, TypeError):
        return False


def _is_plausible(job: Job) -> bool:
    """Whether its id, its times and the place of its film can be."""
    times = (job.created_at, job.started_at, job.finished_at, job.trashed_at)
    own = job.artifact is None or job.id in Path(job.artifact.video).parts
    return own and is_id(job.id) and all(time is None or 0 <= time <= LATEST for time in times)


def _again(job: Job) -> Job:
    """The job as it would come out of the table; ValueError where it would not, as with an infinite time."""
    return dataclasses.replace(
        job,
        request=GenerationRequest.model_validate_json(job.request.model_dump_json()),
        plan=PLAN.validate_json(PLAN.dump_json(job.plan)),
        artifact=ARTIFACT.validate_json(ARTIFACT.dump_json(job.artifact)) if job.artifact else None,
    )


def _job(row: sqlite3.Row) -> Job:
    def read(adapter: Any, name: str) -> Any:
        return adapter.validate_json(row[name]) if row[name] else None

    return Job(
        id=row["id"],
        state=JobState(row["state"]),
        request=GenerationRequest.model_validate_json(row["request"]),
        plan=read(PLAN, "plan"),
        created_at=row["created_at"],
        position=row["position"],
        attempts=row["attempts"],
        deaths=row["deaths"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        trashed_at=row["trashed_at"],
        favourite=bool(row["favourite"]),
        progress=read(PROGRESS, "progress"),
        error=read(ERROR, "error"),
        artifact=read(ARTIFACT, "artifact"),
    )


def _where(wanted: Filter) -> tuple[str, list[Any]]:
    clauses = ["trashed_at IS NOT NULL" if wanted.trashed else "trashed_at IS NULL"]
    values: list[Any] = []

    def narrow(clause: str, *given: Any) -> None:
        clauses.append(clause)
        values.extend(given)

    if wanted.states:
        narrow(f"state IN ({_marks(wanted.states)})", *(state.value for state in wanted.states))
    for word in wanted.search.split()[:SEARCH_WORDS]:
        narrow("prompt LIKE ? ESCAPE '\\'", f"%{_escape_like(word)}%")
    if wanted.mode:
        narrow("mode = ?", wanted.mode)
    if wanted.model:
        narrow("model = ?", wanted.model)
    if wanted.favourite:
        narrow("favourite = 1")
    if wanted.before:
        narrow("id < ?", wanted.before)
    if wanted.ended_since is not None:
        narrow("finished_at >= ?", wanted.ended_since)
    return " AND ".join(clauses), values


def _marks(values: Iterable[Any]) -> str:
    return ", ".join("?" for _ in values)


def _escape_like(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _same_request(job: Job, request: GenerationRequest, key: str) -> Job:
    """The job of an idempotency key, if it was made for the same request; a seed that was drawn does not count."""
    drawn = "seed" not in request.model_fields_set
    if job.request != (request.model_copy(update={"seed": job.request.seed}) if drawn else request):
        raise Conflict(f"The key {key[:40]!r} was used for another request;", hint="use a new key for a new request.")
    return job


def _way_out(job: Job) -> str:
    return {
        JobState.QUEUED: "it waits; cancel or pause it, or let it run.",
        JobState.RUNNING: "cancel or pause it.",
        JobState.PAUSED: "resume or cancel it.",
        JobState.SUCCEEDED: "it is done; submit its request again for another film.",
    }.get(job.state, "retry it.")
