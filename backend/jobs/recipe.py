"""The recipe of a result: what it takes to make it again. It is inside an MP4 and in metadata.json beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backend import __version__
from backend.core.errors import NotFound, UploadRefused
from backend.core.plan import Plan
from backend.jobs.job import Artifact, Job, as_json, from_dict
from backend.jobs.migrations import SCHEMA_VERSION, migrate_recipe
from backend.media.outputs import VIDEO, read_metadata
from backend.media.writer import read_recipe


def make_recipe(job: Job) -> dict[str, Any]:
    """The recipe of a job, without its artifact."""
    return {
        "studio": __version__,
        "schema_version": SCHEMA_VERSION,
        "kind": job.kind,
        "job": job.id,
        "parent": job.parent,
        "created_at": job.created_at,
        "request": as_json(job.request),
        "plan": as_json(job.plan),
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape the pixels, without importing any of them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "av"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def recipe_of(folder: Path) -> dict[str, Any]:
    """The recipe of a result's folder: its sidecar or, where that cannot be read, what the video itself carries.

    Names are today's, whichever version wrote it. Raises NotFound where neither says anything, NewerData.
    """
    try:
        return metadata_recipe(folder)
    except NotFound:
        return video_recipe(folder)


def metadata_recipe(folder: Path) -> dict[str, Any]:
    """The recipe in the sidecar, with its artifact. Raises NotFound, NewerData."""
    return migrate_recipe(read_metadata(folder))


def video_recipe(folder: Path) -> dict[str, Any]:
    """The recipe inside the video of a folder, with the artifact that it describes. Raises NotFound, NewerData."""
    missing = NotFound(f"{folder.name} has no recipe that can be read;", hint="its video may still be there.")
    try:
        recipe = recipe_in(folder / VIDEO)
        if recipe is None:
            raise missing
        plan = from_dict(Plan, recipe["plan"])
        size = (folder / VIDEO).stat().st_size
    except (UploadRefused, LookupError, ValidationError, OSError):
        raise missing from None
    return recipe | {"artifact": as_json(Artifact.of(folder.name, plan, size))}


def recipe_in(video: Path, name: str = "") -> dict[str, Any] | None:
    """The recipe that a video carries; None if it carries none. The file may come from outside.

    Raises UploadRefused, which calls it `name`, if it is no video, and NewerData.
    """
    recipe = read_recipe(video, name)
    return None if recipe is None else migrate_recipe(recipe)
