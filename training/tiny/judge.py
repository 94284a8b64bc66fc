"""Judge: a small classifier of clips, trained on drawn clips whose content is known.

For a clip that the model generated it predicts which subject is shown, in which colour, doing what, when and where. Its
accuracy on held-out drawn clips is given beside every figure.
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
from training.painter.scene import Motion, Scene
from training.tiny.clips import (
    A_SHARD,
    HELD_OUT,
    SHARDS,
    SHORT,
    draw_clip,
    is_wide,
    number_of,
    path_of,
    scene_of,
    subject_paths,
)
from training.tiny.run import Budget, batch_size, by_step, learning_rate
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
SEEN = range(0, SHORT, 4)  # the frames of its input: nine in 1.4 seconds
MAX_SHIFT = (12, 8)  # random shift in training, at most so many pixels in x and y
SHIFTS = ((0, 0), (8, 0), (-8, 0), (0, 5), (0, -5))  # test-time augmentation: shifts in pixels, x and y
MIRRORED_MOTIONS = [MOTIONS.index({Motion.LEFT: Motion.RIGHT, Motion.RIGHT: Motion.LEFT}.get(m, m)) for m in MOTIONS]
STEPS = 3000


def truth(scene: Scene) -> dict[str, Any]:
    """The true label of each question."""
    (actor,) = scene.actors
    return {
        "kind": actor.kind,
        "colour": actor.colour,
        "motion": actor.motion,
        "time": scene.time,
        "setting": scene.setting,
        "weather": scene.weather,
    }


class Judge(nn.Module):  # type: ignore[misc]
    """Classifier: nine frames of 160 x 96 -> logits of every question, and the subject's position in each frame."""

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
        """`frames` is float (clips, 9, 3, 96, 160) of -1 to 1; places are (clips, 9, 2): x and y in pixels."""
        seen = self.look(frames.flatten(0, 1))
        found = self.look_closer(seen).unflatten(0, frames.shape[:2]).transpose(1, 2)
        found = self.answer(self.gather(found).flatten(1))
        return {name: head(found) for name, head in self.heads.items()}, self._places(seen).unflatten(
            0, frames.shape[:2]
        )

    def _places(self, seen: Tensor) -> Tensor:
        """Soft-argmax of the position scores, (frames, 2): x and y in pixels."""
        scores = self.point(seen).squeeze(1)
        height, width = scores.shape[1:]
        chance = scores.float().flatten(1).softmax(dim=1).view_as(scores)
        x = (torch.arange(width, device=seen.device) + 0.5) * (WIDTH / width)
        y = (torch.arange(height, device=seen.device) + 0.5) * (HEIGHT / height)
        return torch.stack([(chance.sum(1) * x).sum(1), (chance.sum(2) * y).sum(1)], dim=1)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def answers(self, clip: Frames) -> dict[str, Any]:
        """The predicted label of each question for the first 33 frames of `clip`, uint8 of (frames, 96, 160, 3).

        Test-time augmentation: the mean over ten views, shifted and mirrored, is right more often than one view.
        """
        self.eval()
        views = [shifted(clip[list(SEEN)], x, y) for x, y in SHIFTS]
        views += [np.ascontiguousarray(view[:, :, ::-1]) for view in views]
        scores, _ = self(_frames(np.stack(views)).to(next(self.parameters()).device))
        found = {name: each.float().log_softmax(1) for name, each in scores.items()}
        found["motion"][len(SHIFTS) :] = found["motion"][len(SHIFTS) :, MIRRORED_MOTIONS]
        return {name: QUESTIONS[name][int(each.mean(0).argmax())] for name, each in found.items()}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def places(self, clip: Frames) -> np.ndarray:
        """The position of the subject in every frame: (frames, 2), x and y in pixels."""
        self.eval()
        found: np.ndarray = self._places(self.look(_frames(clip).to(next(self.parameters()).device))).cpu().numpy()
        return found


def _layer(narrow: int, wide: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(narrow, wide, 3, stride, 1), nn.BatchNorm2d(wide), nn.ReLU()]


def _frames(clips: Frames, device: torch.device | str = "cpu") -> Tensor:
    """uint8 of (..., height, width, 3) -> float of (..., 3, height, width), -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(clips)).to(device).movedim(-1, -3).float() / 127.5 - 1


class Dataset:
    """Clips and their labels for every step, half of them mirrored, each shifted at random against overfitting."""

    def __init__(self, shards: list[Path], paths: np.ndarray) -> None:
        self.shards = [shard for shard in shards if is_wide(number_of(shard))]
        self.clips = [np.load(shard, mmap_mode="r") for shard in self.shards]
        self.paths = paths

    def of(self, step: int) -> tuple[np.ndarray, dict[str, list[int]], np.ndarray]:
        """uint8 of (clips, 9, 96, 160, 3), the number of each answer, and places of (clips, 9, 2)."""
        random = np.random.default_rng(step)
        clips, right, places = [], [], []
        for _ in range(batch_size(16)):
            which, index = int(random.integers(len(self.clips))), int(random.integers(A_SHARD))
            number = number_of(self.shards[which])
            found, scene = self.clips[which][index], scene_of(number * A_SHARD + index)
            first = int(random.integers(found.shape[0] - SHORT + 1))
            seen = slice(first, first + SHORT, 4)
            clip, path = found[seen], self.paths[number, index, seen].copy()
            if random.random() < 0.5:
                clip, scene = clip[:, :, ::-1], mirrored(scene)
                path[:, 0] = WIDTH - path[:, 0]
            x, y = (int(random.integers(-most, most + 1)) for most in MAX_SHIFT)
            clips.append(shifted(clip, x, y))
            places.append(path + (x, y))
            right.append(truth(scene))
        numbers = {name: [options.index(each[name]) for each in right] for name, options in QUESTIONS.items()}
        return np.stack(clips), numbers, np.stack(places).astype(np.float32)


def shifted(clip: Frames, x: int, y: int) -> Frames:
    """`clip` shifted right by `x` and down by `y` pixels, with its edges repeated."""
    rows, columns = (
        np.clip(np.arange(size) - by, 0, size - 1) for size, by in zip(clip.shape[1:3], (y, x), strict=True)
    )
    return np.ascontiguousarray(clip[:, rows][:, :, columns])


def train(work: Path, shards: list[Path], budget: Budget) -> None:
    """Train a judge on the clips of `shards`; write it with its accuracy to `work/judge.safetensors`."""
    torch.manual_seed(0)
    device = compute_device()
    judge = Judge().to(device)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=0.02)
    dataset = Dataset(shards, subject_paths(work / "paths.npy", SHARDS))
    for step, (clips, right, places) in by_step(dataset.of, budget, 0):
        judge.train()
        video = _frames(np.asarray(clips), device)
        # Generated clips are softer than drawn ones; the judge must not depend on sharpness.
        if step % 2:
            small = nn.functional.interpolate(video.flatten(0, 1), scale_factor=0.5, mode="area")
            video = nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear").unflatten(0, video.shape[:2])
        video = video + 0.05 * torch.rand((), device=device) * torch.randn_like(video)
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * learning_rate(step, budget.part(step), warmup=100, tail=0.6)
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
        last = budget.is_last(step)
        if step % 1000 == 999 or last:
            rights = measure(judge, 400 if last else 50)
            print(step + 1, round(budget.spent, 1), json.dumps(rights), flush=True)
            half = {
                name: part.half() if part.is_floating_point() else part for name, part in judge.state_dict().items()
            }
            save_file(half, work / WEIGHTS.name, metadata={"right": json.dumps(rights)})


def measure(judge: Judge, count: int) -> dict[str, float]:
    """Accuracy of each question on `count` held-out clips, and the mean position error `off_px` in pixels."""
    right: dict[str, float] = dict.fromkeys(QUESTIONS, 0)
    off = []
    for number in range(HELD_OUT, HELD_OUT + count):
        clip = _held_out(number)
        wanted, found = truth(scene_of(number)), judge.answers(clip)
        for name in QUESTIONS:
            right[name] += wanted[name] == found[name]
        off.append(np.abs(judge.places(clip) - path_of(number, SHORT)).mean())
    return {name: round(found / count, 4) for name, found in right.items()} | {"off_px": round(float(np.mean(off)), 2)}


@functools.lru_cache(maxsize=400)
def _held_out(number: int) -> Frames:
    return draw_clip(number, SHORT)


def load_judge(path: Path = WEIGHTS) -> Judge:
    judge = Judge()
    judge.half().load_state_dict(load_file(path))
    judge.float().eval()
    return judge
