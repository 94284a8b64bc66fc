"""The presets in the sampler: as few calls as planned, and velocities that are moved on rightly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.core.presets import PRESETS
from backend.core.schema import Preset, parse_request
from backend.diffusion.conditions import Conditions
from backend.diffusion.sampler import Sampler
from backend.diffusion.text import encode_prompt
from tests.diffusion.conftest import NEGATIVE, REQUEST

JOBS = {
    "together": ("df", {}),
    "two windows": ("df", {"num_frames": 29, "skyreels": {"base_num_frames": 17, "overlap_history": 5}}),
    "blocks": ("df", {"num_frames": 21, "skyreels": {"ar_step": 3, "causal_block_size": 2}}),
    "in one call": ("df", {"skyreels": {"batch_guidance": True}}),
    "unguided": ("df", {"guidance_scale": 1}),
    "plain": ("t2v", {}),
}


class Said:
    """In the transformer's place: velocities that the test makes of the timesteps and the text."""

    dtype = torch.float32

    def __init__(self, real, velocity):
        self.config, self.calls = real.config, 0
        self._velocity = velocity

    def __call__(self, hidden_states, timestep, encoder_hidden_states, **_):
        self.calls += 1
        t = timestep.float()
        t = t.view(len(t), 1, -1, 1, 1) if t.dim() == 2 else t.view(-1, 1, 1, 1, 1)
        return (self._velocity(t, encoder_hidden_states[:, :1, :1, None, None]).expand_as(hidden_states).clone(),)


@pytest.fixture
def sampler(components, plan_for):
    def make(job, preset, velocity, steps=20):
        kind, wishes = JOBS[job]
        plan = plan_for(kind, preset=preset, num_inference_steps=steps, **wishes)
        text = encode_prompt(components[kind], "A boat", NEGATIVE if plan.guidance_scale > 1 else None)
        said = Said(components[kind].transformer, velocity)
        return Sampler(replace(components[kind], transformer=said), plan, REQUEST, [text], Conditions())

    return make


def run(sampler, each_step=lambda: None):
    while True:
        while not sampler.window_done:
            sampler.step()
            each_step()
        if sampler.finished:
            return sampler.latents
        sampler.open_window(sampler.latents[:, :, -2:])


@pytest.mark.parametrize("preset", Preset)
@pytest.mark.parametrize("job", JOBS)
def test_the_transformer_is_asked_as_often_as_the_plan_says(sampler, job, preset):
    made = sampler(job, preset.value, lambda t, text: t / 1000)
    run(made)
    assert made.components.transformer.calls == made.plan.forwards
    assert (made.plan.forwards < sampler(job, "exact", None).plan.forwards) == (preset is not Preset.EXACT)


@pytest.mark.parametrize("preset", ["balanced", "turbo"])
@pytest.mark.parametrize("job", ["together", "two windows", "blocks", "unguided", "plain"])
def test_a_velocity_that_changes_evenly_is_guessed_rightly(sampler, job, preset):
    """Linear in the noise level, and the same for both texts: then nothing is traded away."""
    exact = run(sampler(job, "exact", lambda t, text: 3 - t / 500))
    guessed = run(sampler(job, preset, lambda t, text: 3 - t / 500))
    assert (guessed - exact).abs().max() < 2e-5 * exact.abs().max()
    bent = run(sampler(job, preset, lambda t, text: 3 - (t / 500) ** 2))
    assert (bent - run(sampler(job, "exact", lambda t, text: 3 - (t / 500) ** 2))).abs().max() > 1e-4


@pytest.mark.parametrize("in_one_call", [False, True])
def test_guidance_ends_frame_by_frame(sampler, in_one_call, monkeypatch):
    """Blocks that are still in strong noise are guided, those before them that have left it are not."""
    monkeypatch.setitem(JOBS, "blocks", ("df", {**JOBS["blocks"][1], "skyreels": {
        **JOBS["blocks"][1]["skyreels"], "batch_guidance": in_one_call}}))  # fmt: skip
    made = sampler("blocks", "balanced", lambda t, text: text)
    positive, negative = made.prompts[0].positive[0, 0, 0], made.prompts[0].negative[0, 0, 0]
    mixed = negative + made.plan.guidance_scale * (positive - negative)
    until = PRESETS[Preset.BALANCED].guidance_until * 20
    both = 0
    while not made.window_done:
        row = made.step_index
        levels, moves = made._schedule.timestep_indices[row], made._schedule.update_mask[row]
        velocity = made._velocity()
        for frame, (level, moving) in enumerate(zip(levels, moves, strict=True)):
            if moving:
                wanted = mixed if level <= until else positive
                assert torch.allclose(velocity[0, :, frame], wanted), (row, frame)
        moved = {level <= until for level, moving in zip(levels, moves, strict=True) if moving}
        both += moved == {True, False}
        made._predictions.pop() if made._step_plans[row].num_evaluations else None
        made.step()
    assert both > 3


def test_a_preset_is_refused_where_the_stock_arithmetic_is_wanted():
    with pytest.raises(Exception, match="preset=turbo is not possible"):
        parse_request({"prompt": "x", "preset": "turbo", "skyreels": {"fidelity": "diffusers"}})
