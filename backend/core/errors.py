"""Everything that can go wrong, as a tree. A door turns a `StudioError` into its words and its HTTP status.

StudioError
├── InvalidRequest     422  a wish that cannot be met; `field` says where
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
JobCancelled                somebody asked for it: not an error
"""

from __future__ import annotations

import re
from collections.abc import Mapping


class StudioError(Exception):
    """A failure that can be explained: value and reason in `message`, the way out in `hint`, the place in `field`."""

    code = "studio_error"
    status = 500

    def __init__(self, message: str, *, hint: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def as_dict(self) -> dict[str, str | None]:
        """The body that REST answers with, and that a failed job keeps."""
        return {"code": self.code, "message": str(self), "hint": self.hint, "field": self.field}


def in_words(error: StudioError, names: Mapping[str, str], equals: str = "=") -> str:
    """What `error` says, with a door's own `names` for the fields of a request: where one has a value (`equals` stands
    before it then), where the sentence is about one, and wherever it can be no word. What was typed is left as it is.

    >>> error = InvalidRequest("skyreels.ar_step=99 of this seed is too much;", hint="use fewer, or other num_frames.")
    >>> in_words(error, {"ar_step": "--ar-step", "seed": "--seed", "num_frames": "--num-frames"})
    '--ar-step=99 of this seed is too much; use fewer, or other --num-frames.'
    """
    if error.code == UploadRefused.code:  # begins with the name of a file
        return str(error)
    place = (error.field or "").split(".")[-1]
    typed = r"""'[^']*'|"[^"]*"|\S*/\S*"""
    named = re.compile(rf"{typed}|\b(?:skyreels\.)?({'|'.join(names)})((?:\.\d[\w.]*)?=|\.\d[\w.]*|\b)")

    def rename(found: re.Match[str]) -> str:
        name, after = found.groups()
        if name is None:
            return found[0]
        ordinary = not after and "_" not in name and name != "storyboard"
        if ordinary and not (name == place and found.start() == 0):
            return found[0]
        return names[name] + (equals if after.endswith("=") else "")

    return named.sub(rename, str(error))


class InvalidRequest(StudioError):
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
