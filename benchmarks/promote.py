"""What a draft and its promotion cost beside the same video made in one go.

    python -m benchmarks.promote [--rounds 6] [--small]

The whole studio makes a video with Tiny, and as a draft that it promotes: in turns, with the model loaded, from submit
to the published MP4. The draft's preview, which is decoded, encoded and published for the sake of being seen, is
counted apart. Claim: without it a draft and its promotion take at most 1.03 of the time of the video in one go. They
end with the same encoded frames.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from backend.core.config import Settings
from backend.core.plan import Stage
from backend.core.registry import TINY
from backend.core.schema import parse_request
from backend.jobs.job import Job
from backend.video_generator import VideoGenerator
from benchmarks.record import RESULTS, SMALL, record

REQUEST = {"prompt": "A red boat drifts left on a calm sea at sunset", "model": TINY.id, "resolution": "160x96"}
FULL = {"num_frames": 64, "num_inference_steps": 30, "draft_steps": 8}
SHORT = {"num_frames": 17, "num_inference_steps": 10, "draft_steps": 3}
PRESETS = ("exact", "balanced")


class Made(NamedTuple):
    """A finished job, the seconds until it was published, and until it was submitted."""

    job: Job
    seconds: float
    submit_s: float

    @property
    def after_last_step_s(self) -> float:
        """What it takes to decode, encode and publish the video."""
        assert self.job.artifact
        stage_s: dict[Stage, float] = self.job.artifact.stage_s
        return self.seconds - self.submit_s - stage_s[Stage.LOADING] - stage_s[Stage.DENOISING]


class Studio:
    """A studio that makes videos and takes the time."""

    def __init__(self, data: Path) -> None:
        self.generator = VideoGenerator(Settings(data=data, disk_reserve_bytes=0))

    def make(self, **fields: Any) -> Made:
        return self._timed(lambda: self.generator.submit(parse_request(REQUEST | fields)))

    def promote(self, draft: Job) -> Made:
        return self._timed(lambda: self.generator.submission.promote(draft.id))

    def _timed(self, submit: Callable[[], Job]) -> Made:
        began = time.perf_counter()
        job = submit()
        submitted = time.perf_counter()
        ended = self.generator.wait(job.id)
        assert ended.artifact is not None, ended.error
        return Made(ended, time.perf_counter() - began, submitted - began)

    def packets(self, job: Job) -> list[bytes]:
        """The encoded frames of a video."""
        import av

        with av.open(str(self.generator.results.file(job.id))) as video:
            return [bytes(packet) for packet in video.demux(video=0)]


def measure_round(studio: Studio, number: int, draft_steps: int, **fields: Any) -> dict[str, float]:
    """The seconds of each part. Which way comes first changes from round to round."""
    fields |= {"seed": number}
    whole = studio.make(**fields) if number % 2 else None
    draft = studio.make(**fields, draft_steps=draft_steps)
    rest = studio.promote(draft.job)
    whole = whole or studio.make(**fields)
    assert rest.job.artifact
    assert "resumed" in rest.job.artifact.runtime
    assert studio.packets(rest.job) == studio.packets(whole.job)
    seconds = {"whole": whole.seconds, "draft": draft.seconds, "rest": rest.seconds}
    return seconds | {"preview": draft.after_last_step_s}


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """The medians of the parts and of the rounds' ratios."""
    ratios = {
        "without_preview": [(one["draft"] - one["preview"] + one["rest"]) / one["whole"] for one in rounds],
        "with_preview": [(one["draft"] + one["rest"]) / one["whole"] for one in rounds],
    }
    return {
        "median_s": {part: round(statistics.median(one[part] for one in rounds), 3) for part in rounds[0]},
        "ratio": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "rounds": [{part: round(seconds, 3) for part, seconds in one.items()} for one in rounds],
    }


def measure(rounds: int, fields: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(Path(folder))
        studio.generator.start()
        try:
            presets = {}
            for preset in PRESETS:
                taken = [measure_round(studio, number, preset=preset, **fields) for number in range(rounds + 1)]
                presets[preset] = summary(taken[1:])  # the first warms up
        finally:
            studio.generator.stop()
    return {**fields, "resolution": REQUEST["resolution"], "presets": presets}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--small", action="store_true", help="a few frames and steps, to see that it works")
    flags = parser.parse_args()
    fields, folder = (SHORT, SMALL) if flags.small else (FULL, RESULTS)
    record("promote", measure(flags.rounds, fields), folder=folder)


if __name__ == "__main__":
    main()
