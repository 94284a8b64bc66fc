"""Speed presets: what each changes in sampling, and what every denoising step then computes. Pure arithmetic.

`exact` evaluates the transformer with classifier-free guidance at every step. The other presets combine two methods:
guidance in a limited interval (Kynkäänniemi et al. 2024), here from the first step to a fixed part of the schedule; and
step skipping, where the velocity of a skipped step is extrapolated linearly in the timestep from the last two evaluated
ones, which is the first-order forecast of TaylorSeer (Liu et al. 2025) applied to the output of the whole transformer.
The steps at high noise, which decide the composition, and the last step are always evaluated.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from backend.core.schedule import Schedule
from backend.core.schema import Preset

MIN_STEPS_TO_SKIP = 10  # with fewer steps, as a distilled LoRA takes, every step is evaluated


@dataclass(frozen=True, slots=True)
class PresetConfig:
    """`guidance_until` is the fraction of the steps, from the first on, that are guided. Each pair of `skipping` is the
    fraction of the steps after which it applies, and n: one of n steps is evaluated. On a GPU, `half_decode` runs the
    VAE's decoder in half precision, and `fp8` stores the linear layers of a large transformer in float8.
    """

    guidance_until: float = 1.0
    skipping: tuple[tuple[float, int], ...] = ()
    half_decode: bool = False
    fp8: bool = False

    def evaluation_interval(self, step: int, num_steps: int) -> int:
        """n, where one of n steps is evaluated at `step` of `num_steps`; steps count from 1."""
        if num_steps < MIN_STEPS_TO_SKIP:
            return 1
        applicable = (n for fraction, n in reversed(self.skipping) if step > math.ceil(fraction * num_steps))
        return next(applicable, 1)


PRESETS = {
    Preset.EXACT: PresetConfig(),
    Preset.BALANCED: PresetConfig(guidance_until=0.6, skipping=((0.25, 3),), half_decode=True, fp8=True),
    Preset.TURBO: PresetConfig(guidance_until=0.5, skipping=((0.15, 2), (0.35, 5)), half_decode=True, fp8=True),
}


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One denoising step. `num_evaluations` of the transformer (NFE) is 0 where the velocity is extrapolated and 2 with
    classifier-free guidance; `guided` says for each latent frame whether its velocity is guided.
    """

    num_evaluations: int
    guided: tuple[bool, ...]


@functools.lru_cache(maxsize=256)
def plan_steps(schedule: Schedule, num_steps: int, preset: Preset, guidance: bool) -> tuple[StepPlan, ...]:
    """What each row of `schedule`, made for `num_steps` steps a frame, computes; `guidance` is off at scale 1.

    A row is extrapolated only if all frames that it updates may skip it, so that at least two rows before it evaluated
    the transformer for each of these frames.
    """
    config = PRESETS[preset]
    guided_until = math.ceil(config.guidance_until * num_steps)
    plans: list[StepPlan] = []
    skipped = 0  # rows since the last evaluation
    for row, updated in zip(schedule.timestep_indices, schedule.update_mask, strict=True):
        steps = [step if update else None for step, update in zip(row, updated, strict=True)]
        guided = tuple(guidance and step is not None and step <= guided_until for step in steps)
        interval = min(
            1 if step == num_steps else config.evaluation_interval(step, num_steps)
            for step in steps
            if step is not None
        )
        skipped = skipped + 1 if skipped < interval - 1 else 0
        plans.append(StepPlan(0 if skipped else 2 if any(guided) else 1, guided))
    return tuple(plans)
