"""Where jobs are kept: one SQLite file, one connection, one lock. A call that returns is on the disk."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from backend.core.errors import Conflict, NotEnoughSpace, NotFound, QueueFull, StudioError, no_such_job
from backend.core.ids import is_id, new_id
from backend.core.inputs import INPUTS
from backend.core.plan import Progress
from backend.core.schema import UPLOAD_ID
from backend.durable import replace_file
from backend.jobs.database import MAKE_ROOM, BeforeMigration, connect, explained, is_full
from backend.jobs.filters import ALL, Filter, marks, where_of
from backend.jobs.job import (
    ACTIVE,
    RETRIABLE,
    TRANSITIONS,
    Job,
    JobError,
    JobPlan,
    JobRequest,
    JobState,
    to_json,
)
from backend.jobs.migrations import transaction
from backend.jobs.rows import documents, fault_of, is_plausible, job_of, read_again

log = logging.getLogger(__name__)
T = TypeVar("T")

CRASH = 4  # what a crash counts; and where the whole studio was killed, so that the job need not be the reason
KILLED_WITH_STUDIO = 1
QUARANTINE_AT = 3 * CRASH
# How far a job is that waits again: as far as it was, if that was saved, but nothing of the next attempt is saved yet.
SAVED_PROGRESS = "CASE WHEN json_extract(progress, '$.saved_at') IS NULL THEN NULL"
SAVED_PROGRESS += " ELSE json_remove(progress, '$.saved_at') END"


class Store:
    """The jobs table and a few settings. Thread-safe; `version` grows with every change, so pollers can skip work;
    `videos_version` grows with every change of the list of videos, over restarts too.

    Its files belong to it alone while it is open, and what a call has written stands in them under their names: where
    somebody removes them meanwhile, they are written anew. On a full disk `make_room` is called once to free some.

    An older database is migrated when it is opened; `before_migration` gets it before that.

    Raises NewerData, and changes nothing, for one of a newer version; StoreDamaged for a file that is no whole database
    of jobs; and where the disk is to blame and the file may be whole, NotEnoughSpace, StudioBusy (another program holds
    it) or StudioError. Every call raises NotEnoughSpace where the disk is full.
    """

    def __init__(
        self,
        path: Path,
        make_room: Callable[[], bool] = lambda: False,
        before_migration: BeforeMigration = lambda database, version: None,
    ) -> None:
        self.version = 0
        self.videos_version = time.time_ns() // 1_000_000
        self._path = path
        self._make_room = make_room
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = connect(path, before_migration)
        except NotEnoughSpace:
            if not make_room():
                raise
            self._db = connect(path, before_migration)
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
                raise explained(self._path, error) from error
            self._db.close()
            for companion in ("-wal", "-shm"):
                self._path.with_name(self._path.name + companion).unlink(missing_ok=True)
            replace_file(part, self._path)
            self._db = connect(self._path)
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

    def mark_unreadable(self) -> list[str]:
        """Set aside the rows that make no job in this version, as state `unreadable`; their ids. Nothing is deleted.

        A row that was set aside earlier and can be read now, after an update, gets its state back.
        """
        found = []
        with self._lock:
            self._replace_damaged_ids()
            for row in self._all("SELECT rowid, * FROM jobs"):
                was_set_aside = row["state"] == JobState.UNREADABLE.value
                reason = fault_of(row, state=row["state_before"] if was_set_aside else row["state"])
                if was_set_aside and reason is None:
                    sql = "UPDATE jobs SET state = state_before, state_before = NULL, error = NULL WHERE rowid = ?"
                    self._change(sql, row["rowid"])
                elif not was_set_aside and reason is not None:
                    found.append(self._set_aside(row, reason))
        return found

    def _set_aside(self, row: sqlite3.Row, reason: str) -> str:
        error = JobError.of(
            "unreadable",
            f"This version cannot read the job ({reason}). It is kept as it is;",
            "start the version that made it, or update this one: then it comes back by itself.",
        )
        sql = "UPDATE jobs SET state = 'unreadable', state_before = ?, error = ? WHERE rowid = ?"
        self._change(sql, str(row["state"]), to_json(error), row["rowid"])
        return str(row["id"])

    def _replace_damaged_ids(self) -> None:
        """By the rows' numbers: a damaged id need not equal itself once it is decoded."""
        for row in self._all("SELECT rowid, id FROM jobs"):
            if not is_id(str(row["id"])):
                log.error("the damaged id %r of a job is replaced", row["id"])
                self._change("UPDATE jobs SET id = ? WHERE rowid = ?", new_id(), row["rowid"])

    def unreadable(self) -> list[str]:
        """Ids of the jobs that were set aside."""
        return [row["id"] for row in self._all("SELECT id FROM jobs WHERE state = 'unreadable'")]

    def restore_from(self, copy: Path, job_ids: Iterable[str] | None = None) -> int:
        """Bring back those of `job_ids` that are missing or unreadable here from an earlier copy of the store, or all
        jobs that waited in it; a copy that cannot be used has none. How many were brought back.
        """
        with self._scratch_copy(copy) as path:
            try:
                source = Store(path)
            except StudioError:
                return 0
            source.mark_unreadable()
            unreadable = set(source.unreadable())
            wanted = [job_id for job_id, _ in source.queue()] if job_ids is None else job_ids
            restored = 0
            for job_id in wanted:
                with contextlib.suppress(NotFound):
                    restored += job_id not in unreadable and self.import_job(source.get(job_id))
            source.close()
            return restored

    @contextlib.contextmanager
    def _scratch_copy(self, copy: Path) -> Iterator[Path]:
        """A copy of `copy` that may be changed; a killed process leaves at most one, which the next removes."""
        folder = self._path.parent / ".restoring"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield Path(shutil.copy(copy, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def has(self, job_id: str) -> bool:
        """Whether a job of that id is here and can be read."""
        return self._one("SELECT 1 FROM jobs WHERE id = ? AND state <> 'unreadable'", job_id) is not None

    def import_job(self, job: Job) -> bool:
        """Add a job as it is, unless it is here or could not be read again; whether it was added. It takes the place of
        an unreadable one. One that was submitted in the same microsecond is the same, under a new id.
        """
        try:
            if not is_plausible(read_again(job)):
                return False
        except (ValueError, TypeError):
            return False
        columns = {
            **{name: getattr(job, name) for name in ("id", "kind", "parent", "batch", "position", "created_at")},
            **{name: getattr(job, name) for name in ("started_at", "finished_at", "trashed_at", "attempts")},
            "state": job.state.value,
            "crash_count": job.crash_count,
            "favourite": int(job.favourite),
            **{name: getattr(job, name) for name in ("rating", "note")},
            "approved": int(job.approved),
            "collections": json.dumps(job.collections),
            **documents(job.request, job.plan),
            "error": to_json(job.error) if job.error else None,
            "artifact": to_json(job.artifact) if job.artifact else None,
        }

        def write() -> bool:
            with transaction(self._db):
                self._db.execute("DELETE FROM jobs WHERE id = ? AND state = 'unreadable'", (job.id,))
                sql = f"INSERT OR IGNORE INTO jobs ({', '.join(columns)}) SELECT {marks(columns)} WHERE NOT EXISTS"
                sql += " (SELECT 1 FROM jobs WHERE created_at = ? AND request = ? AND state <> 'unreadable')"
                values = (*columns.values(), job.created_at, columns["request"])
                return self._db.execute(sql, values).rowcount > 0

        with self._lock:
            added = self._do(write)
            self.version += added
            self.videos_version += added
            return added

    # --- in ---

    def add(
        self,
        request: JobRequest,
        plan: JobPlan,
        *,
        key: str | None = None,
        parent: str | None = None,
        batch: str | None = None,
        limit: int = 1000,
    ) -> Job:
        """Queue a job, or return the one that `key` made already. `parent` is the job that it was made from.

        Raises Conflict if `key` came with another request, QueueFull at `limit` waiting jobs.
        """
        with self._lock:
            if key:
                row = self._one("SELECT * FROM jobs WHERE key = ?", key)
                if row:
                    return _same_request(job_of(row), request, key)
            (job,) = self._add([(request, plan)], limit, key=key or None, parent=parent, batch=batch)
            return job

    def add_batch(
        self,
        planned: Sequence[tuple[JobRequest, JobPlan]],
        batch: str,
        *,
        parent: str | None = None,
        limit: int = 1000,
    ) -> list[Job]:
        """Queue a batch of requests with their plans, in their order: all of them, or none. Raises QueueFull."""
        with self._lock:
            return self._add(planned, limit, parent=parent, batch=batch)

    def _add(self, planned: Sequence[tuple[JobRequest, JobPlan]], limit: int, **common: str | None) -> list[Job]:
        waiting = self._one("SELECT count(*) AS n FROM jobs WHERE state = 'queued'")["n"]
        if waiting + len(planned) > limit:
            more = "" if len(planned) == 1 else f" of {limit}, and there are {len(planned)} more"
            raise QueueFull(
                f"{waiting} jobs are waiting, which is the limit{more};", hint="try again when some are done."
            )

        def write() -> list[sqlite3.Row]:
            with transaction(self._db):
                return [self._insert(request, plan, common) for request, plan in planned]

        rows = self._do(write)
        self.version += 1
        return [job_of(row) for row in rows]

    def _insert(self, request: JobRequest, plan: JobPlan, common: Mapping[str, str | None]) -> sqlite3.Row:
        """The row of a new job, last in line."""
        sql = "SELECT (SELECT max(position) FROM jobs) AS position, (SELECT max(id) FROM jobs) AS id"
        last = self._db.execute(sql).fetchone()
        columns = {
            "id": new_id(after=last["id"] or ""),
            "kind": request.kind,
            "state": JobState.QUEUED.value,
            "position": (last["position"] or 0) + 1,
            "created_at": time.time(),
            **common,
            **documents(request, plan),
        }
        sql = f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({marks(columns)}) RETURNING *"
        row: sqlite3.Row = self._db.execute(sql, tuple(columns.values())).fetchone()
        return row

    # --- the worker's side; `attempt` fences a worker that lost its job ---

    def claim(self) -> Job | None:
        """The first waiting job, now RUNNING with one more attempt; None if there is none or the queue is paused."""
        with self._lock:
            if self.queue_paused:
                return None
            row = self._one(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, started_at = ?, finished_at = NULL,"
                " error = NULL, cancel_requested_at = NULL WHERE id = (SELECT id FROM jobs WHERE state = 'queued'"
                " ORDER BY position LIMIT 1) RETURNING *",
                time.time(),
            )
            self.version += row is not None
            return job_of(row) if row else None

    def set_progress(self, job: Job, progress: Progress) -> None:
        sql = "UPDATE jobs SET progress = ? WHERE id = ? AND attempts = ?"
        self._change(sql, to_json(progress), job.id, job.attempts)

    def request_cancel(self, job: Job) -> None:
        """Keep that this attempt is to be cancelled, should the process die before it has ended."""
        sql = "UPDATE jobs SET cancel_requested_at = ? WHERE id = ? AND attempts = ?"
        self._change(sql, time.time(), job.id, job.attempts)

    def finish(
        self, job: Job, state: JobState, *, error: JobError | None = None, artifact: object | None = None
    ) -> bool:
        """Write how this attempt ended; False if the row belongs to a later attempt or has ended already."""
        return self._change(
            "UPDATE jobs SET state = ?, finished_at = ?, error = ?, artifact = ?"
            " WHERE id = ? AND attempts = ? AND state IN ('running', 'paused')",
            *(state.value, time.time()),
            to_json(error) if error else None,
            to_json(artifact) if artifact else None,
            *(job.id, job.attempts),
            of_videos=True,
        )

    def requeue(self, job: Job, why: JobError | None = None) -> bool:
        """Queue a running job again at its position; not counted as a crash. `why` says what it waits for."""
        return self._change(
            f"UPDATE jobs SET state = 'queued', progress = {SAVED_PROGRESS}, error = ?"
            " WHERE id = ? AND attempts = ? AND state = 'running'",
            *(to_json(why) if why else None, job.id, job.attempts),
        )

    def recover(self, log_tail: Callable[[str], tuple[str, ...]] = lambda _: (), *, crash: int = CRASH) -> list[Job]:
        """Queue again what a dead process left RUNNING, unless it was being cancelled; the third crash of a job
        quarantines it, with `log_tail`, the end of the log about it. `crash` is what this one counts.

        An attempt that saved its state got further than the one before, so its crash counts as the first.
        """
        with self._lock:
            self._change(
                "UPDATE jobs SET state = 'cancelled', finished_at = ? WHERE state IN ('running', 'paused')"
                " AND cancel_requested_at IS NOT NULL",
                time.time(),
            )
            rows = self._all(
                "UPDATE jobs SET crash_count = CASE WHEN json_extract(progress, '$.saved_at') IS NULL"
                " THEN crash_count + ? ELSE ? END WHERE state = 'running' RETURNING *",
                crash,
                crash,
            )
            for row in rows:
                if row["crash_count"] >= QUARANTINE_AT:
                    error = JobError.of(
                        "quarantined",
                        "The studio died several times before this job had saved any further; it is set aside.",
                        "Retry it: it goes on from its last saved step. If it ends the studio again, lower its size.",
                        log_tail(row["id"]),
                    )
                    self.finish(job_of(row), JobState.QUARANTINED, error=error)
                else:
                    self._run(f"UPDATE jobs SET state = 'queued', progress = {SAVED_PROGRESS} WHERE id = ?", row["id"])
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
                "UPDATE jobs SET state = ?, finished_at = ?, crash_count = CASE ? WHEN 1 THEN 0 ELSE crash_count END,"
                " position = CASE ? WHEN 1 THEN (SELECT max(position) + 1 FROM jobs) ELSE position END,"
                " error = CASE ? WHEN 1 THEN NULL ELSE error END,"
                " progress = CASE ? WHEN 1 THEN NULL ELSE progress END WHERE id = ?",
                *(to.value, ended, retried, retried, retried, retried, job_id),
            )
            self.version += 1
            return self.get(job_id)

    def move(self, job_id: str, places: int | None, before: str | None = None) -> Job:
        """Move a waiting job by `places` (negative: earlier; None: to the front), or in front of the one that waits as
        `before`. Others keep their order. The waiting jobs share out the positions that they have among themselves, so
        that no number of moves uses them up. Raises Conflict for a job that does not wait.
        """
        with self._lock:
            for named in (job_id, before):
                if named is not None and self.get(named).state is not JobState.QUEUED:
                    raise Conflict(f"Job {named} is not waiting;", hint="only waiting jobs can be moved.")
            rows = self._all("SELECT id, position FROM jobs WHERE state = 'queued' ORDER BY position, id")
            order = [row["id"] for row in rows]
            at = order.index(job_id)
            del order[at]
            if before is None:
                order.insert(0 if places is None else max(0, at + places), job_id)
            elif before != job_id:
                order.insert(order.index(before), job_id)
            else:
                order.insert(at, job_id)
            self.change_many(
                "UPDATE jobs SET position = ? WHERE id = ?",
                [(row["position"], moved) for row, moved in zip(rows, order, strict=True) if row["id"] != moved],
            )
            return self.get(job_id)

    def set_favourite(self, job_id: str, favourite: bool) -> Job:
        self.get(job_id)
        self._change("UPDATE jobs SET favourite = ? WHERE id = ?", int(favourite), job_id, of_videos=True)
        return self.get(job_id)

    def set_trashed(self, job_id: str, trashed: bool) -> Job:
        """Into the trash or out of it. Raises Conflict for a job that has not ended."""
        with self._lock:
            job = self.get(job_id)
            if job.state in ACTIVE:
                raise Conflict(f"Job {job_id} is {job.state.value};", hint="cancel it first.")
            sql = "UPDATE jobs SET trashed_at = ? WHERE id = ?"
            self._change(sql, time.time() if trashed else None, job_id, of_videos=True)
            return self.get(job_id)

    def purge(self, before: float) -> list[str]:
        """Forget the jobs that went into the trash before that time; returns their ids."""
        with self._lock:
            rows = self._all(
                "DELETE FROM jobs WHERE trashed_at < ? AND state NOT IN ('running', 'queued') RETURNING id", before
            )
            self.version += bool(rows)
            self.videos_version += bool(rows)
            return [row["id"] for row in rows]

    # --- out ---

    def get(self, job_id: str) -> Job:
        row = self._one("SELECT * FROM jobs WHERE id = ?", job_id)
        if row is None:
            raise no_such_job(job_id)
        return job_of(row)

    def find(self, wanted: Filter = ALL, *, limit: int = 50, offset: int = 0) -> list[Job]:
        """Jobs that match, the newest first."""
        where, values = where_of(wanted)
        order = "finished_at DESC" if wanted.last_ended_first else "id DESC"
        rows = self._all(f"SELECT * FROM jobs WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?", *values, limit, offset)
        return [job_of(row) for row in rows]

    def queue(self) -> list[tuple[str, str]]:
        """Id and state of every job that has not ended, in order: cheap enough for every poll."""
        rows = self._all(
            "SELECT id, state FROM jobs WHERE state IN ('running', 'paused', 'queued')"
            " ORDER BY CASE state WHEN 'running' THEN 0 WHEN 'paused' THEN 1 ELSE 2 END, position"
        )
        return [(row["id"], row["state"]) for row in rows]

    def rows(self, job_ids: Sequence[str]) -> dict[str, sqlite3.Row]:
        """The rows of those of `job_ids` that are here; equal rows are of jobs that have not changed."""
        found = self._all("SELECT * FROM jobs WHERE id IN (SELECT value FROM json_each(?))", json.dumps(job_ids))
        return {row["id"]: row for row in found}

    def last_ended(self, limit: int) -> list[str]:
        """Ids of the jobs that ended last, the last one first, without those in the trash."""
        rows = self._all(
            "SELECT id FROM jobs WHERE finished_at IS NOT NULL AND trashed_at IS NULL"
            " AND state NOT IN ('running', 'paused', 'queued') ORDER BY finished_at DESC LIMIT ?",
            limit,
        )
        return [row["id"] for row in rows]

    def count(self, wanted: Filter = ALL) -> int:
        where, values = where_of(wanted)
        return int(self._one(f"SELECT count(*) AS n FROM jobs WHERE {where}", *values)["n"])

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state, those in the trash too."""
        return {
            JobState(row["state"]): row["n"]
            for row in self._all("SELECT state, count(*) AS n FROM jobs GROUP BY state")
        }

    def uploads_in_use(self) -> set[str]:
        """Ids of the uploads that a job in the history refers to; those in the trash count until it is emptied. Of a
        request that cannot be read, everything that looks like an id counts.
        """
        rows = self._all(
            "SELECT id.value AS id FROM jobs, json_each(?) AS name, json_each(jobs.request, '$.' || name.value) AS id"
            " WHERE jobs.state <> 'unreadable' AND id.value IS NOT NULL",
            json.dumps(list(INPUTS)),
        )
        unreadable = self._all("SELECT request FROM jobs WHERE state = 'unreadable'")
        return {row["id"] for row in rows}.union(*(re.findall(UPLOAD_ID, row["request"]) for row in unreadable))

    # --- settings ---

    def setting(self, name: str) -> str | None:
        row = self._one("SELECT value FROM settings WHERE name = ?", name)
        return None if row is None else str(row["value"])

    def set_setting(self, name: str, value: str, *, of_videos: bool = False) -> None:
        self._change("INSERT OR REPLACE INTO settings VALUES (?, ?)", name, value, of_videos=of_videos)

    @property
    def queue_paused(self) -> bool:
        return self._one("SELECT value FROM settings WHERE name = 'queue_paused'") is not None

    def set_queue_paused(self, paused: bool) -> None:
        if paused:
            self._change("INSERT OR IGNORE INTO settings VALUES ('queue_paused', '1')")
        else:
            self._change("DELETE FROM settings WHERE name = 'queue_paused'")

    # --- SQL ---

    def select(self, sql: str, *values: Any) -> list[Any]:
        """Rows, as `sqlite3.Row`."""
        return self._all(sql, *values)

    def change_many(self, sql: str, values: Sequence[tuple[Any, ...]], *, of_videos: bool = False) -> None:
        """One statement for each of `values`: all of them or none."""

        def write() -> None:
            with transaction(self._db):
                self._db.executemany(sql, values)

        with self._lock:
            if values:
                self._do(write)
                self.version += 1
                self.videos_version += of_videos

    def _run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._do(lambda: self._db.execute(sql, values))

    def _change(self, sql: str, *values: Any, of_videos: bool = False) -> bool:
        with self._lock:
            changed: bool = self._do(lambda: self._db.execute(sql, values)).rowcount > 0
            self.version += changed
            self.videos_version += changed and of_videos
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


def _same_request(job: Job, request: JobRequest, key: str) -> Job:
    """The job of an idempotency key, if it was made for the same request; a seed that was drawn does not count."""
    fields: Any = request
    drawn = "seed" in type(fields).model_fields and "seed" not in fields.model_fields_set
    expected = fields.model_copy(update={"seed": job.request.seed}) if drawn and job.kind == request.kind else request
    if job.request != expected:
        raise Conflict(f"The key {key[:40]!r} was used for another request;", hint="use a new key for a new request.")
    return job


def _way_out(job: Job) -> str:
    return {
        JobState.QUEUED: "it waits; cancel or pause it, or let it run.",
        JobState.RUNNING: "cancel or pause it.",
        JobState.PAUSED: "resume or cancel it.",
        JobState.SUCCEEDED: "it is done; use `again` to make another one.",
        JobState.UNREADABLE: "update the studio, or start the version that made it.",
    }.get(job.state, "retry it.")
