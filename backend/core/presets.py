"""What each preset trades for speed, and the work that it leaves of every denoising step. Pure arithmetic.

`exact` works everything out. The others leave guidance out where it changes little any more, and in the middle of the
way down do not ask the transformer at every step: between two answers the velocity changes slowly and is extrapolated.
Strong noise, where a video is decided, and the last step are always worked out.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from backend.core.schedule import Schedule
from backend.core.schema import Preset

SKIPS_FROM = 10  # steps; of fewer, which a LoRA made for them takes, every one counts


@dataclass(frozen=True, slots=True)
class Trade:
    """`guided` is the part of the noise levels, from pure noise on, that get guidance. Of `asked`, each pair says below
    which part of the levels one step of how many asks the transformer. With `half_decode` a GPU decodes the video in
    half precision, and with `eight_bits` it multiplies the large matrices of a large transformer in eight bits.
    """

    guided: float = 1.0
    asked: tuple[tuple[float, int], ...] = ()
    half_decode: bool = False
    eight_bits: bool = False

    def one_of(self, level: int, steps: int) -> int:
        """Of how many steps at `level`, of `steps`, one asks."""
        if steps < SKIPS_FROM:
            return 1
        return next((count for part, count in reversed(self.asked) if level > math.ceil(part * steps)), 1)


TRADES = {
    Preset.EXACT: Trade(),
    Preset.BALANCED: Trade(guided=0.6, asked=((0.25, 3),), half_decode=True, eight_bits=True),
    Preset.TURBO: Trade(guided=0.5, asked=((0.15, 2), (0.35, 5)), half_decode=True, eight_bits=True),
}


@dataclass(frozen=True, slots=True)
class Work:
    """One denoising step: how many predictions it takes (0 where the velocity is extrapolated, 2 with guidance), and
    of which latent frames the velocity is guided.
    """

    predictions: int
    guided: tuple[bool, ...]


@functools.lru_cache(maxsize=256)
def work_of(schedule: Schedule, steps: int, preset: Preset, guidance: bool) -> tuple[Work, ...]:
    """What each row of `schedule`, of `steps` levels, asks of the transformer.

    A row is extrapolated only if all frames that it moves are in the middle of their way, so that at least two rows
    before have asked about each of them.
    """
    trade = TRADES[preset]
    guided_until = math.ceil(trade.guided * steps)
    found: list[Work] = []
    guessed = 0  # rows since the last that asked
    for levels, moves in zip(schedule.levels, schedule.moves, strict=True):
        moving = [level if moved else None for level, moved in zip(levels, moves, strict=True)]
        guided = tuple(guidance and level is not None and level <= guided_until for level in moving)
        one_of = min(1 if level == steps else trade.one_of(level, steps) for level in moving if level is not None)
        guessed = guessed + 1 if guessed < one_of - 1 else 0
        found.append(Work(0 if guessed else 2 if any(guided) else 1, guided))
    return tuple(found)
