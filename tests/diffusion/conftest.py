"""Tiny random checkpoints, loaded as released ones are, and plans for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.core.plan import Machine, Plan, Source
from backend.core.planning import make_plan
from backend.core.schema import parse_request
from backend.library.checkpoints import find_checkpoints
from tests.tiny_checkpoints import KINDS, WAN_KINDS, build_checkpoint

SEED = 7
NEGATIVE = "blurry"
REQUEST = parse_request({"prompt": "A boat", "negative_prompt": NEGATIVE, "seed": SEED})
MACHINE = Machine(device="CPU, 2 cores", cores=2, ram_gib=8.0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """See there."""


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Folders by kind: df, t2v, i2v and those of Wan."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: build_checkpoint(root / f"random-{kind}", kind) for kind in KINDS + WAN_KINDS}


@pytest.fixture(scope="session")
def components(checkpoints) -> dict[str, Any]:
    """The checkpoints' components by kind, on the CPU."""
    import torch

    from backend.diffusion.components import load_components

    return {
        kind: load_components(folder, torch.device("cpu"), lambda part: None) for kind, folder in checkpoints.items()
    }


class Clock:
    """The clock that benchmarks of kernels and compiled blocks read, so that no machine is too slow for their tests."""

    now = 0.0
    slow_until = 0.0  # everything takes ten times as long before

    def taking(self, seconds: float, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, which takes that long."""

        def call(*args: Any) -> Any:
            self.now += seconds * (10 if self.now < self.slow_until else 1)
            return run(*args)

        return call


@pytest.fixture
def clock(monkeypatch) -> Clock:
    from backend.diffusion import autotune

    found = Clock()
    monkeypatch.setattr(autotune, "perf_counter", lambda: found.now)
    return found


def in_dtype(parts: Any, dtype: Any) -> Any:
    """Components whose transformer is loaded anew in `dtype`; None leaves all as they are."""
    if dtype is None:
        return parts
    folder = parts.transformer.config._name_or_path
    loaded = type(parts.transformer).from_pretrained(folder, dtype=dtype, local_files_only=True)
    return replace(parts, transformer=loaded.eval().requires_grad_(False))


@pytest.fixture(scope="session")
def plan_for(checkpoints) -> Callable[..., Plan]:
    """`plan_for("df", num_frames=29, skyreels={...}, source_frames=40)`: the studio's own plan, 64x64 and 10 steps."""
    specs = {c.folder.name: c.spec for c in find_checkpoints([next(iter(checkpoints.values())).parent])}

    def plan(kind: str, source_frames: int = 0, **wishes: Any) -> Plan:
        upload = "0" * 20
        if source_frames:
            wishes |= {"mode": "video_extension", "video": upload}
        elif wishes.get("mode") == "image_to_video":
            wishes["image"] = upload
        if wishes.pop("end", False):
            wishes["end_image"] = upload
        defaults = {"prompt": "A boat", "resolution": "64x64", "num_inference_steps": 10, "num_frames": 17, "seed": 7}
        request = parse_request(defaults | wishes)
        source = Source(64, 64, source_frames, 24.0) if source_frames else None
        return make_plan(request, specs[f"random-{kind}"], MACHINE, source)

    return plan


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture
def last_picture() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture
def clip() -> np.ndarray:
    """17 frames."""
    return np.random.default_rng(3).integers(0, 256, (17, 64, 64, 3), dtype=np.uint8)


def to_the_end(decoder: Any, each_step: Callable[[], None] = lambda: None) -> list[np.ndarray]:
    """The frames that a decoder still gives, chunk by chunk; `each_step` is called after every step."""
    chunks = []
    while True:
        while not decoder.has_undecoded:
            decoder.sampler.step()
            each_step()
        chunks += list(decoder.frames())
        if decoder.sampler.finished:
            return chunks
        if decoder.sampler.window_done:
            decoder.next_window()


@pytest.fixture
def sample(components):
    """Our latents for a plan and its inputs, all windows joined."""

    import torch

    from backend.diffusion.conditions import encode_conditions
    from backend.diffusion.decode import StreamingDecoder
    from backend.diffusion.sampler import Sampler
    from backend.diffusion.text import encode_prompt
    from backend.engine import Inputs

    def run(kind, plan, image=None, end_image=None, prefix=None, seed=SEED, prompt="A boat", dtype=None):
        parts = in_dtype(components[kind], dtype)
        text = encode_prompt(parts, prompt, NEGATIVE if plan.guidance_scale > 1 else None)
        conditions = encode_conditions(parts, plan, Inputs(image, end_image, prefix))
        sampler = Sampler(parts, plan, REQUEST.model_copy(update={"seed": seed}), [text], conditions)
        windows = []

        def keep_window():
            if sampler.window_done:
                windows.append(sampler.latents[:, :, sampler.num_context_frames if windows else 0 : sampler.num_frames])

        to_the_end(StreamingDecoder(sampler), keep_window)
        return torch.cat(windows, dim=2)

    return run


@pytest.fixture
def stock(checkpoints):
    """A stock pipeline's latents for the same plan."""

    import torch

    def run(pipeline, kind, plan, seed=SEED, dtype=None, **inputs):
        dtypes = {} if dtype is None else {"dtype": {"transformer": dtype, "default": torch.float32}}
        pipe = pipeline.from_pretrained(checkpoints[kind], local_files_only=True, **dtypes)
        pipe.set_progress_bar_config(disable=True)
        if "DiffusionForcing" in pipeline.__name__:
            base = 4 * max(window.stop - window.start for window in plan.windows) - 3
            inputs |= {"base_num_frames": base, "addnoise_condition": plan.addnoise_condition, "fps": plan.fps}
            if plan.ar_step:
                inputs |= {"ar_step": plan.ar_step, "causal_block_size": plan.causal_block_size}
            if len(plan.windows) > 1 or plan.prefix_frames:
                inputs["overlap_history"] = plan.overlap_history
        return pipe(
            prompt="A boat",
            negative_prompt=NEGATIVE,
            height=plan.render_height,
            width=plan.render_width,
            num_frames=plan.render_frames,
            num_inference_steps=plan.num_inference_steps,
            guidance_scale=plan.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="latent",
            **inputs,
        ).frames

    return run
