"""Supervisor: runs the studio as a child process and restarts it after a crash or when it asks for that.

A sticky GPU error or a render that hangs ends only with the process. The jobs are on the disk; the next process goes
on with them, and quarantines one that crashed three.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

log = logging.getLogger(__name__)

RESTART = 75  # the exit status that asks for a fresh process (EX_TEMPFAIL of sysexits.h)
SUPERVISED = "STUDIO_SUPERVISED"  # in the environment of the child: FIRST, or AGAIN after one that died before it
FIRST, AGAIN = "1", "2"
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
STEADY_S = 600.0  # after a child that ran so long the waits begin anew
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1


def supervise(command: Sequence[str]) -> int:
    """Run `command` until it ends by itself or by a signal to this process; returns its exit status.

    A child that a signal killed, or that exits with RESTART, is restarted after a wait that doubles each time.
    """
    child: subprocess.Popen[bytes] | None = None
    signals: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        signals.append(number)
        if child is not None and child.poll() is None:
            child.send_signal(number)

    for number in FORWARDED:
        signal.signal(number, forward)
    wait_s, life = FIRST_WAIT_S, FIRST
    while True:
        began = time.monotonic()
        # In a session of its own: Ctrl-C in the terminal reaches it once, through this process.
        child = subprocess.Popen(
            command, env=os.environ | {SUPERVISED: life}, start_new_session=True, preexec_fn=_end_with_parent
        )
        if signals:  # received before the child was started
            child.send_signal(signals[-1])
        status, life = _wait(child), AGAIN
        if signals or (status >= 0 and status != RESTART):
            return status if status >= 0 else 128 - status
        if time.monotonic() - began > STEADY_S:
            wait_s = FIRST_WAIT_S
        reason = "requested a fresh process" if status == RESTART else f"was ended by {_signal_name(-status)}"
        print(f"The studio {reason}; it starts again in {wait_s:g} s.", file=sys.stderr, flush=True)
        ends = time.monotonic() + wait_s
        while not signals and time.monotonic() < ends:
            time.sleep(0.05)
        if signals:
            return 128 + signals[0]
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _wait(child: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return child.wait()
        except InterruptedError:
            continue


def _end_with_parent() -> None:
    """In the child: end with the supervisor, so that no studio runs without one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
