"""Who tells what a film shows: a small network, taught on the truth of films that the sketch drew.

It answers for the films of the model what a person would be asked: which thing, in which colour, doing what, when and
where. What it says of films that were drawn and not shown to it before is its own measure, given beside every figure.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backend.diffusion.components import working_device
from backend.media.fitting import Frames
from backend.sketch.scene import Scene
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
from training.tiny.run import learning_rate
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
        """What `film`, uint8 of (33 or more frames, 96, 160, 3), shows in its first 33."""
        self.eval()
        scores, _ = self(_frames(film[list(SEEN)])[None].to(next(self.parameters()).device))
        return {name: QUESTIONS[name][int(found.argmax())] for name, found in scores.items()}

    @torch.no_grad()
    def places(self, film: Frames) -> np.ndarray:
        """Where the subject is in every frame: (frames, 2), x and y in pixels."""
        self.eval()
        return self._places(self.look(_frames(film).to(next(self.parameters()).device))).cpu().numpy()


def _layer(narrow: int, wide: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(narrow, wide, 3, stride, 1), nn.BatchNorm2d(wide), nn.ReLU()]


def _frames(film: Frames) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(film)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(work: Path, shards: list[Path], steps: int = STEPS) -> None:
    """Teach a judge on the films of `shards` and keep it in `work/judge.safetensors` with what it can do."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    device = working_device()
    judge = Judge().to(device)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=0.02)
    shards = [shard for shard in shards if is_wide(number_of(shard))]
    films = [np.load(shard, mmap_mode="r") for shard in shards]
    paths = subject_paths(work / "paths.npy", SHARDS)
    numbers = [number_of(shard) for shard in shards]
    began = time.monotonic()
    for step in range(steps):
        clips, right, places = [], [], []
        for _ in range(16):
            which, film = int(random.integers(len(films))), int(random.integers(A_SHARD))
            found, scene = films[which][film], scene_of(numbers[which] * A_SHARD + film)
            first = int(random.integers(found.shape[0] - SHORT + 1))
            seen = slice(first, first + SHORT, 4)
            clip, path = _frames(found[seen]), paths[numbers[which], film, seen].copy()
            if random.random() < 0.5:
                clip, scene = clip.flip(3), mirrored(scene)
                path[:, 0] = WIDTH - path[:, 0]
            clips.append(clip)
            places.append(path)
            right.append(truth(scene))
        video = torch.stack(clips).to(device)
        # The films of a model are softer than drawn ones; what is judged must not be the sharpness.
        if random.random() < 0.5:
            small = nn.functional.interpolate(video.flatten(0, 1), scale_factor=0.5, mode="area")
            video = nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear").unflatten(0, video.shape[:2])
        video = video + 0.05 * float(random.random()) * torch.randn_like(video)
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * learning_rate(step, steps, warmup=100, tail=0.6)
        with torch.autocast(device.type, torch.bfloat16):
            scores, points = judge(video)
        losses = [
            nn.functional.cross_entropy(
                scores[name].float(),
                torch.tensor([options.index(each[name]) for each in right], device=device),
                label_smoothing=0.02,
            )
            for name, options in QUESTIONS.items()
        ]
        away = (points - torch.from_numpy(np.stack(places)).to(device)).abs().mean()
        (torch.stack(losses).sum() + 0.1 * away).backward()
        optimiser.step()
        optimiser.zero_grad()
        if step % 250 == 249 or step == steps - 1:
            rights = measure(judge, 100 if step < steps - 1 else 400)
            print(step + 1, round((time.monotonic() - began) / 60, 1), json.dumps(rights), flush=True)
            judge.train()
            half = {
                name: part.half() if part.is_floating_point() else part for name, part in judge.state_dict().items()
            }
            save_file(half, work / WEIGHTS.name, metadata={"right": json.dumps(rights)})


def measure(judge: Judge, count: int) -> dict[str, float]:
    """The part of right answers on films that nobody learns from, and how far off the places are, in pixels."""
    right: dict[str, float] = dict.fromkeys(QUESTIONS, 0)
    off = []
    for number in range(HELD_OUT, HELD_OUT + count):
        film = draw_film(number, SHORT)
        wanted, found = truth(scene_of(number)), judge.answers(film)
        for name in QUESTIONS:
            right[name] += wanted[name] == found[name]
        off.append(np.abs(judge.places(film) - path_of(number, SHORT)).mean())
    return {name: round(found / count, 4) for name, found in right.items()} | {"off_px": round(float(np.mean(off)), 2)}


def load_judge(path: Path = WEIGHTS) -> Judge:
    judge = Judge().half()
    judge.load_state_dict(load_file(path))
    return judge.float().eval()
