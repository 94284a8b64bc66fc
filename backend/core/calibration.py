"""What earlier renders of a model on this machine say about the next one: a fixed cost and a pace for each stage.

A stage that was guessed to take `work` seconds takes `pace * (fixed + work)`. The fixed cost is what every render pays,
however short it is; without it a short render would make all others look slow. It is learned from all renders that are
known. The pace is that of the machine, which may change, and is learned from the last few.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.core.plan import Stage

RENDERS_MOST = 40  # the last ones, which are looked at
# How many times longer or shorter than forecast a render may take where so few are known. The first guess counts
# operations and knows the processor by its name alone.
UNCERTAINTY = (4.0, 2.5, 2.0, 1.7, 1.5)
# Weight of a render against the next newer one. Three that agree outvote all older ones; the last one alone does not.
PACE_DECAY = 0.65
LEAST_SIMILARITY = 0.4
FIXED_DECAY = 0.9
FIXED_COSTS = (0.0, *(2.0**power for power in range(-6, 5)))  # that are tried, in units of the median work
SAME_WORK = 1.1  # renders that differ by less say nothing about the fixed cost


@dataclass(frozen=True, slots=True)
class Timing:
    """A finished render: the seconds that were guessed for each stage, and those that it took without pauses."""

    guess: Mapping[Stage, float]
    taken: Mapping[Stage, float]


@dataclass(frozen=True, slots=True)
class StageCost:
    """What a stage costs. `fixed` is in seconds of the guess; `measured` are pairs of seconds guessed and taken,
    the newest first.
    """

    fixed: float
    measured: tuple[tuple[float, float], ...]

    def seconds(self, work: float) -> float:
        """What a stage will take that is guessed to take `work` seconds.

        >>> StageCost(2.0, ((8.0, 30.0),)).seconds(3.0)
        15.0
        """
        return self.pace(work) * (self.fixed + work) if work > 0 else 0.0

    def pace(self, work: float) -> float:
        """Seconds taken for each second of the guess: the weighted median of the renders. New ones and those that are
        like `work` weigh more.
        """
        weighted = []
        for age, (guessed, taken) in enumerate(self.measured):
            similarity = math.sqrt(min(guessed, work) / max(guessed, work))
            weight = PACE_DECAY**age * max(LEAST_SIMILARITY, similarity)
            weighted.append((taken / (self.fixed + guessed), weight))
        return _weighted_median(weighted)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The costs of the stages that were measured, and how many renders they are learned from."""

    costs: Mapping[Stage, StageCost] = field(default_factory=dict)
    renders: int = 0

    def seconds(self, guess: Mapping[Stage, float]) -> dict[Stage, float]:
        """The seconds of each stage; of one that was never measured, those of `guess`."""
        return {
            stage: self.costs[stage].seconds(work) if stage in self.costs else work for stage, work in guess.items()
        }

    @property
    def uncertainty(self) -> float | None:
        """How many times longer or shorter than forecast a render may take; None once enough renders are known."""
        return UNCERTAINTY[self.renders] if self.renders < len(UNCERTAINTY) else None


NOT_CALIBRATED = Calibration()


def calibrate(timings: Sequence[Timing]) -> Calibration:
    """What `timings` say, the newest first. A stage that was guessed or found to take no time is not measured."""
    costs, renders = {}, 0
    for stage in Stage:
        pairs = [(timing.guess.get(stage, 0.0), timing.taken.get(stage, 0.0)) for timing in timings]
        measured = tuple((guessed, taken) for guessed, taken in pairs if guessed > 0 and taken > 0)
        if measured:
            costs[stage] = StageCost(_fixed_cost(measured), measured)
            renders = max(renders, len(measured))
    return Calibration(costs, renders)


def _fixed_cost(measured: Sequence[tuple[float, float]]) -> float:
    """The fixed cost by which the paces of renders agree best, in seconds of the guess; 0 where all are alike."""
    usual = sorted(guessed for guessed, _ in measured)[len(measured) // 2]
    return min((usual * part for part in FIXED_COSTS), key=lambda fixed: _disagreement(measured, fixed))


def _disagreement(measured: Sequence[tuple[float, float]], fixed: float) -> float:
    """How much the pace differs between a render and the one before, summed over all (their total variation, on a
    logarithmic scale). Renders that differ more in work say more.

    Where the machine becomes slower once, that adds about the same for every fixed cost, so it does not hide the right
    one; least squares would take the step for a slope.
    """
    total = 0.0
    for age, ((guessed, taken), (guessed_before, taken_before)) in enumerate(itertools.pairwise(measured)):
        difference = abs(math.log(guessed / guessed_before))
        if difference > math.log(SAME_WORK):
            pace, pace_before = taken / (fixed + guessed), taken_before / (fixed + guessed_before)
            total += FIXED_DECAY**age * difference * abs(math.log(pace / pace_before))
    return total


def _weighted_median(weighted: Sequence[tuple[float, float]]) -> float:
    """Of pairs of value and weight, the least value that half of the weight lies at or below."""
    half, below = sum(weight for _, weight in weighted) / 2, 0.0
    for value, weight in sorted(weighted):
        below += weight
        if below >= half:
            return value
    raise ValueError("there is no value")
