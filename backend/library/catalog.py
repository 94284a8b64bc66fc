"""The models that can render here: the checkpoints on disk, read again every few seconds, and the fallback."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from backend.core.config import Settings
from backend.core.errors import StudioError
from backend.core.registry import MODELS, SYNTHETIC, ModelSpec
from backend.library.checkpoints import Checkpoint, look_for_checkpoints, name_below

log = logging.getLogger(__name__)

KEEP_S = 5.0
Models = list[ModelSpec]
Rows = list[tuple[ModelSpec, bool]]


class Catalog:
    """The checkpoints of one data folder and of the shared models. Thread-safe: a race reads the disk twice."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read_at: float | None = None
        self._checkpoints: dict[str, Checkpoint] = {}
        self._rejected: dict[Path, str] = {}

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The models that are on the disk, with their folders."""
        return tuple(self._current().values())

    def models(self) -> Models:
        """The models that can render here and now: checkpoints on disk, then the fallback that needs none."""
        return [checkpoint.spec for checkpoint in self.checkpoints()] + [SYNTHETIC]

    def list(self, *, downloads: bool) -> Rows:
        """The models that are here (True); with `downloads` also those that can be downloaded (False)."""
        here = self.models()
        ids = {spec.id for spec in here}
        others = [spec for spec in MODELS.values() if downloads and spec.repo_id and spec.id not in ids]
        return [(spec, True) for spec in here] + [(spec, False) for spec in others]

    def rejected(self) -> dict[str, str]:
        """The files and folders in models/ that look like a model and cannot be used, each with the reason."""
        self._current()
        roots = self._settings.model_folders
        return {name_below(roots, path): reason for path, reason in self._rejected.items()}

    def folder_of(self, model_id: str, title: str) -> Path | None:
        """Where the weights of a model lie; None for the fallback, which has none. Raises StudioError if it is gone."""
        if model_id in MODELS and not MODELS[model_id].needs_checkpoint:
            return None
        checkpoint = self._current().get(model_id)
        if checkpoint is None:
            raise StudioError(f"{title} is no longer in models/;", hint="put it back, then retry.")
        return checkpoint.folder

    def forget(self) -> None:
        """Read the disk at the next call: something was removed or restored."""
        self._read_at = None

    def _current(self) -> dict[str, Checkpoint]:
        if self._read_at is None or time.monotonic() - self._read_at > KEEP_S:
            checkpoints, rejected = look_for_checkpoints(self._settings.model_folders)
            for folder in rejected.keys() - self._rejected.keys():
                log.warning("checkpoint %s is left out: %s", folder, rejected[folder])
            self._checkpoints = {checkpoint.spec.id: checkpoint for checkpoint in checkpoints}
            self._rejected = rejected
            self._read_at = time.monotonic()
        return self._checkpoints
