"""What is typed on the pages and is not a job yet: the draft of the form, and presets of settings by name.

Each is one JSON file of the data folder, replaced as a whole. One that is damaged or missing counts as empty.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.core.config import Settings
from backend.core.errors import Conflict, InvalidRequest, NotFound
from backend.core.schema import UPLOAD_ID
from backend.core.text import check_name
from backend.durable import replace_file

log = logging.getLogger(__name__)

Form = dict[str, Any]  # a JSON object, which the studio does not interpret

DRAFT_BYTES = 2**18
PRESET_BYTES = 2**16
PRESETS_MOST = 200
DEPTH_MOST = 20  # objects and lists inside one another


class Draft:
    """The form as it was left last, for every browser of the user. `version` grows with every change."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._kept: dict[str, Any] = {"form": None, "version": 0, "saved_at": None}
        found = _read(path)
        if isinstance(found, dict) and _is_draft(found):
            self._kept = {name: found[name] for name in self._kept}

    @property
    def version(self) -> int:
        version: int = self._kept["version"]
        return version

    def get(self) -> dict[str, Any]:
        """`form`, or None where nothing was kept, its `version`, and `saved_at` in seconds since 1970."""
        return self._kept

    def put(self, form: Form | None) -> dict[str, Any]:
        """Keep `form` in place of the one before, on the disk when this returns; None forgets it. What `get` gives.

        Raises InvalidRequest for one that is too large or no JSON.
        """
        check_form(form or {}, DRAFT_BYTES)
        with self._lock:
            kept = {"form": form, "version": self.version + 1, "saved_at": time.time()}
            _write(self._path, kept)
            self._kept = kept
        return kept

    def uploads(self) -> set[str]:
        """Everything in the draft that looks like the id of an upload, in whichever field it stands."""
        return set(re.findall(UPLOAD_ID, json.dumps(self._kept["form"])))


class Presets:
    """Forms by name. At most one is the default."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        found = _read(path)
        listed = found.get("presets") if isinstance(found, dict) else None
        self._kept = [preset for preset in listed if _is_preset(preset)] if isinstance(listed, list) else []

    def all(self) -> list[dict[str, Any]]:
        """Each with `name`, `form` and `is_default`, by name."""
        return self._kept

    def put(self, name: str, form: Form, is_default: bool | None = None) -> dict[str, Any]:
        """Keep `form` under `name`, in place of an earlier one; None leaves as it is whether that is the default. A new
        default takes the place of the one before.

        Raises InvalidRequest, and Conflict for one more than there may be.
        """
        name = check_name(name, "name")
        check_form(form, PRESET_BYTES)
        with self._lock:
            before = next((preset for preset in self._kept if preset["name"] == name), None)
            others = [preset for preset in self._kept if preset is not before]
            if len(others) >= PRESETS_MOST:
                raise Conflict(f"There are {PRESETS_MOST} presets, which is the limit;", hint="delete one first.")
            if is_default is None:
                is_default = before is not None and before["is_default"]
            if is_default:
                others = [preset | {"is_default": False} for preset in others]
            preset = {"name": name, "form": form, "is_default": is_default}
            self._keep([*others, preset])
        return preset

    def remove(self, name: str) -> None:
        """Raises NotFound."""
        with self._lock:
            left = [preset for preset in self._kept if preset["name"] != name]
            if len(left) == len(self._kept):
                raise NotFound(f"There is no preset {name[:80]!r};", hint="GET /api/v1/presets lists those there are.")
            self._keep(left)

    def _keep(self, presets: list[dict[str, Any]]) -> None:
        presets.sort(key=lambda preset: str(preset["name"]).casefold())
        _write(self._path, {"presets": presets})
        self._kept = presets


class Forms:
    """The draft and the presets of one data folder."""

    def __init__(self, settings: Settings) -> None:
        self.draft = Draft(settings.draft)
        self.presets = Presets(settings.presets)


def check_form(form: Any, most_bytes: int) -> None:
    """Raise InvalidRequest for what is no JSON object of at most `most_bytes` in UTF-8 and DEPTH_MOST levels."""
    try:
        size = len(json.dumps(form, ensure_ascii=False, allow_nan=False).encode())
        depth = _depth(form)
    except (ValueError, RecursionError):
        reason = "The form holds a number that is not finite, half a character, or too many levels;"
        raise InvalidRequest(reason, hint="send JSON of text and numbers.", field="form") from None
    if size > most_bytes:
        reason = f"The form has {size} bytes as JSON;"
        raise InvalidRequest(reason, hint=f"send at most {most_bytes}, and files as uploads.", field="form")
    if depth > DEPTH_MOST:
        reason = f"The form has {depth} levels of objects and lists;"
        raise InvalidRequest(reason, hint=f"send at most {DEPTH_MOST}.", field="form")


def _depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    inside = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inside), default=0)


def _is_draft(found: Mapping[str, Any]) -> bool:
    version, saved_at = found.get("version"), found.get("saved_at")
    whole = type(version) is int and version >= 0 and isinstance(saved_at, int | float)
    return whole and "form" in found and (found["form"] is None or _is_form(found["form"], DRAFT_BYTES))


def _is_preset(found: Any) -> bool:
    if not isinstance(found, dict) or set(found) != {"name", "form", "is_default"}:
        return False
    return (
        isinstance(found["name"], str)
        and isinstance(found["is_default"], bool)
        and _is_form(found["form"], PRESET_BYTES)
    )


def _is_form(found: Any, most_bytes: int) -> bool:
    try:
        check_form(found, most_bytes)
    except InvalidRequest:
        return False
    return isinstance(found, dict)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read (%s) and counts as empty", path.name, type(error).__name__)
        return None


def _write(path: Path, content: Any) -> None:
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    replace_file(part, path)
