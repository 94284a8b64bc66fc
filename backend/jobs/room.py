"""Room on the disk: asked for before a film is taken, and waited for where the disk fills up all the same."""

from __future__ import annotations

import errno
import logging
import shutil
import time

from backend.core.config import Settings
from backend.core.errors import NotEnoughSpace
from backend.core.planning import Plan

log = logging.getLogger(__name__)

CHECK_S = 5.0  # how often a full disk is asked whether there is room again
FULL_WORDS = ("database or disk is full", f"(os error {errno.ENOSPC})")  # of SQLite and of safetensors


class Room:
    """Of the disk with the data folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._needed = 0  # bytes that must be free before another job is taken; 0 while nothing was wrong
        self._look_again = 0.0

    def check(self, plan: Plan) -> None:
        """Raise NotEnoughSpace if the film of `plan` does not fit."""
        free, needed = self._free(), self._bytes_for(plan)
        if free < needed:
            raise NotEnoughSpace(
                f"{free / 1e9:.1f} GB of disk are free, {needed / 1e9:.1f} GB are needed (with the reserve);",
                hint="delete films and empty the trash, or move the data folder with --data.",
            )

    def wait_for(self, plan: Plan) -> NotEnoughSpace:
        """From now on `is_there` says no, until the film of `plan` fits. Returns what to tell people."""
        self._needed = self._bytes_for(plan)
        # Not at once, even if there is room by the numbers: what filled the disk may do so again.
        self._look_again = time.monotonic() + CHECK_S
        return NotEnoughSpace(
            f"Waits for room on the disk: {self._needed / 1e9:.1f} GB must be free;",
            hint="delete films and empty the trash. Then it goes on by itself.",
        )

    def is_there(self) -> bool:
        """Whether nothing is waited for; the disk is asked at most every CHECK_S."""
        if self._needed and time.monotonic() >= self._look_again:
            self._look_again += CHECK_S
            if self._free() >= self._needed:
                log.info("there is room on the disk again")
                self._needed = 0
        return not self._needed

    def _free(self) -> int:
        return shutil.disk_usage(self._settings.data).free

    def _bytes_for(self, plan: Plan) -> int:
        return plan.forecast.disk_bytes + self._settings.disk_reserve_bytes


def is_disk_full(error: BaseException | None) -> bool:
    """Whether that, or what it came from, says that nothing more can be written."""
    while error is not None:
        if isinstance(error, NotEnoughSpace) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
