"""What setup.py needs on a bare Python, before anything is installed: folders, safe paths, the state of an environment.

Standard library only, and importable on an old Python too, so that the sentence about it can be said.
"""

from __future__ import annotations

import contextlib
import csv
import getpass
import importlib.metadata
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

LEAST_PYTHON = (3, 11)
FOLDERS = ("models", "outputs", "temp", "uploads")  # of a data folder
PRIVATE = ("outputs", "temp", "uploads")  # those of them that other users must not read
STAMPS = "studio"  # folder inside an environment: the requirements it was made from, and what was installed then


def python_problem(version: tuple[int, ...]) -> str | None:
    """Why a Python of this version cannot run the studio, and the way out; None when it can."""
    if version[:2] >= LEAST_PYTHON:
        return None
    shown, least = (".".join(map(str, numbers)) for numbers in (version[:3], LEAST_PYTHON))
    return f"Python {shown} is too old, the studio needs {least} or newer; run `python3.12 setup.py` or the like."


def data_folder(checkout: Path) -> Path:
    """The data folder: STUDIO_DATA, else the checkout itself. The same as that of `core.config.Settings`."""
    named = os.environ.get("STUDIO_DATA")
    return Path(named).expanduser().resolve() if named else checkout


def settle_home(folder: Path) -> None:
    """Make `folder` the home of this process and its children, and its number their user's name, where the user has
    none: one without an entry in the list of users, as by `docker run --user`, or a home that cannot be written.

    Streamlit, torch, triton and others look for their settings and caches there, and stop where they find nothing.
    """
    home = os.path.expanduser("~")
    if not (os.path.isdir(home) and os.access(home, os.W_OK)):
        os.environ["HOME"] = str(folder)
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def print_any_text() -> None:
    """Have `print` write what the terminal's encoding lacks as a question mark, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def make_folders(folders: Iterable[Path]) -> None:
    """Make what is missing for its owner alone, parents too. Raises OSError naming the folder that cannot be made."""
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def keep_private(folders: Iterable[Path]) -> None:
    """Close folders that are there to other users, as far as they are ours: not what lies behind somebody's link."""
    for folder in folders:
        if not folder.is_symlink():
            with contextlib.suppress(PermissionError):
                folder.chmod(0o700)


def inside(folder: Path, path: Path | str) -> Path:
    """`path`, relative ones taken from `folder`, with links followed. Raises ValueError if that leaves `folder`."""
    resolved = (folder / path).resolve()
    if not resolved.is_relative_to(folder.resolve()):
        raise ValueError(f"{path} leads out of {folder}; use a path inside it")
    return resolved


def python_of(environment: Path) -> Path:
    return environment / "bin" / "python"


def works(environment: Path) -> bool:
    """Whether the environment's Python starts, is new enough and has pip; not so when it was only half made."""
    code = f"import sys; sys.exit(sys.version_info < {LEAST_PYTHON})"
    try:
        done = subprocess.run([str(python_of(environment)), "-I", "-c", code], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "pip" in packages(environment)


def packages(environment: Path) -> dict[str, str]:
    """Name and version of everything installed in the environment, read from its folder."""
    return {found.metadata["Name"]: found.version for found in _distributions(environment) if found.metadata["Name"]}


def damaged_packages(environment: Path) -> list[str]:
    """`name==version` of the installed packages that have lost a file."""
    return [
        f"{found.metadata['Name']}=={found.version}"
        for found in _distributions(environment)
        if found.metadata["Name"] and _lost_a_file(found)
    ]


def _distributions(environment: Path) -> list[importlib.metadata.Distribution]:
    folders = [str(folder) for folder in environment.glob("lib/python3*/site-packages")]
    return list(importlib.metadata.distributions(path=folders))


def _lost_a_file(distribution: importlib.metadata.Distribution) -> bool:
    recorded = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    names = (row[0] for row in recorded if row)
    # Python throws compiled files away and makes them again.
    return any(not Path(str(distribution.locate_file(name))).exists() for name in names if not name.endswith(".pyc"))


def stamp(environment: Path, requirements: Iterable[Path]) -> None:
    """Remember that all of these files were installed, and what is there now; `is_current` asks for it."""
    folder = environment / STAMPS
    folder.mkdir(exist_ok=True)
    (folder / "packages.json").write_text(json.dumps(packages(environment), indent=1))
    for file in requirements:
        (folder / file.name).write_bytes(file.read_bytes())


def is_current(environment: Path, requirements: Iterable[Path]) -> bool:
    """Whether these files were installed as they are now and no package was removed or changed since."""
    folder = environment / STAMPS
    try:
        unchanged = all((folder / file.name).read_bytes() == file.read_bytes() for file in requirements)
        return unchanged and json.loads((folder / "packages.json").read_text()) == packages(environment)
    except (OSError, ValueError):
        return False
