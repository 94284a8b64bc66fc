"""`python -m backend.cli`: runs the command line."""

import os
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while libraries are read: an end at once, without a traceback

from backend.cli.main import app
from backend.cli.terminal import CANCELLED

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(prog_name=os.environ.get("STUDIO_COMMAND", "python -m backend.cli"))
    except KeyboardInterrupt:
        raise SystemExit(CANCELLED) from None
