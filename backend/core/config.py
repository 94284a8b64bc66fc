"""Settings, from the environment, and the folders of a data folder. Reads no file and makes none."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.core.errors import InvalidRequest

ROOT = Path(__file__).resolve().parents[2]  # the checkout: pages, and weights that came with it

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the studio keeps its things and how much it takes on."""

    data: Path = ROOT
    shared_models: Path = ROOT / "models"  # weights beside those of the data folder; SkyReels V2 Tiny came in it
    queue_limit: int = 1000  # waiting jobs; one more is refused
    upload_limit_bytes: int = 500 * MIB
    upload_slots: int = 2  # uploads at once; a further one waits
    uploads_quota_bytes: int = 20 * GIB  # all uploads together; a further one is refused
    upload_keep_s: float = 24 * 3600  # an upload that no job needs is removed after this
    save_every_s: float = 30.0  # a render that is killed loses at most this much, and the step that it was in
    unfinished_keep_s: float = 7 * 24 * 3600  # what a cancelled or failed job can go on from
    unfinished_quota_bytes: int = 50 * GIB  # the oldest of them go first
    trash_keep_s: float = 7 * 24 * 3600
    disk_reserve_bytes: int = 2 * GIB  # a render starts only if this much would stay free
    hang_s: float = 120.0  # a render that reports nothing for so long, and for ten of its steps, hangs
    slow_hang_s: float = 1800.0  # the same while weights are read and while the film is joined, which report rarely
    offline: bool = False  # the hub is not to be asked for models
    compile_blocks: bool | None = None  # of transformers; None: on a GPU, where it was tried once and is faster
    cancel_s: float = 10.0  # a render that does not heed its cancellation for so long is ended with the process
    slow_cancel_s: float = 180.0  # the same while weights are read and blocks compiled, which nothing interrupts

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """`STUDIO_DATA` moves the data folder away from the checkout, `STUDIO_MODELS` names another folder for
        `shared_models`, `STUDIO_SAVE_EVERY_S` sets `save_every_s`, `STUDIO_COMPILE` 0 or 1 `compile_blocks`. The hub's
        own `HF_HUB_OFFLINE` sets `offline`.

        Raises InvalidRequest for a value that is none of these.
        """
        found: dict[str, Any] = {}
        for name, field in (("STUDIO_DATA", "data"), ("STUDIO_MODELS", "shared_models")):
            if path := environ.get(name):
                found[field] = Path(path).expanduser().resolve()
        if save := environ.get("STUDIO_SAVE_EVERY_S"):
            try:
                found["save_every_s"] = float(save)
            except ValueError:
                found["save_every_s"] = math.nan
            if not found["save_every_s"] >= 0:
                raise InvalidRequest(f"STUDIO_SAVE_EVERY_S={save} is no number of seconds;", hint="use one such as 30.")
        if wish := environ.get("STUDIO_COMPILE"):
            if wish not in ("0", "1"):
                raise InvalidRequest(f"STUDIO_COMPILE={wish} is no choice;", hint="use 0 or 1.")
            found["compile_blocks"] = wish == "1"
        found["offline"] = environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        return cls(**found)

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """Where checkpoints are looked for; of two with the same id the first counts."""
        return tuple(dict.fromkeys((self.models, self.shared_models)))

    @property
    def downloads(self) -> Path:
        """Models on their way here; nothing looks for checkpoints in it."""
        return self.models / ".downloads"

    @property
    def models_trash(self) -> Path:
        return self.models / ".trash"

    @property
    def outputs(self) -> Path:
        return self.data / "outputs"

    @property
    def trash(self) -> Path:
        return self.outputs / ".trash"

    @property
    def temp(self) -> Path:
        return self.data / "temp"

    @property
    def uploads(self) -> Path:
        return self.data / "uploads"

    @property
    def database(self) -> Path:
        return self.outputs / "studio.db"

    @property
    def copies(self) -> Path:
        """Copies of the database, the newest ones."""
        return self.outputs / ".copies"

    @property
    def damaged(self) -> Path:
        """What could not be read any more and was set aside."""
        return self.outputs / ".damaged"

    @property
    def cache(self) -> Path:
        """What is quicker to read than to find again."""
        return self.temp / ".cache"

    @property
    def reserve_file(self) -> Path:
        """Space that the history gets when the disk is full."""
        return self.outputs / ".spare"

    @property
    def lock(self) -> Path:
        return self.outputs / "studio.lock"

    @property
    def token(self) -> Path:
        """What others on the network must show, after `./launch.sh --lan`."""
        return self.outputs / "studio.token"

    @property
    def log(self) -> Path:
        return self.outputs / "studio.log"

    @property
    def address(self) -> Path:
        """Where a running studio writes its URL, for the command line to find."""
        return self.outputs / "studio.json"
