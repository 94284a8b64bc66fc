"""Autotuning: the fastest of several equivalent kernels on this GPU, measured once and cached, so that a render that is
resumed later uses the same kernels and gives the same bits.
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
# In place of a choice while a benchmark runs. Both are stored: do not change them.
STARTED, STARTED_TWICE = "a trial was begun", "a second trial was begun"


def autotune_cache(file: Path | None, key: str, default: str, allowed: Collection[str], tune: Callable[[], str]) -> str:
    """The choice that `file` has for `key`, or else that of `tune`, which is then written there.

    A benchmark may crash the process. After two that did not end, the choice is `default`.
    """
    cache = _read(file)
    if cache.get(key) == STARTED_TWICE:
        return default
    if cache.get(key) not in allowed:
        _write(file, cache | {key: STARTED_TWICE if cache.get(key) == STARTED else STARTED})
        cache[key] = tune()
        _write(file, cache)
    return cache[key]


def _read(file: Path | None) -> dict[str, str]:
    """The choices in `file`; none where it is damaged."""
    try:
        cache = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        return {}
    return {key: choice for key, choice in cache.items() if isinstance(choice, str)} if isinstance(cache, dict) else {}


def _write(file: Path | None, cache: dict[str, str]) -> None:
    if file is None:
        return
    part = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(cache, indent=1) + "\n", encoding="utf-8")
        replace_file(part, file)
    except OSError as error:
        log.warning("%s cannot be written (%s); kernels are benchmarked again next time", file.name, error.strerror)


def gpu_key(device: torch.device) -> str:
    """The part of a cache key that names the GPU and the version of torch."""
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"


def median_seconds(calls: Mapping[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """The median time of each of `calls` over ROUNDS rounds of all, so that a busy moment slows all of them down."""
    rounds = [{name: _seconds(call, device) for name, call in calls.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(seconds[name] for seconds in rounds) for name in calls}


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - start
