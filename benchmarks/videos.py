"""Whole videos on a GPU at the sizes of the released models, by every preset, beside stock pipelines and cache-dit.

    python -m benchmarks.videos [--models 1.3b 14b] [--shapes a b c] [--modes text sync async long] [--layers 4]
                               [--steps N] [--small]

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

`--small` runs all of it in a minute or two on a CPU, to see that it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel, UniPCMultistepScheduler
from safetensors.torch import save_file
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from backend.core.config import GIB, Settings
from backend.core.plan import Plan, Stage
from backend.core.schema import Preset, parse_request
from backend.diffusion.components import compute_device
from backend.jobs.job import Job
from backend.skyreels_integration import SkyReelsEngine
from backend.video_generator import VideoGenerator
from benchmarks.gpu import MODELS, build
from benchmarks.peers import POLICIES, cached, mask_of, stock_frames
from benchmarks.record import record

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
INNER = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ffn.net.2")


@dataclass(frozen=True)
class Case:
    """A video of one model, shape and mode."""

    model: str
    shape: str
    mode: str
    steps: int | None

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


def by_studio(generator: VideoGenerator, request: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Seconds of a job from submit to MP4, in its stages, and by what it was made."""

    def run(request: dict[str, Any]) -> Job:
        job = generator.wait(generator.submit(parse_request(request)).id)
        assert job.artifact is not None, job.error
        return job

    began = time.perf_counter()
    steps = min(SHORT, request["num_inference_steps"] or SHORT)
    first = run(request | {"num_inference_steps": steps, "guidance_scale": 1})
    warm_up_s = time.perf_counter() - began
    with peak_memory(device) as memory:
        began = time.perf_counter()
        job = run(request)
        total_s = time.perf_counter() - began
    assert first.artifact is not None
    assert job.artifact is not None
    stages = job.artifact.stage_s
    return {
        "total_s": total_s,
        "denoising_s": stages[Stage.DENOISING],
        "loading_s": {"cold": first.artifact.stage_s[Stage.LOADING], "warm": stages[Stage.LOADING]},
        "first_video_s": warm_up_s,
        "forwards": job.plan.forwards,
        "runtime": job.artifact.runtime,
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


def measure_case(case: Case, generator: VideoGenerator, size: tuple[int, ...], device: torch.device) -> Iterator[Any]:
    """(way, what was found) of each way to make the video of the case."""
    folder = generator.settings.models / case.checkpoint
    exact = generator.plan(parse_request(case.request()))
    engine = generator.engines["skyreels"]
    assert isinstance(engine, SkyReelsEngine)
    engine.unload()  # the stock pipelines find the GPU empty, and the first video of the studio loads its weights
    for way in stock_ways(case):
        yield way, on_stock(way, folder, case.kind, exact, device)
    requests = {preset.value: case.request(preset=preset.value) for preset in Preset}
    requests["turbo, LoRA"] = case.request(
        preset=Preset.TURBO.value,
        num_inference_steps=4,
        guidance_scale=1,
        loras=[{"name": case.lora}],
    )
    for way, request in requests.items():
        yield way, by_studio(generator, request, device)


def stock_ways(case: Case) -> list[str]:
    more = ["stock, compiled", *(f"cache-dit, {policy}" for policy in POLICIES)]
    return ["stock", *more] if case.mode in ("text", "sync") else ["stock"]


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


def measure(cases: list[Case], layers: int, small: bool) -> Iterator[dict[str, Any]]:
    """The results so far, after each video."""
    device = compute_device()
    results: dict[str, Any] = {}
    models = {"tiny": SMALL} if small else MODELS
    sizes = {model: (*width, layers or LAYERS[model]) for model, (*width, _) in models.items()}
    with tempfile.TemporaryDirectory() as data:
        folder = Path(data)
        settings = Settings(
            data=folder, shared_models=folder / "models", disk_reserve_bytes=0, compile_blocks=not small
        )
        for case in cases:
            size = sizes[case.model]
            folder = settings.models / case.checkpoint
            if not folder.exists():
                write_checkpoint(folder, case.kind, size, SMALL_VAE if small else {}, device)
            write_lora(settings.models / "loras" / f"{case.lora}.safetensors", size)
        generator = VideoGenerator(settings)
        generator.start()
        try:
            for case in cases:
                heads, head_dim, ffn_dim, blocks = size = sizes[case.model]
                dim = heads * head_dim
                blocks_gib = 2 * (8 * dim**2 + 2 * dim * ffn_dim) / GIB
                name = f"{case.model}, {case.mode}, {case.shape}"
                found = results.setdefault(name, {})
                for way, one in measure_case(case, generator, size, device):
                    found[way] = one if isinstance(one, str) else reckoned(one, case, blocks, blocks_gib)
                    print(name, way, found[way], file=sys.stderr)
                    stock = found["stock"]
                    if not isinstance(one, str) and not isinstance(stock, str):
                        found[way]["times_as_fast"] = round(stock["whole_s"] / found[way]["whole_s"], 3)
                    yield results
        finally:
            generator.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=MODELS, nargs="+", default=["14b", "1.3b"])
    parser.add_argument("--shapes", choices="abc", nargs="+", default=["b"])
    parser.add_argument("--modes", choices=MODES, nargs="+", default=list(MODES))
    parser.add_argument("--layers", type=int, default=4, help="blocks of the transformer; 0: all of them")
    parser.add_argument("--steps", type=int, help="instead of the model's own")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs; nothing is kept")
    flags = parser.parse_args()
    if not flags.small and compute_device().type != "cuda":
        parser.error("there is no GPU that torch can use; --small runs without")
    models, shapes = (["tiny"], ["tiny"]) if flags.small else (flags.models, flags.shapes)
    cases = [Case(m, s, mode, flags.steps) for m in models for s in shapes for mode in flags.modes]
    for results in measure(cases, 1 if flags.small else flags.layers, flags.small):
        if not flags.small:
            record("videos", results)  # at once: a lent GPU may be gone before the end


if __name__ == "__main__":
    main()
