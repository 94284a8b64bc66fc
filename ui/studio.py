"""What all pages share: the generator."""

from __future__ import annotations

from backend.video_generator import VideoGenerator, shared_generator

CREATE = "ui/create.py"


def studio() -> VideoGenerator:
    """The process's generator, which the REST API holds too. Raises StudioBusy if another process owns the folder."""
    return shared_generator()
