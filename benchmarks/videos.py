"""Whole videos on a GPU at the sizes of the released models, by every preset, beside stock pipelines and cache-dit.

    python -m benchmarks.videos [--within SECONDS] [--models 1.3b 14b] [--shapes a b c]
                                [--modes text sync async long] [--layers 4] [--steps N] [--again] [--small]

Random weights of the released shapes, written as a checkpoint, its text encoder but one layer deep. The studio makes
each video from submit to the published MP4; the stock pipelines of diffusers end with frames in memory: as they are,
with their blocks compiled, and with cache-dit (`peers.py`). "text" is text to video; "sync", "async" and "long" are
diffusion forcing with all frames at once, block after block, and in two windows. `turbo, LoRA` stands for a model
distilled to 4 steps without guidance. All in turns in one process, after a short video each that warms up; the studio
runs its blocks compiled.

A transformer of `--layers` blocks stands for the whole one, whose blocks are all alike: `whole_s` and `whole_gib` are
reckoned for its 30 or 40, and `--layers 0` runs all of them, to confirm that. Claims, of `whole_s` beside the stock
pipeline's, for 65 frames of 1280x720 (shape b): `exact` 1.4 times as fast for text to video, 1.5 times for diffusion
forcing and 2.5 times block after block; `balanced` 3.5 times; 14B in 4 steps within 30 s and 1.3B within 10 s; stages
beside denoising 5 percent of `exact`; `balanced` with 14B within 25 GB. Times do not depend on weights; what a video
looks like does, and nothing is said about that here (see `benchmarks.presets`).

The videos that say most come first, each result is written to results/videos.json when it is there, and with `--within`
none begins that would end later. The next run on the same machine with the same versions goes on from there. It takes
torch, diffusers, transformers, accelerate, numpy and pydantic: without PyAV, OpenCV or pydantic-settings the renderer
alone makes the video, up to frames in memory, and the result says so; without cache-dit its rows have that as their
result.

`--small` runs all of it in a minute or two on a CPU, to see that it runs, and keeps it in results/small.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel, UniPCMultistepScheduler
from safetensors.torch import save_file
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from backend.core.plan import Machine, Plan, Stage
from backend.core.planning import make_plan
from backend.core.schema import GenerationRequest, Preset, parse_request
from backend.core.units import GIB
from backend.diffusion.components import compute_device
from backend.engine import Inputs, Report, Task
from backend.library.checkpoints import Checkpoint, find_checkpoints
from backend.library.loras import Lora, inspect
from benchmarks.gpu import MODELS, build
from benchmarks.peers import POLICIES, cached, mask_of, stock_frames
from benchmarks.rows import Results, Row, add_flags, measure_and_record

LAYERS = {"1.3b": 30, "14b": 40, "tiny": 2}
SMALL = (2, 24, 96, 2)  # heads, head_dim, feed-forward width, blocks
SMALL_VAE = {"base_dim": 3, "num_res_blocks": 1}
SHAPES = {"a": ("960x544", 97), "b": ("1280x720", 65), "c": ("1280x720", 121), "tiny": ("96x64", 37)}
MODES = ("text", "sync", "async", "long")
OVERLAP = 17
BLOCK = 5  # latent frames, with as many steps between two blocks
PROMPT = "a boat"
PIPELINES = {"t2v": diffusers.SkyReelsV2Pipeline, "df": diffusers.SkyReelsV2DiffusionForcingPipeline}
LORA_RANK = 32
SHORT = 10  # steps of the video that warms up
MAIN_MEMORY_GIB = 64.0  # assumed for the plans of the renderer alone
STUDIO_PACKAGES = ("av", "cv2", "psutil", "pydantic_settings")
STOCK, DISTILLED = "stock", "turbo, LoRA"
OURS = (STOCK, "exact", "balanced", DISTILLED, "turbo")  # in the order of what they say
PEERS = ("stock, compiled", *(f"cache-dit, {policy}" for policy in POLICIES))
INNER = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ffn.net.2")


@dataclass(frozen=True)
class Case:
    """A video of one model, shape and mode."""

    model: str
    shape: str
    mode: str
    steps: int | None

    @property
    def name(self) -> str:
        return f"{self.model}, {self.mode}, {self.shape}"

    @property
    def kind(self) -> str:
        return "t2v" if self.mode == "text" else "df"

    @property
    def checkpoint(self) -> str:
        """The 14B's are named as the released ones, so that the studio takes them for these."""
        return f"skyreels-v2-{self.kind}-14b-720p" if self.model == "14b" else f"random-{self.kind}-{self.model}-720p"

    @property
    def lora(self) -> str:
        return f"distilled-{self.model}"

    def request(self, **more: Any) -> dict[str, Any]:
        resolution, frames = SHAPES[self.shape]
        options: dict[str, Any] = {}
        if self.mode == "async":
            options = {"ar_step": BLOCK, "causal_block_size": BLOCK}
        if self.mode == "long":
            options = {"base_num_frames": frames, "overlap_history": OVERLAP}
            frames = 2 * frames - OVERLAP
        fields = {"prompt": PROMPT, "model": self.checkpoint, "resolution": resolution, "num_frames": frames, "seed": 7}
        return fields | {"num_inference_steps": self.steps, "skyreels": options} | more


def write_checkpoint(folder: Path, kind: str, size: tuple[int, ...], vae: dict[str, int], device: torch.device) -> None:
    """Random weights of that size, in the layout of a released checkpoint."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\N{LOWER ONE EIGHTH BLOCK}", -2.0)]
    tokenizer = T5Tokenizer(vocab=letters + [(chr(code), -3.0) for code in range(33, 127)], extra_ids=0)
    text = UMT5Config(vocab_size=len(tokenizer), d_model=4096, d_kv=64, d_ff=64, num_layers=1, num_heads=1)
    torch.manual_seed(0)
    PIPELINES[kind](
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(text).to(dtype),
        transformer=build(SkyReelsV2Transformer3DModel, size, kind == "df", device, dtype),
        vae=AutoencoderKLWan(**vae),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0),
    ).save_pretrained(folder, safe_serialization=True)


def write_lora(file: Path, size: tuple[int, ...]) -> None:
    """Small random changes to the large matrices of every block."""
    heads, head_dim, ffn_dim, layers = size
    dim = heads * head_dim
    tensors = {}
    for block in range(layers):
        for inner in INNER:
            name = f"transformer.blocks.{block}.{inner}"
            wide = ffn_dim if inner.startswith("ffn") else dim
            tensors[f"{name}.lora_A.weight"] = 0.01 * torch.randn(LORA_RANK, wide, dtype=torch.bfloat16)
            tensors[f"{name}.lora_B.weight"] = 0.01 * torch.randn(dim, LORA_RANK, dtype=torch.bfloat16)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """The most that torch holds on the GPU while open, in GiB; nothing is counted on a CPU."""
    found: dict[str, float] = {}
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated(device) / GIB


class Studio:
    """Makes videos as the studio does, from submit to the published MP4."""

    made_by = "studio"

    def __init__(self, folder: Path, compile_blocks: bool) -> None:
        from backend.core.config import Settings
        from backend.video_generator import VideoGenerator

        settings = Settings(
            data=folder, shared_models=folder / "models", disk_reserve_bytes=0, compile_blocks=compile_blocks
        )
        self._generator = VideoGenerator(settings)
        self._generator.start()

    def plan(self, request: GenerationRequest) -> Plan:
        self._generator.catalog.forget()
        plan: Plan = self._generator.plan(request)
        return plan

    def make(self, request: GenerationRequest) -> Made:
        job = self._generator.wait(self._generator.submit(request).id)
        assert job.artifact is not None, job.error
        return Made(job.plan, job.artifact.stage_s, job.artifact.runtime)

    def unload(self) -> None:
        engine: Any = self._generator.engines["skyreels"]
        engine.unload()

    def close(self) -> None:
        self._generator.stop()


class BareRenderer:
    """Makes videos up to frames in memory, with no package of the studio but those of the renderer."""

    made_by = "renderer alone"

    def __init__(self, folder: Path, compile_blocks: bool) -> None:
        from backend.diffusion.render import Renderer

        self._models = folder / "models"
        self._renderer = Renderer(math.inf, folder / "cache", compile_blocks)
        torch.backends.cudnn.deterministic = True  # as in the studio

    def plan(self, request: GenerationRequest) -> Plan:
        device = compute_device()
        vram = torch.cuda.mem_get_info(device)[0] / GIB if device.type == "cuda" else 0.0
        machine = Machine(str(device), os.cpu_count() or 1, MAIN_MEMORY_GIB, vram)
        loras = {lora.name: lora.bytes for lora in self._loras(request)}
        return make_plan(request, self._checkpoint(request).spec, machine, loras=loras)

    def make(self, request: GenerationRequest) -> Made:
        plan, stage_s = self.plan(request), dict.fromkeys(Stage, 0.0)
        runtime: dict[str, str] = {}
        last = time.perf_counter()

        def report(one: Report) -> None:
            nonlocal last, runtime
            now = time.perf_counter()
            stage_s[one.stage] += now - last
            last, runtime = now, dict(one.runtime or runtime)

        folder = self._checkpoint(request).folder
        for _ in self._renderer.render(Task(request, plan, Inputs(), folder, loras=self._loras(request)), report):
            pass
        return Made(plan, stage_s, runtime)

    def unload(self) -> None:
        self._renderer.models.unload()

    def close(self) -> None:
        self.unload()

    def _checkpoint(self, request: GenerationRequest) -> Checkpoint:
        (found,) = (one for one in find_checkpoints([self._models]) if one.spec.id == request.model)
        return found

    def _loras(self, request: GenerationRequest) -> tuple[Lora, ...]:
        return tuple(inspect(self._models / "loras" / f"{use.name}.safetensors") for use in request.loras)


@dataclass(frozen=True)
class Made:
    """A video: its plan, the seconds of its stages, and on what it was made."""

    plan: Plan
    stage_s: Mapping[Stage, float]
    runtime: Mapping[str, str]


def new_maker(folder: Path, compile_blocks: bool) -> Studio | BareRenderer:
    """The studio, or the renderer alone where packages of the studio are not installed."""
    bare = not all(importlib.util.find_spec(name) for name in STUDIO_PACKAGES)
    return (BareRenderer if bare else Studio)(folder, compile_blocks)


def do_without_ftfy() -> None:
    """Let pipelines of diffusers take prompts as they are where ftfy, which mends characters, is not installed."""
    if importlib.util.find_spec("ftfy") is None:
        for pipeline in PIPELINES.values():
            vars(sys.modules[pipeline.__module__]).setdefault("ftfy", SimpleNamespace(fix_text=str))


def by_maker(maker: Studio | BareRenderer, params: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Seconds of a video, in its stages, and by what it was made."""
    began = time.perf_counter()
    steps = min(SHORT, params["num_inference_steps"] or SHORT)
    first = maker.make(parse_request(params | {"num_inference_steps": steps, "guidance_scale": 1}))
    warm_up_s = time.perf_counter() - began
    with peak_memory(device) as memory:
        began = time.perf_counter()
        made = maker.make(parse_request(params))
        total_s = time.perf_counter() - began
    return {
        "total_s": total_s,
        "denoising_s": made.stage_s[Stage.DENOISING],
        "loading_s": {"cold": first.stage_s[Stage.LOADING], "warm": made.stage_s[Stage.LOADING]},
        "first_video_s": warm_up_s,
        "forwards": made.plan.forwards,
        "runtime": made.runtime,
        **({} if isinstance(maker, Studio) else {"made_by": maker.made_by}),
    } | memory


def by_stock(pipe: Any, plan: Plan, device: torch.device, policy: str | None = None) -> dict[str, Any]:
    """Seconds of the stock pipeline's video up to frames in memory, and until its last step ended."""
    ends: list[float] = []

    def after_step() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ends.append(time.perf_counter())

    with peak_memory(device) as memory:
        began = time.perf_counter()
        stock_frames(pipe, plan, PROMPT, 7, after_step)
        total_s = time.perf_counter() - began
    steps = sum(mask_of(policy, plan.num_inference_steps)) if policy else len(ends)
    return {"total_s": total_s, "denoising_s": ends[-1] - began, "forwards": 2 * steps} | memory


def params_of(case: Case, way: str) -> dict[str, Any]:
    """The request of a way that is ours."""
    if way != DISTILLED:
        return case.request(preset=way)
    loras = [{"name": case.lora}]
    return case.request(preset=Preset.TURBO.value, num_inference_steps=4, guidance_scale=1, loras=loras)


def rows(cases: Sequence[Case]) -> list[Row]:
    """The rows of these cases, those that say most first: what the claims compare, then the other peers."""
    found: list[Row] = [(case.name, way) for case in cases for way in OURS]
    for way in PEERS:
        found += [(case.name, way) for case in cases if case.mode in ("text", "sync")]
    return found


def on_stock(way: str, folder: Path, kind: str, plan: Plan, device: torch.device) -> Any:
    """What was found, or why there is nothing."""
    kept, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, False  # as it is without the studio
    try:
        dtypes = {"default": torch.bfloat16, "vae": torch.float32} if device.type == "cuda" else torch.float32
        pipe = PIPELINES[kind].from_pretrained(folder, local_files_only=True, dtype=dtypes).to(device)
        pipe.set_progress_bar_config(disable=True)
        with contextlib.ExitStack() as ways:
            if way == "stock, compiled":
                torch.compiler.reset()
                backend = "inductor" if device.type == "cuda" else "eager"
                pipe.transformer.compile_repeated_blocks(fullgraph=True, backend=backend)
            policy = next((policy for policy in POLICIES if way == f"cache-dit, {policy}"), None)
            if policy:
                ways.enter_context(cached(pipe, policy, plan.num_inference_steps))
            else:  # cache-dit's mask is for all steps, and its kernels are those of the stock pipeline
                by_stock(pipe, replace(plan, num_inference_steps=SHORT, guidance_scale=1.0), device)
            return by_stock(pipe, plan, device, policy)
    except Exception as error:
        return str(error).strip().split("\n")[0][:200]
    finally:
        torch.backends.cudnn.deterministic = kept
        pipe = None
        gc.collect()


def reckoned(found: dict[str, Any], case: Case, layers: int, blocks_gib: float) -> dict[str, Any]:
    """With what the whole model would take, of whose blocks `layers` were there, each of `blocks_gib`."""
    of_all = LAYERS[case.model] / layers
    whole_s = found["total_s"] + (of_all - 1) * found["denoising_s"]
    rest = (found["total_s"] - found["denoising_s"]) / whole_s
    more = {"whole_s": round(whole_s, 3), "beside_denoising": round(rest, 4)}
    if "peak_gib" in found:
        fp8 = found.get("runtime", {}).get("matrices", "").startswith("float8")
        missing = (LAYERS[case.model] - layers) * blocks_gib / (2 if fp8 else 1)
        more["whole_gib"] = round(found["peak_gib"] + missing, 2)
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}
    return rounded | more


class Bench:
    """Makes the videos of `rows`, in a folder of its own, until it is closed. Checkpoints are written when they are
    needed.
    """

    def __init__(self, cases: Sequence[Case], layers: int, small: bool) -> None:
        self._cases = {case.name: case for case in cases}
        self._small = small
        self.layers = layers
        models = {"tiny": SMALL} if small else MODELS
        self._sizes = {model: (*width, layers or LAYERS[model]) for model, (*width, _) in models.items()}
        self._device = compute_device()
        do_without_ftfy()
        self._temporary = tempfile.TemporaryDirectory()
        self._folder = Path(self._temporary.name)
        self._maker = new_maker(self._folder, compile_blocks=not small)

    def close(self) -> None:
        self._maker.close()
        self._temporary.cleanup()

    def measure(self, row: Row) -> Any:
        """What was found of a row, or why there is nothing."""
        name, way = row
        case = self._cases[name]
        *_, blocks = size = self._sizes[case.model]
        folder = self._folder / "models" / case.checkpoint
        if not folder.exists():
            write_checkpoint(folder, case.kind, size, SMALL_VAE if self._small else {}, self._device)
        lora = folder.with_name("loras") / f"{case.lora}.safetensors"
        if not lora.exists():
            write_lora(lora, size)
        exact = self._maker.plan(parse_request(case.request()))
        if way in (STOCK, *PEERS):
            self._maker.unload()  # the stock pipelines find the GPU empty
            found = on_stock(way, folder, case.kind, exact, self._device)
        else:
            found = by_maker(self._maker, params_of(case, way), self._device)
        if isinstance(found, str):
            return found
        heads, head_dim, ffn_dim, _ = size
        dim = heads * head_dim
        return reckoned(found, case, blocks, 2 * (8 * dim**2 + 2 * dim * ffn_dim) / GIB)


def complete(results: Results) -> None:
    """Add to each way how many times as fast as the stock pipeline it is."""
    for found in results.values():
        stock = found.get(STOCK)
        for one in found.values():
            if isinstance(stock, dict) and isinstance(one, dict):
                one["times_as_fast"] = round(stock["whole_s"] / one["whole_s"], 3)


def cases_of(models: Sequence[str], shapes: Sequence[str], modes: Sequence[str], steps: int | None) -> list[Case]:
    return [Case(model, shape, mode, steps) for shape in shapes for model in models for mode in modes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=MODELS, nargs="+", default=["14b", "1.3b"])
    parser.add_argument("--shapes", choices="abc", nargs="+", default=["b"])
    parser.add_argument("--modes", choices=MODES, nargs="+", default=list(MODES))
    parser.add_argument("--layers", type=int, default=4, help="blocks of the transformer; 0: all of them")
    parser.add_argument("--steps", type=int, help="instead of the model's own")
    add_flags(parser)
    flags = parser.parse_args()
    if not flags.small and compute_device().type != "cuda":
        parser.error("there is no GPU that torch can use; --small runs without")
    models, shapes = (["tiny"], ["tiny"]) if flags.small else (flags.models, flags.shapes)
    cases = cases_of(models, shapes, flags.modes, flags.steps)
    every = cases_of(["tiny"] if flags.small else ["14b", "1.3b"], shapes, MODES, flags.steps)
    bench = Bench(cases, 1 if flags.small else flags.layers, flags.small)
    try:
        measure_and_record("videos", rows(cases), rows(every), bench.measure, complete, flags)
    finally:
        bench.close()


if __name__ == "__main__":
    main()
