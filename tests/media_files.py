"""Real films for the tests. They are not in the repository: `python tests/fetch_media.py` gets them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / ".test-media"


def real_media(name: str) -> Path:
    """The file `name` in the folder STUDIO_TEST_MEDIA, or in `.test-media`; skips the test where it is not there."""
    path = Path(os.environ.get("STUDIO_TEST_MEDIA") or FOLDER) / name
    if not path.is_file():
        pytest.skip(f"{name} is not here; `python tests/fetch_media.py` gets it")
    return path


def write_film(path, chunks, *, fps, width, height, recipe=None, title=""):
    """A film of one segment, as the runner would write it; returns its frames."""
    from backend.media.writer import join_segments, write_segment

    segment = path.with_name("segment.mp4")
    written = write_segment(segment, chunks, fps=fps, width=width, height=height)
    join_segments(path, [segment], recipe=recipe or {}, title=title)
    segment.unlink()
    return written
