"""The SyntheticEngine keeps the contract of `backend/engine.py`, and fails exactly when it is told to."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from backend.core.config import ROOT
from backend.core.errors import JobCancelled, NotEnoughMemory
from backend.core.plan import Machine, Source, Stage
from backend.core.planning import make_plan
from backend.core.registry import SYNTHETIC
from backend.core.schema import parse_request
from backend.engine import Inputs, Report, Reporter, Task
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


def written(frame: Picture) -> Picture:
    """The dark band at the lower edge that the words stand on."""
    return frame[-HEIGHT // 12 :]


def above(frames: Frames) -> Frames:
    """Frames without that band."""
    return frames[:, : -HEIGHT // 8]


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
    for change in ({"seed": 2}, {"prompt": "a red boat drifts left at sea!!"}):
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


def test_what_denoising_would_heed_leaves_the_picture_alone() -> None:
    wish = {"num_inference_steps": 50, "guidance_scale": 1, "negative_prompt": "mountains"}
    assert (render(a_task(**wish)) == render(a_task(num_inference_steps=10))).all()


@pytest.mark.parametrize("first", [5, 8, 23])
def test_a_later_attempt_gives_the_same_frames_from_where_it_begins(first: int) -> None:
    task = a_task()
    assert (render(replace(task, first_frame=first)) == render(task)[first:]).all()


def test_prompt_and_frame_number_are_written_and_nothing_else_changes_with_them() -> None:
    """Over one colour each, so that what differs is the words."""
    grey = Inputs(image=np.full((HEIGHT, WIDTH, 3), 200, np.uint8))
    one, other = render(a_task(grey, prompt="A boat")), render(a_task(grey, prompt="A car"))
    assert (above(one) == 200).all()
    assert (above(other) == 200).all()
    for frames in (one, other):
        assert written(frames[5]).max() > 200
        assert np.median(written(frames[5])) == 50
        assert len({written(frame).tobytes() for frame in frames}) == len(frames)
    assert (one[0] == other[0]).all()
    assert all((a != b).any() for a, b in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize(
    "prompt", ["boat " * 700, "船が海に浮かぶ", "Ein Böotchen\nim Schnee \u200d🚀", "\x00\x1b[31m", ""]
)
@pytest.mark.parametrize("size", ["64x64", "320x180", "512x1024"])
def test_any_prompt_can_be_written_at_any_size(prompt: str, size: str) -> None:
    image = np.full((64, 64, 3), 9, np.uint8) if not prompt else None
    size = size if image is None else "64x64"
    task = a_task(Inputs(image=image), prompt=prompt, resolution=size, num_frames=16)
    assert len(render(task)) == task.plan.render_frames


def test_accents_are_dropped_and_other_letters_are_question_marks() -> None:
    plain, accents = (render(a_task(Inputs(image=a_picture()), prompt=prompt)) for prompt in ("a boat", "à  bôat\n"))
    assert (plain == accents).all()
    unknown, marks = (render(a_task(Inputs(image=a_picture()), prompt=prompt)) for prompt in ("漢字", "??"))
    assert (unknown == marks).all()


def test_the_test_pattern_moves_all_the_time_and_goes_on_without_a_jump() -> None:
    steps = np.abs(np.diff(above(render(a_task(num_frames=180))).astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert steps.min() > 1
    assert steps.max() < 2 * steps.min()


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


def test_the_picture_is_the_first_frame_and_then_it_comes_closer() -> None:
    picture = a_picture()
    frames = render(a_task(Inputs(image=picture), num_frames=48))
    assert (frames[0] == picture).all()
    steps = np.abs(np.diff(above(frames).astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert steps.max() < 4  # slowly
    assert steps.min() > 0.3  # and it does not stand still
    for frame, zoom in ((frames[24], 1.04), (frames[47], 1.08)):
        small = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
        top, left = (small.shape[0] - HEIGHT) // 2, (small.shape[1] - WIDTH) // 2
        middle = small[top : top + HEIGHT, left : left + WIDTH].astype(int)
        near, far = (np.abs(above(np.stack([frame - other]))).mean() for other in (middle, picture.astype(int)))
        assert near < 0.3 * far


def test_no_black_borders_ever() -> None:
    bright = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    moving = np.stack([bright] * 17)
    for inputs in (Inputs(image=bright), Inputs(prefix=moving), Inputs(image=bright, end_image=bright)):
        assert above(render(a_task(inputs))).min() >= 199


def test_the_end_picture_is_the_last_delivered_frame() -> None:
    start, end = a_picture(1), a_picture(2)
    task = a_task(Inputs(image=start, end_image=end), prompt="", num_frames=30)
    frames = render(task)
    assert (frames[0] == start).all()
    assert (frames[task.plan.num_frames - 1 :] == end).all()
    steps = np.abs(np.diff(above(frames[: task.plan.num_frames]).astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert steps.max() < 0.25 * np.abs(start.astype(int) - end).mean()  # a passage, not a cut


def test_an_extension_repeats_the_prefix_and_goes_on_from_its_last_frame() -> None:
    prefix = np.stack([a_picture(seed) for seed in range(17)])
    task = a_task(Inputs(prefix=prefix), num_frames=48)
    frames = render(task)
    assert len(frames) == task.plan.render_frames
    assert (frames[:17] == prefix).all()
    steps = np.abs(np.diff(above(frames[16:]).astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert steps.max() < 4
    assert steps.min() > 0.2


def test_an_extension_can_end_on_a_picture_and_start_from_one_frame() -> None:
    prefix, end = a_picture(3)[None], a_picture(9)
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
