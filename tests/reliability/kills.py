"""Kill the studio at random moments and count what was lost: `python tests/reliability/kills.py FOLDER`.

Each life is a fork of one warm process: it opens the data folder, submits, renders, and is killed with SIGKILL 30 to
150 milliseconds later, or as long as `--longest-ms` says. What it was answered it writes down, synced, after each
answer. Every third life is left alone until the queue is empty, since the third death of a job sets it aside. Every
second job is a draft, which a later life promotes. In the end everything is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import av

from backend.core.config import Settings
from backend.core.schema import parse_request
from backend.engine import Engine
from backend.jobs.filters import Filter
from backend.jobs.job import JobState
from backend.media.outputs import METADATA, THUMBNAIL, VIDEO
from backend.synthetic import SyntheticEngine
from backend.video_generator import VideoGenerator

QUEUE = {"synthetic": 6, "skyreels": 2}
PLACEHOLDER = {"resolution": "128x96", "num_frames": 16, "num_inference_steps": 10, "model": "synthetic"}
DENOISED = {
    "model": "random-df",
    "resolution": "128x96",
    "num_frames": 33,
    "num_inference_steps": 10,
    "skyreels": {"base_num_frames": 17, "overlap_history": 5},
}
DRAFT_STEPS = 4
SEEDS = 3  # of the films that are made; each is made once more without being killed


def engines(engine: str) -> dict[str, Engine]:
    if engine == "synthetic":
        return {"synthetic": SyntheticEngine()}
    from backend.skyreels_integration import SkyReelsEngine

    return {"synthetic": SyntheticEngine(), "skyreels": SkyReelsEngine(save_every_s=0.0)}


def settings_of(data: Path) -> Settings:
    return Settings(data=data, shared_models=data / "none", disk_reserve_bytes=0, save_every_s=0.0)


def request(engine: str, seed: int, draft: bool = False) -> Any:
    wish = PLACEHOLDER if engine == "synthetic" else DENOISED
    part = {"draft_steps": DRAFT_STEPS} if draft else {}
    return parse_request({"prompt": f"a boat number {seed}", "seed": seed} | wish | part)


def is_draft(number: int) -> bool:
    return number % 2 == 1


def promote_drafts(generator: VideoGenerator) -> None:
    """Finish the drafts that are done; those that were promoted already stay as they are."""
    for job in generator.jobs(Filter(states=(JobState.SUCCEEDED,)), limit=10_000):
        if job.plan.draft_steps is not None:
            generator.submission.promote(job.id)


def live(data: Path, engine: str, acks: Path, until_empty: bool) -> None:
    """One life. With an idempotency key a number is submitted by every life until one of them has the answer."""
    generator = VideoGenerator(settings_of(data), engines(engine))
    promote_drafts(generator)
    generator.start()
    answered = acks.read_text().splitlines() if acks.exists() else []
    with acks.open("a") as file:
        number = len(answered)
        while not until_empty:
            if len(generator.store.queue()) < QUEUE[engine]:
                job = generator.submit(request(engine, number % SEEDS, is_draft(number)), key=f"key-{number}")
                file.write(f"{number} {job.id}\n")
                file.flush()
                os.fsync(file.fileno())
                number += 1
            else:
                time.sleep(0.005)
    while generator.store.queue():
        time.sleep(0.02)
        if not generator.store.queue():
            promote_drafts(generator)
    generator.stop()


def kill_often(data: Path, engine: str, kills: int, films: int, longest_ms: int, seed: int = 0) -> dict[str, Any]:
    """At least so many kills, until so many `films` were acknowledged, however slow the machine is.

    The report: `lost`, `doubled`, `torn` and `different` must be empty.
    """
    chance = random.Random(seed)
    acks = data.parent / "acks.txt"
    killed = 0
    for number in itertools.count(1):
        spared = number % 3 == 0
        child = os.fork()
        if child == 0:
            try:
                live(data, engine, acks, until_empty=spared)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if not spared:
            time.sleep(chance.uniform(30, longest_ms) / 1000)
            os.kill(child, signal.SIGKILL)
            killed += 1
        _, status = os.waitpid(child, 0)
        if spared and status:
            raise SystemExit(f"a life that was left alone ended with {status}")
        if spared and killed >= kills and len(acks.read_text().splitlines()) >= films:
            return report(data, engine, acks) | {"kills": killed}
    raise AssertionError


def report(data: Path, engine: str, acks: Path) -> dict[str, Any]:
    whole = reference(data.parent / "whole", engine, data)
    generator = VideoGenerator(settings_of(data), engines(engine))
    lost, doubled, torn, different, films = [], [], [], [], set()
    by_key: dict[str, str] = {}
    jobs = {}
    try:
        for line in acks.read_text().splitlines():
            number, job_id = line.split()
            if by_key.setdefault(number, job_id) != job_id:
                doubled.append(number)
            jobs[job_id] = int(number)
        for acknowledged, number in jobs.items():
            job_id = acknowledged
            try:
                if is_draft(number):
                    films.add(job_id)
                    [rest] = generator.jobs(Filter(parent=job_id))
                    job_id = rest.id
                job = generator.job(job_id)
            except Exception as error:
                lost.append(f"{job_id}: {error}")
                continue
            folder = data / "outputs" / job_id
            whole_folder = all((folder / name).exists() for name in (VIDEO, THUMBNAIL, METADATA))
            if job.state is not JobState.SUCCEEDED or not whole_folder:
                lost.append(f"{job_id}: {job.state.value} {job.error}")
                continue
            films.add(job_id)
            try:
                found = digest(folder / VIDEO)
            except Exception as error:
                torn.append(f"{job_id}: {error}")
                continue
            if found != whole[number % SEEDS]:
                different.append(job_id)
        outputs = {path.name for path in (data / "outputs").iterdir() if path.is_dir() and path.name[0] != "."}
        doubled += [name for name in outputs - films if generator.store.has(name) is False]
        left = work_folders(data)
        attempts = [generator.job(job_id).attempts for job_id in films]
    finally:
        generator.stop()
    return {
        "acknowledged": len(jobs),
        "lost": lost,
        "doubled": doubled,
        "torn": torn,
        "different": different,
        "left in temp": left,
        "most attempts": max(attempts, default=0),
    }


def reference(data: Path, engine: str, like: Path) -> dict[int, str]:
    """The films as they are when nobody kills anything."""
    data.mkdir()
    if (like / "models").exists():
        (data / "models").symlink_to(like / "models")
    generator = VideoGenerator(settings_of(data), engines(engine))
    generator.start()
    found = {}
    for seed in range(SEEDS):
        job = generator.wait(generator.submit(request(engine, seed)).id, 120)
        assert job.state is JobState.SUCCEEDED, job.error
        found[seed] = digest(data / "outputs" / job.id / VIDEO)
    generator.stop()
    return found


def work_folders(data: Path) -> list[str]:
    """The jobs that left a work folder behind."""
    return [path.name for path in (data / "temp").iterdir() if path.is_dir() and path.name[0] != "."]


def digest(file: Path) -> str:
    """Of all pixels."""
    pixels = hashlib.blake2b(digest_size=16)
    with av.open(str(file)) as film:
        for frame in film.decode(video=0):
            pixels.update(frame.to_ndarray(format="rgb24").tobytes())
    return pixels.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty folder")
    parser.add_argument("--engine", choices=("synthetic", "skyreels"), default="synthetic")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--films", type=int, default=0, help="go on until so many were acknowledged")
    parser.add_argument("--longest-ms", type=int, default=150)
    flags = parser.parse_args()
    data = flags.folder / "data"
    data.mkdir(parents=True)
    if flags.engine == "skyreels":
        from tests.tiny_checkpoints import build_checkpoint

        if os.fork() == 0:  # torch must not have computed anything in this process before it forks
            build_checkpoint(data / "models" / "random-df")
            os._exit(0)
        os.wait()
        import torch

        import backend.diffusion.sampler  # noqa: F401

        torch.set_num_threads(1)
    print(json.dumps(kill_often(data, flags.engine, flags.kills, flags.films, flags.longest_ms), indent=1))


if __name__ == "__main__":
    main()
