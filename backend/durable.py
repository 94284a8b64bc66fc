"""Files that survive a power cut: what is synced here is on the disk when the call returns."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def sync(path: Path) -> None:
    """Write a file, or the list of a folder's names, through to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_folder(folder: Path, target: Path) -> None:
    """Give a finished folder its place in one step: its files and names first, so that nothing half-made is ever there.

    On another file system a copy is made beside `target` first. Raises OSError where something is there already
    (ENOTEMPTY, ENOTDIR).
    """
    if folder.stat().st_dev != target.parent.stat().st_dev:
        folder = Path(shutil.copytree(folder, target.with_name(f".{target.name}.part"), dirs_exist_ok=True))
    for path in folder.iterdir():
        sync(path)
    sync(folder)
    folder.rename(target)
    sync(target.parent)
    sync(folder.parent)


def replace_file(part: Path, target: Path) -> None:
    """Give a file that was written beside `target` its name, in place of an earlier one, so that it is always whole."""
    sync(part)
    part.replace(target)
    sync(target.parent)
