"""What the denoising loop costs beside the transformer calls that it makes, ours and the stock pipeline's.

    python -m benchmarks.overhead

A DF model of random weights makes the same video by both loops, in turns in one process. Time inside the transformer is
taken by hooks; the rest of a loop is its overhead. Claim: ours is at most 3 % of its calls, and less than the stock's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Transformer3DModel

from backend.core.plan import Machine
from backend.core.planning import make_plan
from backend.core.schema import parse_request
from backend.diffusion.components import load_components
from backend.diffusion.conditions import Conditions
from backend.diffusion.sampler import Sampler
from backend.diffusion.text import encode_prompt
from backend.library.checkpoints import find_checkpoints
from benchmarks.record import record
from tests.tiny_checkpoints import build_checkpoint

ROUNDS = 5
WISH = {"prompt": "A boat", "resolution": "384x256", "num_frames": 33, "num_inference_steps": 10, "seed": 7}
WAYS = {"synchronous": {}, "asynchronous": {"ar_step": 2, "causal_block_size": 3}}


def build(folder: Path) -> Path:
    """A checkpoint whose calls take long enough to be measured: 8 heads of 32 channels, 4 layers."""
    checkpoint = build_checkpoint(folder / "random-df", "df")
    torch.manual_seed(0)
    SkyReelsV2Transformer3DModel(
        num_attention_heads=8,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=64,
        ffn_dim=1024,
        num_layers=4,
        rope_max_seq_len=128,
        inject_sample_info=True,
    ).save_pretrained(checkpoint / "transformer")
    return checkpoint


class Inside:
    """Seconds inside a transformer, by hooks."""

    def __init__(self, transformer: Any) -> None:
        self.seconds = 0.0
        self.calls = 0
        self._hooks = [
            transformer.register_forward_pre_hook(lambda *_: self._enter()),
            transformer.register_forward_hook(lambda *_: self._leave()),
        ]

    def _enter(self) -> None:
        self._began = time.perf_counter()

    def _leave(self) -> None:
        self.seconds += time.perf_counter() - self._began
        self.calls += 1

    def measure(self, loop: Callable[[], Any]) -> dict[str, float]:
        self.seconds, self.calls = 0.0, 0
        began = time.perf_counter()
        loop()
        total = time.perf_counter() - began
        return {"calls": self.calls, "inside_s": self.seconds, "beside_s": total - self.seconds}


def summary(rounds: list[dict[str, float]]) -> dict[str, float]:
    beside = statistics.median(taken["beside_s"] for taken in rounds)
    inside = statistics.median(taken["inside_s"] for taken in rounds)
    share = statistics.median(taken["beside_s"] / taken["inside_s"] for taken in rounds)
    return {
        "calls": rounds[0]["calls"],
        "inside_s": round(inside, 4),
        "beside_s": round(beside, 4),
        "overhead_percent": round(100 * share, 2),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = build(Path(folder))
        parts = load_components(checkpoint, torch.device("cpu"), lambda part: None)
        (spec,) = (found.spec for found in find_checkpoints([Path(folder)]))
        pipe = SkyReelsV2DiffusionForcingPipeline.from_pretrained(checkpoint, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    prompt = encode_prompt(parts, "A boat", "blurry")
    ours, theirs = Inside(parts.transformer), Inside(pipe.transformer)
    results = {}
    for way, options in WAYS.items():
        plan = make_plan(parse_request(WISH | {"skyreels": options}), spec, Machine("CPU", 2, 8.0))
        request = parse_request(WISH)

        def our_loop(plan: Any = plan, request: Any = request) -> None:
            sampler = Sampler(parts, plan, request, [prompt], Conditions())
            while not sampler.finished:
                sampler.step()

        def their_loop(plan: Any = plan, options: Any = options) -> None:
            pipe(
                None,
                prompt_embeds=prompt.positive,
                negative_prompt_embeds=prompt.negative,
                height=plan.render_height,
                width=plan.render_width,
                num_frames=plan.render_frames,
                base_num_frames=plan.render_frames,
                num_inference_steps=plan.num_inference_steps,
                guidance_scale=plan.guidance_scale,
                generator=torch.Generator().manual_seed(7),
                output_type="latent",
                **options,
            )

        rounds: dict[str, list[dict[str, float]]] = {"ours": [], "stock": []}
        for number in range(ROUNDS + 1):
            taken = {"ours": ours.measure(our_loop), "stock": theirs.measure(their_loop)}
            if number:  # the first warms up
                for who, found in taken.items():
                    rounds[who].append(found)
        results[way] = {who: summary(found) for who, found in rounds.items()}
    record("overhead", results)


if __name__ == "__main__":
    main()
