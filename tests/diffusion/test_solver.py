from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.core.schema import Fidelity
from backend.diffusion.solver import Solver, make_unipc

ORIGINAL, DIFFUSERS = Fidelity


@pytest.fixture
def plan(plan_for):
    """A plan with these steps, shift and fidelity."""

    def make(num_inference_steps, flow_shift, fidelity=ORIGINAL):
        changes = {"num_inference_steps": num_inference_steps, "flow_shift": flow_shift, "fidelity": fidelity}
        return replace(plan_for("df"), **changes)

    return make


def test_the_solver_has_the_plans_shift_and_starts_at_the_first_level(components, plan):
    gentle, strong = (make_unipc(components["df"], plan(10, shift)) for shift in (3.0, 8.0))
    assert len(strong.timesteps) == 10
    assert strong.timesteps[5] > gentle.timesteps[5]
    assert strong.config.use_flow_sigmas
    assert strong.config.prediction_type == "flow_prediction"
    assert strong.begin_index == 0


@pytest.mark.parametrize("steps", [10, 30, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0, 20.0])
def test_noise_levels_are_the_originals(components, plan, steps, shift):
    """fm_solvers_unipc.py: the greatest sigma is 1 - 1/1000, the least 0, and the shift comes after the grid."""
    training = (1.0 - np.linspace(1, 1 / 1000, 1000)[::-1]).astype(np.float32)
    grid = np.linspace(training[0].item(), training[-1].item(), steps + 1)[:-1]
    sigmas = shift * grid / (1 + (shift - 1) * grid)
    unipc = make_unipc(components["df"], plan(steps, shift))
    np.testing.assert_allclose(unipc.sigmas.numpy(), np.append(sigmas, 0), atol=1e-7, rtol=0)
    assert unipc.timesteps.tolist() == (sigmas * 1000).astype(np.int64).tolist()


def test_noise_levels_are_those_of_diffusers_where_they_are_wanted(components, plan):
    unipc = make_unipc(components["df"], plan(30, 8.0, DIFFUSERS))
    assert unipc.timesteps[-1] == 221  # the original: 216
    assert unipc.sigmas[0] == pytest.approx(1, abs=2e-6)


def error_at_the_end(components, plan, deviation):
    """How far from the truth the solver ends where the model is exact: data ~ N(0, deviation**2), one number."""
    solver, variance = Solver(components, plan, slice(0, 1)), deviation**2
    latents = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    for sigma in solver._unipc.sigmas[:-1].double():
        # E[noise - data | sample], and the deviation of the sample, which the exact flow keeps in proportion.
        velocity = latents * (sigma - (1 - sigma) * variance) / ((1 - sigma) ** 2 * variance + sigma**2)
        solver.step(latents, velocity)
    sigma = solver._unipc.sigmas[0].double()
    return float(latents / (deviation / ((1 - sigma) ** 2 * variance + sigma**2).sqrt()) - 1)


def test_a_clean_history_ends_closer_to_the_truth(components, plan):
    nearer, worst = 0, 0.0
    for deviation in (0.05, 0.2, 0.4, 0.5, 1.0, 2.0, 3.0):
        for steps, shift in ((20, 8.0), (30, 5.0), (30, 8.0), (50, 8.0)):
            aliased, clean = (_history(components, plan(steps, shift), deviation, clean) for clean in (False, True))
            nearer += clean < aliased
            worst = max(worst, clean if clean > aliased else 0.0)
            assert clean < aliased or deviation > 0.45
    assert nearer >= 18  # of 28
    assert worst < 0.009


def _history(components, plan, deviation, clean):
    parts = components["df"]
    if clean:
        return abs(error_at_the_end(parts, plan, deviation))
    original = Solver.__init__

    def aliased(self, *arguments):
        original(self, *arguments)
        self._copies_sample = False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Solver, "__init__", aliased)
        return abs(error_at_the_end(parts, plan, deviation))


@pytest.mark.parametrize(
    ("kind", "fidelity", "clean"),
    [
        ("df", ORIGINAL, True),
        ("df", DIFFUSERS, False),
        ("t2v", ORIGINAL, True),
        ("t2v", DIFFUSERS, True),
    ],
)
def test_history_is_aliased_only_where_the_stock_pipeline_aliases_it(components, plan, kind, fidelity, clean):
    solver, latents = Solver(components[kind], plan(10, 8.0, fidelity), slice(0, 2)), torch.randn(1, 16, 2, 4, 4)
    before = latents.clone()
    solver.step(latents, torch.randn_like(latents))
    assert torch.equal(solver._unipc.last_sample, before) is clean
