"""Who tells what a film shows: a small network, taught on the truth of films that the sketch drew.

It answers for the films of the model what a person would be asked: which thing, in which colour, doing what, when and
where. What it says of films that were drawn and not shown to it before is its own measure, given beside every figure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backend.media.fitting import Frames
from backend.sketch.scene import Scene
from training.tiny.films import A_SHARD, HELD_OUT, SHORT, draw_film, draw_shards, scene_of
from training.tiny.run import learning_rate
from training.tiny.world import COLOURS, KINDS, MOTIONS, SETTINGS, TIMES, WEATHERS, mirrored

QUESTIONS: dict[str, tuple[Any, ...]] = {
    "kind": KINDS,
    "colour": COLOURS,
    "motion": MOTIONS,
    "time": TIMES,
    "setting": SETTINGS,
    "weather": WEATHERS,
}
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
    """Nine frames of 224 x 128 -> scores for every answer to every question."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, 2, 1), nn.BatchNorm2d(wide), nn.ReLU()]
            if wide >= 48:
                layers += [nn.Conv2d(wide, wide, 3, 1, 1), nn.BatchNorm2d(wide), nn.ReLU()]
        self.look = nn.Sequential(*layers)  # (128, 8, 14) a frame
        self.gather = nn.Sequential(
            nn.Conv3d(128, 128, (3, 3, 3), (2, 1, 1), (1, 1, 1)),
            nn.BatchNorm3d(128),
            nn.ReLU(),
            nn.Conv3d(128, 128, (3, 3, 3), (2, 2, 2), (1, 1, 1)),
            nn.BatchNorm3d(128),
            nn.ReLU(),
        )  # (128, 3, 4, 7)
        self.answer = nn.Sequential(nn.Dropout(0.3), nn.Linear(128 * 3 * 4 * 7, 256), nn.ReLU(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(options)) for name, options in QUESTIONS.items()})

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """`frames` is float (films, 9, 3, height, width) of -1 to 1."""
        seen = self.look(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)
        found = self.answer(self.gather(seen).flatten(1))
        return {name: head(found) for name, head in self.heads.items()}

    @torch.no_grad()
    def answers(self, film: Frames) -> dict[str, Any]:
        """What `film`, uint8 of (33 or more frames, 128, 224, 3), shows."""
        self.eval()
        scores = self(_frames(film[list(SEEN)])[None])
        return {name: QUESTIONS[name][int(found.argmax())] for name, found in scores.items()}


def _frames(film: Frames) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(film)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(work: Path, shards: list[Path], steps: int = STEPS) -> None:
    """Teach a judge on the films of `shards` and keep it in `work/judge.safetensors` with what it can do."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    judge = Judge()
    optimiser = torch.optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=0.02)
    films = [np.load(shard, mmap_mode="r") for shard in shards]
    numbers = [int(shard.stem.removeprefix("films-")) for shard in shards]
    began = time.monotonic()
    for step in range(steps):
        clips, right = [], []
        for _ in range(16):
            which, film = int(random.integers(len(films))), int(random.integers(A_SHARD))
            found, scene = films[which][film], scene_of(numbers[which] * A_SHARD + film)
            first = int(random.integers(found.shape[0] - SHORT + 1))
            clip = _frames(found[first : first + SHORT : 4])
            if random.random() < 0.5:
                clip, scene = clip.flip(3), mirrored(scene)
            clips.append(clip)
            right.append(truth(scene))
        video = torch.stack(clips)
        # The films of a model are softer than drawn ones; what is judged must not be the sharpness.
        if random.random() < 0.5:
            small = nn.functional.interpolate(video.flatten(0, 1), scale_factor=0.5, mode="area")
            video = nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear").unflatten(0, video.shape[:2])
        video = video + 0.05 * float(random.random()) * torch.randn_like(video)
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * learning_rate(step, steps, warmup=100, tail=0.6)
        with torch.autocast("cpu", torch.bfloat16):
            scores = judge(video)
        losses = [
            nn.functional.cross_entropy(
                scores[name].float(), torch.tensor([options.index(each[name]) for each in right]), label_smoothing=0.02
            )
            for name, options in QUESTIONS.items()
        ]
        torch.stack(losses).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        if step % 250 == 249 or step == steps - 1:
            rights = measure(judge, 100 if step < steps - 1 else 400)
            print(step + 1, round((time.monotonic() - began) / 60, 1), json.dumps(rights), flush=True)
            judge.train()
            save_file(judge.state_dict(), work / "judge.safetensors", metadata={"right": json.dumps(rights)})


def measure(judge: Judge, count: int) -> dict[str, float]:
    """The part of right answers on films that nobody learns from."""
    right = dict.fromkeys(QUESTIONS, 0)
    for number in range(HELD_OUT, HELD_OUT + count):
        wanted, found = truth(scene_of(number)), judge.answers(draw_film(number, SHORT))
        for name in QUESTIONS:
            right[name] += wanted[name] == found[name]
    return {name: round(found / count, 4) for name, found in right.items()}


def load_judge(path: Path) -> Judge:
    judge = Judge()
    judge.load_state_dict(load_file(path))
    return judge.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--shards", type=int, default=160)
    parser.add_argument("--steps", type=int, default=STEPS)
    flags = parser.parse_args()
    train(flags.work, draw_shards(flags.work / "films", flags.shards), flags.steps)
