"""A job in progress: what clients requested, its last heartbeat, its progress and the time left."""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass, field

from backend.core.config import Settings
from backend.core.plan import Progress, Stage, fraction_done
from backend.engine import Report
from backend.jobs.job import Job
from backend.jobs.time_left import TimeLeft


def _now() -> float:
    return time.monotonic()


@dataclass(slots=True)
class RunningJob:
    """Times are those of the monotonic clock, in seconds. `stages` are those of its kind, in order."""

    job: Job
    stages: tuple[Stage, ...]
    # What clients requested.
    cancelled_at: float | None = None
    stopping: bool = False
    paused: bool = False
    # What it reported last.
    suspended: bool = False  # it stands still because it is paused, or has ended
    suspended_at: float = 0.0
    last_heartbeat: float = field(default_factory=_now)
    stage: Stage = Stage.LOADING
    step: tuple[int, int] = (0, 0)  # window and step
    step_began: float = field(default_factory=_now)
    step_s: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    # How far it is.
    began: float = field(default_factory=_now)
    paused_s: float = 0.0
    parts: dict[Stage, float] = field(default_factory=dict)  # how much of each stage is done
    time_left: TimeLeft = field(init=False)
    written: float = 0.0  # when its progress was written last
    saved_at: float | None = None  # the save that was written last

    def __post_init__(self) -> None:
        self.time_left = TimeLeft(self.job.plan.forecast, self.stages)

    @property
    def cancelled(self) -> bool:
        return self.cancelled_at is not None

    def cancel(self) -> None:
        """Ask it to end; asking again does not put off the end of one that does not respond."""
        if self.cancelled_at is None:
            self.cancelled_at = time.monotonic()

    def suspend(self) -> None:
        """It stands still from now on."""
        self.suspended, self.suspended_at = True, time.monotonic()

    def resume(self) -> None:
        """It stood still until now: that was no silence and no step."""
        self.last_heartbeat = time.monotonic()
        still_s = self.last_heartbeat - self.suspended_at
        self.paused_s += still_s
        self.step_began += still_s
        self.suspended = False

    def heartbeat(self, at: Report) -> None:
        """Note that it is alive."""
        self.last_heartbeat = time.monotonic()
        self.stage = at.stage
        if (at.window, at.step) != self.step:
            if at.step > 1:
                self.step_s.append(self.last_heartbeat - self.step_began)
            self.step, self.step_began = (at.window, at.step), self.last_heartbeat

    def note(self, at: Report) -> None:
        """Note how far it is: the first stage ends where another begins, all end with the last one."""
        first, last = self.stages[0], self.stages[-1]
        if at.stage is not first:
            self.parts[first] = 1.0
        if at.stage is last:
            self.parts |= dict.fromkeys(self.stages[:-1], 1.0)
        self.parts[at.stage] = max(self.parts.get(at.stage, 0.0), at.part)
        self.time_left.note(self.worked_s, at.stage, self.parts)

    def is_due(self, at: Report, every_s: float) -> bool:
        """Whether its progress is to be written now: a save is at once, so that a crash after it is forgiven."""
        now = time.monotonic()
        if now - self.written < every_s and at.saved_at == self.saved_at:
            return False
        self.written, self.saved_at = now, at.saved_at
        return True

    def progress(self, at: Report) -> Progress:
        plan = self.job.plan
        done, rest = fraction_done(plan.forecast, self.parts), 1.0
        if at.stage is Stage.LOADING and self.job.progress is not None:  # an earlier attempt got as far as that
            rest = 1 - self.job.progress.fraction
            done = max(done, self.job.progress.fraction)
        eta_s, reason = self.time_left.estimate(self.worked_s, self.parts, rest)
        return Progress(
            stage=at.stage,
            window=at.window,
            windows=len(plan.window_steps),
            step=at.step,
            steps=plan.window_steps[max(at.window, 1) - 1] if plan.window_steps else 0,
            fraction=round(done, 4),
            eta_s=eta_s,
            eta_reason=reason,
            frames_ready=at.frames_ready,
            saved_at=at.saved_at,
        )

    @property
    def worked_s(self) -> float:
        """Seconds since it began, without pauses."""
        return time.monotonic() - self.began - self.paused_s

    @property
    def since_heartbeat_s(self) -> float:
        """For how long it has reported nothing, or not ended: what it reported after its cancellation is its way to the
        end, as when weights are read at last.
        """
        return time.monotonic() - max(self.last_heartbeat, self.cancelled_at or 0.0)

    def hang_timeout_s(self, limits: Settings) -> float:
        """How long it may report nothing: ten usual steps; longer while loading or saving, less once cancelled."""
        if self.cancelled:
            return limits.slow_cancel_timeout_s if self.stage is Stage.LOADING else limits.cancel_timeout_s
        if self.stage in (Stage.LOADING, Stage.SAVING):
            return limits.slow_hang_timeout_s
        return max(limits.hang_timeout_s, 10 * statistics.median(self.step_s) if self.step_s else 0.0)
