"""What the lossy presets cost on a trained model, beside what another seed changes, and beside cache-dit.

    python -m benchmarks.presets [--videos 40]

SkyReels V2 Tiny makes held-out videos with every preset and the same seed, once more with another seed, and with its
matrices in eight bits; the stock pipeline of diffusers makes them too, as it is and with cache-dit (`peers.py`). Each
video is compared with that of `exact`, those of the stock pipeline with its own (PSNR, SSIM), and judged (subject,
colour, motion, time). Claims: a preset changes a video less than another seed does, and shows what was requested as
often as `exact`; with no more of the model evaluated than by cache-dit, more of the video stays.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffusers import SkyReelsV2DiffusionForcingPipeline
from skimage.metrics import structural_similarity

from backend.core.plan import Plan
from backend.core.schema import Preset
from backend.media.fitting import Frames
from backend.skyreels_integration import SkyReelsEngine
from benchmarks.peers import POLICIES, cached, mask_of, stock_frames
from benchmarks.record import record
from benchmarks.tiny import caption_of, psnr
from training.tiny.clips import HELD_OUT, scene_of
from training.tiny.export import FOLDER
from training.tiny.judge import load_judge, truth
from training.tiny.sample import generate, sample_plan, sample_request

ASKED = ("kind", "colour", "motion", "time")
EXACT, STOCK = Preset.EXACT.value, "stock pipeline"


@dataclass(frozen=True)
class Way:
    """How a video is made, by its number: in so many forwards, the first of `steps` steps that are not extrapolated. It
    is compared with the video that `like` made.
    """

    make: Callable[[int], Frames]
    steps: int
    forwards: int
    like: str = EXACT
    timed: bool = True


def all_ways(pipe: Any) -> dict[str, Way]:
    engines = {fp8: SkyReelsEngine() for fp8 in (False, True)}  # each keeps its weights

    def studio(preset: Preset, fp8: bool = False, other_seed: int = 0) -> Way:
        plan = plan_of(preset=preset.value)
        return Way(
            lambda number: generate(
                engines[fp8],
                fp8=fp8,
                prompt=caption_of(number),
                seed=number + other_seed,
                preset=preset.value,
            ),
            plan.num_inference_steps,
            plan.forwards,
            timed=not fp8,  # a CPU only imitates them
        )

    def stock(policy: str | None) -> Way:
        plan = plan_of()
        steps = plan.num_inference_steps
        num_evaluated = sum(mask_of(policy, steps)) if policy else steps

        def make(number: int) -> Frames:
            with cached(pipe, policy, steps) if policy else contextlib.nullcontext():
                return stock_frames(pipe, plan, caption_of(number), number)

        return Way(make, steps, 2 * num_evaluated, like=STOCK)

    return {
        **{preset.value: studio(preset) for preset in Preset},
        "exact, another seed": studio(Preset.EXACT, other_seed=10_000),
        "exact, eight bits": studio(Preset.EXACT, fp8=True),
        "balanced, eight bits": studio(Preset.BALANCED, fp8=True),
        STOCK: stock(None),
        **{f"cache-dit, {policy}": stock(policy) for policy in POLICIES},
    }


def plan_of(**fields: Any) -> Plan:
    return sample_plan(sample_request(prompt="x", **fields))


def ssim(one: Frames, other: Frames) -> float:
    """The mean over the frames."""
    return statistics.fmean(float(structural_similarity(a, b, channel_axis=2)) for a, b in zip(one, other, strict=True))


def measure(ways: dict[str, Way], judge: Any, count: int) -> dict[str, Any]:
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    for number in range(count):
        expected = truth(scene_of(HELD_OUT + number))
        whole: dict[str, Frames] = {}
        for name, way in ways.items():
            began = time.perf_counter()
            made = way.make(number)
            figures = {"seconds": time.perf_counter() - began}
            answers = judge.answers(made)
            figures |= {question: float(answers[question] == expected[question]) for question in ASKED}
            if way.like in whole:
                figures |= {"psnr_db": psnr(made, whole[way.like]), "ssim": ssim(made, whole[way.like])}
            whole.setdefault(way.like, made)
            for figure, value in figures.items():
                found[name].setdefault(figure, []).append(value)
        print(f"video {number + 1} of {count}", file=sys.stderr)
    results: dict[str, Any] = {"videos": count}
    for name, way in ways.items():
        facts_of = found[name]
        seconds = {"median_s": round(statistics.median(facts_of["seconds"]), 2)} if way.timed else {}
        alike = {fact: round(statistics.median(facts_of[fact]), 3) for fact in ("psnr_db", "ssim") if fact in facts_of}
        right = {question: round(statistics.fmean(facts_of[question]), 3) for question in ASKED}
        results[name] = {"steps": way.steps, "calls": way.forwards} | seconds | alike | {"right": right}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=40)
    flags = parser.parse_args()
    pipe = SkyReelsV2DiffusionForcingPipeline.from_pretrained(FOLDER, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    record("presets", measure(all_ways(pipe), load_judge(), flags.videos))


if __name__ == "__main__":
    main()
