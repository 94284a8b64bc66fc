"""The CPU kernels of `backend/diffusion/cpu.py` beside those of the libraries.

    python -m benchmarks.kernels

One forward of SkyReels V2 Tiny and the decoding of its clip, alternating in one process: with all of the optimized
kernels and with none. Claim: faster, and different only in the last digits.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from backend.diffusion.components import load_components
from backend.diffusion.cpu import use_cpu_kernels
from benchmarks.record import record
from training.tiny.export import FOLDER
from training.tiny.world import HEIGHT, WIDTH

ROUNDS = 7
LATENT_FRAMES = 9  # of 33 frames
TEXT_TOKENS = 64


def compare(model: torch.nn.Module, call: Callable[[], torch.Tensor]) -> dict[str, float]:
    """Medians of both, after one call of each to warm up, and how far the answers are apart."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    answers: dict[bool, torch.Tensor] = {}
    for _ in range(ROUNDS + 1):
        for optimized in (True, False):
            use_cpu_kernels(model, optimized)
            began = time.perf_counter()
            answers[optimized] = call()
            seconds[optimized].append(time.perf_counter() - began)
    stock, ours = (statistics.median(seconds[optimized][1:]) for optimized in (False, True))
    apart = (answers[True] - answers[False]).abs().max() / answers[False].abs().max()
    return {
        "stock_s": round(stock, 3),
        "quicker_s": round(ours, 3),
        "times_as_fast": round(stock / ours, 2),
        "largest_difference": float(f"{float(apart):.1e}"),
    }


def measure() -> dict[str, Any]:
    parts = load_components(FOLDER, torch.device("cpu"), lambda part: None)
    torch.manual_seed(0)
    channels = parts.vae.config.z_dim
    latents = torch.randn(1, channels, LATENT_FRAMES, HEIGHT // 8, WIDTH // 8)
    words = torch.randn(1, TEXT_TOKENS, parts.transformer.config.text_dim)
    level = torch.full((1, LATENT_FRAMES), 500)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def forward() -> torch.Tensor:
        found: torch.Tensor = parts.transformer(
            latents, level, words, enable_diffusion_forcing=True, fps=[1], return_dict=False
        )[0]
        return found

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def decode() -> torch.Tensor:
        found: torch.Tensor = parts.vae.decode(latents, return_dict=False)[0]
        return found

    return {
        "a forward of Tiny": compare(parts.transformer, forward),
        "decoding 33 frames": compare(parts.vae, decode),
    }


if __name__ == "__main__":
    record("kernels", measure())
