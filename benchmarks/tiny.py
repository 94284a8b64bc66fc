"""What SkyReels V2 Tiny can do, measured on videos that it was not trained on.

    python -m benchmarks.tiny [--videos 200] [--only speed meaning vae first extension end]

Videos are rendered by the SkyReelsEngine from captions of scenes that training leaves out, at the model's own size in
20 steps, and classified by the network of `training/tiny/judge.py`, whose accuracy on drawn videos is given beside.
Claims: subject colour, motion and time of day right in 90 %, kind in 80 %, a wrong caption near chance; the VAE gives
videos back at 30 dB; a given first picture returns at 28 dB and its subject goes on from there; no jump where a video
is continued; a given last picture is reached; 64 frames in 20 s on two CPU cores, in less than 2 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import AutoencoderKLWan
from safetensors import safe_open

from backend.core.config import Settings
from backend.core.plan import Source
from backend.core.registry import TINY
from backend.core.schema import parse_request
from backend.engine import Inputs
from backend.media.fitting import Frames
from backend.skyreels_integration import SkyReelsEngine
from backend.video_generator import VideoGenerator
from benchmarks.record import record
from training.tiny.clips import HELD_OUT, SHORT, draw_clip, scene_of
from training.tiny.export import FOLDER
from training.tiny.judge import QUESTIONS, WEIGHTS, load_judge, truth
from training.tiny.sample import generate
from training.tiny.vae import measure
from training.tiny.world import FPS, HEIGHT, WIDTH, caption

PREFIX = 17  # frames of a video that is continued which the model sees


def caption_of(number: int) -> str:
    """A caption of held-out clip `number` that answers every question of the judge."""
    return caption(scene_of(HELD_OUT + number), np.random.default_rng(number), full=True)


def psnr(one: Frames, other: Frames) -> float:
    """In dB, of 8-bit pictures."""
    error = np.square(one.astype(np.float64) - other).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def meaning(engine: SkyReelsEngine, count: int) -> dict[str, Any]:
    """The part of right answers to each question, by the caption and by that of the next video."""
    judge = load_judge()
    right, wrong = dict.fromkeys(QUESTIONS, 0), dict.fromkeys(QUESTIONS, 0)
    for number in range(count):
        found = judge.answers(generate(engine, prompt=caption_of(number), seed=number))
        own, other = (truth(scene_of(HELD_OUT + n)) for n in (number, (number + 1) % count))
        for name in QUESTIONS:
            right[name] += found[name] == own[name]
            wrong[name] += found[name] == other[name]
        print(
            f"video {number + 1} of {count}",
            {name: round(n / (number + 1), 3) for name, n in right.items()},
            file=sys.stderr,
        )
    with safe_open(WEIGHTS, framework="pt") as kept:
        drawn = json.loads(kept.metadata()["right"])
    chance = {name: round(1 / len(options), 3) for name, options in QUESTIONS.items()}
    share = {name: round(n / count, 3) for name, n in right.items()}
    other_caption = {name: round(n / count, 3) for name, n in wrong.items()}
    return {"videos": count, "right": share, "other_caption": other_caption, "chance": chance, "judge_on_drawn": drawn}


def vae(engine: SkyReelsEngine, count: int) -> dict[str, Any]:
    loaded = AutoencoderKLWan.from_pretrained(FOLDER / "vae", local_files_only=True)
    return {"videos": min(count, 40), "psnr_db": round(measure(loaded, min(count, 40)), 2)}


def first(engine: SkyReelsEngine, count: int) -> dict[str, Any]:
    """A held-out video's first picture and caption: does it come back, and does the subject go on from it?"""
    judge, returned, moved = load_judge(), [], []
    for number in range(count // 5):
        picture = draw_clip(HELD_OUT + number, SHORT)[0]
        made = generate(engine, Inputs(image=picture), prompt=caption_of(number), mode="image_to_video", image="a" * 20)
        returned.append(psnr(made[0], picture))
        moved.append(float(np.linalg.norm(np.diff(judge.places(made[:9]), axis=0), axis=1).max()))
    return {
        "videos": len(returned),
        "psnr_db": round(statistics.median(returned), 2),
        "least_psnr_db": round(min(returned), 2),
        "largest_step_px": round(statistics.median(moved), 2),
    }


def extension(engine: SkyReelsEngine, count: int) -> dict[str, Any]:
    """The subject's step over the join, and its largest step elsewhere in the video, in pixels."""
    judge, joins, others = load_judge(), [], []
    for number in range(count // 5):
        given = draw_clip(HELD_OUT + number, SHORT)
        source = Source(WIDTH, HEIGHT, len(given), FPS)
        fields: dict[str, Any] = {
            "prompt": caption_of(number),
            "mode": "video_extension",
            "video": "a" * 20,
            "num_frames": 16,
        }
        made = generate(engine, Inputs(prefix=given[-PREFIX:]), source, **fields)
        places = judge.places(np.concatenate([given[-PREFIX:], made[-16:]]))
        steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        joins.append(float(steps[PREFIX - 1]))
        others.append(float(np.delete(steps, PREFIX - 1).max()))
    smooth = sum(join <= other for join, other in zip(joins, others, strict=True))
    return {
        "videos": len(joins),
        "step_at_join_px": round(statistics.median(joins), 2),
        "largest_other_step_px": round(statistics.median(others), 2),
        "join_is_not_the_largest": round(smooth / len(joins), 3),
    }


def end(engine: SkyReelsEngine, count: int) -> dict[str, Any]:
    """The first and the last picture of a held-out video are given; how near does the made video end?"""
    reached = []
    for number in range(count // 10):
        drawn = draw_clip(HELD_OUT + number, SHORT)
        given: dict[str, Any] = {"mode": "image_to_video", "image": "a" * 20, "end_image": "b" * 20}
        made = generate(engine, Inputs(image=drawn[0], end_image=drawn[-1]), prompt=caption_of(number), **given)
        reached.append(psnr(made[-1], drawn[-1]))
    return {"videos": len(reached), "psnr_db": round(statistics.median(reached), 2)}


def speed(engine: SkyReelsEngine, count: int) -> dict[str, Any]:
    """Videos of the default form, each from submit to a file that plays, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tiny", "--render"], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def render() -> dict[str, Any]:
    """Five default videos here, the first with loading."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        generator = VideoGenerator(Settings(data=Path(folder), disk_reserve_bytes=0))
        generator.start()
        for number in range(5):
            began = time.monotonic()
            job = generator.wait(generator.submit(parse_request({"prompt": caption_of(number), "model": TINY.id})).id)
            seconds.append(round(time.monotonic() - began, 2))
            assert job.artifact is not None, job.error
            frames = job.artifact.frames
        generator.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "frames": frames,
        "seconds": seconds,
        "median_s": statistics.median(seconds),
        "peak_gib": round(peak, 2),
    }


PARTS: dict[str, Callable[[SkyReelsEngine, int], dict[str, Any]]] = {
    part.__name__: part for part in (speed, meaning, vae, first, extension, end)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--render", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.render:
        print(json.dumps(render()))
        return
    engine = SkyReelsEngine()
    results = {}
    for name in flags.only:
        results[name] = PARTS[name](engine, flags.videos)
        record("tiny", results)  # at once: the parts take minutes


if __name__ == "__main__":
    main()
