"""Set the studio up: `python3 setup.py` makes .venv, installs requirements.txt, makes the folders, runs the diagnosis.

Run it again at any time: it does only what is missing, and repairs what is broken. It needs a bare Python, 3.11 or
newer. It is an installer, not a setuptools file: the studio runs from its folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from backend.utils import (
    FOLDERS,
    PRIVATE,
    STAMPS,
    damaged_packages,
    data_folder,
    inside,
    is_current,
    keep_private,
    make_folders,
    packages,
    print_any_text,
    python_of,
    python_problem,
    stamp,
    works,
)

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
REQUIREMENTS = ROOT / "requirements.txt"
TEST_REQUIREMENTS = ROOT / "requirements-test.txt"  # includes the former

NOT_A_PACKAGE = "The studio is not a Python package: run `python3 setup.py` in its folder, then `./launch.sh`."


class SetupFailed(Exception):
    """Why the studio cannot be set up, and the way out."""


def main(arguments: list[str]) -> int:
    """Exit code: 0 ready, 1 the diagnosis found a fault or set-up failed, 2 asked for something else, 130 stopped."""
    if any(not argument.startswith("-") for argument in arguments):  # pip asks for egg_info or bdist_wheel
        print(NOT_A_PACKAGE, file=sys.stderr)
        return 2
    print_any_text()
    parser = argparse.ArgumentParser(prog="setup.py", description="Set the studio up, or repair it.")
    parser.add_argument("--quiet", action="store_true", help="say nothing if nothing is to be done; no diagnosis")
    parser.add_argument("--test-extras", action="store_true", help="install requirements-test.txt too; no diagnosis")
    options = parser.parse_args(arguments)
    try:
        prepare(test_extras=options.test_extras, quiet=options.quiet)
        if options.quiet or options.test_extras:
            return 0
        return subprocess.run([str(python_of(ENVIRONMENT)), str(ROOT / "test_system.py")]).returncode
    except SetupFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run it again to go on from here.", file=sys.stderr)
        return 130


def prepare(*, test_extras: bool = False, quiet: bool = False) -> None:
    """Environment, packages and folders, each made only where it is missing or broken. Raises SetupFailed."""
    if problem := python_problem(sys.version_info[:3]):
        raise SetupFailed(problem)
    started = time.monotonic()
    changed = make_environment() | install(wanted_files(test_extras))
    data = data_folder(ROOT)
    try:
        make_folders(data / name for name in FOLDERS)
        keep_private(data / name for name in PRIVATE)  # a checkout brings them open to everybody
    except OSError as error:
        raise SetupFailed(
            f"{error.filename} cannot be made ({error.strerror}); mend its rights or set STUDIO_DATA to another folder."
        ) from None
    if changed or not quiet:
        say(f"The environment is ready ({time.monotonic() - started:.0f} s).")


def wanted_files(test_extras: bool) -> list[Path]:
    """The requirements to install. The test extras stay once they are there, so that a repair repairs them too."""
    present = (ENVIRONMENT / STAMPS / TEST_REQUIREMENTS.name).exists()
    return [REQUIREMENTS, TEST_REQUIREMENTS] if test_extras or present else [REQUIREMENTS]


def make_environment() -> bool:
    """Make .venv, or remake it where it is half made; False if it works already."""
    if works(ENVIRONMENT):
        return False
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise SetupFailed(
            f"Python {version} came without venv and pip; install them (Debian and Ubuntu: apt install "
            f"python{version}-venv) and run this again."
        )
    try:
        inside(ROOT, ENVIRONMENT)
    except ValueError:  # somebody's link: what lies behind it is not ours to empty
        raise SetupFailed(
            f".venv is a link to {ENVIRONMENT.resolve()}, where no working Python is; remove the link."
        ) from None
    say(f"Making {ENVIRONMENT.name} with Python {sys.version.split()[0]}")
    import venv  # here, because Debian's bare Python may lack it

    try:
        venv.EnvBuilder(clear=True, with_pip=True, symlinks=True).create(ENVIRONMENT)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupFailed(f"{ENVIRONMENT} cannot be made: {error}; look at disk space and rights.") from None
    return True


def install(requirements: list[Path]) -> bool:
    """Install what is missing, replace what is damaged; False if nothing was."""
    damaged = damaged_packages(ENVIRONMENT)
    if not damaged and is_current(ENVIRONMENT, requirements):
        return False
    say(f"Installing {requirements[-1].name} (the first time takes some minutes)")
    if damaged:
        say(f"Repairing {', '.join(damaged)}")
        run_pip("--force-reinstall", "--no-deps", *damaged)
    run_pip("-r", str(requirements[-1]))
    stamp(ENVIRONMENT, requirements)
    return True


def run_pip(*arguments: str) -> None:
    """`pip install` in the environment, shown as one line a package. Raises SetupFailed with pip's own reason."""
    # pip tells how far a download is to a reader that is not a terminal since 24.1.
    tells = tuple(map(int, re.findall(r"\d+", packages(ENVIRONMENT).get("pip", ""))[:2])) >= (24, 1)
    command = [str(python_of(ENVIRONMENT)), "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "raw" if tells else "off", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        try:
            complaints = show_progress(pip.stdout or ())
        except KeyboardInterrupt:
            wait_or_end(pip)
            raise
    if pip.returncode:
        raise SetupFailed(
            "\n".join(complaints) + f"\npip stopped with exit code {pip.returncode}; look at the network and the disk "
            "space, then run this again: it goes on from here."
        )


def wait_or_end(pip: subprocess.Popen[str]) -> None:
    """Ctrl-C reached pip too, and it tidies up after itself; a signal that was sent to us alone did not."""
    try:
        pip.wait(timeout=5)
    except subprocess.TimeoutExpired:
        pip.terminate()


def show_progress(lines: Iterable[str]) -> list[str]:
    """Print what pip is busy with, on a terminal in one changing line. Returns its complaints, else its last words."""
    terminal = sys.stdout.isatty()
    complaints: list[str] = []
    last: list[str] = []
    busy_with = ""
    for line in lines:
        line = line.rstrip()
        if match := re.match(r"Progress (\d+) of ([1-9]\d*)", line):
            if terminal:
                print(f"\r\033[K  {busy_with}, {100 * int(match[1]) // int(match[2])} %", end="", flush=True)
            continue
        last = [*last[-4:], line]
        if line.startswith("ERROR"):
            complaints.append(line)
        match = re.match(r"\s*(Downloading|Using cached|Installing collected) ([^ /]+)( \(.+\))?", line)
        if match and not match[2].endswith(".metadata"):
            busy_with = "unpacking" if match[1].startswith("Installing") else f"{match[2]}{match[3] or ''}"
            print(f"\r\033[K  {busy_with}" if terminal else f"  {busy_with}", end="" if terminal else "\n", flush=True)
    if terminal:
        print("\r\033[K", end="", flush=True)
    return complaints or last


def say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
