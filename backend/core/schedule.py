"""Diffusion forcing schedules: the timestep of each latent frame at each denoising step of a window. Pure arithmetic.

Plain models and synchronous diffusion forcing denoise all frames together. Asynchronous diffusion forcing denoises them
in blocks, each `ar_step` steps behind the block before it, so that later frames are conditioned on cleaner ones.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Row = tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """A denoising schedule. Rows are denoising steps, columns are latent frames.

    `timestep_indices` count a frame's timesteps from 1: 0 is pure noise that has not started, and the number of
    timesteps plus 1 is a clean frame. `update_mask` is True where a step denoises the frame. `valid_intervals` are the
    half-open ranges of frames that the model is given: all of them, unless `base` is smaller.
    """

    timestep_indices: tuple[Row, ...]
    update_mask: tuple[tuple[bool, ...], ...]
    valid_intervals: tuple[tuple[int, int], ...]

    @property
    def frame_groups(self) -> list[tuple[int, int]]:
        """Half-open ranges of frames that are denoised at the same steps."""
        columns = list(zip(*self.update_mask, strict=True))
        starts = [n for n, column in enumerate(columns) if n == 0 or column != columns[n - 1]]
        return [(a, b) for a, b in itertools.pairwise([*starts, len(columns)]) if any(columns[a])]

    @functools.cached_property
    def num_started(self) -> tuple[int, ...]:
        """How many leading frames have started, at each step."""
        return tuple(
            next((frame for frame, index in enumerate(row) if index == 0), len(row)) for row in self.timestep_indices
        )

    @functools.cached_property
    def num_final(self) -> tuple[int, ...]:
        """How many leading frames no later step updates, before the first step and after each."""
        last = [
            max((n + 1 for n, row in enumerate(self.update_mask) if row[frame]), default=0)
            for frame in range(self.num_frames)
        ]
        return tuple(
            next((frame for frame in range(self.num_frames) if last[frame] > done), self.num_frames)
            for done in range(len(self.update_mask) + 1)
        )

    @property
    def num_frames(self) -> int:
        """Latent frames."""
        return len(self.update_mask[0])


@functools.lru_cache(maxsize=64)
def make_schedule(
    num_frames: int,
    num_steps: int,
    ar_step: int = 0,
    block_size: int = 1,
    num_context_frames: int = 0,
    base: int | None = None,
) -> Schedule:
    """`generate_timestep_matrix` of the original's diffusion_forcing_pipeline.py, without its timesteps.

    `num_frames`, `block_size`, `num_context_frames` (clean from the start) and `base` (given to the model at once)
    count latent frames. Frames that fill no block are left out, so `block_size` should divide `num_frames`. Raises
    ValueError if there is nothing to denoise, or if `base` is smaller than `num_frames` and `ar_step` is too small for
    it.
    """
    blocks, seen = num_frames // block_size, (base or num_frames) // block_size
    context_blocks = num_context_frames // block_size
    if num_steps < 1 or blocks <= context_blocks:
        raise ValueError(
            f"nothing to denoise: num_steps={num_steps}, and num_context_frames={num_context_frames} gives"
            f" {context_blocks} of the {blocks} blocks of {block_size} in num_frames={num_frames};"
            " use at least 1 step and at least 1 block that is not given"
        )
    if seen < blocks and ar_step * seen < num_steps:
        raise ValueError(f"ar_step should be at least {-(-num_steps // seen)} in your setting")
    row = tuple(num_steps + 1 if number < context_blocks else 0 for number in range(blocks))
    indices, updates = [], []
    while min(row) < num_steps:
        before, row = row, _next_row(row, num_steps, ar_step)
        indices.append(_repeat(row, block_size))
        updates.append(_repeat([a != b and b <= num_steps for a, b in zip(before, row, strict=True)], block_size))
    return Schedule(tuple(indices), tuple(updates), _valid_intervals(updates, blocks, seen, block_size))


def _next_row(row: Row, num_steps: int, ar_step: int) -> Row:
    """The blocks' timestep indices after `row`: a block advances if the one before is clean or there is none, the
    others keep their distance of `ar_step`.
    """
    after: list[int] = []
    for number, index in enumerate(row):
        leads = number == 0 or row[number - 1] >= num_steps
        after.append(index + 1 if leads else after[-1] - ar_step)
    return tuple(min(max(index, 0), num_steps + 1) for index in after)


def _valid_intervals(
    updates: list[tuple[bool, ...]], blocks: int, seen: int, block_size: int
) -> tuple[tuple[int, int], ...]:
    intervals, last = [], seen
    for row in updates:
        if last < blocks and row[last * block_size]:
            last += 1
        intervals.append((max(last - seen, 0) * block_size, last * block_size))
    return tuple(intervals)


def _repeat(row: Sequence[T], block_size: int) -> tuple[T, ...]:
    """One value a block -> one a latent frame."""
    return tuple(value for value in row for _ in range(block_size))
