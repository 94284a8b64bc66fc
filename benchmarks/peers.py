"""What the studio is measured beside: the stock pipelines of diffusers, as they are and with cache-dit.

cache-dit keeps what the blocks of a transformer add, and takes it again at some of the steps. Which steps it works out
is a fixed mask here, "medium" or "fast" as its authors name them, with their extrapolation between them (TaylorSeer): a
mask takes the same time with any weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline

from backend.core.plan import Plan
from backend.core.windows import pixel_frames
from backend.diffusion.text import TEXT_TOKENS
from backend.media.fitting import Frames

POLICIES = ("medium", "fast")


def stock_frames(
    pipe: Any, plan: Plan, prompt: str, seed: int, after_step: Callable[[], None] = lambda: None
) -> Frames:
    """The frames of the plan's video by a stock pipeline of SkyReels V2: text to video, or diffusion forcing."""
    # It takes a latent pixel of Tiny for 4 x 4 pixels, since it does not count those that the VAE folds.
    unfolded = pipe.vae_scale_factor_spatial / 8
    forcing = {
        "base_num_frames": max(pixel_frames(window.stop - window.start) for window in plan.windows),
        "overlap_history": plan.overlap_history if len(plan.windows) > 1 else None,
        "addnoise_condition": plan.addnoise_condition,
        "ar_step": plan.ar_step,
        "causal_block_size": plan.causal_block_size if plan.ar_step else None,
        "fps": plan.fps,
    }

    def step_ended(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        after_step()
        return {}

    frames = pipe(
        prompt,
        negative_prompt="",
        height=int(plan.render_height * unfolded),
        width=int(plan.render_width * unfolded),
        num_frames=plan.render_frames,
        num_inference_steps=plan.num_inference_steps,
        guidance_scale=plan.guidance_scale,
        generator=torch.Generator().manual_seed(seed),
        max_sequence_length=min(TEXT_TOKENS, pipe.tokenizer.model_max_length),
        callback_on_step_end=step_ended,
        output_type="np",
        **forcing if isinstance(pipe, SkyReelsV2DiffusionForcingPipeline) else {},
    ).frames
    assert frames.shape == (1, plan.render_frames, plan.render_height, plan.render_width, 3), frames.shape
    return np.asarray((255 * frames[0]).round(), np.uint8)


def mask_of(policy: str, steps: int) -> list[int]:
    """1 for each step that cache-dit works out, 0 for the others."""
    import cache_dit  # late: the other peers do without it

    return list(cache_dit.steps_mask(mask_policy=policy, total_steps=steps))


@contextmanager
def cached(pipe: Any, policy: str, steps: int) -> Iterator[None]:
    """While open, `pipe` runs with cache-dit, videos of so many steps."""
    import cache_dit

    cache_dit.enable_cache(
        pipe,
        cache_config=cache_dit.DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            num_inference_steps=steps,
            steps_computation_mask=mask_of(policy, steps),
            steps_computation_policy="static",
        ),
        calibrator_config=cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1),
    )
    try:
        yield
    finally:
        cache_dit.disable_cache(pipe)
