"""Whether the memory that a video takes grows with its length.

    python -m benchmarks.memory

Videos of 2 and of 20 windows of the same size, each rendered in a fresh process by the whole way through: queue,
SkyReelsEngine with a model of random weights, encoder, published file. Claim: the peaks differ by at most 10 percent.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from backend.core.config import Settings
from backend.core.schema import parse_request
from backend.video_generator import VideoGenerator
from benchmarks.record import record
from tests.tiny_checkpoints import build_checkpoint

WINDOW, OVERLAP = 17, 5
SIZE = "480x320"


def frames_of(windows: int) -> int:
    return WINDOW + (windows - 1) * (WINDOW - OVERLAP)


def render(windows: int) -> dict[str, float]:
    """One video, here; the peak is of this process."""
    import torch

    torch.set_num_threads(1)  # the tiny model's tensors would only wait for one another
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        build_checkpoint(data / "models" / "random-df", "df")
        generator = VideoGenerator(Settings(data=data, disk_reserve_bytes=0, save_every_s=1.0))
        generator.start()
        request = {
            "prompt": "A boat",
            "model": "random-df",
            "resolution": SIZE,
            "num_frames": frames_of(windows),
            "num_inference_steps": 10,
            "guidance_scale": 1,
            "skyreels": {"base_num_frames": WINDOW, "overlap_history": OVERLAP},
        }
        job = generator.wait(generator.submit(parse_request(request)).id)
        generator.stop()
    assert job.artifact is not None, job.error
    assert len(job.plan.windows) == windows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"windows": windows, "frames": job.artifact.frames, "peak_mib": round(peak, 1)}


def main() -> None:
    videos = []
    for windows in (2, 20):
        command = [sys.executable, "-m", "benchmarks.memory", str(windows)]
        videos.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    short, long = videos
    ratio = round(long["peak_mib"] / short["peak_mib"], 3)
    pixels = [int(side) for side in SIZE.split("x")]
    held = (long["frames"] - short["frames"]) * pixels[0] * pixels[1] * 3 / 2**20
    record("memory", {"videos": videos, "ratio": ratio, "frames_alone_would_add_mib": round(held, 1)})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(render(int(sys.argv[1]))))
    else:
        main()
