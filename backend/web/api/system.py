"""The machine, its health and its metrics."""

from __future__ import annotations

import dataclasses
import re
import sys
import threading
from typing import Any

from fastapi import Response
from starlette.exceptions import HTTPException

from backend.core.config import ROOT
from backend.core.errors import Conflict
from backend.doctor import run_checks
from backend.system.monitoring import HISTORY_S
from backend.web.api.common import Generator, api, media
from backend.web.metrics import CONTENT_TYPE as METRICS_TYPE
from backend.web.metrics import render_metrics

# A path that follows nothing which would make it part of a word or of an address of the web.
PATH = re.compile(r"(?<![\w/:.])/(?:[\w.+@-]+/)*([\w.+@-]+)")

_checking = threading.Lock()


@api.get("/system", tags=["system"])
def system(generator: Generator) -> dict[str, Any]:
    """The machine, how busy it is, and how the jobs went."""
    return {
        "machine": dataclasses.asdict(generator.machine),
        "now": dataclasses.asdict(generator.monitor.sample()),
        "queue_paused": generator.queue_paused,
        "news": generator.startup_notice,
        "models": [dataclasses.asdict(stats) for stats in generator.model_stats()],
    }


@api.get("/system/history", tags=["system"])
def history(generator: Generator, since: float = 0.0) -> dict[str, Any]:
    """The load of the machine over the last half hour, oldest first; `since` leaves out what is not newer."""
    samples = [sample for sample in generator.monitor.history() if sample.time > since]
    return {"history_s": HISTORY_S, "samples": [dataclasses.asdict(sample) for sample in samples]}


@api.post("/doctor", tags=["system"])
def doctor(generator: Generator) -> dict[str, Any]:
    """Check the installation, as `./launch.sh doctor` does: about five seconds."""
    if not _checking.acquire(blocking=False):
        raise Conflict("The checks are running already;", hint="run them again once they have ended.")
    try:
        found = run_checks(generator.settings)
    finally:
        _checking.release()
    names = {
        f"{ROOT}/": "",
        str(generator.settings.data): "the data folder",
        sys.executable: "python",
        sys.prefix: "its environment",
    }
    checks = [dataclasses.asdict(check) for check in found]
    return {"checks": [{key: without_paths(value, names) for key, value in check.items()} for check in checks]}


def without_paths(text: str, names: dict[str, str]) -> str:
    """`text` with the folders of this machine called by their names, and of any other path the last part only.

    >>> without_paths("3 GiB free for /srv/studio; see http://localhost:1/ok, /mnt/disk/clips", {"/srv/studio": "it"})
    '3 GiB free for it; see http://localhost:1/ok, clips'
    """
    for path, name in names.items():
        text = text.replace(path, name)
    return PATH.sub(r"\1", text)


@media.get("/metrics")
def metrics(generator: Generator) -> Response:
    """For Prometheus."""
    return Response(render_metrics(generator), media_type=METRICS_TYPE)


@media.get("/healthz")
def healthz(generator: Generator) -> dict[str, str]:
    """200 while the worker lives."""
    if not generator.alive:
        raise HTTPException(503)
    return {"status": "ok"}
