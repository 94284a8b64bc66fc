"""A state that version 0.1 saved is accepted for its job after the names of the plan and of the state have changed."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from backend.core.config import ROOT
from backend.core.delivery import FitStep
from backend.core.placement import Placement
from backend.core.plan import Plan
from backend.core.registry import TINY
from backend.core.schema import parse_request
from backend.diffusion.components import load_components
from backend.diffusion.conditions import Conditions
from backend.diffusion.sampler import Sampler, State
from backend.diffusion.snapshot import NAME, _digest, read_snapshot, write_snapshot
from backend.diffusion.text import encode_prompt
from tests.diffusion.conftest import NEGATIVE
from tests.diffusion.conftest import REQUEST as OTHER_REQUEST

# A cancelled job of version 0.1; the plan is as it was stored there, with `eight_bits` mapped to `fp8`.
REQUEST = {
    "prompt": "a yellow star drifts right in the night sky",
    "resolution": "192x108",
    "num_frames": 97,
    "num_inference_steps": 30,
    "seed": 11,
    "skyreels": {"base_num_frames": 57, "overlap_history": 17},
}
PLAN = {
    "model": "skyreels-v2-tiny",
    "model_title": "SkyReels V2 Tiny",
    "engine": "skyreels",
    "width": 192,
    "height": 108,
    "render_width": 160,
    "render_height": 96,
    "enlarged": True,
    "fps": 24,
    "num_frames": 97,
    "render_frames": 97,
    "prefix_frames": 0,
    "source_frames": 0,
    "windows": [{"start": 0, "stop": 15}, {"start": 10, "stop": 25}],
    "overlap_history": 17,
    "addnoise_condition": 0,
    "num_inference_steps": 30,
    "guidance_scale": 5.0,
    "flow_shift": 5.0,
    "forecast": {"seconds": {"denoising": 576.6}, "peak_gib": 0.9, "disk_bytes": 260911, "guess": {}},
    "fidelity": "original",
    "ar_step": 0,
    "causal_block_size": 1,
    "causal_attention": False,
    "batch_guidance": False,
    "preset": "exact",
    "first_picture": False,
    "on_gpu": False,
    "placement": "resident",
    "half_decode": False,
    "fp8": False,
    "guidance_scale_2": None,
    "loras": [],
}


@pytest.fixture(scope="module")
def tiny():
    return load_components(ROOT / "models" / TINY.id, torch.device("cpu"), lambda part: None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "b3761ecea46b7e44a7940e9862078c64"),
        ({"placement": Placement.MODEL_OFFLOAD, "fp8": True}, "5b345ad5f064f8625ac3afca0abaf049"),
        ({"placement": Placement.GROUP_OFFLOAD}, "a85b37812ad3499b4f111ff1ba99d7fa"),
        ({"finishing_steps": (FitStep(width=192, height=108, method="enlarge"),)}, "b3761ecea46b7e44a7940e9862078c64"),
    ],
    ids=["resident", "model offload, fp8", "group offload", "with the finishing step that a migration adds"],
)
def test_the_fingerprint_of_a_job_is_that_of_version_0_1(tiny, changes, expected):
    """The first was in a saved state of version 0.1, the others were computed by its code."""
    plan = replace(TypeAdapter(Plan).validate_python(PLAN), **changes)
    job = SimpleNamespace(plan=plan, request=parse_request(REQUEST | {"mode": "text_to_video"}), components=tiny)
    assert Sampler.fingerprint.func(job) == expected


def write_as_v1(folder, state):
    """`state` as version 0.1 wrote it: other names of some tensors, of some metadata and of the header's field."""
    old = {"num_context_frames": "known", "predictions": "answers", "fingerprint": "identity"}
    tensors = {
        name.replace("prediction", "answer").replace(".cond", ".plain"): tensor
        for name, tensor in state.tensors.items()
    }
    facts = {old.get(key, key): value for key, value in state.metadata.items()}
    facts["digest"] = _digest(State(tensors, {}))
    save_file(tensors, folder / NAME, metadata={"facts": json.dumps(facts)})


def test_a_state_of_version_0_1_goes_on_with_the_same_bits(components, plan_for, tmp_path):
    plan = plan_for("df", preset="balanced", num_inference_steps=12)
    text = [encode_prompt(components["df"], "A boat", NEGATIVE)]

    def start():
        return Sampler(components["df"], plan, OTHER_REQUEST, text, Conditions())

    sampler = start()
    for _ in range(8):
        sampler.step()
    assert len(sampler._predictions) == 2, "the state has predictions to extrapolate from"
    write_as_v1(tmp_path, sampler.state())
    resumed = start()
    resumed.restore(read_snapshot(tmp_path))
    while not sampler.finished:
        sampler.step()
        resumed.step()
    assert torch.equal(resumed.latents, sampler.latents)


def test_a_state_of_version_0_1_is_read_as_one_of_today(components, plan_for, tmp_path):
    (tmp_path / "old").mkdir()
    text = [encode_prompt(components["df"], "A boat", NEGATIVE)]
    state = Sampler(components["df"], plan_for("df"), OTHER_REQUEST, text, Conditions()).state()
    write_as_v1(tmp_path / "old", state)
    write_snapshot(tmp_path / "new", state)
    old, new = (read_snapshot(tmp_path / name) for name in ("old", "new"))
    assert old.metadata == new.metadata == state.metadata
    assert set(old.tensors) == set(new.tensors) == set(state.tensors)
