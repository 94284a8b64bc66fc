"""Which latent frame stands at which noise level at each step of a window: pure arithmetic.

Plain models and synchronous diffusion forcing take all frames down together. Asynchronously, blocks of them follow one
another, each `ar_step` levels behind the one before, so that later frames see earlier ones that are clearer.
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
    """Rows are denoising steps, columns latent frames.

    `levels` count the noise levels: 0 is pure noise that waits for its turn, k the k-th level, one more than there are
    levels a finished frame. `moves` is True where a step takes the frame one level down. `intervals` are half-open
    ranges of the frames that the model sees, all of them unless `base` is smaller.
    """

    levels: tuple[Row, ...]
    moves: tuple[tuple[bool, ...], ...]
    intervals: tuple[tuple[int, int], ...]

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Half-open ranges of frames that go down together, at the same steps."""
        columns = list(zip(*self.moves, strict=True))
        starts = [n for n, column in enumerate(columns) if n == 0 or column != columns[n - 1]]
        return [(a, b) for a, b in itertools.pairwise([*starts, len(columns)]) if any(columns[a])]

    @functools.cached_property
    def begun(self) -> tuple[int, ...]:
        """How many leading frames do not wait as noise, at each step."""
        return tuple(next((frame for frame, level in enumerate(row) if level == 0), len(row)) for row in self.levels)

    @functools.cached_property
    def final(self) -> tuple[int, ...]:
        """How many leading frames no later step moves, before the first step and after each."""
        last = [
            max((n + 1 for n, row in enumerate(self.moves) if row[frame]), default=0) for frame in range(self.frames)
        ]
        return tuple(
            next((frame for frame in range(self.frames) if last[frame] > done), self.frames)
            for done in range(len(self.moves) + 1)
        )

    @property
    def frames(self) -> int:
        return len(self.moves[0])


@functools.lru_cache(maxsize=64)
def make_schedule(
    frames: int, steps: int, ar_step: int = 0, block: int = 1, ready: int = 0, base: int | None = None
) -> Schedule:
    """`generate_timestep_matrix` of the original's diffusion_forcing_pipeline.py, without its timesteps.

    `frames`, `block`, `ready` (finished from the start) and `base` (seen at once) count latent frames; `frames` that
    do not fill a block are left out, so let the block divide them. Raises ValueError if `base` is smaller than `frames`
    and `ar_step` too small for it.
    """
    blocks, seen = frames // block, (base or frames) // block
    if seen < blocks and ar_step * seen < steps:
        raise ValueError(f"ar_step should be at least {-(-steps // seen)} in your setting")
    row = tuple(steps + 1 if number < ready // block else 0 for number in range(blocks))
    levels, moves = [], []
    while min(row) < steps:
        before, row = row, _next_row(row, steps, ar_step)
        levels.append(_spread(row, block))
        moves.append(_spread([a != b and b <= steps for a, b in zip(before, row, strict=True)], block))
    return Schedule(tuple(levels), tuple(moves), _intervals(moves, blocks, seen, block))


def _next_row(row: Row, steps: int, ar_step: int) -> Row:
    """The blocks' levels after `row`: the first that is not behind another goes on, the others keep their distance."""
    after: list[int] = []
    for number, level in enumerate(row):
        leads = number == 0 or row[number - 1] >= steps
        after.append(level + 1 if leads else after[-1] - ar_step)
    return tuple(min(max(level, 0), steps + 1) for level in after)


def _intervals(moves: list[tuple[bool, ...]], blocks: int, seen: int, block: int) -> tuple[tuple[int, int], ...]:
    found, last = [], seen
    for row in moves:
        if last < blocks and row[last * block]:
            last += 1
        found.append((max(last - seen, 0) * block, last * block))
    return tuple(found)


def _spread(row: Sequence[T], block: int) -> tuple[T, ...]:
    """One value a block -> one a latent frame."""
    return tuple(value for value in row for _ in range(block))
