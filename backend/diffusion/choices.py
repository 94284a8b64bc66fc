"""Ways to the same result that were timed on this GPU, and which of them was the fastest: remembered, so that a film
that goes on tomorrow goes on with the same bits.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from backend.durable import replace_file

log = logging.getLogger(__name__)

ROUNDS = 5
BEGUN, BEGUN_TWICE = "a trial was begun", "a second trial was begun"


def remembered(file: Path | None, name: str, safe: str, allowed: Collection[str], choose: Callable[[], str]) -> str:
    """What was chosen for `name`, or is chosen now; kept in `file`.

    A trial may take the process with it. After two that came to no end, the choice is `safe`.
    """
    known = _read(file)
    if known.get(name) == BEGUN_TWICE:
        return safe
    if known.get(name) not in allowed:
        _write(file, known | {name: BEGUN_TWICE if known.get(name) == BEGUN else BEGUN})
        known[name] = choose()
        _write(file, known)
    return known[name]


def _read(file: Path | None) -> dict[str, str]:
    """What `file` remembers; nothing where it is spoiled."""
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        return {}
    return {name: way for name, way in known.items() if isinstance(way, str)} if isinstance(known, dict) else {}


def _write(file: Path | None, known: dict[str, str]) -> None:
    if file is None:
        return
    part = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        replace_file(part, file)
    except OSError as error:
        log.warning("%s cannot be written (%s); the choice is made again next time", file.name, error.strerror)


def this_gpu(device: torch.device) -> str:
    """What a choice depends on besides the film."""
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"


def seconds_in_turn(runs: Mapping[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """How long each of `runs` takes: the median of ROUNDS, in turn: a slow moment of the machine falls on all."""
    rounds = [{name: _seconds(run, device) for name, run in runs.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(seconds[name] for seconds in rounds) for name in runs}


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - began
