"""The saved state of a draft: it lies beside the draft's video and goes where that goes, to the trash and back, until
both are removed for good. What promotes the draft takes it over.
"""

from __future__ import annotations

import logging
from pathlib import Path

from backend.core.config import Settings
from backend.core.errors import StudioError
from backend.durable import link_file
from backend.engine import STATE
from backend.jobs.job import RenderJob
from backend.jobs.recipe import package_versions, recipe_of
from backend.media.outputs import TRASH

log = logging.getLogger(__name__)


def keep_state(work: Path, result: Path) -> None:
    """Put the state that the engine left in `work` into the result of a draft."""
    (result / STATE).unlink(missing_ok=True)  # of an attempt that was not published
    link_file(work / STATE, result / STATE)


def find_state(draft_id: str, settings: Settings) -> Path | None:
    """The state of a draft, also of one in the trash; None if it is gone or was made by other versions of libraries."""
    for folder in (settings.outputs / draft_id, settings.outputs / TRASH / draft_id):
        if (folder / STATE).is_file():
            try:
                same = recipe_of(folder)["versions"] == package_versions()
            except (StudioError, LookupError):
                same = False
            return folder / STATE if same else None
    return None


def take_over(job: RenderJob, work: Path, settings: Settings) -> None:
    """Let the first attempt of `job` go on from the state of the draft that it promotes; where that is gone, it begins
    at the first step. The draft keeps its own.
    """
    if (work / STATE).exists():
        return
    state = find_state(str(job.parent), settings)
    if state is None:
        log.warning("job %s: the state of draft %s is gone; all steps are made again", job.id, job.parent)
    else:
        link_file(state, work / STATE)
