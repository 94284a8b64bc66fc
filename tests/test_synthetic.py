"""The SyntheticEngine keeps the contract of `backend/jobs/engine.py`, and fails exactly when it is told to."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from backend.core.config import ROOT
from backend.core.errors import JobCancelled, NotEnoughMemory
from backend.core.planning import Machine, Source, Stage, make_plan
from backend.core.registry import SYNTHETIC
from backend.core.schema import parse_request
from backend.jobs.engine import Inputs, Report, Reporter, Task
from backend.media.fitting import Frames, Picture
from backend.synthetic import Faults, SyntheticEngine

WIDTH, HEIGHT = 320, 180
UPLOAD = "0" * 20


def a_task(inputs: Inputs | None = None, **wish: Any) -> Task:
    inputs = inputs or Inputs()
    wish = {
        "prompt": "a red boat drifts left at sea",
        "seed": 1,
        "resolution": f"{WIDTH}x{HEIGHT}",
        "num_frames": 24,
        **wish,
    }
    source = None
    if inputs.prefix is not None:
        wish |= {"mode": "video_extension", "video": UPLOAD}
        source = Source(WIDTH, HEIGHT, len(inputs.prefix), 24)
    elif inputs.image is not None:
        wish |= {"mode": "image_to_video", "image": UPLOAD}
    if inputs.end_image is not None:
        wish["end_image"] = UPLOAD
    request = parse_request(wish)
    return Task(request, make_plan(request, SYNTHETIC, Machine("CPU", 2, 8), source), inputs)


def render(task: Task, engine: SyntheticEngine | None = None, report: Reporter = lambda report: None) -> Frames:
    return np.concatenate(list((engine or SyntheticEngine()).render(task, report)))


def a_picture(seed: int = 0, width: int = WIDTH) -> Picture:
    """Soft random colours, so that every movement shows everywhere."""
    noise = np.random.default_rng(seed).random((HEIGHT, width, 3))
    soft = cv2.GaussianBlur(noise, (0, 0), 5)
    return ((soft - soft.min()) / (soft.max() - soft.min()) * 255).astype(np.uint8)


def shift(one: Picture, other: Picture) -> tuple[float, float]:
    """By how many pixels the middle of the picture moved, right and down: the median of tracked points."""
    before, after = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (one, other))
    middle = np.zeros_like(before)
    middle[30:-30, 60:-60] = 255
    points = cv2.goodFeaturesToTrack(before, 80, 0.01, 8, mask=middle)
    found, status, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None)
    x, y = np.median((found - points)[status.ravel() == 1].reshape(-1, 2), axis=0)
    return float(x), float(y)


@pytest.fixture
def held() -> Iterator[SyntheticEngine]:
    engine = SyntheticEngine()
    yield engine
    engine.release()


def test_all_frames_come_in_small_chunks_of_the_planned_size() -> None:
    task = a_task(num_frames=30)
    chunks = list(SyntheticEngine().render(task, lambda report: None))
    assert sum(map(len, chunks)) == task.plan.render_frames == 33
    assert {chunk.shape[1:] for chunk in chunks} == {(HEIGHT, WIDTH, 3)}
    assert {chunk.dtype for chunk in chunks} == {np.dtype(np.uint8)}
    assert max(map(len, chunks)) <= 8


def test_the_same_task_gives_the_same_bytes_and_another_seed_or_prompt_does_not() -> None:
    first = render(a_task())
    assert (first == render(a_task())).all()
    for change in ({"seed": 2}, {"prompt": "a red boat drifts left at sea!!"}, {"negative_prompt": "mountains"}):
        assert not np.array_equal(first, render(a_task(**change))), change


def test_a_window_is_drawn_from_its_prompt_of_the_storyboard() -> None:
    windows = {"base_num_frames": 17, "overlap_history": 5}
    sea, hills, city = "a red boat at sea", "a yellow balloon over hills", "a blue car in the city at night"
    task = a_task(prompt=sea, num_frames=48, skyreels=windows | {"storyboard": [hills, city]})
    frames = render(task)
    assert [window.stop for window in task.plan.windows] == [5, 8, 11, 13]  # 17, 29, 41 and 49 frames
    for prompt, shows in ((sea, slice(0, 17)), (hills, slice(17, 29)), (city, slice(29, 49))):
        alone = render(a_task(prompt=prompt, num_frames=48, skyreels=windows))
        assert np.array_equal(frames[shows], alone[shows]), prompt
    assert len({frames[n].tobytes() for n in (0, 20, 40)}) == 3


def test_steps_and_guidance_leave_the_picture_alone() -> None:
    assert (render(a_task(num_inference_steps=50, guidance_scale=1)) == render(a_task(num_inference_steps=10))).all()


@pytest.mark.parametrize(("frames", "steps"), [(16, 50), (64, 10), (128, 20)])
def test_progress_counts_every_step_of_every_window_in_order(frames: int, steps: int) -> None:
    task = a_task(num_frames=frames, num_inference_steps=steps, resolution="64x64")
    reports: list[Report] = []
    drawn = 0
    for chunk in SyntheticEngine().render(task, reports.append):
        drawn += len(chunk)
        # A report is never ahead of the frames by more than the chunk that is being filled.
        assert reports[-1].part * task.plan.render_frames <= drawn + 8
    windows = len(task.plan.windows)
    expected = [(window, step) for window in range(1, windows + 1) for step in range(1, steps + 1)]
    assert [(r.window, r.step) for r in reports[:-1]] == expected
    assert {r.stage for r in reports} == {Stage.DENOISING}
    parts = [r.part for r in reports]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.0, 1.0)


def test_a_small_moving_picture_of_the_window_comes_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("backend.synthetic.time.monotonic", lambda: now[0])
    task = a_task(num_frames=128, num_inference_steps=10, resolution="640x360")
    reports: list[Report] = []

    def report(at: Report) -> None:
        reports.append(at)
        now[0] += 0.25

    frames = render(task, report=report)
    looks = {(at.window, at.step): at.preview for at in reports if at.preview is not None}
    assert list(looks) == [(1, 2), (1, 6), (1, 10), (2, 4), (2, 8)]
    assert {look.shape[1:] for look in looks.values()} == {(144, 256, 3)}
    assert {look.dtype for look in looks.values()} == {np.dtype(np.uint8)}
    assert [len(look) for look in looks.values()] == [6, 16, 20, 19, 23]
    windows = [frames[:64], frames[64:]]
    for (window, _), look in looks.items():
        first = cv2.resize(windows[window - 1][0], (256, 144), interpolation=cv2.INTER_AREA)
        assert (look[0] == first).all()
    assert (np.abs(np.diff(looks[1, 10].astype(int), axis=0)).mean(axis=(1, 2, 3)) > 0).all()


def test_a_small_film_is_looked_at_in_its_own_size() -> None:
    reports: list[Report] = []
    render(a_task(resolution="96x128", num_inference_steps=10), report=reports.append)
    looks = [at.preview for at in reports if at.preview is not None]
    assert looks
    assert looks[0].shape[1:] == (128, 96, 3)


def test_the_picture_is_the_first_frame_and_then_it_moves() -> None:
    picture = a_picture()
    for prompt in ("", "the camera pans left", "snow falls", "zoom out", "fog"):
        frames = render(a_task(Inputs(image=picture), prompt=prompt, num_frames=48))
        assert (frames[0] == picture).all()
        steps = np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
        assert steps[0] < 4, prompt  # it sets off gently
        assert steps[20:].min() > 0.3, prompt  # and does not stand still again


def test_a_pan_goes_the_way_it_is_called() -> None:
    for word, sign in (("left", 1), ("right", -1)):
        frames = render(a_task(Inputs(image=a_picture()), prompt=f"the camera pans {word}", num_frames=48))
        assert sign * shift(frames[20], frames[40])[0] > 1


def test_no_black_borders_ever() -> None:
    bright = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    moving = np.stack([bright] * 17)
    for inputs in (Inputs(image=bright), Inputs(prefix=moving), Inputs(image=bright, end_image=bright)):
        for prompt in ("zoom out", "pan right"):
            assert render(a_task(inputs, prompt=prompt)).min() >= 199


def test_the_end_picture_is_the_last_delivered_frame() -> None:
    start, end = a_picture(1), a_picture(2)
    task = a_task(Inputs(image=start, end_image=end), prompt="", num_frames=30)
    frames = render(task)
    assert (frames[0] == start).all()
    assert (frames[task.plan.num_frames - 1 :] == end).all()
    steps = np.abs(np.diff(frames[: task.plan.num_frames].astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert steps.max() < 0.25 * np.abs(start.astype(int) - end).mean()  # a passage, not a cut


def a_pan(pixels_per_frame: int, frames: int = 17) -> Frames:
    wide = a_picture(3, width=WIDTH + pixels_per_frame * frames)
    return np.stack([wide[:, i * pixels_per_frame : i * pixels_per_frame + WIDTH] for i in range(frames)])


def test_an_extension_repeats_the_prefix_and_goes_on_with_its_movement() -> None:
    prefix = a_pan(3)
    task = a_task(Inputs(prefix=prefix), prompt="", num_frames=48)
    frames = render(task)
    assert len(frames) == task.plan.render_frames
    assert (frames[:17] == prefix).all()
    moves = [shift(frames[i], frames[i + 1])[0] for i in range(13, 24)]
    assert moves[:3] == pytest.approx([-3] * 3, abs=0.3)
    assert moves[3] == pytest.approx(-3, abs=0.8)  # the first new frame
    assert np.abs(np.diff(moves)).max() < 0.8  # and no jump later: it eases out
    steps = np.abs(np.diff(frames[16:].astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert steps.min() > 0.2


def test_an_extension_can_end_on_a_picture_and_start_from_one_frame() -> None:
    prefix, end = a_pan(0, frames=1), a_picture(9)
    task = a_task(Inputs(prefix=prefix, end_image=end), prompt="", num_frames=20)
    frames = render(task)
    assert (frames[0] == prefix[0]).all()
    assert not (frames[1] == prefix[0]).all()
    assert (frames[task.plan.prefix_frames + task.plan.num_frames - 1] == end).all()


def test_hold_and_cancel_stop_at_the_step(held: SyntheticEngine) -> None:
    reports: list[Report] = []
    cancelled = threading.Event()
    ended: list[BaseException] = []

    def report(report: Report) -> None:
        if cancelled.is_set():
            raise JobCancelled
        reports.append(report)

    def work() -> None:
        try:
            list(held.render(a_task(), report))
        except JobCancelled as error:
            ended.append(error)

    held.hold_at(step=3)
    thread = threading.Thread(target=work)
    thread.start()
    assert held.reached.wait(timeout=60)
    assert [r.step for r in reports] == [1, 2]
    cancelled.set()
    held.release()
    thread.join(timeout=100)
    assert ended
    assert len(reports) == 2


def test_a_hold_waits_once_and_the_render_goes_on(held: SyntheticEngine) -> None:
    held.hold_at(step=2)
    frames: list[Frames] = []
    thread = threading.Thread(target=lambda: frames.append(render(a_task(), held)))
    thread.start()
    assert held.reached.wait(timeout=60)
    assert not frames
    held.release()
    thread.join(timeout=100)
    assert (frames[0] == render(a_task())).all()


@pytest.mark.parametrize("failure", [NotEnoughMemory("51 GB are needed, 22 GB are free;"), ValueError("a bug")])
def test_a_fault_is_raised_at_its_step_and_the_next_render_is_whole(failure: Exception) -> None:
    engine = SyntheticEngine(Faults(raise_at={4: failure}))
    reports: list[Report] = []
    with pytest.raises(type(failure)) as caught:
        list(engine.render(a_task(), reports.append))
    assert caught.value is failure
    assert [r.step for r in reports] == [1, 2, 3]
    engine.faults = Faults()
    assert (render(a_task(), engine) == render(a_task())).all()


@pytest.mark.parametrize("extra", [-4, 3])
def test_a_wrong_frame_count_can_be_asked_for(extra: int) -> None:
    task = a_task()
    assert len(render(task, SyntheticEngine(Faults(extra_frames=extra)))) == task.plan.render_frames + extra


def test_slow_steps_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("backend.synthetic.time.sleep", slept.append)
    render(a_task(num_inference_steps=10), SyntheticEngine(Faults(seconds_per_step=0.5)))
    assert slept == [0.5] * 10


def test_the_process_can_die_at_a_step() -> None:
    code = """
from backend.synthetic import Faults, SyntheticEngine
from tests.test_synthetic import a_task
for chunk in SyntheticEngine(Faults(exit_at=12, exit_code=41)).render(a_task(), lambda report: None):
    print(len(chunk), flush=True)
print("survived")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 41, done.stderr
    assert done.stdout.split() == ["8"]


def test_importing_the_engine_imports_neither_torch_nor_opencv() -> None:
    code = "import sys, backend.synthetic; print([m for m in ('torch', 'cv2', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
