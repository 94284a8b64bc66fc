"""The guarded child that encodes: it bounds itself and becomes ffmpeg, which reads raw frames from standard input.

Run by `guard.py` as `python -m backend.media.encoder PROGRAM ARGUMENT ...`.
"""

from __future__ import annotations

import os
import sys

from backend.media.decoder import bound

CPU_S = 6 * 3600
MEMORY_BYTES = 8 * 2**30  # of address space; encoders of AV1 reserve more than they use
FILE_BYTES = 64 * 2**30

if __name__ == "__main__":
    bound(CPU_S, MEMORY_BYTES, FILE_BYTES)
    os.execv(sys.argv[1], sys.argv[1:])
