"""What is removed by itself, and when: uploads, the trash, saved work of unfinished jobs; never a finished video."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import sqlite3
import time
from pathlib import Path

from backend.core.config import Settings
from backend.core.errors import NotFound, StudioError
from backend.jobs.disk_space import ReserveFile
from backend.jobs.forms import Forms
from backend.jobs.history import copies_in, copy_history, restore_unreadable
from backend.jobs.job import ACTIVE, RETRIABLE, JobState
from backend.jobs.kinds import KINDS
from backend.jobs.store import Store
from backend.library.downloads import Downloads
from backend.media.outputs import purge_trash
from backend.media.uploads import Uploads, folder_bytes

log = logging.getLogger(__name__)

EVERY_S = 600
COPY_EVERY_S = 600  # of the history, and not oftener where the studio starts again and again
LONG_AWAY_S = 7 * 24 * 3600  # no studio ran for so long, or the clock is wrong: nothing is removed for a day
DOUBT_S = 24 * 3600
SOON_S = 7200  # a clock that was set back by less is no wonder


class Tidying:
    """Of one data folder. Ages are measured by a clock that nobody sets while the studio runs."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        forms: Forms,
        uploads: Uploads,
        downloads: Downloads,
        reserve: ReserveFile,
    ) -> None:
        self._settings, self._store, self._uploads, self._reserve = settings, store, uploads, reserve
        self._forms, self._downloads = forms, downloads
        self._began = (time.time(), time.monotonic())
        self._doubt_s = DOUBT_S if _long_away(settings.copies, time.time()) else 0
        self._done: float | None = None

    @property
    def is_due(self) -> bool:
        return self._done is None or time.monotonic() - self._done > EVERY_S

    def now(self) -> float:
        """Seconds since 1970."""
        wall, monotonic = self._began
        return wall + time.monotonic() - monotonic

    def tidy(self) -> None:
        """Remove uploads that no job needs, nor the draft of the form, and what lay in the trash for a week; never an
        output. Copy the history.
        """
        self._done = time.monotonic()
        settings, now = self._settings, self.now()
        try:
            self._reserve.create()
            if self._is_copy_due():
                copy_history(self._store, settings.copies)
        except (OSError, sqlite3.Error, StudioError):
            log.exception("the history was not copied; it is tried again later")
        try:
            if time.monotonic() - self._began[1] >= self._doubt_s:
                for job_id in self._store.purge(now - settings.trash_keep_s):
                    log.info("job %s: purged from the trash", job_id)
                purge_trash(settings.outputs, settings.trash_keep_s, now)
                self._downloads.purge_trash(settings.trash_keep_s, now)
                self._clear_temp(now)
                needed = self._store.uploads_in_use() | self._forms.draft.uploads()
                self._uploads.sweep(needed, settings.upload_keep_s, now)
        except (OSError, sqlite3.Error, StudioError):
            log.exception("tidying failed; it is tried again later")

    def empty_trash(self) -> int:
        """Remove for good what is in the trash now, and have the newest copy forget it too; how many jobs."""
        gone = self._store.purge(math.inf)
        purge_trash(self._settings.outputs, -math.inf, 0)
        with contextlib.suppress(OSError, sqlite3.Error, StudioError):  # a full disk; the next tidying copies
            copy_history(self._store, self._settings.copies)
        return len(gone)

    def restore_unreadable(self) -> tuple[int, int]:
        """Look for jobs that this version cannot read in the copies; how many there were, how many were restored."""
        unreadable = self._store.unreadable()
        return len(unreadable), restore_unreadable(self._store, self._settings, unreadable)

    def _is_copy_due(self) -> bool:
        copies = copies_in(self._settings.copies)
        return not copies or not 0 <= self.now() - copies[0].stat().st_mtime < COPY_EVERY_S

    def _clear_temp(self, now: float) -> None:
        """Remove from temp/ what no job can go on from; after a failure or a cancellation it is kept a while, and only
        so much of it.
        """
        kept = []
        for entry in self._settings.temp.iterdir():
            if entry.name in (".gitkeep", self._settings.cache.name):
                continue
            if not entry.is_dir() or entry.is_symlink():
                entry.unlink(missing_ok=True)
            elif not self._may_go_on(entry.name, now):
                shutil.rmtree(entry, ignore_errors=True)
            elif (job := self._store.get(entry.name)).state in RETRIABLE:
                kept.append((job.finished_at or now, entry))
        room = self._settings.unfinished_quota_bytes
        for _, entry in sorted(kept, reverse=True):
            room -= folder_bytes(entry)
            if room < 0:
                shutil.rmtree(entry, ignore_errors=True)

    def _may_go_on(self, job_id: str, now: float) -> bool:
        try:
            job = self._store.get(job_id)
        except NotFound:
            return False
        if job.state in ACTIVE or (job.state is JobState.UNREADABLE and job.trashed_at is None):
            return True
        recent = now - (job.finished_at or now) <= self._settings.unfinished_keep_s
        of_use = job.kind in KINDS and KINDS[job.kind].resumes
        return of_use and job.state in RETRIABLE and job.trashed_at is None and recent


def _long_away(copies: Path, now: float) -> bool:
    """Whether the last copy of the history, made every few minutes, is a week old by the clock, or of the future."""
    made = [copy.stat().st_mtime for copy in copies_in(copies)]
    return bool(made) and not -SOON_S <= now - max(made) <= LONG_AWAY_S
