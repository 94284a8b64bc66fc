"""Files that survive a power cut: what is synced here is on the disk when the call returns."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

# Another file system, and one that has no second names, or no more of them.
NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES})
PART, MOVED = ".part", ".moved"  # a copy beside its target that may lack something, and what a whole copy was made of


def sync(path: Path) -> None:
    """Write a file, or the list of a folder's names, through to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_folder(folder: Path, target: Path) -> None:
    """Give a finished folder its place in one step: its files and names first, so that nothing half-made is ever there.
    Raises as `move` does.
    """
    for path in folder.iterdir():
        sync(path)
    sync(folder)
    move(folder, target)


def move(source: Path, target: Path) -> None:
    """Move a file or a folder, to another file system too; it never has both names, nor is it ever there in part.

    Another file system gets a copy under a hidden name; then the source is hidden, then the copy gets its name.
    `finish_moves` finishes what was cut off in between. Where source and target have different names, nobody but the
    caller knows the source; it is there until the target is.

    Raises OSError where the target of a folder is there already (EEXIST, ENOTEMPTY, ENOTDIR); a file replaces an
    earlier one.
    """
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # between file systems, and from the lower layer of a container's
            raise
        _move_across(source, target)
    sync(target.parent)
    sync(source.parent)


def _move_across(source: Path, target: Path) -> None:
    if source.is_dir() and (target.exists() or target.is_symlink()):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    part, moved = _hidden(target, PART), _hidden(source, MOVED)
    _remove(part)
    try:
        _copy(source, part)
    except OSError:
        _remove(part)
        raise
    if source.name != target.name:
        part.rename(target)
        sync(target.parent)
        _remove(source)
        return
    _remove(moved)
    source.rename(moved)
    try:
        sync(source.parent)
        part.rename(target)
    except OSError:
        moved.rename(source)
        _remove(part)
        raise
    sync(target.parent)
    _remove(moved)


def finish_moves(routes: Iterable[tuple[Path, Path]]) -> None:
    """Finish the moves that the end of a process cut off, from the first folder of each pair to the second one.

    All routes to a folder must be given at once, and nothing else may use the folders meanwhile.
    """
    routes = list(routes)
    try:
        for folder, to in routes:
            for moved in folder.glob(f".*{MOVED}"):
                _finish(moved, to)
        for _, to in routes:
            for part in to.glob(f".*{PART}"):
                _remove(part)
    except OSError:
        log.exception("a move that was cut off could not be finished; the next start tries again")


def discard(folder: Path) -> None:
    """Remove a folder of a route of `finish_moves`; half of it is never found under its name."""
    part = _hidden(folder, PART)
    _remove(part)
    folder.rename(part)
    _remove(part)


def _finish(moved: Path, to: Path) -> None:
    """Give the copy its name, or its old one to the source where the disk with the copy is away."""
    name = moved.name[1 : -len(MOVED)]
    target, source = to / name, moved.with_name(name)
    part = _hidden(target, PART)
    if not target.exists() and part.exists():
        part.rename(target)
        sync(to)
    if target.exists():
        _remove(moved)
    elif not source.exists():
        moved.rename(source)
    sync(moved.parent)


def _hidden(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


def _copy(source: Path, target: Path) -> None:
    """Copy with the times, for the owner alone, and sync. Links stay links."""
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    if source.is_dir():
        target.mkdir(mode=0o700)
        for path in source.iterdir():
            _copy(path, target / path.name)
    else:
        shutil.copyfile(source, target)
    found = source.stat()
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    sync(target)


def _remove(path: Path) -> None:
    """Remove a file or a folder if it is there; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name, `target`, which nothing has; a copy where that cannot be. It is whole and synced."""
    part = target.with_name(f"{target.name}{PART}")
    _remove(part)
    try:
        os.link(source, part)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        shutil.copyfile(source, part)
    replace_file(part, target)


def replace_file(part: Path, target: Path) -> None:
    """Give a file that was written beside `target` its name, in place of an earlier one, so that it is always whole."""
    sync(part)
    part.replace(target)
    sync(target.parent)
