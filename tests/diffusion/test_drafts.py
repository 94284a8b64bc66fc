"""A draft stops at a step and shows what the model predicts there; what promotes it ends with the bits of a render that
was never stopped, and makes no step twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.core.errors import JobCancelled
from backend.core.plan import Plan, Source, Stage
from backend.core.planning import make_plan, plan_promotion
from backend.core.registry import ModelSpec
from backend.core.schema import parse_request
from backend.diffusion.conditions import encode_conditions
from backend.diffusion.sampler import Sampler
from backend.diffusion.snapshot import read_snapshot
from backend.diffusion.text import encode_prompt
from backend.engine import STATE, Inputs, Task
from backend.library.checkpoints import find_checkpoints
from backend.skyreels_integration import SkyReelsEngine
from tests.diffusion.conftest import MACHINE, NEGATIVE, REQUEST

UPLOAD = "0" * 20
WINDOWS = {"base_num_frames": 17, "overlap_history": 5, "addnoise_condition": 20}
BLOCKS = {"ar_step": 3, "causal_block_size": 2}
# The checkpoint, the request, the steps of its draft, and how many frames that shows.
RENDERS = {
    "plain": ("t2v", {}, 4, 17),
    "all frames together": ("df", {}, 1, 17),
    "blocks": ("df", {"num_frames": 21, "skyreels": BLOCKS}, 5, 13),
    "two windows": ("df", {"num_frames": 29, "skyreels": WINDOWS}, 9, 17),
    "extension": ("df", {"mode": "video_extension", "num_frames": 24, "skyreels": WINDOWS}, 4, 17),
    "first and last picture": (
        "df",
        {"mode": "image_to_video", "end": True, "num_frames": 29, "skyreels": WINDOWS},
        4,
        17,
    ),
    "last picture in the first window": ("df", {"mode": "image_to_video", "end": True}, 4, 17),
    "balanced": ("df", {"preset": "balanced", "num_inference_steps": 12}, 7, 17),
    "diffusers": ("df", {"num_frames": 29, "skyreels": WINDOWS | {"fidelity": "diffusers"}}, 4, 17),
    "plain picture": ("i2v", {"mode": "image_to_video"}, 4, 17),
    "timestep per frame": ("wan-ti2v", {"mode": "image_to_video"}, 4, 17),
    "experts": ("wan-t2v-experts", {}, 6, 17),
}


@dataclass
class Render:
    """A request for one of the checkpoints, with its inputs."""

    folder: Path
    spec: ModelSpec
    request: dict
    source: Source | None
    inputs: Inputs

    def plan(self, **changes) -> Plan:
        return make_plan(parse_request(self.request | changes), self.spec, MACHINE, self.source)

    def task(self, plan: Plan, work: Path | None = None) -> Task:
        work and work.mkdir(exist_ok=True)
        request = parse_request(self.request | {"draft_steps": plan.draft_steps})
        return Task(request, plan, self.inputs, self.folder, work)


@pytest.fixture
def a_render(checkpoints, picture, last_picture, clip):
    found = {c.folder.name: c for c in find_checkpoints([next(iter(checkpoints.values())).parent])}

    def make(kind, wish):
        checkpoint, wish = found[f"random-{kind}"], dict(wish)
        mode, end = wish.get("mode"), wish.pop("end", False)
        defaults = {"prompt": "A boat", "negative_prompt": "blurry", "resolution": "64x64", "seed": 7}
        request = defaults | {"num_inference_steps": 10, "num_frames": 17} | wish
        request |= {"image": UPLOAD} if mode == "image_to_video" else {}
        request |= {"video": UPLOAD} if mode == "video_extension" else {}
        request |= {"end_image": UPLOAD} if end else {}
        source = Source(64, 64, len(clip), 24.0) if mode == "video_extension" else None
        render = Render(checkpoint.folder, checkpoint.spec, request, source, Inputs())
        prefix = clip[-render.plan().prefix_frames :] if source else None
        render.inputs = Inputs(picture if mode == "image_to_video" else None, last_picture if end else None, prefix)
        return render

    return make


@pytest.fixture(scope="module")
def engine():
    """Saves after every step, so that the last state has the last latents."""
    return SkyReelsEngine(save_every_s=0.0)


@pytest.fixture
def calls(monkeypatch):
    """The steps at which the transformer is called, in their order."""
    found, forward = [], Sampler._forward

    def count(sampler, *args):
        found.append((sampler.window, sampler.step_index))
        return forward(sampler, *args)

    monkeypatch.setattr(Sampler, "_forward", count)
    return found


def frames_of(engine, task, report=lambda at: None):
    return np.concatenate(list(engine.render(task, report)))


@pytest.mark.parametrize("name", RENDERS)
def test_a_promoted_draft_ends_as_one_that_was_never_stopped(engine, a_render, tmp_path, calls, name):
    kind, wish, steps, num_shown = RENDERS[name]
    render = a_render(kind, wish)
    whole = frames_of(engine, render.task(render.plan(), tmp_path / "whole"))
    every_call = list(calls)
    calls.clear()

    draft = render.plan(draft_steps=steps)
    shown = frames_of(engine, render.task(draft, tmp_path / "work"))
    assert len(shown) == draft.decoded_frames == num_shown
    assert read_snapshot(tmp_path / "work").metadata["step"] == steps

    promotion = plan_promotion(draft, steps, render.spec, MACHINE)
    reports = []
    finished = frames_of(engine, render.task(promotion, tmp_path / "work"), reports.append)
    assert np.array_equal(finished, whole)
    assert calls == every_call
    ends = [read_snapshot(tmp_path / work).tensors["latents"] for work in ("work", "whole")]
    assert torch.equal(*ends)
    [runtime] = [report.runtime for report in reports if report.runtime]
    assert runtime["resumed"] == f"window 1, step {steps + 1}"
    denoising = [report for report in reports if report.stage is Stage.DENOISING]
    assert (denoising[0].window, denoising[0].step, denoising[0].part) == (1, steps + 1, 0.0)
    assert denoising[-1].part == 1.0


def test_a_draft_shows_the_clean_latents_that_its_last_step_predicts(engine, a_render, components, tmp_path):
    """x0 = x - sigma * v, with the sigma of the step (Lipman et al. 2023), decoded by the VAE in one piece."""
    render, steps = a_render("df", {}), 4
    shown = frames_of(engine, render.task(render.plan(draft_steps=steps)))
    parts, plan = components["df"], render.plan()
    prompts = [encode_prompt(parts, "A boat", NEGATIVE)]
    sampler = Sampler(parts, plan, REQUEST, prompts, encode_conditions(parts, plan, Inputs()))
    for _ in range(steps - 1):
        sampler.step()
    with torch.no_grad():
        sigma = sampler._solvers[0]._unipc.sigmas[steps - 1]
        clean = sampler.latents - sigma * sampler._velocity()
        vae = parts.vae
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        video = vae.decode(clean * std + mean).sample[0].clamp(-1, 1)
    expected = ((video * 0.5 + 0.5) * 255).round().permute(1, 2, 3, 0).numpy()
    assert np.abs(shown.astype(float) - expected).max() <= 1
    assert np.abs(shown.astype(float) - frames_of(engine, render.task(plan))).max() > 5, "it is no finished video"


def test_a_draft_that_is_killed_while_it_decodes_makes_no_step_again(engine, a_render, tmp_path, calls):
    render = a_render("df", {"num_frames": 29, "skyreels": WINDOWS})
    draft = render.plan(draft_steps=3)
    unbroken = frames_of(engine, render.task(draft))
    calls.clear()

    def killed(at):
        if at.stage is Stage.DECODING:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frames_of(SkyReelsEngine(save_every_s=1e9), render.task(draft, tmp_path), killed)
    made = len(calls)
    assert np.array_equal(frames_of(engine, render.task(draft, tmp_path)), unbroken)
    assert len(calls) == made == 2 * 3


def test_a_draft_can_be_cancelled_and_goes_on(engine, a_render, tmp_path, calls):
    render = a_render("df", {})
    draft = render.plan(draft_steps=6)
    unbroken = frames_of(engine, render.task(draft))
    calls.clear()

    def cancel(at):
        if at.stage is Stage.DENOISING and at.step == 4:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        frames_of(engine, render.task(draft, tmp_path), cancel)
    assert np.array_equal(frames_of(engine, render.task(draft, tmp_path)), unbroken)
    assert len(calls) == 2 * 6


def test_the_state_of_another_draft_is_not_gone_on_from(engine, a_render, tmp_path, caplog):
    """What was trained since then, or another seed: all steps are made again, and the log says so."""
    render = a_render("df", {})
    other = a_render("df", {"seed": 8})
    frames_of(engine, other.task(other.plan(draft_steps=4), tmp_path))
    assert (tmp_path / STATE).is_file()
    promotion = plan_promotion(render.plan(draft_steps=4), 4, render.spec, MACHINE)
    reports = []
    finished = frames_of(engine, render.task(promotion, tmp_path), reports.append)
    assert np.array_equal(finished, frames_of(engine, render.task(render.plan())))
    assert "the saved state is not used" in caplog.text
    assert all(0 <= report.part <= 1 for report in reports)
    assert not any("resumed" in report.runtime for report in reports if report.runtime)


def test_draft_rest_and_whole_have_one_fingerprint(a_render, components):
    """Whatever else was planned anew between them: only the forecast may be."""
    render = a_render("df", {"num_frames": 29, "skyreels": WINDOWS})
    draft = render.plan(draft_steps=4)
    rest = plan_promotion(draft, 4, render.spec, replace(MACHINE, cores=64))
    parts = components["df"]
    prompts = [encode_prompt(parts, "A boat", NEGATIVE)]
    found = set()
    for plan in (render.plan(), draft, rest):
        conditions = encode_conditions(parts, plan, Inputs())
        request = parse_request(render.request | {"draft_steps": plan.draft_steps})
        found.add(Sampler(parts, plan, request, prompts, conditions).fingerprint)
    assert len(found) == 1
