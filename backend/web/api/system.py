"""The machine, its health and its metrics."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import Response
from starlette.exceptions import HTTPException

from backend.web.api.common import Generator, api, media
from backend.web.metrics import CONTENT_TYPE as METRICS_TYPE
from backend.web.metrics import render_metrics


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
