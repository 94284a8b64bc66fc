"""The store of a data folder: opened, copied every hour, and put together again after damage.

A database that cannot be used is set aside, never thrown away. In its place comes the newest copy that can be read, and
then every film of outputs/ that it lacks, from the recipe in the film's folder.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from backend.core.config import Settings
from backend.core.errors import Conflict, NotFound
from backend.core.ids import is_id
from backend.core.schema import GenerationRequest
from backend.jobs.job import ARTIFACT, PLAN, Job, JobState
from backend.jobs.store import Store, StoreDamaged
from backend.media.durable import replace_file
from backend.media.outputs import TRASH, read_metadata

log = logging.getLogger(__name__)

COPIES_KEPT = 3
COMPANIONS = ("", "-wal", "-shm")  # the files that one database consists of


def open_history(settings: Settings) -> tuple[Store, str | None]:
    """The store, and one sentence about what was wrong with it, if anything was."""
    path = settings.database
    new = not path.exists()
    try:
        store = Store(path)
    except StoreDamaged as damage:
        aside = _set_aside(path, settings.damaged)
        store, source = _newest_copy(path, [aside, *sorted(settings.copies.glob("*.db"), reverse=True)])
        added = _add_films(store, settings.outputs)
        news = (
            f"The history could not be used ({damage}). It was put together from {source} and {added} films; the"
            f" damaged file is kept in {settings.damaged.relative_to(settings.data)}/{aside.parent.name}/."
        )
        log.error("%s", news)
        return store, news
    lost = store.take_out_unreadable()
    if lost:
        for copy in sorted(settings.copies.glob("*.db"), reverse=True):
            store.take_back(copy, lost)
    added = _add_films(store, settings.outputs)
    if lost:
        left = sum(not store.has(job_id) for job_id in lost)
        news = f"Jobs in the history that could not be read: {len(lost)}. Of these {len(lost) - left} were recovered."
        log.error("%s", news)
        return store, news
    if new and added:
        return store, f"There was no history; {added} films were found in outputs/ and added to it."
    if added:
        # Committed and gone: SQLite leaves the damaged end of a WAL out without a word.
        for copy in sorted(settings.copies.glob("*.db"), reverse=True)[:1]:
            store.take_back(copy)
        news = f"Films that the history had lost: {added}. They were added, with what waited in its last copy."
        log.error("%s", news)
        return store, news
    return store, None


def copy_history(store: Store, folder: Path) -> None:
    """Put a copy of the store into `folder` and keep the newest three. Raises OSError, sqlite3.Error."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "part"
    part.unlink(missing_ok=True)
    store.copy_to(part)
    replace_file(part, folder / f"studio-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.db")
    for old in sorted(folder.glob("*.db"), reverse=True)[COPIES_KEPT:]:
        old.unlink()


def _set_aside(path: Path, damaged: Path) -> Path:
    """Move the database out of the way; where its main file is now."""
    folder = damaged / time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    while folder.exists():
        folder = folder.with_name(folder.name + "x")
    folder.mkdir(parents=True)
    for companion in COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + companion).rename(folder / f"{path.name}{companion}")
    return folder / path.name


def _newest_copy(path: Path, candidates: list[Path]) -> tuple[Store, str]:
    """A store at `path` from the first of `candidates` that can be read, or a new one; and what it came from.

    The first candidate is the one that was set aside: locked by somebody else, it is whole, and its copy is not locked.
    """
    for number, candidate in enumerate(candidates):
        for companion in COMPANIONS:
            beside = path.with_name(path.name + companion)
            beside.unlink(missing_ok=True)
            source = candidate.with_name(candidate.name + companion)
            if source.exists() and companion != "-shm":
                shutil.copyfile(source, beside)
        try:
            store = Store(path)
            store.take_out_unreadable()
            return store, f"the copy {candidate.name}" if number else "its own file"
        except StoreDamaged:
            continue
    for companion in COMPANIONS:
        path.with_name(path.name + companion).unlink(missing_ok=True)
    return Store(path), "an empty one"


def _add_films(store: Store, outputs: Path) -> int:
    added = sum(store.adopt(job) for job in _films(store, outputs))
    for folder in outputs.glob(f"{TRASH}/*"):
        with contextlib.suppress(NotFound, Conflict):
            if store.get(folder.name).trashed_at is None:
                store.set_trashed(folder.name, True)
    return added


def _films(store: Store, outputs: Path) -> Iterator[Job]:
    """What the films in outputs/ that the store lacks say of themselves; one that says nothing that can be read stays
    as it is.
    """
    for folder in sorted(outputs.iterdir()) if outputs.is_dir() else []:
        if not is_id(folder.name) or store.has(folder.name) or folder.is_symlink():
            continue
        try:
            metadata = read_metadata(folder)
            yield Job(
                id=folder.name,
                state=JobState.SUCCEEDED,
                request=GenerationRequest.model_validate(metadata["request"]),
                plan=PLAN.validate_python(metadata["plan"]),
                created_at=float(metadata["created_at"]),
                position=0.0,
                attempts=1,
                finished_at=folder.stat().st_mtime,
                artifact=ARTIFACT.validate_python(metadata["artifact"]),
            )
        except (NotFound, LookupError, TypeError, ValueError, ValidationError, OSError, RecursionError) as error:
            log.warning("the recipe of film %s cannot be read: %s", folder.name, error)
