"""`python -m backend.cli`: runs the command line."""

import os
import signal
import sys

if __name__ == "__main__" and sys.getfilesystemencoding() != "utf-8":
    # In a locale that is not UTF-8 arguments, paths and files are UTF-8 all the same; only what is printed is not.
    os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while libraries are read: an end at once, without a traceback

from backend.cli.main import app
from backend.cli.terminal import CANCELLED
from backend.utils import print_any_text

if __name__ == "__main__":
    print_any_text()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(prog_name=os.environ.get("STUDIO_COMMAND", "python -m backend.cli"))
    except KeyboardInterrupt:
        raise SystemExit(CANCELLED) from None
