"""Files that survive a power cut: what is synced here is on the disk when the call returns."""

from __future__ import annotations

import os
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

    Both must lie on one file system. Raises OSError where something is there already (ENOTEMPTY, ENOTDIR).
    """
    for path in folder.iterdir():
        sync(path)
    sync(folder)
    folder.rename(target)
    sync(target.parent)
    sync(folder.parent)
