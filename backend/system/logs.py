"""Logging: lines on the terminal, JSON lines with job ids in a file."""

from __future__ import annotations

import errno
import json
import logging
import logging.handlers
import os
import re
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from backend.core.errors import StudioError
from backend.core.text import escape_control

FILE_BYTES, FILES = 5 * 2**20, 3
TAIL_BYTES = 256 * 1024
SECRETS = re.compile(r"\bhf_\w{8,}|\bsk-[\w-]{16,}|(?<=Bearer )\S+|(?<=token=)[^&\s\"']+")
SECRET_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "STUDIO_TOKEN")

current_job: ContextVar[str | None] = ContextVar("current_job", default=None)


def write_to_terminal() -> None:
    """Let every logger write to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _add(handler)


def write_to_file(file: Path) -> logging.Handler:
    """Let every logger write to `file`, of which three of 5 MiB are kept, until `stop_writing`.

    Raises StudioError where that cannot be written; a disk that is full now may have room later.
    """
    try:
        os.close(
            os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
        )  # a pipe is not waited for
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise StudioError(
                f"The log {file.parent.name}/{file.name} cannot be written ({error.strerror});",
                hint="remove what lies there, or mend its rights.",
            ) from None
    handler = _File(file, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8", delay=True)
    handler.setFormatter(JsonLines())
    _add(handler)
    return handler


def stop_writing(handler: logging.Handler) -> None:
    logging.getLogger().removeHandler(handler)
    handler.close()


def _add(handler: logging.Handler) -> None:
    handler.addFilter(redact)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def redact(record: logging.LogRecord) -> bool:
    """Logging filter: add the id of the running job, and replace secrets in the message."""
    record.job = current_job.get()
    message = record.getMessage()
    clean = without_secrets(message)
    if clean != message:
        record.msg, record.args = clean, ()
    return True


def without_secrets(text: str) -> str:
    """`text` with tokens, the user's own ones too, as ***.

    >>> without_secrets("GET /?token=abc with hf_abcdefghijkl")
    'GET /?token=*** with ***'
    """
    for name in SECRET_NAMES:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return SECRETS.sub("***", text)


class _File(logging.handlers.RotatingFileHandler):
    """Goes on in the same file where an older one cannot be moved; says once, in a sentence, that it cannot write."""

    _complained = False

    def doRollover(self) -> None:  # noqa: N802
        try:
            super().doRollover()
        except OSError as error:
            self._complain(error)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._complain(error)
        else:
            super().handleError(record)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            name = Path(self.baseFilename).name
            print(f"{name} cannot be kept as it should ({error.strerror}); see to its folder.", file=sys.stderr)


class _Lines(logging.Formatter):
    """Lines for people, their tracebacks without secrets too. Further lines of a message are set in, so that none of
    them looks like a message of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join(escape_control(line) for line in super().format(record).split("\n"))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return without_secrets(super().formatException(ei))


class JsonLines(logging.Formatter):
    """One JSON object a line: `time` (UTC), `level`, `logger`, `job`, `message`, and `traceback` after an exception."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        line = {
            "time": moment,
            "level": record.levelname,
            "logger": record.name,
            "job": getattr(record, "job", None),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = without_secrets(self.formatException(record.exc_info))
        return escape_control(json.dumps(line, ensure_ascii=False))


def last_lines(file: Path, job_id: str, count: int = 8) -> tuple[str, ...]:
    """The last messages about a job in the log, the oldest first; none where there is no log."""
    try:
        with file.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - TAIL_BYTES))
            raw = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    found = []
    for text in raw:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and line.get("job") == job_id:
            found.append(f"{line.get('level')} {line.get('message')}")
    return tuple(found[-count:])
