"""The store of a data folder: opened, copied, and put together again after damage.

A database that cannot be used is set aside, never thrown away, and only once its replacement is whole: the newest copy
that can be read, with every video of outputs/ that it lacks, from the recipe in the video's folder. An error of the
disk is no damage, and nothing is moved for it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backend.core.config import Settings
from backend.core.errors import Conflict, NotEnoughSpace, NotFound, StudioError
from backend.core.ids import is_id
from backend.core.text import counted
from backend.durable import finish_moves, replace_file
from backend.jobs.database import MAKE_ROOM, StoreDamaged
from backend.jobs.disk_space import is_disk_full
from backend.jobs.job import Job, JobState, from_dict
from backend.jobs.kinds import KINDS
from backend.jobs.migrations import SCHEMA_VERSION
from backend.jobs.recipe import metadata_recipe, video_recipe
from backend.jobs.store import Store
from backend.media.outputs import TRASH

log = logging.getLogger(__name__)

COPIES_KEPT = 3  # the newest, and
DAYS_KEPT = 7  # the newest of each of so many days
COMPANIONS = ("", "-wal", "-shm")  # the files that one database consists of


def open_history(settings: Settings, make_room: Callable[[], bool] = lambda: False) -> tuple[Store, str | None]:
    """The store, and one sentence about what was wrong with it, if anything was. A store of an older version is copied
    to `before-schema-N.db` and migrated. Moves of videos that were cut off are finished first.

    Raises as Store does, damage aside: NewerData above all, for one of a newer version, which is left as it is.
    """
    finish_moves(settings.moves)
    path = settings.database
    known = [*copies_in(settings.copies), *sorted(settings.damaged.glob(f"*/{path.name}"), reverse=True)]
    try:
        if not path.exists() and known:
            raise StoreDamaged("it was gone")
        new = not path.exists()
        store = Store(path, make_room, functools.partial(_keep_copy, settings.copies))
    except StoreDamaged as damage:
        notice = _put_together(settings, damage, known)
        store = Store(path, make_room)
        added = _add_videos(store, settings.outputs)
        notice += f" {counted(added, 'video')} in outputs/ {_were(added)} added to it." if added else ""
        log.error("%s", notice)
        return store, notice
    unreadable = store.mark_unreadable()
    restore_unreadable(store, settings, unreadable)
    added = _add_videos(store, settings.outputs)
    # Committed and gone: SQLite leaves the damaged end of a WAL out without a word.
    waited = sum(store.restore_from(copy) for copy in copies_in(settings.copies)[:1])
    notice = ""
    if unreadable:
        left = max(0, sum(not store.has(job_id) for job_id in unreadable) - added - waited)
        notice = _about_unreadable(len(unreadable), left)
    elif new and added:
        return store, f"There was no history; {counted(added, 'video')} in outputs/ {_were(added)} added to it."
    elif added or waited:
        lost = " and ".join(counted(n, what) for n, what in ((added, "video"), (waited, "waiting job")) if n)
        notice = f"The history had lost {lost}; {'it was' if added + waited == 1 else 'they were'} found and added."
    if notice:
        log.error("%s", notice)
    return store, notice or None


def _about_unreadable(count: int, left: int) -> str:
    found = f"{counted(count, 'job')} in the history could not be read"
    if not left:
        return f"{found} and {_were(count)} recovered."
    kept = "It is kept and shown" if left == 1 else "They are kept and shown"
    if left < count:
        recovered = count - left
        others = "The other one is kept and shown" if left == 1 else "The others are kept and shown"
        return f"{found}; {recovered} {_were(recovered)} recovered. {others} on the Queue page."
    return f"{found}. {kept} on the Queue page."


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def restore_unreadable(store: Store, settings: Settings, job_ids: list[str]) -> int:
    """Put jobs that cannot be read back as they are in a copy or, of a finished video, in its recipe; how many."""
    for copy in copies_in(settings.copies) if job_ids else []:
        store.restore_from(copy, [job_id for job_id in job_ids if not store.has(job_id)])
    return sum(store.has(job_id) for job_id in job_ids)


def _keep_copy(copies: Path, database: sqlite3.Connection, version: int) -> None:
    """Copy a database of schema `version` before its tables are changed. Raises NotEnoughSpace."""
    name = f"before-schema-{SCHEMA_VERSION}.db" if version < SCHEMA_VERSION else "before-repair.db"
    copies.mkdir(parents=True, exist_ok=True)
    part = copies / f"{name}.part"
    part.unlink(missing_ok=True)
    try:
        database.execute("VACUUM INTO ?", (str(part),))
        replace_file(part, copies / name)
    except (OSError, sqlite3.Error) as error:
        part.unlink(missing_ok=True)
        if is_disk_full(error):
            raise NotEnoughSpace("The history cannot be copied before it is migrated;", hint=MAKE_ROOM) from None
        if isinstance(error, sqlite3.Error):
            raise
        reason = f"The history cannot be copied before it is migrated ({error.strerror});"
        raise StudioError(reason, hint="see that outputs/ can be written.") from None
    log.info("the history of schema %d is migrated to %d; %s keeps it", version, SCHEMA_VERSION, name)


def copies_in(folder: Path) -> list[Path]:
    """The copies of a store, the newest first: by their numbers, since a clock may have been wrong."""
    return sorted(folder.glob("studio-*.db"), key=_number, reverse=True)


def copy_history(store: Store, folder: Path) -> None:
    """Put a copy of the store into `folder` and remove those that are too many. Raises OSError, sqlite3.Error."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "part"
    part.unlink(missing_ok=True)
    store.copy_to(part)
    number = max(map(_number, copies_in(folder)), default=0) + 1
    replace_file(part, folder / f"studio-{number:06}.db")
    newest_of_day: dict[str, Path] = {}
    for copy in copies_in(folder):
        newest_of_day.setdefault(time.strftime("%Y%m%d", time.gmtime(copy.stat().st_mtime)), copy)
    kept = {*copies_in(folder)[:COPIES_KEPT], *list(newest_of_day.values())[:DAYS_KEPT]}
    for old in copies_in(folder):
        if old not in kept:
            old.unlink()


def _number(copy: Path) -> int:
    return int(re.sub(r"\D", "", copy.stem) or 0)


def _put_together(settings: Settings, damage: StoreDamaged, candidates: list[Path]) -> str:
    """Put the first of `candidates` that can be read in the place of the database, or an empty one; what was done.

    Raises NotEnoughSpace for a full disk, before anything was moved.
    """
    path = settings.database
    part = path.with_name(f"{path.name}.part")
    try:
        source = _write_newest(part, candidates)
        aside = _set_aside(path, settings.damaged) if path.exists() else None
        replace_file(part, path)
    except OSError as error:
        raise NotEnoughSpace(f"The history cannot be put together ({error.strerror});", hint=MAKE_ROOM) from None
    notice = f"The history could not be used ({damage}). It was put together from {source}."
    if aside is not None:
        notice += f" The damaged file is kept in {aside.relative_to(settings.data)}/."
    return notice


def _set_aside(path: Path, damaged: Path) -> Path:
    """Move the database out of the way; the folder where it is now."""
    folder = damaged / time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    while folder.exists():
        folder = folder.with_name(folder.name + "x")
    folder.mkdir(parents=True)
    for companion in COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + companion).rename(folder / f"{path.name}{companion}")
    return folder


def _write_newest(part: Path, candidates: list[Path]) -> str:
    """Write the first of `candidates` that can be read to `part`, or an empty store; what it came from. Raises OSError
    where `part` cannot be written.
    """
    for candidate in [*candidates, None]:
        for companion in COMPANIONS:
            beside = part.with_name(part.name + companion)
            beside.unlink(missing_ok=True)
            source = candidate and candidate.with_name(candidate.name + companion)
            if source and source.exists() and companion != "-shm":
                shutil.copyfile(source, beside)
        try:
            store = Store(part)
            store.mark_unreadable()
            store.close()  # which leaves one file
        except NotEnoughSpace:
            raise
        except StudioError:
            continue
        return f"the copy {candidate.name}" if candidate else "an empty one"
    raise StudioError(f"No database can be written to {part.parent.name}/;", hint="see that the disk is well.")


def _add_videos(store: Store, outputs: Path) -> int:
    """Add the videos that the store lacks, and have those in the trash be in it; how many were added."""
    added = sum(_add_video(store, video, trashed=False) for video in _lacking(store, outputs))
    added += sum(_add_video(store, video, trashed=True) for video in _lacking(store, outputs / TRASH))
    for folder in outputs.glob(f"{TRASH}/*"):
        with contextlib.suppress(NotFound, Conflict):
            if store.get(folder.name).trashed_at is None:
                store.set_trashed(folder.name, True)
    return added


def _lacking(store: Store, folder: Path) -> Iterator[Path]:
    for video in sorted(folder.iterdir()) if folder.is_dir() else []:
        if is_id(video.name) and not store.has(video.name) and not video.is_symlink():
            yield video


def _add_video(store: Store, folder: Path, *, trashed: bool) -> bool:
    """Add a result from what its folder says of it; one that says nothing readable stays as it is."""
    for read in (metadata_recipe, video_recipe):
        try:
            if store.import_job(_job_of(folder, read(folder), trashed=trashed)):
                return True
        except (StudioError, LookupError, TypeError, ValueError, ValidationError, OSError, RecursionError) as error:
            log.warning("the recipe of %s cannot be read: %s", folder.name, error)
    return False


def _job_of(folder: Path, recipe: dict[str, Any], *, trashed: bool) -> Job:
    """A finished job from its recipe, in today's names."""
    moved_at = folder.stat().st_mtime
    kind = KINDS[recipe.get("kind", "render")]
    return Job(
        id=folder.name,
        kind=kind.name,
        parent=recipe.get("parent"),
        state=JobState.SUCCEEDED,
        request=from_dict(kind.request, recipe["request"]),
        plan=from_dict(kind.plan, recipe["plan"]),
        created_at=float(recipe["created_at"]),
        position=0.0,
        attempts=1,
        finished_at=moved_at,
        trashed_at=moved_at if trashed else None,
        artifact=from_dict(kind.artifact, recipe["artifact"]),
    )
