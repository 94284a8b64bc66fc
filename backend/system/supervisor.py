"""Keeps the studio open: starts it as a child, and again after a crash or when it asks for a fresh process.

A GPU that reports a sticky error, or a render that hangs, can only be left by ending the process. The jobs are on the
disk; the next process goes on with them, and sets one aside that ended three.
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
STEADY_S = 600.0  # a child that lived so long starts the waits anew
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1


def supervise(command: Sequence[str]) -> int:
    """Run `command` until it ends by itself or is told to by a signal to this process; its exit status.

    Killed by a signal of its own, or ended with RESTART, it is started again: at once, then after waits that double.
    """
    child: subprocess.Popen[bytes] | None = None
    told: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        told.append(number)
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
        if told:  # before there was a child that could be told
            child.send_signal(told[-1])
        status, life = _wait(child), AGAIN
        if told or (status >= 0 and status != RESTART):
            return status if status >= 0 else 128 - status
        if time.monotonic() - began > STEADY_S:
            wait_s = FIRST_WAIT_S
        reason = "asked for a fresh process" if status == RESTART else f"was ended by {_signal_name(-status)}"
        print(f"The studio {reason}; it starts again in {wait_s:g} s.", file=sys.stderr, flush=True)
        ends = time.monotonic() + wait_s
        while not told and time.monotonic() < ends:
            time.sleep(0.05)
        if told:
            return 128 + told[0]
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _wait(child: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return child.wait()
        except InterruptedError:
            continue


def _end_with_parent() -> None:
    """In the child: whoever kills the supervisor must not leave a studio behind that nobody watches."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
