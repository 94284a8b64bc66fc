"""A kind of job as data: its request, its plan, how it is run and what it leaves behind. One file each in kinds/."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from backend.core.calibration import Calibration
from backend.core.config import Settings
from backend.core.errors import InvalidRequest, NotFound, Words, mention
from backend.core.inputs import INPUTS, Input, MediaKind
from backend.core.plan import Machine, Stage
from backend.engine import Engine, Reporter
from backend.jobs.job import A, Job, P, R
from backend.library.catalog import Catalog
from backend.library.loras import LoraLibrary
from backend.media.uploads import Upload, Uploads


@dataclass(frozen=True, slots=True)
class Services:
    """What kinds plan and run with. `calibration` gives what the last renders of a model took."""

    settings: Settings
    uploads: Uploads
    loras: LoraLibrary
    catalog: Catalog
    engines: Mapping[str, Engine]
    free_machine: Callable[[], Machine]
    calibration: Callable[[str], Calibration]
    find_job: Callable[[str], Job]

    def upload(self, upload_id: str, row: Input) -> Upload:
        """The upload that the input `row` of a request names. Raises InvalidRequest where it is missing or of another
        kind.
        """
        try:
            upload = self.uploads.get(upload_id)
        except NotFound as missing:
            reason: Words = [mention(row.name), f": {missing.message}"]
            raise InvalidRequest(reason, hint=missing.hint, field=row.name) from None
        if upload.kind != row.kind.value:
            other = next(other for other in INPUTS.values() if other.kind.value == upload.kind)
            way_out = f" takes {row.kind.noun}: send {row.kind.formats} there, or give this file as "
            raise InvalidRequest(
                f"{upload.filename} is {MediaKind(upload.kind).noun};",
                hint=[mention(row.name), way_out, mention(other.name), "."],
                field=row.name,
            )
        return upload


@dataclass(frozen=True, slots=True)
class Kind(Generic[R, P, A]):
    """One kind of job. `request` is a frozen pydantic model, `plan` and `artifact` are data classes; all three are
    stored as JSON. `stages` are what a running job goes through, in order.

    `make_plan` raises InvalidRequest where the request cannot be met. `complete` fills in what a request leaves to the
    studio, before it is stored. `finalize` fills in what is worked out only when a job is submitted, such as hashes of
    large files. `run` makes the artifact in outputs/<id>/, or raises JobCancelled
    through its `Reporter`, or StudioError; what it wrote to temp/<id>/ stays for the next attempt of a kind that
    `resumes`.
    """

    name: str
    request: type[R]
    plan: type[P]
    artifact: type[A]
    stages: tuple[Stage, ...]
    make_plan: Callable[[R, Services], P]
    run: Callable[[Job[R, P, A], Services, Reporter], A]
    finalize: Callable[[P, Services], P] = lambda plan, services: plan
    complete: Callable[[R, Services], R] = lambda request, services: request
    resumes: bool = True


AnyKind = Kind[Any, Any, Any]
