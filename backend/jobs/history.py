"""The store of a data folder: opened, copied, and put together again after damage.

A database that cannot be used is set aside, never thrown away, and only once its replacement is whole: the newest copy
that can be read, with every film of outputs/ that it lacks, from the recipe in the film's folder. An error of the disk
is no damage, and nothing is moved for it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backend.core.config import Settings
from backend.core.errors import Conflict, NotEnoughSpace, NotFound, StudioError
from backend.core.ids import is_id
from backend.core.schema import GenerationRequest
from backend.durable import replace_file
from backend.jobs.job import ARTIFACT, PLAN, Artifact, Job, JobState
from backend.jobs.store import MAKE_ROOM, Store, StoreDamaged
from backend.media.outputs import TRASH, VIDEO, read_metadata
from backend.media.writer import read_recipe

log = logging.getLogger(__name__)

COPIES_KEPT = 3  # the newest, and
DAYS_KEPT = 7  # the newest of each of so many days
COMPANIONS = ("", "-wal", "-shm")  # the files that one database consists of


def open_history(settings: Settings, make_room: Callable[[], bool] = lambda: False) -> tuple[Store, str | None]:
    """The store, and one sentence about what was wrong with it, if anything was. Raises as Store does, damage aside."""
    path = settings.database
    known = [*copies_in(settings.copies), *sorted(settings.damaged.glob(f"*/{path.name}"), reverse=True)]
    try:
        if not path.exists() and known:
            raise StoreDamaged("it was gone")
        new = not path.exists()
        store = Store(path, make_room)
    except StoreDamaged as damage:
        news = _put_together(settings, damage, known)
        store = Store(path, make_room)
        added = _add_films(store, settings.outputs)
        news += f" {added} films were found in outputs/ and added to it." if added else ""
        log.error("%s", news)
        return store, news
    lost = store.take_out_unreadable()
    copies = copies_in(settings.copies)
    if lost:
        for copy in copies:
            store.take_back(copy, lost)
    added = _add_films(store, settings.outputs)
    # Committed and gone: SQLite leaves the damaged end of a WAL out without a word.
    waited = sum(store.take_back(copy) for copy in copies[:1])
    news = ""
    if lost:
        left = max(0, sum(not store.has(job_id) for job_id in lost) - added - waited)
        news = f"Jobs in the history that could not be read: {len(lost)}. Of these {len(lost) - left} were recovered."
    elif new and added:
        return store, f"There was no history; {added} films were found in outputs/ and added to it."
    elif added or waited:
        news = f"The history had lost {added} films and {waited} waiting jobs; they were found and added."
    if news:
        log.error("%s", news)
    return store, news or None


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


def metadata_of(film: Path) -> dict[str, Any]:
    """What a film's folder says of it: its sidecar, or where that cannot be read, the recipe in the video itself.

    Raises NotFound where neither says anything.
    """
    try:
        return read_metadata(film)
    except NotFound:
        return _recipe_in(film)


def _recipe_in(film: Path) -> dict[str, Any]:
    """What the video in the folder says, in the form of a sidecar. Raises NotFound."""
    try:
        recipe = read_recipe(film / VIDEO) or {}
        plan = PLAN.validate_python(recipe["plan"])
        size = (film / VIDEO).stat().st_size
    except (StudioError, LookupError, ValidationError, OSError):
        raise NotFound(f"{film.name} has no recipe that can be read;", hint="its video may still be there.") from None
    artifact = Artifact.of(film.name, plan, size)
    return recipe | {"artifact": ARTIFACT.dump_python(artifact, mode="json")}


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
    news = f"The history could not be used ({damage}). It was put together from {source}."
    if aside is not None:
        news += f" The damaged file is kept in {aside.relative_to(settings.data)}/."
    return news


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
            store.take_out_unreadable()
            store.close()  # which leaves one file
        except NotEnoughSpace:
            raise
        except StudioError:
            continue
        return f"the copy {candidate.name}" if candidate else "an empty one"
    raise StudioError(f"No database can be written to {part.parent.name}/;", hint="see that the disk is well.")


def _add_films(store: Store, outputs: Path) -> int:
    """Add the films that the store lacks, and have those in the trash be in it; how many were added."""
    added = sum(_add_film(store, film, trashed=False) for film in _lacking(store, outputs))
    added += sum(_add_film(store, film, trashed=True) for film in _lacking(store, outputs / TRASH))
    for folder in outputs.glob(f"{TRASH}/*"):
        with contextlib.suppress(NotFound, Conflict):
            if store.get(folder.name).trashed_at is None:
                store.set_trashed(folder.name, True)
    return added


def _lacking(store: Store, folder: Path) -> Iterator[Path]:
    for film in sorted(folder.iterdir()) if folder.is_dir() else []:
        if is_id(film.name) and not store.has(film.name) and not film.is_symlink():
            yield film


def _add_film(store: Store, film: Path, *, trashed: bool) -> bool:
    """Add a film from what its folder says of it; one that says nothing readable stays as it is."""
    for read in (read_metadata, _recipe_in):
        try:
            if store.adopt(_job_of(film, read(film), trashed=trashed)):
                return True
        except (NotFound, LookupError, TypeError, ValueError, ValidationError, OSError, RecursionError) as error:
            log.warning("the recipe of film %s cannot be read: %s", film.name, error)
    return False


def _job_of(film: Path, metadata: dict[str, Any], *, trashed: bool) -> Job:
    moved_at = film.stat().st_mtime
    return Job(
        id=film.name,
        state=JobState.SUCCEEDED,
        request=GenerationRequest.model_validate(metadata["request"]),
        plan=PLAN.validate_python(metadata["plan"]),
        created_at=float(metadata["created_at"]),
        position=0.0,
        attempts=1,
        finished_at=moved_at,
        trashed_at=moved_at if trashed else None,
        artifact=ARTIFACT.validate_python(metadata["artifact"]),
    )
