"""The parent of the sandboxed decoder (`decoder.py`): starts the process, reads its output, and ends it."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

from backend.core.config import ROOT
from backend.core.errors import RenderFailed, UploadRefused

log = logging.getLogger(__name__)

# For a complete answer; decoder.py limits the CPU time, so this is for a busy machine, or a child that hangs.
ANSWER_TIMEOUT_S = 60.0
RENDER_ANSWER_TIMEOUT_S = 600.0  # at the end of a render, which is not discarded because the machine is busy
ALIVE_EVERY_S = 1.0  # how often a busy encoder that keeps somebody waiting is called alive
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


class Encoder:
    """An ffmpeg that reads raw frames from `write` on, until `finish`. Both call `alive` about once a second while they
    wait for it, as long as it is computing.
    """

    def __init__(self, child: subprocess.Popen[bytes], alive: Callable[[], None]) -> None:
        assert child.stdin is not None
        os.set_blocking(child.stdin.fileno(), False)
        self._child = child
        self._stdin = child.stdin
        self._alive = alive
        self._computed_s = 0.0

    def write(self, frames: memoryview) -> None:
        """Raises RenderFailed if it has ended, and what `alive` raises."""
        poll = select.poll()
        poll.register(self._stdin, select.POLLOUT)
        try:
            while frames:
                if poll.poll(1000 * ALIVE_EVERY_S):
                    frames = frames[self._stdin.write(frames) or 0 :]
                else:
                    self._check_alive()
        except BrokenPipeError:
            self.finish()
            raise RenderFailed("The encoder ended before the last frame;", hint="try again.") from None

    def finish(self) -> None:
        """Wait until the file is written. Raises RenderFailed with the encoder's own last words, OSError on a full
        disk, and what `alive` raises.
        """
        while True:
            try:
                _, errors = self._child.communicate(timeout=ALIVE_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                self._check_alive()
        if self._child.returncode:
            words = errors.decode(errors="replace").strip().splitlines()
            reason = re.sub(r"^\[[^]]*\] ", "", words[-1]) if words else f"exit status {self._child.returncode}"
            if os.strerror(errno.ENOSPC) in errors.decode(errors="replace"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise RenderFailed(f"The encoder failed ({reason[:200]});", hint="choose another format or size.")

    def _check_alive(self) -> None:
        """An encoder that stands still is not called alive: whoever watches ends it."""
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self._child.pid).cpu_times()
            computed_s = times.user + times.system
            if computed_s > self._computed_s:
                self._computed_s = computed_s
                self._alive()


@contextmanager
def encode(*arguments: str, alive: Callable[[], None] = lambda: None) -> Iterator[Encoder]:
    """ffmpeg with `arguments`, in a guarded child; leaving the block ends it, whatever it was doing."""
    import imageio_ffmpeg

    program = imageio_ffmpeg.get_ffmpeg_exe()
    quiet = ("-hide_banner", "-loglevel", "error", "-nostats", "-y")
    with _started(["backend.media.encoder", program, *quiet, *arguments], subprocess.PIPE, subprocess.DEVNULL) as child:
        yield Encoder(child, alive)


@contextmanager
def _child(
    job: str, path: Path, arguments: tuple[object, ...], output: int | IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    command = ["backend.media.decoder", job, str(path.absolute()), *map(str, arguments)]
    with _started(command, subprocess.DEVNULL, output) as child:
        yield child


@contextmanager
def _started(module: list[str], stdin: int, stdout: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env=_environment(),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,  # Ctrl-C in the terminal is the studio's to handle
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
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
