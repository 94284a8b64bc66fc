"""What jobs leave on the disk: files of finished and unfinished results, the trash and the way back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from backend.core.config import Settings
from backend.core.errors import Conflict, NotFound, StudioError
from backend.jobs.job import Job
from backend.jobs.recipe import recipe_of
from backend.jobs.store import Store
from backend.media.outputs import PARTIAL_VIDEO, PREVIEW, THUMBNAIL, VIDEO, move_to_trash, restore_from_trash


class Results:
    """The files of the jobs of one store."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store

    def file(self, job_id: str, name: str | None = None) -> Path:
        """A file of a finished result: `name`, of a video, or the main file of a job of any kind. Raises NotFound."""
        job = self._store.get(job_id)
        if job.artifact is None or (name is not None and job.kind != "render"):
            raise _no_file(job, name or "result")
        return _existing(job, self._settings.outputs / job.id / (name or Path(job.artifact.file).name))

    def metadata(self, job_id: str) -> dict[str, Any]:
        """The recipe of a result, from its sidecar or from the video itself, in today's names. Raises NotFound."""
        return recipe_of(self.file(job_id).parent)

    def partial_video(self, job_id: str) -> Path:
        """The video, or while it is made the MP4 of its first seconds. Raises NotFound."""
        job = self._store.get(job_id)
        if job.artifact is not None:
            return self.file(job_id, VIDEO)
        return _existing(job, self._settings.temp / job.id / PARTIAL_VIDEO)

    def preview(self, job_id: str) -> Path:
        """A small moving picture, WebP, of what is being made now; of a finished video its still, a JPEG, for who asks
        a moment too late. Raises NotFound.
        """
        job = self._store.get(job_id)
        if job.artifact is not None:
            return self.file(job_id, THUMBNAIL)
        return _existing(job, self._settings.temp / job.id / PREVIEW)

    def delete(self, job_id: str) -> Job:
        """Move a job that has ended to the trash, with its result; `restore` brings both back for a week. What an
        unfinished job could have gone on from is gone at once. Raises Conflict, for an approved video too, StudioError.
        """
        if self._store.get(job_id).approved:
            raise Conflict(f"The video {job_id} is approved;", hint="take the approval away first, then delete it.")
        job = self._store.set_trashed(job_id, True)
        try:
            move_to_trash(self._settings.outputs, job_id)
        except NotFound:
            pass  # it left nothing, or somebody took the folder away already
        except OSError as error:
            self._store.set_trashed(job_id, False)
            raise StudioError(
                f"The result cannot be moved to the trash ({error.strerror});", hint="see that outputs/ can be written."
            ) from error
        shutil.rmtree(self._settings.temp / job.id, ignore_errors=True)
        return job

    def restore(self, job_id: str) -> Job:
        """Bring a job and its result back from the trash. Raises Conflict, StudioError."""
        job = self._store.get(job_id)
        if job.trashed_at is None:
            raise Conflict(f"Job {job_id} is not in the trash;", hint="there is nothing to restore.")
        if job.artifact and not (self._settings.outputs / job_id).exists():
            try:
                restore_from_trash(self._settings.outputs, job_id)
            except OSError as error:
                raise StudioError(
                    f"The result cannot be moved out of the trash ({error.strerror});",
                    hint="see that outputs/ can be written.",
                ) from error
        return self._store.set_trashed(job_id, False)


def _existing(job: Job, path: Path) -> Path:
    if job.trashed_at is not None or not path.is_file():
        raise _no_file(job, path.name)
    return path


def _no_file(job: Job, name: str) -> NotFound:
    if job.kind != "render" and name in (VIDEO, THUMBNAIL, PARTIAL_VIDEO, PREVIEW):
        return NotFound(f"Job {job.id} is of the kind {job.kind} and has no {name};", hint="ask for its file.")
    if job.artifact is None or job.trashed_at is not None:
        where = "in the trash" if job.trashed_at is not None else job.state.value
        return NotFound(f"Job {job.id} has no {name};", hint=f"it is {where}.")
    return NotFound(
        f"{name} of job {job.id} is no longer in outputs/;", hint="put it back, or make it again and delete this."
    )
