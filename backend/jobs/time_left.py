"""The time left of a running job: what is still to do by the forecast, at the pace that it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.core.plan import Forecast, Stage

RECENT_STEPS = 8  # the pace is that of the last ones, which make at least RECENT_PART of the work
RECENT_PART = 0.1
TRUSTED_PART = 0.1  # of the work, after which the pace of this job alone counts; half of it where the forecast is rough
MOST_GROWTH = 1.15  # of the time left, without a reason beside it
SMALL_GROWTH_S = 5.0  # that is not worth a reason: the time left stays
LATE = 1.5  # times as long as expected
LATE_S = 5.0


@dataclass(slots=True)
class TimeLeft:
    """The estimate for one job. `worked_s` are seconds since it began, without pauses; `parts`, 0 to 1, say how much of
    each of its `stages` is done. The first stage prepares: its pace says nothing about the others.
    """

    forecast: Forecast
    stages: tuple[Stage, ...]
    # Seconds worked and seconds of the forecast that were done by then, at the end of each step.
    points: list[tuple[float, float]] = field(default_factory=list)
    lowest_s: float = math.inf

    def note(self, worked_s: float, at: Stage, parts: Mapping[Stage, float]) -> None:
        """Note how far it is. What was done before the first call with a later stage than the first was done by an
        earlier attempt.
        """
        done_s = self._work_s - self._left_s(parts)
        if at in self._working and (not self.points or done_s > self.points[-1][1]):
            self.points.append((worked_s, done_s))

    def estimate(self, worked_s: float, parts: Mapping[Stage, float], rest: float = 1.0) -> tuple[float, str | None]:
        """Seconds left, to a tenth, and a reason if they are more than MOST_GROWTH times the fewest that were ever
        estimated, or if it is late. `rest` is the part of the job that an earlier attempt has left, as long as this one
        only prepares.
        """
        if self.points:
            left_s, late = self._working_left(worked_s, parts)
        else:
            left_s, late = self._preparing_left(worked_s, parts, rest)
        left_s = round(left_s, 1)
        if left_s <= MOST_GROWTH * self.lowest_s:
            self.lowest_s = min(self.lowest_s, left_s)
            return left_s, late
        if left_s - self.lowest_s < SMALL_GROWTH_S:
            return self.lowest_s, late
        return left_s, late or self._why_slow()

    def _preparing_left(self, worked_s: float, parts: Mapping[Stage, float], rest: float) -> tuple[float, str | None]:
        """Before the first step."""
        first = self.stages[0]
        prepare_s = self.forecast.seconds.get(first, 0.0)
        to_prepare_s = max(0.0, min(prepare_s * (1 - parts.get(first, 0.0)), prepare_s - worked_s))
        late = worked_s > LATE * prepare_s + LATE_S
        return rest * self._work_s + to_prepare_s, f"{first.value} takes longer than forecast" if late else None

    def _working_left(self, worked_s: float, parts: Mapping[Stage, float]) -> tuple[float, str | None]:
        pace, since_s = self._pace(), worked_s - self.points[-1][0]
        left_s = pace * self._left_s(parts)
        if len(self.points) < 2:
            return max(0.0, left_s - since_s), None
        step_s = pace * (self.points[-1][1] - self.points[-2][1])
        late = since_s > LATE * step_s + LATE_S
        return max(0.0, left_s - min(since_s, step_s)), "this step takes longer than those before" if late else None

    def _pace(self) -> float:
        """Seconds for each second of the forecast: as forecast at first, then as measured."""
        share = (self.points[-1][1] - self.points[0][1]) / (self._work_s or 1.0)
        if share <= 0:
            return 1.0
        rough = self.forecast.high_s is not None
        trust = min(1.0, share / (TRUSTED_PART / 2 if rough else TRUSTED_PART))
        return trust * _slope(self.points[self._recent() :]) + (1 - trust)

    def _recent(self) -> int:
        """The number of the point where the recent ones begin."""
        last_done_s = self.points[-1][1]
        for number in range(len(self.points) - 1 - RECENT_STEPS, 0, -1):
            if last_done_s - self.points[number][1] >= RECENT_PART * self._work_s:
                return number
        return 0

    def _why_slow(self) -> str:
        recent = self._recent() if self.points else 0
        if recent > 0:
            slower = _slope(self.points[recent:]) / _slope(self.points[: recent + 1])
            if slower > MOST_GROWTH:
                return f"the machine is busy: steps take {slower:.1f} times as long as before"
        return "it is slower than forecast"

    def _left_s(self, parts: Mapping[Stage, float]) -> float:
        """What is left of the working stages, in seconds of the forecast."""
        return sum(
            self.forecast.seconds.get(stage, 0.0) * (1 - min(max(parts.get(stage, 0.0), 0.0), 1.0))
            for stage in self._working
        )

    @property
    def _work_s(self) -> float:
        return self._left_s({})

    @property
    def _working(self) -> tuple[Stage, ...]:
        return self.stages[1:] or self.stages


def _slope(points: list[tuple[float, float]]) -> float:
    """Seconds worked for each second of the forecast, from the first of the points to the last."""
    (began_s, done_before_s), (ended_s, done_s) = points[0], points[-1]
    return (ended_s - began_s) / (done_s - done_before_s)
