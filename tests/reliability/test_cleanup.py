"""P16: clean-up never takes a film, an input of a job that may still need it, a favourite, or anything that is not its
own; whatever it was doing when the process died.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from backend.core.config import Settings
from backend.core.errors import Conflict, NotFound
from backend.core.ids import new_id
from backend.core.plan import Machine
from backend.core.planning import make_plan
from backend.core.registry import SYNTHETIC
from backend.core.schema import parse_request
from backend.jobs.job import ACTIVE, Artifact, Job, JobState
from backend.jobs.store import Store
from backend.jobs.tidying import Tidying
from backend.video_generator import VideoGenerator

DAY = 24 * 3600
PLAN = make_plan(parse_request({"prompt": "x", "seed": 1}), SYNTHETIC, Machine("CPU", 2, 8))
ARTIFACT = Artifact("v", "t", 96, 64, 16, 24, 10, "synthetic", "synthetic", 1.0)


class Killed(BaseException):
    """The process died here."""


class CleanUp(RuleBasedStateMachine):
    """A data folder that films, uploads and time pass through; files of others lie everywhere in it."""

    films = Bundle("films")
    uploads = Bundle("uploads")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="cleanup-"))
        self.settings = Settings(data=self.root / "data", shared_models=self.root / "none", disk_reserve_bytes=0)
        self.later = 0.0
        self.outside = self.root / "outside"
        self.outside.mkdir()
        (self.outside / "mine.txt").write_text("mine")
        self.generator = self.open()
        for folder in (self.settings.outputs, self.settings.uploads, self.settings.temp):
            (folder / "link").symlink_to(self.outside)
            (folder / new_id()).symlink_to(self.outside)
        self.strangers = [
            self.settings.outputs / "notes.txt",
            self.settings.outputs / "holiday",
            self.settings.uploads / "x",
        ]
        for path in self.strangers:
            path.mkdir() if path.suffix == "" else path.write_text("mine")
        self.alive: dict[str, bool] = {}  # films by id, and whether they are in the trash
        self.needed: dict[str, set[str]] = {}  # jobs that have not ended, by the uploads that they need

    def open(self) -> VideoGenerator:
        generator = VideoGenerator(self.settings, {}, Machine("CPU", 2, 8))
        generator.store._db.execute("PRAGMA synchronous = OFF")
        generator.tidying._doubt_s = 0
        return generator

    def teardown(self) -> None:
        self.generator.stop()
        shutil.rmtree(self.root)

    def now(self) -> float:
        return self.generator.tidying.now()

    def add_job(self, state: JobState, **wish: object) -> Job:
        job_id = new_id()
        job = Job(
            id=job_id,
            state=state,
            request=parse_request({"prompt": "x", "seed": 1} | wish),
            plan=PLAN,
            created_at=self.now(),
            position=1.0,
            attempts=1,
            finished_at=None if state in ACTIVE else self.now(),
            artifact=replace(ARTIFACT, video=f"outputs/{job_id}/video.mp4") if state is JobState.SUCCEEDED else None,
        )
        assert self.generator.store.import_job(job)
        return job

    @initialize()
    def begin(self) -> None:
        self.generator.tidying.tidy()

    @rule(target=films, favourite=st.booleans())
    def make_film(self, favourite: bool) -> str:
        job = self.add_job(JobState.SUCCEEDED)
        folder = self.settings.outputs / job.id
        folder.mkdir()
        for name in ("video.mp4", "thumbnail.jpg", "metadata.json"):
            (folder / name).write_text("{}")
        if favourite:
            self.generator.store.set_favourite(job.id, True)
        self.alive[job.id] = False
        return job.id

    @rule(target=uploads)
    def send(self) -> str:
        folder = self.settings.uploads / new_id()
        folder.mkdir()
        (folder / "media").write_text("x")
        record = {"id": folder.name, "kind": "image", "width": 64, "height": 64, "frames": 1, "fps": 0, "filename": "x"}
        (folder / "upload.json").write_text(json.dumps(record | {"bytes": 1}))
        os.utime(folder / "upload.json", (self.now(),) * 2)
        return folder.name

    @rule(upload=uploads, state=st.sampled_from([JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.RUNNING]))
    def use(self, upload: str, state: JobState) -> None:
        if not (self.settings.uploads / upload).exists():
            return
        job = self.add_job(state, mode="image_to_video", image=upload)
        (self.settings.temp / job.id).mkdir()
        (self.settings.temp / job.id / "000.mp4").write_text("x")
        self.needed[job.id] = {upload}

    @rule(target=uploads, state=st.sampled_from([JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.RUNNING]))
    def send_and_use(self, state: JobState) -> str:
        upload = self.send()
        self.use(upload, state)
        return upload

    @rule(which=st.integers(0, 1000))
    def give_up(self, which: int) -> None:
        if self.needed:
            job_id = list(self.needed)[which % len(self.needed)]
            if self.generator.job(job_id).state in (JobState.QUEUED, JobState.PAUSED):
                self.generator.cancel(job_id)

    @rule(film=films, crash=st.integers(0, 6))
    def delete(self, film: str, crash: int) -> None:
        self.do(lambda: self.generator.delete(film), crash)
        if film in self.alive and self.generator.store.has(film):
            self.alive[film] = self.generator.job(film).trashed_at is not None

    @rule(film=films, crash=st.integers(0, 6))
    def restore(self, film: str, crash: int) -> None:
        self.do(lambda: self.generator.restore(film), crash)
        if film in self.alive and self.generator.store.has(film):
            self.alive[film] = self.generator.job(film).trashed_at is not None

    @rule(film=consumes(films))
    def take_the_folder_away(self, film: str) -> None:
        shutil.rmtree(self.settings.outputs / film, ignore_errors=True)
        shutil.rmtree(self.settings.trash / film, ignore_errors=True)
        self.alive.pop(film, None)

    @rule(days=st.sampled_from([0.5, 2, 8]), crash=st.integers(0, 12))
    def time_passes(self, days: float, crash: int) -> None:
        wall, monotonic = self.generator.tidying._began
        self.generator.tidying._began = (wall + days * DAY, monotonic)
        self.do(self.generator.tidying.tidy, crash)
        for film, trashed in list(self.alive.items()):
            if trashed and not self.generator.store.has(film):
                self.alive.pop(film)

    def do(self, act: object, crash: int) -> None:
        """Do it; the `crash`-th change of the file system ends the process instead, and another one starts."""
        with pytest.MonkeyPatch.context() as patch:
            left = [crash]
            for owner, name in ((os, "rename"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"), (os, "utime")):
                patch.setattr(owner, name, dying(getattr(os, name), left))
            try:
                act()  # type: ignore[operator]
                return
            except (NotFound, Conflict):
                return
            except Killed:
                pass
        began = self.generator.tidying._began
        self.generator.stop()
        self.generator = self.open()
        self.generator.tidying._began = began

    @invariant()
    def nothing_of_others_is_gone(self) -> None:
        assert (self.outside / "mine.txt").read_text() == "mine"
        assert all(path.exists() for path in self.strangers)

    @invariant()
    def films_are_there(self) -> None:
        for film, trashed in self.alive.items():
            places = [self.settings.outputs / film, self.settings.trash / film]
            whole = [place for place in places if place.exists()]
            assert len(whole) == 1 or trashed, film
            if not trashed:
                assert sorted(path.name for path in whole[0].iterdir()) == [
                    "metadata.json",
                    "thumbnail.jpg",
                    "video.mp4",
                ]

    @invariant()
    def what_a_job_needs_has_space(self) -> None:
        for job_id, uploads in self.needed.items():
            if self.generator.store.has(job_id) and self.generator.job(job_id).state in ACTIVE:
                assert all((self.settings.uploads / upload / "media").exists() for upload in uploads)
                assert (self.settings.temp / job_id / "000.mp4").exists()


def dying(real: object, left: list[int]) -> object:
    def change(*arguments: object, **named: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return real(*arguments, **named)  # type: ignore[operator]

    return change


def run(histories: int) -> None:
    run_state_machine_as_test(
        CleanUp,
        settings=hypothesis_settings(
            max_examples=histories,
            stateful_step_count=20,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
        ),
    )


@pytest.mark.timeout(400)
def test_a_hundred_histories():
    run(100)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_histories():
    run(10_000)


@pytest.mark.parametrize("fault", [(Store, "uploads_in_use", set()), (Tidying, "_may_go_on", False)])
def test_the_machine_sees_a_clean_up_that_takes_too_much(monkeypatch, fault):
    """One history by hand, with a clean-up that is right, then with one that does not ask who needs what it takes."""
    history = CleanUp()
    history.begin()
    history.send_and_use(JobState.QUEUED)
    history.time_passes(days=8, crash=0)
    history.what_a_job_needs_has_space()
    owner, name, answer = fault
    monkeypatch.setattr(owner, name, lambda *_: answer)
    history.time_passes(days=8, crash=0)
    with pytest.raises(AssertionError):
        history.what_a_job_needs_has_space()
    history.teardown()
