"""T18: what the studio makes in its data folder is its owner's alone, however open the shell that started it is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

from tests.studio import ROOT
from tests.web.test_api import png

COMMAND = ("generate", "--prompt", "a boat", "--resolution", "128x96", "--num-frames", "16", "--steps", "10")


def test_film_upload_history_and_log_are_their_owners_alone(tmp_path):
    picture, data = tmp_path / "cat.png", tmp_path / "data"
    picture.write_bytes(png())
    environ = os.environ | {"PYTHONPATH": str(ROOT), "STUDIO_DATA": str(data)}
    command = [sys.executable, "-m", "backend.cli", *COMMAND, "--image", str(picture)]
    done = subprocess.run(command, cwd=tmp_path, env=environ, umask=0, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    made = {path.relative_to(data).as_posix(): path for path in [data, *data.rglob("*")]}
    kinds = {name.rsplit("/", 1)[-1] for name in made}
    assert {"video.mp4", "metadata.json", "media", "upload.json", "studio.db", "studio.log"} <= kinds
    assert [name for name, path in made.items() if stat.S_IMODE(path.lstat().st_mode) & 0o077] == []
