"""SkyReelsEngine on tiny random checkpoints: every mode, every way in which a render can end."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import time
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from backend.core.config import ROOT
from backend.core.errors import JobCancelled, ModelUnavailable, NotEnoughMemory, RenderFailed
from backend.core.placement import Need, Placement
from backend.core.plan import Machine, Source, Stage
from backend.core.planning import make_plan
from backend.core.registry import TINY
from backend.core.schema import parse_request
from backend.diffusion.compiled import should_compile
from backend.diffusion.model_cache import ModelCache, _not_enough_memory, _place
from backend.diffusion.render import configure_torch
from backend.diffusion.sampler import Sampler
from backend.engine import Inputs, Task
from backend.library.checkpoints import find_checkpoints
from backend.skyreels_integration import SkyReelsEngine
from tests.tiny_checkpoints import KINDS, build_checkpoint

PICTURE = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
CLIP = np.random.default_rng(2).integers(0, 256, (40, 64, 96, 3), dtype=np.uint8)
UPLOAD = "0" * 20


def test_a_container_with_a_share_of_the_cores_gets_no_more_threads(monkeypatch):
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(8)
        monkeypatch.setattr("backend.system.monitoring.usable_cores", lambda: 3)
        configure_torch()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    for kind in KINDS:
        build_checkpoint(root / kind, kind)
    patches = {"dim_mult": [1, 1, 1], "temperal_downsample": [True, True], "patch_size": 2}
    build_checkpoint(root / "patches", "df", **patches, in_channels=12, out_channels=12)
    return root


@pytest.fixture(scope="module")
def engine() -> SkyReelsEngine:
    return SkyReelsEngine()


def make_task(folder: Path, kind: str, mode: str = "text_to_video", end: bool = False, **wishes) -> Task:
    """A task for the checkpoint of that name, 96x64 and 10 steps."""
    (checkpoint,) = (c for c in find_checkpoints([folder]) if c.folder.name == kind)
    source = Source(96, 64, len(CLIP), 24.0) if mode == "video_extension" else None
    needs = {"image_to_video": {"image": UPLOAD}, "video_extension": {"video": UPLOAD}}.get(mode, {})
    needs |= {"end_image": UPLOAD} if end else {}
    defaults = {"prompt": "A boat", "resolution": "96x64", "num_inference_steps": 10, "num_frames": 17, "seed": 7}
    request = parse_request(defaults | needs | {"mode": mode} | wishes)
    plan = make_plan(request, checkpoint.spec, Machine("CPU, 2 cores", 2, 8.0), source)
    inputs = Inputs(
        image=PICTURE if mode == "image_to_video" else None,
        end_image=PICTURE[::-1] if end else None,
        prefix=CLIP[-plan.prefix_frames :] if source else None,
    )
    return Task(request, plan, inputs, checkpoint.folder)


@pytest.fixture
def task(folder):
    return functools.partial(make_task, folder)


class Reports(list):
    """A reporter that remembers; raises JobCancelled at the first report that `cancel_at` holds for."""

    def __init__(self, cancel_at=lambda report: False) -> None:
        self.cancel_at = cancel_at

    def __call__(self, report) -> None:
        self.append(report)
        if self.cancel_at(report):
            raise JobCancelled


def render(engine, task, report=None) -> np.ndarray:
    return np.concatenate(list(engine.render(task, Reports() if report is None else report)))


@pytest.mark.parametrize(
    ("kind", "mode", "wishes"),
    [
        ("df", "text_to_video", {}),
        ("df", "text_to_video", {"num_frames": 38, "skyreels": {"base_num_frames": 17, "overlap_history": 5}}),
        ("df", "text_to_video", {"num_frames": 38, "skyreels": {"ar_step": 2, "causal_block_size": 2}}),
        ("df", "text_to_video", {"skyreels": {"fidelity": "diffusers"}}),
        ("df", "image_to_video", {}),
        ("df", "image_to_video", {"num_frames": 20, "end": True}),
        ("df", "image_to_video", {"skyreels": {"ar_step": 2, "causal_block_size": 1}}),
        ("df", "text_to_video", {"num_frames": 38, "skyreels": {"causal_attention": True, "batch_guidance": True}}),
        ("df", "video_extension", {"num_frames": 20}),
        ("df", "video_extension", {"num_frames": 40, "end": True, "skyreels": {"base_num_frames": 33}}),
        ("patches", "image_to_video", {}),
        ("t2v", "text_to_video", {"guidance_scale": 1}),
        ("i2v", "image_to_video", {"num_frames": 18}),
    ],
)
def test_every_mode_makes_the_planned_frames_in_the_planned_steps(engine, task, kind, mode, wishes):
    job, reports = task(kind, mode, **wishes), Reports()
    frames = render(engine, job, reports)
    steps = {report.window: report.step for report in reports if report.stage is Stage.DENOISING}
    assert tuple(steps.values()) == job.plan.window_steps
    assert frames.dtype == np.uint8
    assert frames.shape == (job.plan.render_frames, 64, 96, 3)
    assert frames.std() > 5


@pytest.mark.parametrize(("fidelity", "kernels"), [("original", "optimized"), ("diffusers", "stock")])
def test_a_render_says_once_by_what_it_is_made(engine, task, fidelity, kernels):
    reports = []
    render(engine, task("df", skyreels={"fidelity": fidelity}), reports.append)
    (runtime,) = [report.runtime for report in reports if report.runtime is not None]
    assert runtime == {
        "device": "CPU",
        "precision": "float32",
        "matrices": "float32",
        "decoding": "float32",
        "attention": "native",
        "kernels": kernels,
        "placement": "resident",
    }


@pytest.fixture
def compiler(monkeypatch):
    """One that takes no time, and whose blocks are the same."""
    import torch

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **how: real(run, **how | {"backend": "eager"}))
    yield
    torch.compiler.reset()


def test_compiled_blocks_make_the_same_film_and_are_made_ready_while_it_loads(engine, task, monkeypatch, compiler):
    forwards = []
    job, reports = task("df"), Reports()
    wanted = render(engine, job).astype(int)
    fast = SkyReelsEngine(compile_blocks=True)
    with monkeypatch.context() as patch:
        original = Sampler.warm_up
        patch.setattr(Sampler, "warm_up", lambda sampler: (forwards.append(reports[-1].stage), original(sampler))[1])
        frames = render(fast, job, reports)
    assert abs(frames - wanted).max() <= 1
    assert forwards == [Stage.LOADING]
    assert [report.runtime["kernels"] for report in reports if report.runtime] == ["compiled"]
    stock, reports = task("df", skyreels={"fidelity": "diffusers"}), Reports()
    render(fast, stock, reports)
    assert [report.runtime["kernels"] for report in reports if report.runtime] == ["stock"]


def test_a_compiled_film_goes_on_from_any_step(task, tmp_path, compiler):
    """From the last one, too, after which nothing is asked any more in the window."""
    job = replace(task("df", **LONG), work=tmp_path)
    fast = functools.partial(SkyReelsEngine, save_every_s=0.0, compile_blocks=True)
    whole = render(fast(), replace(job, work=None))
    with pytest.raises(JobCancelled):
        render(fast(), job, Reports(lambda report: report.stage is Stage.DECODING))
    assert np.array_equal(render(fast(), job), whole)


def test_without_a_compiler_a_film_is_made_as_it_is(engine, task, monkeypatch):
    import torch

    def broken(graph, inputs):
        raise RuntimeError("there is no compiler on this machine")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **how: real(run, **how | {"backend": broken}))
    reports = Reports()
    frames = render(SkyReelsEngine(compile_blocks=True), task("df"), reports).astype(int)
    assert abs(frames - render(engine, task("df"))).max() <= 1
    assert [report.runtime["kernels"] for report in reports if report.runtime] == ["stock"]
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("setting", "seconds", "placement", "expected"),
    [
        (None, 100.0, Placement.RESIDENT, "a benchmark"),
        (None, (10.0, 100.0), Placement.RESIDENT, "a benchmark"),  # a short draft of a long video
        (None, 100.0, Placement.MODEL_OFFLOAD, "a benchmark"),
        (None, 100.0, Placement.GROUP_OFFLOAD, "no"),
        (None, 10.0, Placement.RESIDENT, "no"),
        (False, 100.0, Placement.RESIDENT, "no"),
        (True, 10.0, Placement.RESIDENT, "yes"),
    ],
)
def test_on_a_gpu_a_benchmark_decides_for_long_renders(task, monkeypatch, setting, seconds, placement, expected):
    import torch

    job, tried = task("df"), []
    components = SimpleNamespace(
        placement=placement,
        device=torch.device("cuda", 0),
        on_device=lambda model: contextlib.nullcontext(),
        transformers=["the transformer"],
    )
    sampler = SimpleNamespace(components=components, expert="the transformer", warm_up=lambda: None)
    calls = "the plain block", "the compiled one"
    monkeypatch.setattr("backend.diffusion.compiled.first_block", lambda *_: calls)
    monkeypatch.setattr("backend.diffusion.compiled.is_faster", lambda file, parts, *two: tried.append(two) or True)
    monkeypatch.setattr("backend.diffusion.compiled.can_compile", lambda fast: fast == calls[1])
    own_s, whole_s = seconds if isinstance(seconds, tuple) else (seconds, None)
    forecast = replace(job.plan.forecast, guess={Stage.DENOISING: own_s}, whole_guess_s=whole_s)
    plan = replace(job.plan, forecast=forecast)
    assert should_compile(setting, plan, sampler, None) is (expected != "no")
    assert tried == ([calls] if expected == "a benchmark" else [])


def test_the_seed_alone_decides(engine, task):
    import torch

    job = task("df", skyreels={"base_num_frames": 17, "overlap_history": 5, "addnoise_condition": 20}, num_frames=29)
    first = render(engine, job)
    torch.manual_seed(123)
    assert np.array_equal(first, render(SkyReelsEngine(), job))
    other = replace(job, request=job.request.model_copy(update={"seed": 8}))
    assert not np.array_equal(first, render(engine, other))


def test_the_negative_prompt_is_heard(engine, task):
    job = task("df", negative_prompt="blurry")
    assert not np.array_equal(render(engine, job), render(engine, task("df")))


def test_progress_goes_up_window_by_window(task):
    job, reports = task("df", num_frames=29, skyreels={"base_num_frames": 17, "overlap_history": 5}), Reports()
    render(SkyReelsEngine(), job, reports)
    stages = [report.stage for report in reports]
    loading, denoising, decoding = Stage.LOADING, Stage.DENOISING, Stage.DECODING
    turns = [stage for stage, _ in itertools.groupby(stages)]
    assert turns == [loading, denoising, decoding, denoising, decoding]
    for stage in set(stages):
        parts = [report.part for report in reports if report.stage is stage]
        assert parts == sorted(parts)
        assert parts[0] >= 0
        assert parts[-1] <= 1
    steps = list(dict.fromkeys((r.window, r.step) for r in reports if r.stage is denoising))
    assert steps == [(window, step) for window in (1, 2) for step in range(1, 11)]
    assert reports[-1].part == 1.0
    # A report before each step, one before each of the 2 blocks of its 2 forwards, and one at the end of the window.
    assert stages.count(denoising) == 2 * (10 * (1 + 2 * 2) + 1)


LONG = {"num_frames": 38, "skyreels": {"base_num_frames": 17, "overlap_history": 5}}
BLOCKS = {"num_frames": 38, "skyreels": {"ar_step": 2, "causal_block_size": 2}}


@pytest.mark.parametrize("wishes", [LONG, BLOCKS, LONG | {"end": True, "mode": "image_to_video"}])
@pytest.mark.parametrize("cut", [1, 4, 11, 12, 19])
def test_a_cancelled_render_goes_on_from_its_last_step(task, tmp_path, wishes, cut):
    job = replace(task("df", **wishes), work=tmp_path)
    whole = render(SkyReelsEngine(), replace(job, work=None))
    steps = []

    def counted(report):
        if report.stage is Stage.DENOISING and (report.window, report.step) not in steps:
            steps.append((report.window, report.step))
        return len(steps) == cut

    reports, frames = Reports(counted), []
    with pytest.raises(JobCancelled):
        frames.extend(SkyReelsEngine().render(job, reports))
    done = sum(len(chunk) for chunk in frames)
    ends = [0, *(stop for _, stop in job.plan.segments)]
    begin = max(end for end in ends if end <= done)  # what the runner keeps
    reports = Reports()
    rest = render(SkyReelsEngine(), replace(job, first_frame=begin), reports)
    assert np.array_equal(rest, whole[begin:])
    # A step that is done has a report of its own and one before each of the 2 blocks of its 2 forwards.
    denoised = Counter((r.window, r.step) for r in reports if r.stage is Stage.DENOISING)
    assert min(step for step, reported in denoised.items() if reported >= 5) == steps[-1]


def test_a_killed_render_has_saved_after_every_step_if_wanted(task, tmp_path):
    from backend.diffusion.snapshot import read_snapshot

    job = replace(task("df"), work=tmp_path)

    class Killed(BaseException):
        pass

    def kill(report):
        if report.step == 6:
            raise Killed

    for every_s, step in ((3600.0, None), (0.0, 5)):
        with pytest.raises(Killed):
            render(SkyReelsEngine(save_every_s=every_s), job, kill)
        state = read_snapshot(tmp_path)
        assert (state and state.metadata["step"]) == step


def test_what_cannot_be_gone_on_from_is_left_and_the_render_begins_anew(task, tmp_path):
    job = replace(task("df"), work=tmp_path)
    whole = render(SkyReelsEngine(), replace(job, work=None))
    with pytest.raises(JobCancelled):
        render(SkyReelsEngine(), job, Reports(lambda report: report.step == 5))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1000])
    reports = Reports()
    assert np.array_equal(render(SkyReelsEngine(), job, reports), whole)
    assert next(r.step for r in reports if r.stage is Stage.DENOISING) == 1


def test_the_report_says_when_it_was_saved(task, tmp_path):
    reports = Reports()
    render(SkyReelsEngine(save_every_s=0.0), replace(task("df"), work=tmp_path), reports)
    saved = [r.saved_at for r in reports if r.stage is Stage.DENOISING]
    assert saved[0] is None
    assert saved[-1] is not None
    assert abs(saved[-1] - time.time()) < 60


@pytest.fixture(scope="module")
def whole(engine, folder) -> np.ndarray:
    """The frames of the render that the test below cancels."""
    return render(engine, make_task(folder, "df", "image_to_video", end=True))


@pytest.mark.parametrize(
    "moment",
    [
        lambda r: r.stage is Stage.LOADING,
        lambda r: r.stage is Stage.LOADING and 0.3 < r.part < 0.9,
        lambda r: r.stage is Stage.DENOISING,
        lambda r: r.step == 5,
        lambda r: r.stage is Stage.DECODING,
        lambda r: r.stage is Stage.DECODING and r.part > 0.5,
    ],
)
def test_a_cancelled_render_stops_there_and_the_next_one_is_whole(task, whole, moment):
    engine, job = SkyReelsEngine(), task("df", "image_to_video", end=True)
    reports = Reports(moment)
    with pytest.raises(JobCancelled):
        render(engine, job, reports)
    assert moment(reports[-1])
    assert not any(moment(report) for report in reports[:-1])
    assert np.array_equal(render(engine, job), whole)


def test_prompts_that_were_drawn_before_need_no_text_encoder(task, tmp_path):
    """After a restart too: the encoder, most of what is read of a checkpoint, stays on the disk."""
    job = task("df", num_frames=41, skyreels={"storyboard": ["a bird"], "base_num_frames": 17, "overlap_history": 5})
    first = render(SkyReelsEngine(cache=tmp_path), job)
    again = SkyReelsEngine(cache=tmp_path)
    assert np.array_equal(render(again, job), first)
    assert again.renderer.models.components.text_encoder is None
    assert np.array_equal(
        render(again, task("df", prompt="A fish")), render(SkyReelsEngine(), task("df", prompt="A fish"))
    )
    assert again.renderer.models.components.text_encoder is not None
    assert np.array_equal(render(again, job), first)


def test_a_cancel_takes_effect_inside_a_step(engine, task):
    job, blocks = task("df"), []

    def third_block(report):
        blocks.extend([1] if report.step == 4 else [])
        return len(blocks) == 4

    reports = Reports(third_block)
    with pytest.raises(JobCancelled):
        render(engine, job, reports)
    assert reports[-1].step == 4


def test_a_stream_that_nobody_reads_on_leaves_nothing(engine, task):
    stream = engine.render(task("df"), Reports())
    next(stream)
    stream.close()
    blocks = engine.renderer.models.components.transformer.blocks
    assert not any(block._forward_pre_hooks for block in blocks)


def test_a_checkpoint_stays_loaded_until_another_is_wanted(task):
    engine = SkyReelsEngine()
    render(engine, task("df"))
    first = engine.renderer.models.components
    reports = Reports()
    render(engine, task("df"), reports)
    assert engine.renderer.models.components is first
    kept = weakref.ref(first.transformer)
    del first
    render(engine, task("t2v"))
    gc.collect()
    assert kept() is None
    kept = weakref.ref(engine.renderer.models.components.transformer)
    engine.unload()
    gc.collect()
    assert kept() is None


def test_a_missing_checkpoint_is_said(task, tmp_path):
    for where, name in ((None, "none"), (tmp_path / "gone", "gone")):
        with pytest.raises(ModelUnavailable, match=f"{name}, is not on the disk; download the model again"):
            render(SkyReelsEngine(), replace(task("df"), checkpoint=where))


def test_a_damaged_checkpoint_is_said_and_another_still_renders(engine, task, tmp_path):
    folder = build_checkpoint(tmp_path / "damaged", "df")
    (folder / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelUnavailable, match="vae of the checkpoint damaged"):
        render(engine, replace(task("df"), checkpoint=folder))
    assert len(render(engine, task("df"))) == 17


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("text_encoder", "is free; close other programs"),
        ("transformer", "Denoising 17 frames of 96x64 .* lower resolution or num_frames"),
        ("vae.decoder", "Decoding frames of 96x64 .* lower resolution"),
    ],
)
def test_a_lack_of_memory_names_the_setting_and_lets_go(task, module, words):
    import torch

    engine, job = SkyReelsEngine(), task("df")
    render(engine, job)
    name, _, sub = module.partition(".")
    part = getattr(engine.renderer.models.components, name)
    kept = weakref.ref(engine.renderer.models.components.transformer)

    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    part.get_submodule(sub).register_forward_pre_hook(too_much)
    del part
    with pytest.raises(NotEnoughMemory, match=words) as caught:
        render(engine, job)
    gc.collect()
    assert kept() is None, "the error keeps the failed render alive"
    assert caught.value.field in ("model", "resolution")
    assert len(render(engine, job)) == 17


def test_a_long_film_that_does_not_fit_names_the_window(engine, task, monkeypatch):
    def too_much(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("backend.diffusion.sampler.Sampler.step", too_much)
    job = task("df", num_frames=38, skyreels={"base_num_frames": 17, "overlap_history": 5})
    with pytest.raises(NotEnoughMemory, match=r"Denoising 17 frames .* skyreels.base_num_frames"):
        render(engine, job)


def test_other_errors_are_not_dressed_up(engine, task, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("backend.diffusion.sampler.Sampler.step", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        render(engine, task("df"))


def test_numbers_astray_fail_the_render(task):
    import torch

    engine, job = SkyReelsEngine(), task("df")
    render(engine, job)
    with torch.no_grad():
        engine.renderer.models.components.transformer.proj_out.bias.fill_(float("nan"))
    with pytest.raises(RenderFailed, match="Step 1 of window 1 gave values that are not numbers"):
        render(engine, job)


def test_the_libraries_are_outside_the_collectors_rounds(engine, task):
    render(engine, task("df"))
    assert gc.get_freeze_count() > 100_000


class OnGpu:
    """Components of a render that needs 10 GiB, on a GPU that has as much as `free`."""

    def __init__(self) -> None:
        import torch

        self.device = torch.device("cuda", 0)
        self.placements: list[Placement] = []
        self.placement = None

    def need(self, plan):
        return Need(text=4, transformer=3, vae=1, denoise=1, decode=2, half_decode=1)

    def apply_offload(self, placement):
        self.placement = placement
        self.placements.append(placement)

    def set_half_decode(self, half):
        self.half = half


@pytest.fixture
def gpu(monkeypatch):
    import torch

    free = [0.0]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0] * 2**30 - 4 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * 2**30)
    return free


def test_models_lie_where_they_fit_into_what_is_free(task, gpu):
    plan, parts = task("df").plan, OnGpu()
    for free in (12, 10, 3):
        gpu[0] = free
        _place(parts, plan, None)
    assert parts.placements == [Placement.RESIDENT, Placement.MODEL_OFFLOAD, Placement.GROUP_OFFLOAD]
    gpu[0] = 12
    _place(parts, plan, None, loras_gib=2.0)  # which lie there already
    assert parts.placements[-1] is Placement.MODEL_OFFLOAD
    _place(parts, replace(plan, half_decode=True), None)
    assert parts.half


def test_after_a_lack_of_memory_the_next_attempt_keeps_less_on_the_gpu(task, gpu):
    models, plan = ModelCache(None), task("df").plan
    gpu[0] = 80
    said = []
    for _ in range(3):
        models.components = OnGpu()
        _place(models.components, plan, models._safer_than(plan))
        said.append((models.components.placement, models._note_out_of_memory(plan)))
    assert said == [(Placement.RESIDENT, True), (Placement.MODEL_OFFLOAD, True), (Placement.GROUP_OFFLOAD, False)]
    smaller = replace(plan, forecast=replace(plan.forecast, peak_gib=plan.forecast.peak_gib / 2))
    assert models._safer_than(smaller) is None
    assert models._safer_than(replace(plan, model="another")) is None
    assert "try again, which keeps fewer models" in str(_not_enough_memory(plan, Stage.DENOISING, safer=True))
    assert "try again" not in str(_not_enough_memory(plan, Stage.DENOISING, safer=False))


@pytest.mark.parametrize("kind", ["df", "wan-t2v-experts"])
def test_fp8_layers_make_nearly_the_same_clip_wherever_they_lie(tmp_path, kind):
    build_checkpoint(tmp_path / "wide", kind, {"attention_head_dim": 24})
    engine, job = SkyReelsEngine(), make_task(tmp_path, "wide")
    eight, reports = replace(job, plan=replace(job.plan, fp8=True)), Reports()
    wanted = render(engine, job).astype(int)
    another_seed = abs(render(engine, make_task(tmp_path, "wide", seed=8)) - wanted).mean()
    found = render(engine, eight, reports)
    assert engine.renderer.models.components.fp8
    assert [report.runtime["matrices"] for report in reports if report.runtime] == ["float8"]
    assert 0 < abs(found - wanted).mean() < another_seed / 2  # how far they are depends on the processor's rounding
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "backend.diffusion.model_cache._place", lambda parts, *_: parts.apply_offload(Placement.GROUP_OFFLOAD)
        )
        assert np.array_equal(render(engine, eight), found)
    assert np.array_equal(render(engine, eight), found)
    assert np.array_equal(render(engine, job), wanted)  # the weights are read again


@pytest.mark.parametrize("kind", ["df", "t2v"])
@pytest.mark.parametrize(
    ("placement", "offloaded"),
    [(Placement.GROUP_OFFLOAD, ["transformer", "text_encoder"]), (Placement.MODEL_OFFLOAD, ["text_encoder"])],
)
def test_group_offloaded_models_make_the_same_clip(engine, task, kind, placement, offloaded):
    wanted = render(engine, task(kind))
    parts = engine.renderer.models.components
    hooks = [name for name, module in parts.transformer.named_modules() if hasattr(module, "_diffusers_hook")]
    assert hooks == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.diffusion.model_cache._place", lambda parts, *_: parts.apply_offload(placement))
        assert np.array_equal(render(engine, task(kind)), wanted)
    assert [name for name in ("transformer", "text_encoder") if hooks_of(getattr(parts, name))] == offloaded
    assert np.array_equal(render(engine, task(kind)), wanted)
    assert not any(hooks_of(part) for part in (parts.transformer, parts.text_encoder))


def hooks_of(model) -> list[str]:
    registries = (getattr(module, "_diffusers_hook", None) for module in model.modules())
    return [name for registry in registries if registry is not None for name in registry.hooks]


@pytest.mark.parametrize("placement", [Placement.GROUP_OFFLOAD, Placement.MODEL_OFFLOAD])
def test_a_text_encoder_that_is_loaded_later_is_offloaded_as_well(task, tmp_path, monkeypatch, placement):
    wanted = render(SkyReelsEngine(), task("df", prompt="A fish"))
    render(SkyReelsEngine(cache=tmp_path), task("df"))
    monkeypatch.setattr("backend.diffusion.model_cache._place", lambda parts, *_: parts.apply_offload(placement))
    engine = SkyReelsEngine(cache=tmp_path)
    render(engine, task("df"))
    assert engine.renderer.models.components.text_encoder is None
    assert np.array_equal(render(engine, task("df", prompt="A fish")), wanted)
    assert hooks_of(engine.renderer.models.components.text_encoder)
    monkeypatch.undo()
    assert np.array_equal(render(engine, task("df", prompt="A fish")), wanted)
    assert not hooks_of(engine.renderer.models.components.text_encoder)


@pytest.mark.parametrize("half", [False, True])
def test_what_decodes_is_on_the_working_device_while_it_does(engine, task, monkeypatch, half):
    from backend.diffusion.components import Components

    on_device, there = Components.on_device, []

    @contextlib.contextmanager
    def watched(components, model):
        there.append(model)
        with on_device(components, model):
            yield
        there.pop()

    def place(components, plan, *_):
        components.apply_offload(Placement.RESIDENT)
        components.set_half_decode(half)
        decode = components.decoder.decoder.forward
        monkeypatch.setattr(
            components.decoder.decoder,
            "forward",
            lambda *args, **kwargs: (decoded.append(there[-1] is components.decoder), decode(*args, **kwargs))[1],
        )

    decoded: list[bool] = []
    monkeypatch.setattr("backend.diffusion.model_cache._place", place)
    monkeypatch.setattr(Components, "on_device", watched)
    render(SkyReelsEngine(), task("df"))
    assert decoded
    assert all(decoded)


def test_without_memory_for_a_trial_the_film_is_made_as_it_is(task, monkeypatch, compiler):
    import torch

    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("backend.diffusion.compiled.can_compile", no_memory)
    reports = Reports()
    assert len(render(SkyReelsEngine(compile_blocks=True), task("df"), reports)) == 17
    assert [report.runtime["kernels"] for report in reports if report.runtime] == ["stock"]


def test_a_film_decoded_in_half_precision_looks_the_same():
    import torch
    from diffusers import AutoencoderKLWan

    from backend.diffusion.components import Components
    from backend.diffusion.decode import CausalDecoder

    vae = AutoencoderKLWan.from_pretrained(ROOT / "models" / TINY.id / "vae", local_files_only=True).float()
    parts = Components(ROOT, torch.device("cpu"), True, True, None, None, None, vae, {})
    latents = torch.randn(1, 32, 3, 12, 20, generator=torch.Generator().manual_seed(0))

    def decoded():
        return torch.cat(list(CausalDecoder(parts.decoder).decode(latents)), dim=2)

    wanted = decoded()
    parts.set_half_decode(True)
    error = (decoded() - wanted).square().mean()
    assert 0 < error < 4e-4  # 40 dB, of -1 to 1
    parts.set_half_decode(False)
    assert torch.equal(decoded(), wanted)
