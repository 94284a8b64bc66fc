"""A whole job on SkyReels V2 Tiny beside its bare model calls, and beside the stock pipeline of diffusers.

    python -m benchmarks.whole

In turns in one process, each warm: the studio from submit to the published MP4 (64 frames, enlarged to 960x540), the
calls of the stock text encoder, transformer and VAE that this takes and nothing else, and the stock diffusion-forcing
pipeline up to frames in memory, which neither enlarges nor writes them. Claims: at most 1.10 times the bare calls, at
most 0.8 times the stock pipeline.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline

from backend.core.config import Settings
from backend.core.plan import Plan
from backend.core.registry import TINY
from backend.core.schema import parse_request
from backend.video_generator import VideoGenerator
from benchmarks.peers import stock_frames
from benchmarks.record import record
from training.tiny.export import FOLDER

ROUNDS = 5
WISH = {"prompt": "A red boat drifts left on a calm sea at sunset", "model": TINY.id, "seed": 7}


def bare(pipe: Any, plan: Plan) -> None:
    """The model calls of the plan."""
    tokens = pipe.tokenizer([WISH["prompt"], ""], padding="max_length", return_tensors="pt")
    (window,) = plan.windows
    shape = (1, pipe.vae.config.z_dim, window.stop, plan.render_height // 8, plan.render_width // 8)
    latents = torch.randn(shape)
    timesteps = torch.full((1, window.stop), 500)
    with torch.no_grad():
        texts = pipe.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state.float()
        for _ in range(plan.num_inference_steps):
            for text in texts.split(1):
                pipe.transformer(latents, timesteps, text, enable_diffusion_forcing=True, fps=[1], return_dict=False)
        pipe.vae.decode(latents)


def main() -> None:
    pipe = SkyReelsV2DiffusionForcingPipeline.from_pretrained(FOLDER, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as folder:
        generator = VideoGenerator(Settings(data=Path(folder), disk_reserve_bytes=0))
        generator.start()
        request = parse_request(WISH)
        plan = generator.plan(request)

        def studio() -> None:
            job = generator.wait(generator.submit(request).id)
            assert job.artifact is not None, job.error

        ways: dict[str, Callable[[], object]] = {
            "studio": studio,
            "bare": lambda: bare(pipe, plan),
            "stock": lambda: stock_frames(pipe, plan, request.prompt, request.seed),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(ROUNDS + 1):
            for way, run in ways.items():
                began = time.perf_counter()
                run()
                if number:  # the first warms up
                    seconds[way].append(round(time.perf_counter() - began, 3))
        generator.stop()
    ratios = {
        f"to_{other}": round(
            statistics.median(ours / theirs for ours, theirs in zip(seconds["studio"], seconds[other], strict=True)), 3
        )
        for other in ("bare", "stock")
    }
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    record(
        "whole",
        {"frames": plan.num_frames, "calls": plan.forwards, "median_s": medians, "ratio": ratios, "seconds": seconds},
    )


if __name__ == "__main__":
    main()
