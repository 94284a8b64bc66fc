"""The render of one job as the rest of the studio sees it: what is wanted of it, how far it is, whether it is alive."""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass, field

from backend.core.config import Settings
from backend.core.planning import Progress, Stage, fraction_done
from backend.jobs.engine import Report
from backend.jobs.job import Job


def _now() -> float:
    return time.monotonic()


@dataclass(slots=True)
class Render:
    """Times are those of the monotonic clock, in seconds."""

    job: Job
    # What the doors want of it.
    cancelled_at: float | None = None
    stopping: bool = False
    paused: bool = False
    # What it said last.
    holding: bool = False  # stands still because it is paused, or is over
    held_at: float = 0.0
    heard: float = field(default_factory=_now)
    stage: Stage = Stage.LOADING
    step: tuple[int, int] = (0, 0)  # window and step
    step_began: float = field(default_factory=_now)
    step_s: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    # How far it is.
    began: float = field(default_factory=_now)
    paused_s: float = 0.0
    parts: dict[Stage, float] = field(default_factory=dict)  # how much of each stage is done
    taken_up: float = 0.0  # of the whole job, done by an earlier attempt
    written: float = 0.0  # when its progress was written last
    saved_at: float | None = None  # the save that was written last

    @property
    def cancelled(self) -> bool:
        return self.cancelled_at is not None

    def cancel(self) -> None:
        """Ask it to end; asking again does not put off the end of one that heeds nothing."""
        if self.cancelled_at is None:
            self.cancelled_at = time.monotonic()

    def hold(self) -> None:
        """It stands still from now on."""
        self.holding, self.held_at = True, time.monotonic()

    def go_on(self) -> None:
        """It stood still until now: that was no silence and no step."""
        self.heard = time.monotonic()
        still_s = self.heard - self.held_at
        self.paused_s += still_s
        self.step_began += still_s
        self.holding = False

    def hear(self, at: Report) -> None:
        """Note that it is alive."""
        self.heard = time.monotonic()
        self.stage = at.stage
        if (at.window, at.step) != self.step:
            if at.step > 1:
                self.step_s.append(self.heard - self.step_began)
            self.step, self.step_began = (at.window, at.step), self.heard

    def note(self, at: Report) -> None:
        """Note how far it is."""
        if at.stage is Stage.DENOISING and at.stage not in self.parts:
            self.taken_up = fraction_done(self.job.plan, {at.stage: at.part})
        if at.stage is not Stage.LOADING:
            self.parts[Stage.LOADING] = 1.0
        if at.stage is Stage.SAVING:
            self.parts |= {Stage.DENOISING: 1.0, Stage.DECODING: 1.0}
        self.parts[at.stage] = max(self.parts.get(at.stage, 0.0), at.part)

    def is_due(self, at: Report, every_s: float) -> bool:
        """Whether its progress is to be written now: a save is at once, so that a death after it is forgiven."""
        now = time.monotonic()
        if now - self.written < every_s and at.saved_at == self.saved_at:
            return False
        self.written, self.saved_at = now, at.saved_at
        return True

    def progress(self, at: Report) -> Progress:
        plan = self.job.plan
        done, taken_up = fraction_done(plan, self.parts), self.taken_up
        if at.stage is Stage.LOADING and self.job.progress is not None:  # an earlier attempt got as far as that
            taken_up = self.job.progress.fraction
            done = max(done, taken_up)
        elapsed = time.monotonic() - self.began - self.paused_s
        own, rest = done - taken_up, 1 - taken_up
        trust = min(1.0, 4 * own)  # in what was measured so far, against the forecast
        measured = elapsed * rest / own if own > 0.02 else 0.0
        total = trust * measured + (1 - trust) * max(plan.forecast.total_s * rest, elapsed)
        return Progress(
            stage=at.stage,
            window=at.window,
            windows=len(plan.windows),
            step=at.step,
            steps=plan.window_steps[max(at.window, 1) - 1],
            fraction=round(done, 4),
            eta_s=round(max(0.0, total - elapsed), 1),
            frames_ready=at.frames_ready,
            saved_at=at.saved_at,
        )

    @property
    def silent_s(self) -> float:
        """For how long it has said nothing, or not ended: what it said after its cancellation is its way to the end, as
        when weights are read at last.
        """
        return time.monotonic() - max(self.heard, self.cancelled_at or 0.0)

    def patience_s(self, limits: Settings) -> float:
        """How long it may be silent: ten usual steps, longer while loading or saving; less when it is cancelled."""
        if self.cancelled:
            return limits.slow_cancel_timeout_s if self.stage is Stage.LOADING else limits.cancel_timeout_s
        if self.stage in (Stage.LOADING, Stage.SAVING):
            return limits.slow_hang_timeout_s
        return max(limits.hang_timeout_s, 10 * statistics.median(self.step_s) if self.step_s else 0.0)
