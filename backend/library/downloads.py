"""Models on their way to this disk and off it: fetched from the hub on a lane beside the films, imported, removed.

One download at a time, each in a child process (`fetch.py`): what is cancelled or stopped is killed. The folder
`models/.downloads/<name>` is the whole truth about it, so after a crash the lane goes on with what it finds there.
Nothing is fetched that nobody asked for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from backend.core.config import GIB, ROOT, Settings
from backend.core.errors import Conflict, InvalidRequest, ModelUnavailable, NotEnoughSpace, NotFound
from backend.core.registry import MODELS, TINY, ModelSpec
from backend.durable import move_folder, replace_file, sync
from backend.library.checkpoints import Checkpoint, Damaged, find_checkpoints, read_spec
from backend.library.fetch import CHECKPOINT, FILES, RECORD, WISH, Listing, is_wanted

log = logging.getLogger(__name__)

DEATHS = 3  # of the child, without a byte between them
SPEED_OVER_S = 20.0
RETRY_S = 5.0
# Ranges and hashes are looked at here, which the hub's own protocol for large files does not allow.
MANNERS = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
MANNERS |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_VERBOSITY": "error"}


class DownloadState(str, Enum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Download:
    """A model on its way here. Bytes are those of all its files, 0 until the hub has told them."""

    id: str
    title: str
    repo_id: str
    state: DownloadState
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_per_s: float = 0.0
    error: str | None = None

    @property
    def fraction(self) -> float:
        return self.bytes_done / self.bytes_total if self.bytes_total else 0.0

    @property
    def eta_s(self) -> float | None:
        return (self.bytes_total - self.bytes_done) / self.bytes_per_s if self.bytes_per_s else None

    def as_dict(self) -> dict[str, Any]:
        """As REST and `--json` show it."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return told | {"state": self.state.value, "fraction": self.fraction, "eta_s": self.eta_s}


class Downloads:
    """The lane. Methods may be called from any thread; `start` lets it go on with what was asked for before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._running: str | None = None  # the name of the folder whose child works
        self._child: subprocess.Popen[bytes] | None = None
        self._seen: dict[str, list[tuple[float, int, int]]] = {}  # by name: when, bytes done, bytes in all

    def start(self) -> None:
        with self._changed:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._work, name="studio-downloads", daemon=True)
                self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        with self._changed:
            self._stopping = True
            self._kill()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)

    # --- what a door may ask for ---

    def current(self) -> list[Download]:
        """Those on their way, in the order in which they were asked for."""
        return [self._download(name, wish) for name, wish in self._wishes()]

    def add(self, model_id: str) -> Download:
        """Have the model of that row in the registry fetched; the wish is on the disk when this returns.

        Raises NotFound for a model that is not in the registry, Conflict for one that is here, ModelUnavailable where
        the hub is switched off.
        """
        spec = MODELS.get(model_id)
        if spec is None or spec.repo_id is None:
            known = ", ".join(spec.id for spec in MODELS.values() if spec.repo_id)
            raise NotFound(f"{model_id[:80]!r} is no model that can be downloaded;", hint=f"these can: {known}.")
        if any(checkpoint.spec.id == model_id for checkpoint in self._checkpoints()):
            raise Conflict(f"{spec.title} is here already;", hint="remove it first to fetch it anew.")
        if self._settings.offline:
            raise ModelUnavailable(
                "The hub is switched off by HF_HUB_OFFLINE;", hint="unset it, or import the model from a folder."
            )
        name = spec.repo_id.rsplit("/", 1)[-1]
        with self._changed:
            if not (self._settings.downloads / name / WISH).exists():
                wish = {"model": spec.id, "repo_id": spec.repo_id, "revision": spec.revision, "added_at": time.time()}
                self._write(name, wish)
            elif self._find(model_id).state is not DownloadState.RUNNING:
                self.resume(model_id)
            self._changed.notify_all()
        self.start()
        return self._find(model_id)

    def pause(self, model_id: str) -> Download:
        """Stop fetching; what is there is kept."""
        with self._changed:
            name, wish = self._wish(model_id)
            self._write(name, wish | {"paused": True})
            if self._running == name:
                self._kill()
        return self._find(model_id)

    def resume(self, model_id: str) -> Download:
        """Go on with one that was paused or failed."""
        with self._changed:
            name, wish = self._wish(model_id)
            self._write(name, {key: value for key, value in wish.items() if key not in ("paused", "error")})
            self._changed.notify_all()
        self.start()
        return self._find(model_id)

    def cancel(self, model_id: str) -> Download:
        """Give it up, and what was fetched of it."""
        with self._changed:
            download = self._find(model_id)
            name, wish = self._wish(model_id)
            self._write(name, wish | {"paused": True})
            if self._running == name:
                self._kill()
                self._changed.wait_for(lambda: self._running != name, timeout=10)
            shutil.rmtree(self._settings.downloads / name, ignore_errors=True)
            self._seen.pop(name, None)
        return download

    def remove(self, model_id: str, *, for_good: bool = False) -> None:
        """Into the trash of models for a week, or away at once. Raises NotFound, Conflict for one of another folder."""
        folder = self._own_folder(model_id)
        self._settings.models_trash.mkdir(exist_ok=True)
        place = self._settings.models_trash / folder.name
        if place.exists():
            shutil.rmtree(place)
        os.utime(folder)  # it has been there since now
        folder.rename(place)
        if for_good:
            shutil.rmtree(place)

    def restore(self, model_id: str) -> None:
        """Back from the trash. Raises NotFound, or Conflict where another one has taken its place."""
        for checkpoint in self.trashed():
            if checkpoint.spec.id == model_id:
                target = self._settings.models / checkpoint.folder.name
                if target.exists():
                    raise Conflict(f"models/{target.name} is there;", hint="move it away first.")
                checkpoint.folder.rename(target)
                return
        raise NotFound(f"No model {model_id[:80]!r} is in the trash;", hint="see `models list`.")

    def trashed(self) -> list[Checkpoint]:
        """The models in the trash."""
        return find_checkpoints([self._settings.models_trash])

    def purge_trash(self, keep_s: float, now: float) -> None:
        """Remove for good what has been in the trash for longer than `keep_s`, at `now` (seconds since 1970)."""
        trash = self._settings.models_trash
        for folder in trash.iterdir() if trash.is_dir() else ():
            if now - folder.stat().st_mtime > keep_s:
                log.info("the model %s: purged from the trash", folder.name)
                shutil.rmtree(folder, ignore_errors=True)

    def import_folder(self, source: Path) -> ModelSpec:
        """Copy a checkpoint that lies elsewhere on this machine into models/, links followed, as its files are.

        Raises InvalidRequest where it is none that can be used, Conflict where it is here, NotEnoughSpace.
        """
        source = source.expanduser().resolve()
        name = source.parent.parent.name.rsplit("--", 1)[-1] if source.parent.name == "snapshots" else source.name
        try:
            spec = read_spec(source, name)
        except (OSError, ValueError, LookupError, TypeError, Damaged) as error:
            raise InvalidRequest(
                f"{source.name} cannot be imported ({str(error) or type(error).__name__});",
                hint="name the folder that has model_index.json in it.",
            ) from None
        target = self._settings.models / name
        if target.exists() or any(checkpoint.spec.id == spec.id for checkpoint in self._checkpoints()):
            raise Conflict(f"{spec.title} is here already;", hint="remove it first.")
        paths = {f"{file.relative_to(source)}": file for file in source.rglob("*") if file.is_file()}
        files = [file for path, file in paths.items() if is_wanted(path) or path == RECORD]
        size = sum(file.stat().st_size for file in files)
        free = shutil.disk_usage(self._settings.models).free
        if size + self._settings.disk_reserve_bytes > free:
            raise NotEnoughSpace(f"{name} has {size / GIB:.1f} GiB, {free / GIB:.1f} GiB are free;", hint="make room.")
        part = self._settings.downloads / f".{name}.import"
        shutil.rmtree(part, ignore_errors=True)
        try:
            for file in files:
                place = part / file.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
                sync(place)
            move_folder(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return spec

    def verify(self, model_id: str) -> list[str]:
        """What is wrong with a model's files, hashed anew; nothing if all are as they were fetched. Those that were
        not fetched have no hashes: of them the headers were looked at when they were found.
        """
        folder = self._checkpoint(model_id).folder
        listing = Listing.read(folder / RECORD)
        wrong = []
        for file in listing.files if listing else ():
            content = folder / file.path
            if not content.is_file():
                wrong.append(f"{file.path} is missing")
            elif content.stat().st_size != file.size or not file.is_right(content):
                wrong.append(f"{file.path} was changed or is damaged")
        return wrong

    def has_hashes(self, model_id: str) -> bool:
        """Whether `verify` has anything to compare with."""
        return Listing.read(self._checkpoint(model_id).folder / RECORD) is not None

    def came_with_the_studio(self, folder: Path) -> bool:
        """Whether it is a part of the checkout, which is not ours to take away."""
        return folder.resolve() == ROOT / "models" / TINY.id

    # --- the disk ---

    def _checkpoints(self) -> list[Checkpoint]:
        return find_checkpoints(self._settings.model_folders)

    def _checkpoint(self, model_id: str) -> Checkpoint:
        for checkpoint in self._checkpoints():
            if checkpoint.spec.id == model_id:
                return checkpoint
        raise NotFound(f"No model {model_id[:80]!r} lies in models/;", hint="see `models list`.")

    def _own_folder(self, model_id: str) -> Path:
        folder = self._checkpoint(model_id).folder
        if folder.parent != self._settings.models or self.came_with_the_studio(folder):
            raise Conflict(
                f"{folder.name} came with the studio or belongs to another folder;", hint="it is not removed here."
            )
        return folder

    def _wishes(self) -> list[tuple[str, dict[str, Any]]]:
        """All that was asked for and is not here yet, in that order."""
        found = []
        for file in self._settings.downloads.glob(f"*/{WISH}"):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                wish = json.loads(file.read_bytes())
                found.append((float(wish["added_at"]), file.parent.name, wish))
        return [(name, wish) for _, name, wish in sorted(found, key=lambda one: one[:2])]

    def _wish(self, model_id: str) -> tuple[str, dict[str, Any]]:
        for name, wish in self._wishes():
            if wish["model"] == model_id:
                return name, wish
        raise NotFound(f"{model_id[:80]!r} is not on its way here;", hint="see `models list`.")

    def _write(self, name: str, wish: Mapping[str, Any]) -> None:
        folder = self._settings.downloads / name
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{WISH}.part"
        part.write_text(json.dumps(wish), encoding="utf-8")
        replace_file(part, folder / WISH)

    def _find(self, model_id: str) -> Download:
        return self._download(*self._wish(model_id))

    def _download(self, name: str, wish: Mapping[str, Any]) -> Download:
        error = wish.get("error")
        state = DownloadState.RUNNING if self._running == name else DownloadState.QUEUED
        if error or wish.get("paused"):
            state = DownloadState.FAILED if error else DownloadState.PAUSED
        seen = self._seen.get(name) or self._look(name)
        (began, first, _), (now, done, total) = (seen[0], seen[-1]) if seen else ((0.0, 0, 0), (0.0, 0, 0))
        speed = (done - first) / (now - began) if state is DownloadState.RUNNING and now > began else 0.0
        title = MODELS[wish["model"]].title if wish["model"] in MODELS else name
        return Download(wish["model"], title, wish["repo_id"], state, done, total, max(speed, 0.0), error)

    def _look(self, name: str) -> list[tuple[float, int, int]]:
        """What lies on the disk of one that no child has told about yet."""
        folder = self._settings.downloads / name
        listing = Listing.read(folder / FILES)
        if listing is None:
            return []
        with contextlib.suppress(OSError):
            done = sum(file.stat().st_size for file in (folder / CHECKPOINT).rglob("*") if file.is_file())
            return [(0.0, min(done, listing.size), listing.size)]
        return []

    # --- the lane ---

    def _work(self) -> None:
        while True:
            with self._changed:
                name = None if self._stopping else self._next()
                if name is None:
                    if self._stopping:
                        return
                    self._changed.wait(60)
                    continue
                self._running = name
            try:
                self._fetch(name)
            except Exception:
                log.exception("the download of %s stopped; it is tried again", name)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, RETRY_S)
            finally:
                with self._changed:
                    self._running = None
                    self._seen.pop(name, None)
                    self._changed.notify_all()

    def _next(self) -> str | None:
        return next((name for name, wish in self._wishes() if not wish.get("paused") and not wish.get("error")), None)

    def _fetch(self, name: str) -> None:
        """Let children work on it until it is here, was stopped, or failed."""
        folder, deaths, reached = self._settings.downloads / name, 0, -1
        while not (self._settings.models / name).exists():
            error = self._run_child(name)
            with self._changed:
                wish = dict(self._wishes()).get(name)
                if self._stopping or wish is None or wish.get("paused"):
                    return
                seen = self._seen.get(name)
                deaths, reached = (deaths + 1, reached) if seen and seen[-1][1] == reached else (1, reached)
                reached = seen[-1][1] if seen else -1
                if error is None and not (self._settings.models / name).exists() and deaths >= DEATHS:
                    error = "The download was ended by the system several times; resume it later."
                if error is not None:
                    self._write(name, wish | {"error": error})
                    return
        shutil.rmtree(folder, ignore_errors=True)
        log.info("%s is here", name)

    def _run_child(self, name: str) -> str | None:
        """One child, to its end; why it gave up, or None if it is done or died without a word."""
        folder = self._settings.downloads / name
        environ = os.environ | MANNERS | {"HF_HUB_OFFLINE": "1" if self._settings.offline else "0"}
        command = [sys.executable, "-m", "backend.library.fetch", str(folder)]
        with self._changed:
            wish = dict(self._wishes()).get(name)
            if self._stopping or wish is None or wish.get("paused"):  # since it was this one's turn
                return None
            self._child = child = subprocess.Popen(
                [*command, str(self._settings.disk_reserve_bytes)],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in the terminal is the studio's to handle
            )
        error = None
        try:
            for told in self._lines(child):
                if "log" in told:
                    log.info("%s: %s", name, told["log"])
                elif "error" in told:
                    error = str(told["error"]["message"])
                else:
                    self._note(name, int(told["done"]), int(told["total"]))
        finally:
            child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()
            self._child = None
        return error

    def _lines(self, child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
        assert child.stdout is not None
        for line in child.stdout:
            with contextlib.suppress(ValueError):  # the last line of one that was killed
                yield json.loads(line)

    def _note(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        seen = [one for one in self._seen.get(name, []) if now - one[0] < SPEED_OVER_S]
        self._seen[name] = [*seen, (now, done, total)]

    def _kill(self) -> None:
        child = self._child
        if child is not None:
            child.kill()
