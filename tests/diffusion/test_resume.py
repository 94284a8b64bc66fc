"""A render that is cut at any step and goes on elsewhere ends with the same bits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from backend.core.errors import CheckpointRefused, StudioError
from backend.core.schema import Fidelity
from backend.diffusion.conditions import encode_conditions
from backend.diffusion.sampler import Sampler
from backend.diffusion.text import encode_prompt
from tests.diffusion.conftest import NEGATIVE, REQUEST

WINDOWS = {"base_num_frames": 17, "overlap_history": 5, "addnoise_condition": 20}
JOBS = {
    "short": ("df", {}),
    "long": ("df", {"num_frames": 37, "skyreels": WINDOWS}),
    "async": ("df", {"num_frames": 21, "skyreels": {"ar_step": 3, "causal_block_size": 2}}),
    "async windows": (
        "df",
        {
            "num_frames": 37,
            "skyreels": {"ar_step": 3, "causal_block_size": 2, "base_num_frames": 29, "overlap_history": 13},
        },
    ),
    "picture": ("df", {"mode": "image_to_video"}),
    "end picture": ("df", {"mode": "image_to_video", "end": True, "num_frames": 29, "skyreels": WINDOWS}),
    "extension": ("df", {"source_frames": 17, "num_frames": 24, "skyreels": WINDOWS}),
    "plain": ("t2v", {}),
    "plain picture": ("i2v", {"mode": "image_to_video"}),
}


@pytest.fixture
def start(components, plan_for, picture, last_picture, clip):
    """A fresh sampler for a job, with its inputs encoded anew."""

    def make(job, fidelity=Fidelity.ORIGINAL, request=REQUEST, **changes):
        kind, wishes = JOBS[job]
        plan = replace(plan_for(kind, **wishes), fidelity=fidelity, **changes)
        parts = components[kind]
        image = picture if wishes.get("mode") == "image_to_video" else None
        end_image = last_picture if wishes.get("end") else None
        prefix = clip[-plan.prefix_frames :] if plan.prefix_frames else None
        conditions = encode_conditions(parts, plan.render_frames, image, end_image, prefix)
        return Sampler(parts, plan, request, encode_prompt(parts, "A boat", NEGATIVE), conditions)

    return make


def on_disk(state):
    """As the state comes back from files."""
    tensors, facts = state
    return load(save(tensors)), json.loads(json.dumps(facts))


def run(sampler):
    while not sampler.finished:
        sampler.step()
    return sampler.film


@pytest.mark.parametrize(
    ("job", "fidelity"),
    [(job, Fidelity.ORIGINAL) for job in JOBS] + [(job, Fidelity.DIFFUSERS) for job in ("long", "async windows")],
)
def test_a_cut_at_every_step_changes_nothing(start, job, fidelity):
    unbroken = run(start(job, fidelity))
    sampler, steps = start(job, fidelity), 0
    while True:
        state = on_disk(sampler.state())
        torch.manual_seed(steps)  # the global generator has no say
        sampler = start(job, fidelity)
        sampler.restore(*state)
        if sampler.finished:
            break
        sampler.step()
        steps += 1
    assert steps == sum(sampler.plan.window_steps)
    assert torch.equal(sampler.film, unbroken)


def test_a_used_sampler_can_go_back(start):
    sampler = start("long")
    for _ in range(13):
        sampler.step()
    state = sampler.state()
    kept = {name: tensor.clone() for name, tensor in state[0].items()}
    film = run(sampler)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state[0].items()), "the state is no copy"
    sampler.restore(*state)
    assert (sampler.window, sampler.step_index) == (1, 3)
    assert torch.equal(run(sampler), film)


def test_the_noise_of_a_window_needs_none_of_the_windows_before(start):
    tensors, _ = start("long").state()
    assert set(tensors) == {"latents"}
    assert set(start("long", Fidelity.DIFFUSERS).state()[0]) == {"latents", "noise"}


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 5.0},
        {"num_inference_steps": 11},
        {"fidelity": Fidelity.DIFFUSERS},
        {"request": REQUEST.model_copy(update={"seed": 8})},
        {"request": REQUEST.model_copy(update={"prompt": "A fox"})},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_checkpoint_of_another_render_is_refused(start, changes):
    other = start("short", **changes)
    other.step()
    sampler = start("short")
    before = sampler.latents.clone()
    with pytest.raises(CheckpointRefused, match="another request, plan or model; render from the beginning"):
        sampler.restore(*other.state())
    assert issubclass(CheckpointRefused, StudioError)
    assert torch.equal(sampler.latents, before)
    assert sampler.step_index == 0


def test_a_checkpoint_of_other_weights_is_refused(start, components):
    sampler = start("short")
    state = sampler.state()
    table = components["df"].transformer.scale_shift_table
    before = table.detach().clone()
    try:
        with torch.no_grad():
            table.add_(1e-3)
        with pytest.raises(CheckpointRefused):
            start("short").restore(*state)
    finally:
        table.data.copy_(before)


def test_what_was_learned_about_time_does_not_matter(start):
    sampler = start("short")
    later = replace(sampler.plan.forecast, calibration=2.0)
    taken_up = start("short", forecast=later)
    taken_up.restore(*sampler.state())
    assert torch.equal(taken_up.latents, sampler.latents)
