"""The parent of the sandboxed decoder (`decoder.py`): starts the process, reads its output, and ends it."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from backend.core.config import ROOT
from backend.core.errors import UploadRefused

log = logging.getLogger(__name__)

# For a complete answer; decoder.py limits the CPU time, so this is for a busy machine, or a child that hangs.
ANSWER_TIMEOUT_S = 60.0
RENDER_ANSWER_TIMEOUT_S = 600.0  # at the end of a render, which is not discarded because the machine is busy
STALL_S = 60.0  # for the next frames of a video, while somebody waits for them


def decode(
    job: str,
    path: Path,
    *arguments: object,
    name: str = "",
    output: IO[bytes] | None = None,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> bytes:
    """The complete output of one decoder job, empty if it goes to the file `output`.

    Raises UploadRefused, which calls the file `name` (its own name by default); also if there is no answer after
    `timeout_s` seconds.
    """
    name = name or path.name
    with _child(job, path, arguments, output or subprocess.PIPE) as child:
        try:
            answer, errors = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise _too_slow(name) from None
        if child.returncode:
            raise _refusal(name, child.returncode, errors)
        return answer or b""


class Pipe:
    """The output of a decoder process while it runs."""

    def __init__(self, child: subprocess.Popen[bytes], name: str) -> None:
        self._child = child
        self._name = name

    def fill(self, target: memoryview) -> None:
        """Fill `target` (bytes), waiting at most STALL_S; UploadRefused if the child refuses, dies or stalls."""
        assert self._child.stdout is not None
        output = self._child.stdout.fileno()
        poll = select.poll()
        poll.register(output, select.POLLIN)
        deadline = time.monotonic() + STALL_S
        filled = 0
        while filled < len(target):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise _too_slow(self._name)
            count = os.readv(output, [target[filled:]])
            if not count:
                raise self._ended()
            filled += count

    def _ended(self) -> UploadRefused:
        try:
            _, errors = self._child.communicate(timeout=STALL_S)
        except subprocess.TimeoutExpired:
            return _too_slow(self._name)
        return _refusal(self._name, self._child.returncode, errors)


@contextmanager
def stream(job: str, path: Path, *arguments: object) -> Iterator[Pipe]:
    """Stream the output of one decoder job; leaving the block ends the process."""
    with _child(job, path, arguments, subprocess.PIPE) as child:
        yield Pipe(child, path.name)


@contextmanager
def _child(
    job: str, path: Path, arguments: tuple[object, ...], output: int | IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "backend.media.decoder", job, str(path.absolute()), *map(str, arguments)],
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,  # Ctrl-C in the terminal is the studio's to handle
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def _environment() -> dict[str, str]:
    """The child's environment: no tokens, and few threads and arenas, because each reserves address space."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


def _too_slow(name: str) -> UploadRefused:
    return UploadRefused(f"{name} takes too long to decode;", hint="make it smaller or shorter.", field="file")


def _refusal(name: str, returncode: int, errors: bytes) -> UploadRefused:
    """The error that the child wrote; if it ended without one, what its exit status says."""
    try:
        answer = json.loads(errors)
        reason, hint, detail = str(answer["reason"]), str(answer["hint"]), str(answer["detail"])
    except (ValueError, LookupError, TypeError):
        if returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return _too_slow(name)
        reason, hint, detail = "cannot be decoded", "export it again and send that.", f"exit status {returncode}"
    log.info("upload refused: %s %s (%s)", name, reason, detail)
    return UploadRefused(f"{name} {reason};", hint=hint, field="file")
