"""What open pages show of the queue, as one state that grows by changes: each page is sent what it has not seen.

One poller calls `poll`; whoever serves a page asks `message` for what is new since the version that it sent last.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.core.config import Settings
from backend.jobs.forms import Draft
from backend.jobs.rows import job_of
from backend.jobs.store import Store
from backend.library.downloads import Downloads
from backend.media.outputs import PREVIEW

ACTIVE_MOST = 100  # jobs that have not ended, of which a page gets all about; of the others it gets the ids
ENDED_MOST = 20  # jobs that ended last


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, and the version at which it became so."""

    changed: int
    value: Any
    row: sqlite3.Row | None = None  # of a job, which it was made from


@dataclass(frozen=True, slots=True)
class State:
    """`fields` are those of a message, `jobs` the jobs by id. Who has seen no more than `floor` missed a job that is
    not in it any more.
    """

    version: int
    floor: int = 0
    seen: tuple[object, ...] = ()  # of what it was made
    fields: Mapping[str, Entry] = field(default_factory=dict)
    jobs: Mapping[str, Entry] = field(default_factory=dict)


class Feed:
    """The queue, the jobs that ended last, the draft's version and the preview, of one store; and the downloads."""

    def __init__(self, settings: Settings, store: Store, draft: Draft, downloads: Downloads | None = None) -> None:
        self._settings, self._store, self._draft, self._downloads = settings, store, draft, downloads
        self._polling = threading.Lock()
        self._state = State(time.time_ns() // 1_000_000)  # larger than any version of the process before

    @property
    def version(self) -> int:
        return self._state.version

    def poll(self) -> bool:
        """Take in what has changed; whether anything has. Quick where nothing has."""
        with self._polling:
            return self._poll()

    def _poll(self) -> bool:
        before, store = self._state, self._store
        preview = self._preview(before.fields["order"].value if before.fields else [])
        downloads = [one.as_dict() for one in self._downloads.current()] if self._downloads else []
        seen = (store.version, self._draft.version, downloads, preview)
        if seen == before.seen:
            return False
        queue = store.queue()  # after the version was read: what changes meanwhile is seen the next time
        order = [job_id for job_id, _ in queue]
        fields = {
            "order": order,
            "paused": store.queue_paused,
            "draft": self._draft.version,
            "preview": self._preview(order),
            "videos": store.videos_version,
            "downloads": downloads,
        }
        version = before.version + 1
        rows = self._rows(order)
        jobs = {job_id: _entry(before.jobs.get(job_id), row, version) for job_id, row in rows.items()}
        changed = {name: _changed(before.fields.get(name), value, version) for name, value in fields.items()}
        dropped = (entry.changed for job_id, entry in before.jobs.items() if job_id not in jobs)
        floor = max(before.floor, *dropped, 0)
        same = jobs == before.jobs and changed == before.fields
        self._state = State(before.version if same else version, floor, (*seen[:3], fields["preview"]), changed, jobs)
        return not same

    def message(self, since: int) -> dict[str, Any]:
        """What is new since version `since`, 0 for all of it: `version`, the fields that changed, and `jobs`."""
        state = self._state
        if since < state.floor:
            since = 0
        jobs = [entry.value for entry in state.jobs.values() if entry.changed > since]
        fields = {name: entry.value for name, entry in state.fields.items() if entry.changed > since}
        return {"version": state.version, **fields, "jobs": jobs}

    def _rows(self, order: list[str]) -> dict[str, sqlite3.Row]:
        """The rows of the first jobs in the queue, of those that left it, and of those that ended last."""
        before = self._state.fields["order"].value if self._state.fields else []
        left = {*before}.difference(order)
        wanted = [*order[:ACTIVE_MOST], *self._store.last_ended(ENDED_MOST)]
        wanted += [job_id for job_id in before if job_id in left]
        rows = self._store.rows(wanted)
        return {job_id: rows[job_id] for job_id in wanted if job_id in rows}

    def _preview(self, order: list[str]) -> dict[str, str] | None:
        """The preview of the first job, if there is one; its address, from the studio's root, changes with it."""
        for job_id in order[:1]:
            try:
                made_at = (self._settings.temp / job_id / PREVIEW).stat().st_mtime_ns
            except OSError:
                return None
            return {"id": job_id, "url": f"api/v1/jobs/{job_id}/live?v={made_at // 1_000_000}"}
        return None


def _entry(before: Entry | None, row: sqlite3.Row, version: int) -> Entry:
    if before is not None and before.row == row:
        return before
    return Entry(version, job_of(row).as_dict(), row)


def _changed(before: Entry | None, value: Any, version: int) -> Entry:
    return before if before is not None and before.value == value else Entry(version, value)
