"""What the jobs of a model say of it: how many succeeded, how long they took, and how far a forecast is off."""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass

from backend.core.calibration import RENDERS_MOST, Calibration, Timing, calibrate
from backend.core.plan import Stage
from backend.jobs.job import from_json
from backend.jobs.store import Store

IN_ONE_GO = "json_extract(plan, '$.draft_steps') IS NULL AND ifnull(json_extract(plan, '$.done_steps'), 0) = 0"
MEDIAN_OF = 50  # the last renders


@dataclass(frozen=True, slots=True)
class ModelStats:
    """The jobs of one model in numbers: how many ended in which way, and the median seconds of a render."""

    model: str
    succeeded: int
    failed: int
    cancelled: int
    median_s: float | None


def model_stats(store: Store) -> list[ModelStats]:
    """How the renders of each model that was ever used ended, and their median time."""
    counts = store.select(
        "SELECT model, sum(state = 'succeeded') AS good, sum(state IN ('failed', 'quarantined')) AS bad,"
        " sum(state = 'cancelled') AS cancelled FROM jobs WHERE model IS NOT NULL AND kind = 'render'"
        " GROUP BY model HAVING good + bad + cancelled > 0 ORDER BY model"
    )
    return [
        ModelStats(row["model"], row["good"], row["bad"], row["cancelled"], _median_s(store, row["model"]))
        for row in counts
    ]


def _median_s(store: Store, model: str) -> float | None:
    rows = store.select(
        "SELECT json_extract(artifact, '$.render_s') AS s FROM jobs WHERE model = ? AND state = 'succeeded'"
        f" AND kind = 'render' AND {IN_ONE_GO} ORDER BY finished_at DESC LIMIT ?",
        *(model, MEDIAN_OF),
    )
    return statistics.median(row["s"] for row in rows) if rows else None


def calibration(store: Store, model: str) -> Calibration:
    """What the last renders of `model` took, beside what was guessed for them: of drafts and of what promotes them,
    for their own steps. One that was to go on from a draft and did not took more than was guessed, and is left out.
    """
    rows = store.select(
        "SELECT json_extract(plan, '$.forecast.guess') AS guess, json_extract(artifact, '$.stage_s') AS taken"
        " FROM jobs WHERE model = ? AND kind = 'render' AND state = 'succeeded'"
        " AND (ifnull(json_extract(plan, '$.done_steps'), 0) = 0"
        " OR json_extract(artifact, '$.runtime.resumed') IS NOT NULL) ORDER BY finished_at DESC LIMIT ?",
        *(model, RENDERS_MOST),
    )
    read = functools.partial(from_json, dict[Stage, float])
    return calibrate([Timing(read(row["guess"] or "{}"), read(row["taken"] or "{}")) for row in rows])
