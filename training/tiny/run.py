"""Parts of every training here: budget, data loading, optimiser, checkpointing, log and averaged weights."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")

ADAMW_RATE_FACTOR = 1 / 3  # of the rate of Muon, for what AdamW trains
GPU_BATCH_FACTOR = 16  # times as many clips in a batch, so that the GPU is busy
NUM_WORKERS = 8  # processes at most that make batches for a GPU


@dataclass(frozen=True, slots=True)
class Budget:
    """Training budget: it ends after `steps` steps, or, if `within` is given, after that many minutes, however many
    steps that makes. After `minutes` it only stops, to be resumed later.
    """

    steps: int
    within: float | None = None
    minutes: float = math.inf
    began: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        """Minutes since the start."""
        return (time.monotonic() - self.began) / 60

    def part(self, step: int) -> float:
        """Share of the training that is done before `step`, 0 to 1."""
        return step / self.steps if self.within is None else min(1.0, self.spent / self.within)

    def is_last(self, step: int) -> bool:
        if self.within is not None:
            return self.spent >= self.within
        return step == self.steps - 1 or self.spent >= self.minutes


def learning_rate(step: int, part: float, warmup: int, tail: float = 0.4) -> float:
    """Learning rate schedule as a factor of the full rate: linear warmup over `warmup` steps, constant, then cosine
    decay to 0.01 over the last `tail` of the training. `part` of the training is done, 0 to 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    left = (1 - part) / tail
    return 1.0 if left >= 1 else 0.01 + 0.99 * (0.5 - 0.5 * math.cos(math.pi * left))


def batch_size(clips: int) -> int:
    """Clips in a batch that has `clips` of them on a CPU."""
    return clips * (GPU_BATCH_FACTOR if torch.cuda.is_available() else 1)


def by_step(make: Callable[[int], T], budget: Budget, start: int) -> Iterator[tuple[int, T]]:
    """Yield every step from `start` to the end of `budget` with the batch `make(step)`; on a GPU, worker processes make
    batches ahead.
    """
    num_workers = min(NUM_WORKERS, (os.cpu_count() or 1) // 2) if torch.cuda.is_available() else 0
    steps = range(start, budget.steps if budget.within is None else 10**9)
    loader = DataLoader(_Steps(make, len(steps)), sampler=steps, batch_size=None, num_workers=num_workers)
    for step, made in zip(steps, loader, strict=True):
        yield step, made
        if budget.is_last(step):
            return


class _Steps(Dataset[T]):  # type: ignore[misc]
    """Map-style dataset whose item `step` is `make(step)`."""

    def __init__(self, make: Callable[[int], T], length: int) -> None:
        self._make, self._length = make, length

    def __getitem__(self, step: int) -> T:
        return self._make(step)

    def __len__(self) -> int:
        return self._length


def rank() -> int:
    """Rank of this process in the process group; 0 without one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Number of processes in the process group; 1 without one."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait_for_others() -> None:
    if distributed.is_initialized():
        distributed.barrier()


@contextmanager
def first_alone() -> Iterator[None]:
    """Run the block in the process of rank 0 first; the others wait, so that they find its files."""
    if rank():
        wait_for_others()
    yield
    if not rank():
        wait_for_others()


class Run:
    """Training run of `model` in `folder`: `state.pt` is its checkpoint, `log.jsonl` its log.

    Muon trains the matrices, and convolutions reshaped to matrices; it needs a third of the steps of AdamW here. AdamW
    trains the other parameters, and those whose name contains a part of `apart`. In a process group gradients are
    averaged over all processes, each of which has batches of its own; rank 0 writes the files.
    """

    def __init__(self, folder: Path, model: nn.Module, rate: float, apart: tuple[str, ...] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.model, self.rate = folder, model, rate
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.shaped = [p for name, p in named if p.ndim >= 2 and p.shape[0] > 1 and not any(a in name for a in apart)]
        self.matrices = [nn.Parameter(p.data.view(len(p), -1)) for p in self.shaped]  # the memory of `shaped`
        taken = {id(p) for p in self.shaped}
        others = [p for _, p in named if id(p) not in taken]
        self.optimisers = (
            torch.optim.Muon(self.matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=ADAMW_RATE_FACTOR * rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )
        self.averaged: dict[str, Tensor] | None = None

    def set_rate(self, part: float) -> None:
        for optimiser, rate in zip(self.optimisers, (self.rate, ADAMW_RATE_FACTOR * self.rate), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * part

    def step(self, loss: Tensor) -> None:
        loss.backward()
        if distributed.is_initialized():
            self._average_gradients()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            for matrix, shaped in zip(self.matrices, self.shaped, strict=True):
                matrix.grad = None if shaped.grad is None else shaped.grad.reshape(matrix.shape)
            for optimiser in self.optimisers:
                optimiser.step()
        self.model.zero_grad(set_to_none=True)

    def _average_gradients(self) -> None:
        found = [p.grad for p in self.model.parameters() if p.grad is not None]
        mean = torch.cat([gradient.flatten() for gradient in found])
        distributed.all_reduce(mean)
        mean /= world_size()
        for gradient, part in zip(found, mean.split([gradient.numel() for gradient in found]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def note(self, step: int, **found: float) -> None:
        if rank():
            return
        line = json.dumps({"step": step} | {name: round(value, 4) for name, value in found.items()})
        print(self.folder.name, line, flush=True)
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(line + "\n")

    def save(self, step: int, averaged: dict[str, Tensor]) -> None:
        if rank():
            return
        state = {
            "step": step,
            "model": self.model.state_dict(),
            "averaged": averaged,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "random": torch.get_rng_state(),
        }
        part = self.folder / "state.part"
        torch.save(state, part)
        part.rename(self.folder / "state.pt")

    def restore(self) -> int:
        """Load the checkpoint and return the next step; 0 if there is none."""
        path = self.folder / "state.pt"
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["model"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self.averaged = state["averaged"]
        torch.set_rng_state(state["random"])
        return int(state["step"])


class Average:
    """Exponential moving average (EMA) of a model's weights, which generate better clips than the last weights."""

    def __init__(self, model: nn.Module, keep: float) -> None:
        self.keep = keep
        self.updates = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def load(self, weights: dict[str, Tensor] | None) -> None:
        if weights is not None:
            self.weights = {name: weights[name].to(tensor.device) for name, tensor in self.weights.items()}
            self.updates = 10**6

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        keep = min(
            self.keep, (1 + self.updates) / (10 + self.updates)
        )  # a smaller factor at first, so that the initial weights count little
        moved = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        torch._foreach_lerp_([self.weights[name] for name in moved], list(moved.values()), 1 - keep)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Load the averaged weights into `model` for the block."""
        own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)
