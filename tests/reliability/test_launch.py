"""P01, P03 for the real thing: `./launch.sh` with SkyReels V2 on a small checkpoint, killed at random moments."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest

from tests.reliability.kills import digest, work_folders
from tests.studio import ROOT, LiveStudio
from tests.tiny_checkpoints import build_checkpoint

WISH = {
    "prompt": "a boat",
    "model": "random-df",
    "resolution": "256x192",
    "num_frames": 41,
    "num_inference_steps": 15,
    "skyreels": {"base_num_frames": 17, "overlap_history": 5},
}


class Launched(LiveStudio):
    command = (str(ROOT / "launch.sh"),)

    def kill(self) -> None:
        """Kill -9 of the studio itself; the launcher, which would start it again, first."""
        processes = [psutil.Process(self.process.pid)]
        processes += processes[0].children(recursive=True)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 20)
        self.process.wait(100)

    def stage_of(self, job_id: str) -> str:
        job = self.api.get(f"/jobs/{job_id}").json()
        return (job["progress"] or {}).get("stage") or job["state"]


def launch(data: Path) -> Launched:
    return Launched(data, STUDIO_SAVE_EVERY_S="0", OMP_NUM_THREADS="1", STUDIO_MODELS=str(data / "none"))


def film(studio: Launched, job_id: str) -> str:
    job = studio.wait_for(job_id)
    assert job["state"] == "succeeded", job["error"]
    return digest(studio.data / job["artifact"]["video"])


def kill_often(data: Path, kills: int, seed: int = 0) -> Counter[str]:
    """Kill two lives of every three, at a moment of the whole render; every film must be the unbroken one. What the job
    was at, when it was killed.
    """
    build_checkpoint(data / "models" / "random-df", "df")
    chance = random.Random(seed)
    wish = WISH | {"seed": seed}
    studio = launch(data)
    began = time.monotonic()
    whole = film(studio, studio.api.post("/jobs", json=wish).json()["id"])
    lasts_s = time.monotonic() - began  # with what a process does only once
    killed_at: Counter[str] = Counter()
    job_id = studio.api.post("/jobs", json=wish).json()["id"]
    while killed_at.total() < kills:
        for _ in range(2):
            moment = time.monotonic() + chance.uniform(0, lasts_s)
            stage = "queued"
            while time.monotonic() < moment and stage != "succeeded":
                with contextlib.suppress(httpx.HTTPError):
                    stage = studio.stage_of(job_id)
            studio.kill()
            killed_at[stage] += 1
            studio = launch(data)
            if stage == "succeeded":
                assert film(studio, job_id) == whole
                job_id = studio.api.post("/jobs", json=wish).json()["id"]
        assert film(studio, job_id) == whole
        job_id = studio.api.post("/jobs", json=wish).json()["id"]
    assert film(studio, job_id) == whole
    assert work_folders(data) == []
    assert studio.stop() == 0
    return killed_at


@pytest.mark.timeout(400)
def test_launch_sh_killed_twice_makes_the_same_films(tmp_path):
    print(kill_often(tmp_path / "data", 2))


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_launch_sh_killed_sixty_times_makes_the_same_films(tmp_path):
    print(kill_often(tmp_path / "data", 60, seed=1))
