"""Clips that the model in the checkout makes, without a studio around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from backend.core.plan import Machine, Plan, Source
from backend.core.planning import make_plan
from backend.core.registry import TINY
from backend.core.schema import GenerationRequest, parse_request
from backend.engine import Inputs, Task
from backend.media.fitting import Frames
from backend.skyreels_integration import SkyReelsEngine
from training.tiny.clips import SHORT
from training.tiny.export import FOLDER
from training.tiny.world import HEIGHT, WIDTH

MACHINE = Machine("any", cores=2, ram_gib=16.0)  # so that the plan is the same everywhere


def sample_request(**fields: Any) -> GenerationRequest:
    """A request for 33 frames at the model's own size with seed 1, unless `fields` say otherwise."""
    defaults = {"model": TINY.id, "resolution": f"{WIDTH}x{HEIGHT}", "num_frames": SHORT, "seed": 1}
    return parse_request(defaults | fields)


def sample_plan(request: GenerationRequest, source: Source | None = None, fp8: bool = False) -> Plan:
    """The plan of `request` on `MACHINE`, with the matrices in eight bits if asked for."""
    return replace(make_plan(request, TINY, MACHINE, source), fp8=fp8)


def generate(
    engine: SkyReelsEngine,
    inputs: Inputs | None = None,
    source: Source | None = None,
    fp8: bool = False,
    **fields: Any,
) -> Frames:
    """All frames that the model makes for a request of `fields`, the prefix of an extension included."""
    request = sample_request(**fields)
    plan = sample_plan(request, source, fp8)
    task = Task(request, plan, inputs or Inputs(), FOLDER)
    return np.concatenate(list(engine.render(task, lambda report: None)))[: plan.prefix_frames + plan.num_frames]
