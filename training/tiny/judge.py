"""Who tells what a film shows: a small network, taught on the truth of films that the sketch drew.

It answers for the films of the model what a person would be asked: which thing, in which colour, doing what, when and
where. What it says of films that were drawn and not shown to it before is its own measure, given beside every figure.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backend.diffusion.components import compute_device
from backend.media.fitting import Frames
from backend.sketch.scene import Motion, Scene
from training.tiny.films import (
    A_SHARD,
    HELD_OUT,
    SHARDS,
    SHORT,
    draw_film,
    is_wide,
    number_of,
    path_of,
    scene_of,
    subject_paths,
)
from training.tiny.run import Goal, at_once, by_step, learning_rate
from training.tiny.world import COLOURS, HEIGHT, KINDS, MOTIONS, SETTINGS, TIMES, WEATHERS, WIDTH, mirrored

QUESTIONS: dict[str, tuple[Any, ...]] = {
    "kind": KINDS,
    "colour": COLOURS,
    "motion": MOTIONS,
    "time": TIMES,
    "setting": SETTINGS,
    "weather": WEATHERS,
}
WEIGHTS = Path(__file__).with_name("judge.safetensors")
SEEN = range(0, SHORT, 4)  # the frames that it looks at: nine in 1.4 seconds
MOVED = (12, 8)  # pixels at most that a film is moved by while it learns, x and y
LOOKS = ((0, 0), (8, 0), (-8, 0), (0, 5), (0, -5))  # pixels that a film is moved by while it is judged, x and y
MIRRORED_MOTIONS = [MOTIONS.index({Motion.LEFT: Motion.RIGHT, Motion.RIGHT: Motion.LEFT}.get(m, m)) for m in MOTIONS]
STEPS = 3000


def truth(scene: Scene) -> dict[str, Any]:
    """The right answers."""
    (actor,) = scene.actors
    return {
        "kind": actor.kind,
        "colour": actor.colour,
        "motion": actor.motion,
        "time": scene.time,
        "setting": scene.setting,
        "weather": scene.weather,
    }


class Judge(nn.Module):
    """Nine frames of 160 x 96 -> scores for every answer to every question, and where the subject is in each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            *_layer(3, 24, 2), *_layer(24, 48, 2), *_layer(48, 48), *_layer(48, 96, 2), *_layer(96, 96)
        )
        self.point = nn.Sequential(*_layer(96, 64), nn.Conv2d(64, 1, 1))  # (1, 12, 20) a frame
        self.look_closer = nn.Sequential(*_layer(96, 128, 2), *_layer(128, 128))  # (128, 6, 10) a frame
        self.gather = nn.Sequential(
            nn.Conv3d(128, 128, (3, 3, 3), (2, 1, 1), (1, 1, 1)),
            nn.BatchNorm3d(128),
            nn.ReLU(),
            nn.Conv3d(128, 64, (3, 3, 3), (2, 2, 2), (1, 1, 1)),
            nn.BatchNorm3d(64),
            nn.ReLU(),
        )  # (64, 3, 3, 5)
        self.answer = nn.Sequential(nn.Dropout(0.3), nn.Linear(64 * 3 * 3 * 5, 192), nn.ReLU(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict({name: nn.Linear(192, len(options)) for name, options in QUESTIONS.items()})

    def forward(self, frames: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """`frames` is float (films, 9, 3, 96, 160) of -1 to 1; places are (films, 9, 2): x and y in pixels."""
        seen = self.look(frames.flatten(0, 1))
        found = self.look_closer(seen).unflatten(0, frames.shape[:2]).transpose(1, 2)
        found = self.answer(self.gather(found).flatten(1))
        return {name: head(found) for name, head in self.heads.items()}, self._places(seen).unflatten(
            0, frames.shape[:2]
        )

    def _places(self, seen: Tensor) -> Tensor:
        """The mean of where the subject may be, each place as likely as the scores say: (frames, 2)."""
        scores = self.point(seen).squeeze(1)
        height, width = scores.shape[1:]
        chance = scores.float().flatten(1).softmax(dim=1).view_as(scores)
        x = (torch.arange(width, device=seen.device) + 0.5) * (WIDTH / width)
        y = (torch.arange(height, device=seen.device) + 0.5) * (HEIGHT / height)
        return torch.stack([(chance.sum(1) * x).sum(1), (chance.sum(2) * y).sum(1)], dim=1)

    @torch.no_grad()
    def answers(self, film: Frames) -> dict[str, Any]:
        """What `film`, uint8 of (33 or more frames, 96, 160, 3), shows in its first 33.

        It is looked at ten times, moved a little and mirrored: what most looks say is right more often than one is.
        """
        self.eval()
        looks = [moved(film[list(SEEN)], x, y) for x, y in LOOKS]
        looks += [np.ascontiguousarray(look[:, :, ::-1]) for look in looks]
        scores, _ = self(_frames(np.stack(looks)).to(next(self.parameters()).device))
        found = {name: each.float().log_softmax(1) for name, each in scores.items()}
        found["motion"][len(LOOKS) :] = found["motion"][len(LOOKS) :, MIRRORED_MOTIONS]
        return {name: QUESTIONS[name][int(each.mean(0).argmax())] for name, each in found.items()}

    @torch.no_grad()
    def places(self, film: Frames) -> np.ndarray:
        """Where the subject is in every frame: (frames, 2), x and y in pixels."""
        self.eval()
        return self._places(self.look(_frames(film).to(next(self.parameters()).device))).cpu().numpy()


def _layer(narrow: int, wide: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(narrow, wide, 3, stride, 1), nn.BatchNorm2d(wide), nn.ReLU()]


def _frames(films: Frames, device: torch.device | str = "cpu") -> Tensor:
    """uint8 of (..., height, width, 3) -> float of (..., 3, height, width), -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(films)).to(device).movedim(-1, -3).float() / 127.5 - 1


class Lessons:
    """Films and the right answers for every step, one film in two mirrored; each moved a little, so that a picture is
    not known by heart.
    """

    def __init__(self, shards: list[Path], paths: np.ndarray) -> None:
        self.shards = [shard for shard in shards if is_wide(number_of(shard))]
        self.films = [np.load(shard, mmap_mode="r") for shard in self.shards]
        self.paths = paths

    def of(self, step: int) -> tuple[np.ndarray, dict[str, list[int]], np.ndarray]:
        """uint8 of (films, 9, 96, 160, 3), the number of each answer, and places of (films, 9, 2)."""
        random = np.random.default_rng(step)
        clips, right, places = [], [], []
        for _ in range(at_once(16)):
            which, film = int(random.integers(len(self.films))), int(random.integers(A_SHARD))
            number = number_of(self.shards[which])
            found, scene = self.films[which][film], scene_of(number * A_SHARD + film)
            first = int(random.integers(found.shape[0] - SHORT + 1))
            seen = slice(first, first + SHORT, 4)
            clip, path = found[seen], self.paths[number, film, seen].copy()
            if random.random() < 0.5:
                clip, scene = clip[:, :, ::-1], mirrored(scene)
                path[:, 0] = WIDTH - path[:, 0]
            x, y = (int(random.integers(-most, most + 1)) for most in MOVED)
            clips.append(moved(clip, x, y))
            places.append(path + (x, y))
            right.append(truth(scene))
        numbers = {name: [options.index(each[name]) for each in right] for name, options in QUESTIONS.items()}
        return np.stack(clips), numbers, np.stack(places).astype(np.float32)


def moved(film: Frames, x: int, y: int) -> Frames:
    """`film` with its pictures moved to the right and down by so many pixels; its edges fill what opens."""
    rows, columns = (
        np.clip(np.arange(size) - by, 0, size - 1) for size, by in zip(film.shape[1:3], (y, x), strict=True)
    )
    return np.ascontiguousarray(film[:, rows][:, :, columns])


def train(work: Path, shards: list[Path], goal: Goal) -> None:
    """Teach a judge on the films of `shards` and keep it in `work/judge.safetensors` with what it can do."""
    torch.manual_seed(0)
    device = compute_device()
    judge = Judge().to(device)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=0.02)
    lessons = Lessons(shards, subject_paths(work / "paths.npy", SHARDS))
    for step, (films, right, places) in by_step(lessons.of, goal, 0):
        judge.train()
        video = _frames(np.asarray(films), device)
        # The films of a model are softer than drawn ones; what is judged must not be the sharpness.
        if step % 2:
            small = nn.functional.interpolate(video.flatten(0, 1), scale_factor=0.5, mode="area")
            video = nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear").unflatten(0, video.shape[:2])
        video = video + 0.05 * torch.rand((), device=device) * torch.randn_like(video)
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * learning_rate(step, goal.part(step), warmup=100, tail=0.6)
        with torch.autocast(device.type, torch.bfloat16):
            scores, points = judge(video)
        losses = [
            nn.functional.cross_entropy(
                scores[name].float(), torch.tensor(numbers, device=device), label_smoothing=0.02
            )
            for name, numbers in right.items()
        ]
        away = (points - torch.as_tensor(places, device=device)).abs().mean()
        (torch.stack(losses).sum() + 0.1 * away).backward()
        optimiser.step()
        optimiser.zero_grad()
        last = goal.is_last(step)
        if step % 1000 == 999 or last:
            rights = measure(judge, 400 if last else 50)
            print(step + 1, round(goal.spent, 1), json.dumps(rights), flush=True)
            half = {
                name: part.half() if part.is_floating_point() else part for name, part in judge.state_dict().items()
            }
            save_file(half, work / WEIGHTS.name, metadata={"right": json.dumps(rights)})


def measure(judge: Judge, count: int) -> dict[str, float]:
    """The part of right answers on films that nobody learns from, and how far off the places are, in pixels."""
    right: dict[str, float] = dict.fromkeys(QUESTIONS, 0)
    off = []
    for number in range(HELD_OUT, HELD_OUT + count):
        film = _held_out(number)
        wanted, found = truth(scene_of(number)), judge.answers(film)
        for name in QUESTIONS:
            right[name] += wanted[name] == found[name]
        off.append(np.abs(judge.places(film) - path_of(number, SHORT)).mean())
    return {name: round(found / count, 4) for name, found in right.items()} | {"off_px": round(float(np.mean(off)), 2)}


@functools.lru_cache(maxsize=400)
def _held_out(number: int) -> Frames:
    return draw_film(number, SHORT)


def load_judge(path: Path = WEIGHTS) -> Judge:
    judge = Judge().half()
    judge.load_state_dict(load_file(path))
    return judge.float().eval()
