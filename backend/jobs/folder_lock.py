"""The lock of a data folder: one process at a time works in it."""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import FileLock, Timeout

from backend.core.config import Settings
from backend.core.errors import FolderTaken, StudioError
from backend.utils import make_folders


def lock_data_folder(settings: Settings) -> FileLock:
    """Make the folders and hold the lock of the data folder. Raises FolderTaken where another process holds it, and
    StudioError where it cannot be written.
    """
    try:
        make_folders((settings.models, settings.outputs, settings.temp, settings.uploads))
    except FileExistsError as error:
        raise StudioError(
            f"{Path(error.filename).name} in the data folder {settings.data} is a file, or a link to nowhere;",
            hint="connect the disk that it leads to, or remove it.",
        ) from None
    except OSError as error:
        raise StudioError(
            f"The data folder {settings.data} cannot be used ({error.strerror});", hint="name another with --data."
        ) from None
    lock = FileLock(settings.lock, thread_local=False)  # start and stop may come from other threads
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FolderTaken(
            f"The data folder {settings.data.name!r} is in use by another studio, or by a command that renders;",
            hint="use that one, wait for it or stop it, or name another folder with --data.",
        ) from None
    except OSError as error:  # a full disk too, which `is_disk_full` finds in the chain
        way_out = "it must be a file that this user may write; remove what is there."
        if error.errno == errno.EROFS:
            way_out = "make the data folder writable, or name another with --data."
        raise StudioError(
            f"The lock outputs/{settings.lock.name} cannot be taken ({error.strerror});", hint=way_out
        ) from None
    return lock
