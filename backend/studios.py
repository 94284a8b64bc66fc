"""A studio in this process or a running one over REST, with the same calls and the same JSON."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from backend.core.config import Settings
from backend.core.errors import FolderTaken

if TYPE_CHECKING:
    from backend.jobs.job import Job

START_S = 5.0  # a studio serves about two seconds after it has locked the folder


class Studio(Protocol):
    serves: bool  # it runs on after the command, and so renders what is queued

    def upload(self, path: Path) -> dict[str, Any]: ...
    def plan(self, request: Mapping[str, Any]) -> dict[str, Any]: ...
    def submit(self, request: Mapping[str, Any]) -> dict[str, Any]: ...
    def expand(self, prompt: str, model: str, variation: int, by_rules: bool) -> dict[str, Any]: ...
    def job(self, job_id: str) -> dict[str, Any]: ...
    def jobs(self, states: list[str], limit: int) -> list[dict[str, Any]]: ...
    def act(self, job_id: str, action: str) -> dict[str, Any]: ...
    def derive(self, job_id: str, how: str, changes: Mapping[str, Any]) -> dict[str, Any]: ...
    def vary(self, job_id: str, wanted: Mapping[str, Any]) -> dict[str, Any]: ...
    def variations(self, request: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]: ...
    def promote(self, job_id: str) -> dict[str, Any]: ...
    def models(self, all: bool = False) -> list[dict[str, Any]]: ...
    def download(self, model_id: str) -> dict[str, Any]: ...
    def downloads(self) -> list[dict[str, Any]]: ...
    def act_on_download(self, model_id: str, action: str) -> dict[str, Any]: ...
    def remove_model(self, model_id: str, for_good: bool) -> None: ...
    def restore_model(self, model_id: str) -> None: ...
    def loras(self) -> dict[str, Any]: ...
    def add_lora(self, path: Path) -> dict[str, Any]: ...
    def remove_lora(self, name: str, for_good: bool) -> None: ...
    def restore_lora(self, name: str) -> None: ...
    def queue_paused(self) -> bool: ...
    def pause_queue(self, paused: bool) -> None: ...
    def save_file(self, job_id: str, to: Path) -> None: ...
    def close(self) -> None: ...


class LocalStudio:
    """A studio in this process; its worker starts with the first submit."""

    def __init__(self, settings: Settings) -> None:
        from backend.video_generator import VideoGenerator

        self.serves = False
        self._generator = VideoGenerator(settings)

    def close(self) -> None:
        self._generator.stop()

    def upload(self, path: Path) -> dict[str, Any]:
        return dataclasses.asdict(self._generator.uploads.add(path))

    def plan(self, request: Mapping[str, Any]) -> dict[str, Any]:
        from backend.jobs.job import plan_as_dict
        from backend.jobs.kinds import parse_job_request

        return plan_as_dict(self._generator.plan(parse_job_request(request)))

    def expand(self, prompt: str, model: str, variation: int, by_rules: bool) -> dict[str, Any]:
        return dataclasses.asdict(self._generator.expand(prompt, model, variation=variation, by_rules=by_rules))

    def submit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        from backend.jobs.kinds import parse_job_request

        job = self._generator.submit(parse_job_request(request))
        self._generator.start()
        return job.as_dict()

    def job(self, job_id: str) -> dict[str, Any]:
        return self._generator.job(job_id).as_dict()

    def jobs(self, states: list[str], limit: int) -> list[dict[str, Any]]:
        from backend.jobs.filters import Filter
        from backend.jobs.job import JobState

        wanted = Filter(states=tuple(JobState(state) for state in states))
        return [job.as_dict() for job in self._generator.jobs(wanted, limit=limit)]

    def act(self, job_id: str, action: str) -> dict[str, Any]:
        job = getattr(self._generator, action)(job_id)
        return dict(job.as_dict())

    def derive(self, job_id: str, how: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        job = getattr(self._generator.submission, how)(job_id, changes)
        self._generator.start()
        return dict(job.as_dict())

    def vary(self, job_id: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        from backend.core.derive import Variations

        return self._started(*self._generator.submission.vary(job_id, Variations(**wanted)))

    def variations(self, request: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
        from backend.core.derive import Variations
        from backend.core.schema import parse_request

        return self._started(*self._generator.submission.variations(parse_request(request), Variations(**wanted)))

    def promote(self, job_id: str) -> dict[str, Any]:
        job = self._generator.submission.promote(job_id)
        self._generator.start()
        return job.as_dict()

    def _started(self, batch: str, jobs: list[Job]) -> dict[str, Any]:
        self._generator.start()
        return {"batch": batch, "jobs": [job.as_dict() for job in jobs]}

    def models(self, all: bool = False) -> list[dict[str, Any]]:
        return [spec.as_dict() | {"present": present} for spec, present in self._generator.catalog.list(downloads=all)]

    def download(self, model_id: str) -> dict[str, Any]:
        return self._generator.downloads.add(model_id).as_dict()

    def downloads(self) -> list[dict[str, Any]]:
        return [download.as_dict() for download in self._generator.downloads.current()]

    def act_on_download(self, model_id: str, action: str) -> dict[str, Any]:
        return dict(getattr(self._generator.downloads, action)(model_id).as_dict())

    def remove_model(self, model_id: str, for_good: bool) -> None:
        self._generator.remove_model(model_id, for_good=for_good)

    def restore_model(self, model_id: str) -> None:
        self._generator.restore_model(model_id)

    def loras(self) -> dict[str, Any]:
        found, refused = self._generator.loras.all()
        return {"loras": [lora.as_dict() for lora in found], "refused": refused}

    def add_lora(self, path: Path) -> dict[str, Any]:
        return self._generator.loras.add(path).as_dict()

    def remove_lora(self, name: str, for_good: bool) -> None:
        self._generator.remove_lora(name, for_good=for_good)

    def restore_lora(self, name: str) -> None:
        self._generator.loras.restore(name)

    def queue_paused(self) -> bool:
        return self._generator.queue_paused

    def pause_queue(self, paused: bool) -> None:
        self._generator.pause_queue(paused)

    def save_file(self, job_id: str, to: Path) -> None:
        shutil.copyfile(self._generator.results.file(job_id), to)


def connect(settings: Settings) -> Studio:
    """The running studio of the data folder, else one in this process. Raises FolderTaken if another process has the
    folder and does not answer within START_S.
    """
    until = time.monotonic() + START_S
    while True:
        try:
            return LocalStudio(settings)
        except FolderTaken:
            from backend.web.client import RemoteStudio, key, running_studio

            if url := running_studio(settings):
                return RemoteStudio(url, key(settings))
            if time.monotonic() >= until:
                raise
        time.sleep(0.3)
