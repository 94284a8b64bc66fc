"""Everything that can go wrong, as a tree. Each client turns a `StudioError` into its own words and its HTTP status.

StudioError
├── InvalidRequest     422  a request that cannot be met; `field` says where
│   └── UploadRefused  422  a file that is not what it should be
├── NotFound           404
├── Conflict           409  the job's state does not allow it
├── QueueFull          429
├── StudioBusy         503  what is needed is in other hands
│   ├── FolderTaken         another process owns the data folder
│   └── NoAnswer            the studio that runs does not answer
├── NotEnoughSpace     507
├── NewerData          500  written by a newer version of the studio; left as it is
└── RenderFailed       500  the engine gave up
    ├── SnapshotRefused     what an earlier attempt left is of another render: begin anew
    ├── WorkDamaged         what an earlier attempt left cannot be read: begin anew
    ├── ModelUnavailable
    ├── NotEnoughMemory
    ├── NoDevice            the GPU that a job was planned for is not there
    └── DeviceLost          the GPU answers nothing any more to this process: a fresh one is needed
JobCancelled                cancelled by a user: not an error
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

NOTHING: Final = object()  # stands for no value, because None can be one


@dataclass(frozen=True, slots=True)
class Mention:
    """A field of a request where a sentence names it, dotted, and the value that stands with it, as text.

    Each client writes its own name for the field: REST `fps=24`, the command line `--fps=24`, a page `"Frames per
    second" 24`. All other text of a sentence, what a user typed above all, is left as it is.
    """

    field: str
    value: str | None = None


Words = str | Mention | Sequence[str | Mention]


def mention(field: str, value: object = NOTHING) -> Mention:
    """
    >>> mention("skyreels.ar_step", 0)
    Mention(field='skyreels.ar_step', value='0')
    >>> [mention("x", value).value for value in ("my model", True, 20.0, None)]
    ["'my model'", 'true', '20', 'null']
    """
    return Mention(field, None if value is NOTHING else _shown(value))


def _shown(value: object) -> str:
    """A value as JSON has it, cut short; a choice by its name and a number without a .0 at its end."""
    if isinstance(value, Enum):
        return str(value.value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str | list | tuple | dict):
        return f"{value!r}"[:80]
    return f"{value}".removesuffix(".0")


def _parts(words: Words) -> tuple[str | Mention, ...]:
    return (words,) if isinstance(words, str | Mention) else tuple(words)


def _join(parts: Sequence[str | Mention], names: Mapping[str, str], equals: str) -> str:
    def text(part: str | Mention) -> str:
        if isinstance(part, str):
            return part
        name = name_of(part.field, names)
        return name if part.value is None else f"{name}{equals}{part.value}"

    return "".join(map(text, parts))


def name_of(field: str, names: Mapping[str, str]) -> str:
    """What `names` calls a field or, where it has no name, the nearest one around it; the field itself otherwise.

    >>> name_of("skyreels.storyboard.1", {"skyreels.storyboard": "--storyboard"}), name_of("fps", {})
    ('--storyboard', 'fps')
    """
    path = field.split(".")
    around = (".".join(path[:length]) for length in range(len(path), 0, -1))
    return next((names[name] for name in around if name in names), field)


class StudioError(Exception):
    """A failure that can be explained, by its parts: the `reason`, ending in ";", the way out in `hint`, and where it
    is about a field of a request, that `field`, dotted, and its `value`. The value comes before the reason.

    >>> error = InvalidRequest(
    ...     "is more than the video has;", hint=["use 3, or ", mention("fps", 8), "."], field="num_frames", value=99
    ... )
    >>> str(error)
    'num_frames=99 is more than the video has; use 3, or fps=8.'
    >>> error.worded({"num_frames": "--num-frames", "fps": "--fps"})
    '--num-frames=99 is more than the video has; use 3, or --fps=8.'
    """

    code = "studio_error"
    status = 500

    def __init__(self, reason: Words, *, hint: Words = "", field: str | None = None, value: object = NOTHING) -> None:
        self.field = field
        self.value = value
        self.reason = _parts(reason)
        self.way_out = _parts(hint)
        super().__init__(self.message)

    @property
    def _statement(self) -> tuple[str | Mention, ...]:
        if self.field is None or self.value is NOTHING:
            return self.reason
        return (mention(self.field, self.value), " ", *self.reason)

    @property
    def parts(self) -> tuple[str | Mention, ...]:
        """The whole sentence in pieces."""
        return (*self._statement, " ", *self.way_out) if any(self.way_out) else self._statement

    @property
    def message(self) -> str:
        """Field, value and reason, with the fields' own names."""
        return _join(self._statement, {}, "=")

    @property
    def hint(self) -> str:
        """The way out, with the fields' own names."""
        return _join(self.way_out, {}, "=")

    def worded(self, names: Mapping[str, str], equals: str = "=") -> str:
        """The whole sentence with a client's `names` for dotted fields; `equals` precedes values."""
        return _join(self.parts, names, equals)

    def __str__(self) -> str:
        return self.worded({})

    def as_dict(self) -> dict[str, Any]:
        """The error as REST answers it: with `parts` where the sentence names fields, for clients with other names."""
        shown: dict[str, Any] = {"code": self.code, "message": str(self), "field": self.field}
        if any(isinstance(part, Mention) for part in self.parts):
            shown["parts"] = [
                part if isinstance(part, str) else {"field": part.field, "value": part.value} for part in self.parts
            ]
        return shown


class InvalidRequest(StudioError, ValueError):
    """A ValueError too, so that validators of pydantic may raise it."""

    code = "invalid_request"
    status = 422


class UploadRefused(InvalidRequest):
    code = "upload_refused"


class NotFound(StudioError):
    code = "not_found"
    status = 404


def no_such_job(job_id: str) -> NotFound:
    """For an id that is of no job here, or no id at all."""
    return NotFound(f"There is no job {job_id[:40]!r};", hint="`jobs list` shows those there are.")


class Conflict(StudioError):
    code = "conflict"
    status = 409


class QueueFull(StudioError):
    code = "queue_full"
    status = 429


class StudioBusy(StudioError):
    code = "studio_busy"
    status = 503


class FolderTaken(StudioBusy):
    pass


class NoAnswer(StudioBusy):
    pass


class NotEnoughSpace(StudioError):
    code = "not_enough_space"
    status = 507


class NewerData(StudioError):
    code = "newer_data"


class RenderFailed(StudioError):
    code = "render_failed"


class SnapshotRefused(RenderFailed):
    """What an earlier attempt left cannot be gone on from."""

    code = "snapshot_refused"


class WorkDamaged(RenderFailed):
    """A file of an unfinished video cannot be read."""

    code = "work_damaged"


class ModelUnavailable(RenderFailed):
    code = "model_unavailable"


class NotEnoughMemory(RenderFailed):
    code = "not_enough_memory"


class DeviceLost(RenderFailed):
    code = "device_lost"


class NoDevice(RenderFailed):
    code = "no_device"


class JobCancelled(Exception):
    """Raised by `report` inside a render that somebody cancelled."""
