"""What the lossy presets cost on a trained model, beside what another seed changes.

    python -m benchmarks.presets [--films 40]

SkyReels V2 Tiny makes held-out films with every preset and the same seed, and once more with another seed. Each film is
compared with that of `exact` (PSNR, SSIM) and judged (subject, colour, motion, time). Claim: a preset changes a film
less than another seed does, and shows what was asked as often as `exact`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

from skimage.metrics import structural_similarity

from backend.core.planning import make_plan
from backend.core.registry import TINY
from backend.core.schema import Preset, parse_request
from backend.media.fitting import Frames
from backend.skyreels_integration import SkyReelsEngine
from benchmarks.record import record
from benchmarks.tiny import ANYWHERE, HELD_OUT, film, psnr, scene_of, told
from training.tiny.judge import load_judge, truth

ASKED = ("kind", "colour", "motion", "time")
ANOTHER_SEED = "exact, another seed"


def ssim(one: Frames, other: Frames) -> float:
    """The mean over the frames."""
    return statistics.fmean(float(structural_similarity(a, b, channel_axis=2)) for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=40)
    count = parser.parse_args().films
    engine, judge = SkyReelsEngine(), load_judge()
    ways: dict[str, dict[str, Any]] = {preset.value: {"preset": preset.value} for preset in Preset}
    ways[ANOTHER_SEED] = {}
    found: dict[str, dict[str, list[float]]] = {way: {} for way in ways}
    for number in range(count):
        whole = None
        for way, wish in ways.items():
            began = time.perf_counter()
            made = film(engine, prompt=told(number), seed=number + 10_000 * (way == ANOTHER_SEED), **wish)
            facts = {"seconds": time.perf_counter() - began}
            answers, asked = judge.answers(made), truth(scene_of(HELD_OUT + number))
            facts |= {name: float(answers[name] == asked[name]) for name in ASKED}
            if whole is None:
                whole = made
            else:
                facts |= {"psnr_db": psnr(made, whole), "ssim": ssim(made, whole)}
            for name, value in facts.items():
                found[way].setdefault(name, []).append(value)
        print(f"film {number + 1} of {count}", file=sys.stderr)
    results: dict[str, Any] = {"films": count}
    for way, facts_of in found.items():
        plan = make_plan(parse_request({"prompt": "x", "num_frames": 33} | ways[way]), TINY, ANYWHERE)
        median = {name: round(statistics.median(facts_of[name]), 3) for name in ("psnr_db", "ssim") if name in facts_of}
        right = {name: round(statistics.fmean(facts_of[name]), 3) for name in ASKED}
        seconds = round(statistics.median(facts_of["seconds"][1:]), 2)
        results[way] = (
            {"steps": plan.num_inference_steps, "calls": plan.forwards, "median_s": seconds} | median | {"right": right}
        )
    record("presets", results)


if __name__ == "__main__":
    main()
