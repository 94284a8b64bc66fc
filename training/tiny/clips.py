"""Drawn clips on the disk, in shards, made by all cores. Shards that exist are not drawn again."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np

from backend.media.fitting import Frames
from training.painter.animation import Animation
from training.painter.scene import Scene
from training.tiny.world import FPS, HEIGHT, SQUARE, WIDTH, animation_of, draw_scene, pictures

FRAMES = 65  # 17 latent frames
SHORT = 33  # 9 latent frames
A_SHARD = 25  # clips
LONG_SHARDS = 32  # the first ones; the others have short clips, which cost half as much
SHARDS = 400  # ten thousand clips
TALL_SHARDS, SQUARE_SHARDS = range(320, 360), range(360, 400)  # the others are wide
HELD_OUT = 1_000_000  # clips of this number and above are never trained on


def scene_of(number: int) -> Scene:
    """The scene of clip `number`, the same every time."""
    return draw_scene(np.random.default_rng((2026, number)))


def size_of(number: int) -> tuple[int, int]:
    """Width and height of clip `number` in pixels."""
    shard = number // A_SHARD
    return (HEIGHT, WIDTH) if shard in TALL_SHARDS else (SQUARE, SQUARE) if shard in SQUARE_SHARDS else (WIDTH, HEIGHT)


def draw_clip(number: int, frames: int = FRAMES) -> Frames:
    """Frames of clip `number`, uint8 RGB, from a random place in a motion of 65 to 97 frames."""
    animation, first = _animation(number, frames)
    return pictures(animation, frames, first)


def path_of(number: int, frames: int = FRAMES) -> np.ndarray:
    """Positions of the subject of `draw_clip(number, frames)`: (frames, 2), x and y in pixels."""
    animation, first = _animation(number, frames)
    found = [animation.truth((first + n) / FPS)[0] for n in range(frames)]
    return np.array([(subject.x, subject.y) for subject in found])


def _animation(number: int, frames: int) -> tuple[Animation, int]:
    """The drawn motion of clip `number`, and the frame in it that the clip of so many frames begins with."""
    random = np.random.default_rng((2027, number))
    animation = animation_of(scene_of(number), float(random.uniform(FRAMES, 1.5 * FRAMES)) / FPS, *size_of(number))
    last = max(0, int(animation.seconds * FPS) - frames)
    return animation, int(random.integers(last + 1))


def subject_paths(file: Path, shards: int) -> np.ndarray:
    """Positions of all subjects: float32 of (shards, clips, frames, 2), x and y in pixels; stored in `file`."""
    if not file.exists():
        found = np.zeros((shards, A_SHARD, FRAMES, 2), np.float32)
        for number in range(shards * A_SHARD):
            path = path_of(number, frames_of(number // A_SHARD))
            found[number // A_SHARD, number % A_SHARD, : len(path)] = path
        np.save(file, found)
    kept: np.ndarray = np.load(file)
    return kept


def shard_of(folder: Path, number: int) -> Path:
    return folder / f"films-{number:05d}.npy"


def number_of(shard: Path) -> int:
    return int(shard.stem.removeprefix("films-"))


def frames_of(shard: int) -> int:
    return FRAMES if shard < LONG_SHARDS else SHORT


def is_wide(shard: int) -> bool:
    return shard not in TALL_SHARDS and shard not in SQUARE_SHARDS


def draw_shards(folder: Path, count: int, workers: int | None = None) -> list[Path]:
    """Draw the first `count` shards in `folder` that do not exist, each uint8 of (clips, frames, height, width, 3)."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(folder, number) for number in range(count) if not shard_of(folder, number).exists()]
    with multiprocessing.get_context("spawn").Pool(workers or os.cpu_count()) as pool:
        for done, _ in enumerate(pool.imap_unordered(_draw_shard, missing), 1):
            print(f"drew {done} of {len(missing)} shards", flush=True)
    return [shard_of(folder, number) for number in range(count)]


def _draw_shard(task: tuple[Path, int]) -> None:
    cv2.setNumThreads(1)
    folder, number = task
    clips = np.stack([draw_clip(number * A_SHARD + n, frames_of(number)) for n in range(A_SHARD)])
    part = folder / f"films-{number:05d}.part.npy"
    np.save(part, clips)
    part.rename(shard_of(folder, number))
