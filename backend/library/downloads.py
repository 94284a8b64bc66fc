"""The download queue: models are fetched from the hub while videos are rendered; also importing and removing models.

One download runs at a time, in a child process (`fetch.py`) that is killed to cancel or pause it. All of its state is
in the folder `models/.downloads/<name>`, so the queue goes on after a crash. Nothing is downloaded without a request.
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
from backend.durable import discard, move, move_folder, replace_file, sync
from backend.library.checkpoints import (
    Checkpoint,
    Damaged,
    checkpoint_name,
    find_checkpoints,
    find_weights,
    read_json,
    read_spec,
    snapshot_of,
    weights_of,
)
from backend.library.fetch import CHECKPOINT, FILES, RECORD, REQUEST, REQUEST_0_1, Listing, is_wanted

log = logging.getLogger(__name__)

CRASHES_MOST = 3  # of the child, without progress between them
SPEED_OVER_S = 20.0
RETRY_S = 5.0
# Without Xet, the hub's own protocol for large files, which allows neither ranges nor hashes of our own.
HF_ENV = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
HF_ENV |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_VERBOSITY": "error"}


class DownloadState(str, Enum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Download:
    """A model being downloaded. Bytes are those of all its files, 0 until the hub has listed them."""

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
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"state": self.state.value, "fraction": self.fraction, "eta_s": self.eta_s}


class Downloads:
    """The download queue. Methods may be called from any thread; `start` continues the downloads of an earlier run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._running: str | None = None  # the name of the folder whose child works
        self._child: subprocess.Popen[bytes] | None = None
        self._seen: dict[str, list[tuple[float, int, int]]] = {}  # by name: when, bytes done, bytes in all
        for old in settings.downloads.glob(f"*/{REQUEST_0_1}"):
            with contextlib.suppress(OSError):
                old.rename(old.with_name(REQUEST))

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

    # --- requests ---

    def current(self) -> list[Download]:
        """The downloads that are not complete, in the order of their requests."""
        return [self._download(name, request) for name, request in self._requests()]

    def add(self, model_id: str) -> Download:
        """Queue the download of a model of the registry; the request is on the disk when this returns.

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
            if not (self._settings.downloads / name / REQUEST).exists():
                request = {
                    "model": spec.id,
                    "repo_id": spec.repo_id,
                    "revision": spec.revision,
                    "added_at": time.time(),
                }
                self._write(name, request)
            elif self._find(model_id).state is not DownloadState.RUNNING:
                self.resume(model_id)
            self._changed.notify_all()
        self.start()
        return self._find(model_id)

    def pause(self, model_id: str) -> Download:
        """Stop the download; what was fetched is kept."""
        with self._changed:
            name, request = self._request(model_id)
            self._write(name, request | {"paused": True})
            if self._running == name:
                self._kill()
        return self._find(model_id)

    def resume(self, model_id: str) -> Download:
        """Continue a download that was paused or failed."""
        with self._changed:
            name, request = self._request(model_id)
            self._write(name, {key: value for key, value in request.items() if key not in ("paused", "error")})
            self._changed.notify_all()
        self.start()
        return self._find(model_id)

    def cancel(self, model_id: str) -> Download:
        """Cancel the download and delete what was fetched of it."""
        with self._changed:
            download = self._find(model_id)
            name, request = self._request(model_id)
            self._write(name, request | {"paused": True})
            if self._running == name:
                self._kill()
                self._changed.wait_for(lambda: self._running != name, timeout=10)
            shutil.rmtree(self._settings.downloads / name, ignore_errors=True)
            self._seen.pop(name, None)
        return download

    def remove(self, model_id: str, *, for_good: bool = False) -> None:
        """Move it to the trash for a week, or delete it. Raises NotFound, Conflict for one of another folder."""
        folder = self._own_folder(model_id)
        if for_good:
            discard(folder)
            return
        self._settings.models_trash.mkdir(exist_ok=True)
        place = self._settings.models_trash / folder.name
        if place.exists():
            shutil.rmtree(place)
        os.utime(folder)  # its time in the trash begins now
        move(folder, place)

    def restore(self, model_id: str) -> None:
        """Move it back from the trash. Raises NotFound, or Conflict where a folder of that name exists."""
        for checkpoint in self.trashed():
            if checkpoint.spec.id == model_id:
                target = self._settings.models / checkpoint.folder.name
                if target.exists():
                    raise Conflict(f"models/{target.name} is there;", hint="move it away first.")
                move(checkpoint.folder, target)
                return
        raise NotFound(f"No model {model_id[:80]!r} is in the trash;", hint="see `models list`.")

    def trashed(self) -> list[Checkpoint]:
        """The models in the trash."""
        return find_checkpoints([self._settings.models_trash])

    def purge_trash(self, keep_s: float, now: float) -> None:
        """Delete what has been in the trash for longer than `keep_s` at `now` (seconds since 1970)."""
        trash = self._settings.models_trash
        for folder in trash.iterdir() if trash.is_dir() else ():
            if now - folder.stat().st_mtime > keep_s:
                log.info("the model %s: purged from the trash", folder.name)
                shutil.rmtree(folder, ignore_errors=True)

    def import_folder(self, source: Path) -> ModelSpec:
        """Copy a checkpoint of this machine into models/, following links.

        Raises InvalidRequest for one that cannot be used, Conflict for one that is here already, NotEnoughSpace.
        """
        source = Path(os.path.expanduser(source)).resolve()
        source = snapshot_of(source) or source
        name = checkpoint_name(source)
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
        weights = [find_weights(source / part) for part in weights_of(read_json(source / "model_index.json"))]
        loaded = {file for part in weights for file in (*part.files, part.index)}
        files = [file for path, file in paths.items() if is_wanted(path) or path == RECORD or file in loaded]
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
        """Hash a model's files and list what differs from the download; empty if nothing does. Models that were not
        downloaded have no hashes to compare with.
        """
        folder = self._checkpoint(model_id).folder
        listing = Listing.read(folder / RECORD)
        wrong = []
        for file in listing.files if listing else ():
            content = folder / file.path
            if not content.is_file():
                wrong.append(f"{file.path} is missing")
            elif content.stat().st_size != file.size or not file.matches(content):
                wrong.append(f"{file.path} was changed or is damaged")
        return wrong

    def has_hashes(self, model_id: str) -> bool:
        """Whether `verify` has hashes to compare with."""
        return Listing.read(self._checkpoint(model_id).folder / RECORD) is not None

    def came_with_the_studio(self, folder: Path) -> bool:
        """Whether the folder is part of the checkout, and so is never removed."""
        return folder.resolve() == ROOT / "models" / TINY.id

    # --- the disk ---

    def _checkpoints(self) -> list[Checkpoint]:
        return find_checkpoints(self._settings.model_folders)

    def _checkpoint(self, model_id: str) -> Checkpoint:
        for checkpoint in self._checkpoints():
            if checkpoint.spec.id == model_id:
                return checkpoint
        raise NotFound(f"No model {model_id[:80]!r} lies in models/;", hint="see `models list`.")

    def is_removable(self, folder: Path) -> bool:
        """Whether `remove` takes the model in `folder`: it lies in the studio's own folder and did not come with it."""
        return folder.parent == self._settings.models and not self.came_with_the_studio(folder)

    def _own_folder(self, model_id: str) -> Path:
        folder = self._checkpoint(model_id).folder
        if not self.is_removable(folder):
            raise Conflict(
                f"{checkpoint_name(folder)} came with the studio or belongs to another folder;",
                hint="it is not removed here.",
            )
        return folder

    def _requests(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and request of every download that is not complete, oldest request first."""
        found = []
        for file in self._settings.downloads.glob(f"*/{REQUEST}"):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                request = json.loads(file.read_bytes())
                found.append((float(request["added_at"]), file.parent.name, request))
        return [(name, request) for _, name, request in sorted(found, key=lambda one: one[:2])]

    def _request(self, model_id: str) -> tuple[str, dict[str, Any]]:
        for name, request in self._requests():
            if request["model"] == model_id:
                return name, request
        raise NotFound(f"{model_id[:80]!r} is not being downloaded;", hint="see `models list`.")

    def _write(self, name: str, request: Mapping[str, Any]) -> None:
        folder = self._settings.downloads / name
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{REQUEST}.part"
        part.write_text(json.dumps(request), encoding="utf-8")
        replace_file(part, folder / REQUEST)

    def _find(self, model_id: str) -> Download:
        return self._download(*self._request(model_id))

    def _download(self, name: str, request: Mapping[str, Any]) -> Download:
        error = request.get("error")
        state = DownloadState.RUNNING if self._running == name else DownloadState.QUEUED
        if error or request.get("paused"):
            state = DownloadState.FAILED if error else DownloadState.PAUSED
        seen = self._seen.get(name) or self._found_on_disk(name)
        (began, first, _), (now, done, total) = (seen[0], seen[-1]) if seen else ((0.0, 0, 0), (0.0, 0, 0))
        speed = (done - first) / (now - began) if state is DownloadState.RUNNING and now > began else 0.0
        title = MODELS[request["model"]].title if request["model"] in MODELS else name
        return Download(request["model"], title, request["repo_id"], state, done, total, max(speed, 0.0), error)

    def _found_on_disk(self, name: str) -> list[tuple[float, int, int]]:
        """Progress by the files on the disk, for a download whose child has not reported yet."""
        folder = self._settings.downloads / name
        listing = Listing.read(folder / FILES)
        if listing is None:
            return []
        with contextlib.suppress(OSError):
            done = sum(file.stat().st_size for file in (folder / CHECKPOINT).rglob("*") if file.is_file())
            return [(0.0, min(done, listing.size), listing.size)]
        return []

    # --- the worker thread ---

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
        return next(
            (name for name, request in self._requests() if not request.get("paused") and not request.get("error")), None
        )

    def _fetch(self, name: str) -> None:
        """Run children until the model is complete, or the download was stopped or failed."""
        folder, crashes, reached = self._settings.downloads / name, 0, -1
        while not (self._settings.models / name).exists():
            error = self._run_child(name)
            with self._changed:
                request = dict(self._requests()).get(name)
                if self._stopping or request is None or request.get("paused"):
                    return
                seen = self._seen.get(name)
                crashes, reached = (crashes + 1, reached) if seen and seen[-1][1] == reached else (1, reached)
                reached = seen[-1][1] if seen else -1
                if error is None and not (self._settings.models / name).exists() and crashes >= CRASHES_MOST:
                    error = "The download was ended by the system several times; resume it later."
                if error is not None:
                    self._write(name, request | {"error": error})
                    return
        shutil.rmtree(folder, ignore_errors=True)
        log.info("%s is here", name)

    def _run_child(self, name: str) -> str | None:
        """Run one child to its end. Returns its error, or None if it is done or ended without one."""
        folder = self._settings.downloads / name
        environ = os.environ | HF_ENV | {"HF_HUB_OFFLINE": "1" if self._settings.offline else "0"}
        command = [sys.executable, "-m", "backend.library.fetch", str(folder)]
        with self._changed:
            request = dict(self._requests()).get(name)
            if self._stopping or request is None or request.get("paused"):  # since `_next`
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
            for message in self._messages(child):
                if "log" in message:
                    log.info("%s: %s", name, message["log"])
                elif "error" in message:
                    error = str(message["error"]["message"])
                else:
                    self._note(name, int(message["done"]), int(message["total"]))
        finally:
            child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()
            self._child = None
        return error

    def _messages(self, child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
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
