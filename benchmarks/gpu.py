"""How fast a GPU runs the released shapes, beside the stock classes of diffusers: random weights, real sizes.

    python -m benchmarks.gpu [--within SECONDS] [--only matmul forward ...] [--models 14b 1.3b] [--again] [--small]

In one process, medians of three after a warm-up, with the peak of allocated memory beside the forecast. `matmul`: what
the GPU reaches at all in bfloat16, which the others are to be compared with. `attention`: every kernel that is
installed, and which one the studio takes. `text`: the text encoder, one prompt. `forward`: one call of a transformer of
four blocks (the released ones have 30 and 40 of the same), text to video and diffusion forcing, stock, ours with the
kernel taken, that one compiled, for the 14B also with matrices in eight bits, ours and torchao's if it is installed;
the error of each against float32 on fewer frames, of one call and after four steps, with a few strong channels in the
weights, which is where half precision fails first. `decode`: the VAE as the stock class decodes, and ours in float32
and in half precision, a latent frame at a time. Times do not depend on weights, what a
clip looks like does: nothing is said about that here (see `benchmarks.presets`). Claims: `exact` needs at most 1 / 1.4
of the stock time for text to video and 1 / 1.5 for diffusion forcing, at 1.1 times the stock error at most; the
forecast of memory is right within 10 percent.

The rows that say most come first, each is written to results/gpu.json when it is measured, and with `--within` none
begins that would end later. The next run on the same machine with the same versions goes on from there. It takes torch,
diffusers, transformers, numpy and pydantic, and no other package of the studio.

`--small` runs all of it in a minute or two on a CPU, to see that it runs, and keeps it in results/small.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from backend.core.placement import decode_gib, denoise_gib
from backend.core.registry import DECODE_ELEMENTS
from backend.core.schema import Preset
from backend.core.units import GIB
from backend.diffusion.attention import attention_backend, candidates, fastest_kernel
from backend.diffusion.components import compute_device, to_half_precision
from backend.diffusion.decode import CausalDecoder
from backend.diffusion.fp8 import quantize_fp8
from backend.diffusion.transformer import Transformer
from benchmarks.rows import Results, Row, add_flags, measure_and_record

ROUNDS = 3
MODELS = {"1.3b": (12, 128, 8960, 4), "14b": (40, 128, 13824, 4)}  # heads, head_dim, feed-forward width, blocks
SHAPE = (17, 90, 160)  # latent frames, height, width: 65 frames of 1280x720
SMALL_MODELS, SMALL_SHAPE = {"1.3b": (2, 24, 64, 2), "14b": (4, 24, 64, 2)}, (5, 4, 6)
STEPS = 4
FEW = 5  # latent frames, for errors, and for the VAE, which takes them one by one
TEXT = (1, 512, 4096)
MODES = {"text to video": False, "diffusion forcing": True}  # whether each latent frame has its own timestep
PRECISIONS = ("stock", "float32", "half")


@dataclass
class Bench:
    """What is measured where. `sizes` are those of the transformers by model, `shape` is in latent frames, rows and
    columns.
    """

    sizes: dict[str, tuple[int, ...]]
    shape: tuple[int, ...]
    device: torch.device
    references: dict[str, list[torch.Tensor]] = field(default_factory=dict)  # of each case, in float32
    kernels: dict[str, str] = field(default_factory=dict)  # of attention, by model

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def tokens(self) -> int:
        return math.prod(self.shape) // 4

    @property
    def released(self) -> bool:
        """Whether the sizes are those of released models."""
        return self.shape == SHAPE


def timed(run: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Median seconds, and the peak of what `run` allocates, in GiB; 0 on a CPU, where nobody counts."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    seconds = []
    for _ in range(1 + ROUNDS):
        began = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    peak = (torch.cuda.max_memory_allocated(device) - before) / GIB if on_gpu else 0.0
    return {"seconds": round(statistics.median(seconds[1:]), 6), "peak_gib": round(peak, 2)}


def matmul(bench: Bench) -> dict[str, Any]:
    side = 8192 if bench.released else 64
    one, other = (torch.randn(side, side, device=bench.device, dtype=bench.dtype) for _ in range(2))
    seconds = timed(lambda: one @ other, bench.device)["seconds"]
    return {"side": side, "seconds": seconds, "tflops": round(2 * side**3 / seconds / 1e12, 1) if seconds else 0.0}


def attention(bench: Bench, model: str) -> dict[str, Any]:
    heads, head_dim, *_ = bench.sizes[model]
    tokens = bench.tokens
    inputs = [torch.randn(1, tokens, heads, head_dim, device=bench.device, dtype=bench.dtype) for _ in range(3)]
    times: dict[str, Any] = {}
    for name, run in candidates(Preset.TURBO).items():
        try:
            times[name] = timed(functools.partial(run, *inputs), bench.device)["seconds"]
        except Exception as error:
            times[name] = str(error).split("\n")[0][:100]
    flops = 4 * tokens**2 * heads * head_dim
    rates = {name: round(flops / s / 1e12, 1) for name, s in times.items() if isinstance(s, float) and s}
    return {"tokens": tokens, "seconds": times, "tflops": rates, "taken": taken_kernel(bench, model)}


def taken_kernel(bench: Bench, model: str) -> str:
    """The attention kernel that `exact` takes."""
    if model not in bench.kernels:
        heads, head_dim, *_ = bench.sizes[model]
        kernel = fastest_kernel(candidates(Preset.EXACT), bench.tokens, heads, head_dim, bench.device)
        bench.kernels[model] = kernel
    return bench.kernels[model]


def build(kind: type, size: tuple[int, ...], forcing: bool, device: torch.device, dtype: torch.dtype) -> Any:
    """A transformer of random weights, which bfloat16 can hold whatever `dtype` it works in; a few channels are fifty
    times as strong as others, as in trained ones.
    """
    heads, head_dim, ffn_dim, layers = size
    torch.manual_seed(0)
    with torch.device(device):
        model = kind(
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            ffn_dim=ffn_dim,
            num_layers=layers,
            text_dim=TEXT[2],
            inject_sample_info=forcing,
        )
    model.eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            weight.normal_(0, 0.02)
            weight[:: max(1, len(weight) // 4)] *= 50 if name.endswith("ffn.net.2.weight") else 1
        if not set(name.split(".")) & set(model._keep_in_fp32_modules or ()):
            weight.data = weight.data.bfloat16().to(dtype)
    return model


def call(model: Any, forcing: bool, inputs: dict[str, Any]) -> Any:
    frames = inputs["hidden_states"].shape[2]
    level = inputs["timestep"].expand(1, frames) if forcing else inputs["timestep"][:1, 0]
    extra = {"enable_diffusion_forcing": True, "fps": [1]} if forcing else {}
    with torch.no_grad():
        return model(**inputs | {"timestep": level}, **extra, return_dict=False)[0]


def flop(size: tuple[int, ...], tokens: int) -> int:
    """Floating-point operations of one forward, without what is done for each number alone."""
    heads, head_dim, ffn_dim, blocks = size
    dim, text = heads * head_dim, TEXT[1]
    linear = tokens * (6 * dim**2 + 2 * dim * ffn_dim) + text * 2 * dim**2
    return blocks * (2 * linear + 4 * tokens * (tokens + text) * dim)


def forward(bench: Bench, case: str, way: str) -> dict[str, Any]:
    """Time, memory and error of a transformer called in this way; the first call, which compiles, apart."""
    model, mode = case.split(", ")
    size, forcing, stock = bench.sizes[model], MODES[mode], way == "stock"
    every, fewer = forward_inputs(bench)
    if case not in bench.references:
        bench.references[case] = in_float32(size, forcing, fewer, bench.device)
    built = build(SkyReelsV2Transformer3DModel if stock else Transformer, size, forcing, bench.device, bench.dtype)
    if way == "eight bits":
        quantize_fp8(built.blocks, bench.device)
    if way == "torchao":
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

        quantize_(built.blocks, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))
    with attention_backend(built, "native" if stock else taken_kernel(bench, model)):
        if way not in ("stock", "ours"):
            torch.compiler.reset()
            built.compile_repeated_blocks(dynamic=True, backend="inductor" if bench.device.type == "cuda" else "eager")
        began = time.perf_counter()
        errors = apart(walk(built, forcing, fewer), bench.references[case])
        first = time.perf_counter() - began
        found = timed(lambda: call(built, forcing, every), bench.device)
    found["tflops"] = round(flop(size, bench.tokens) / found["seconds"] / 1e12, 1) if found["seconds"] else 0.0
    return found | {"first_seconds": round(first, 3), "error": errors[0], "error_after_steps": errors[-1]}


def forward_inputs(bench: Bench) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the transformer is called with, and the same with fewer frames."""
    random = torch.Generator().manual_seed(0)
    every = {
        "hidden_states": torch.randn(1, 16, *bench.shape, generator=random).to(bench.device, bench.dtype),
        "timestep": torch.full((1, 1), 500, device=bench.device),
        "encoder_hidden_states": torch.randn(TEXT, generator=random).to(bench.device, bench.dtype),
    }
    return every, every | {"hidden_states": every["hidden_states"][:, :, :FEW]}


def walk(model: Any, forcing: bool, inputs: dict[str, Any]) -> list[torch.Tensor]:
    """What the model answers at each of STEPS steps downwards, float32."""
    latents = inputs["hidden_states"].float()
    answers = []
    for _ in range(STEPS):
        given = inputs | {"hidden_states": latents.to(inputs["hidden_states"].dtype)}
        answers.append(call(model, forcing, given).float())
        latents = latents - answers[-1] / STEPS
    return answers


def apart(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> list[float]:
    return [float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True)]


def in_float32(
    size: tuple[int, ...], forcing: bool, inputs: dict[str, Any], device: torch.device
) -> list[torch.Tensor]:
    """What the stock class answers in float32, step by step."""
    exact = build(SkyReelsV2Transformer3DModel, size, forcing, device, torch.float32)
    return walk(exact, forcing, {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()})


def decode(bench: Bench, way: str) -> dict[str, Any]:
    _, height, width = bench.shape
    latents = torch.randn(1, 16, FEW, height, width)
    torch.backends.cudnn.deterministic = True  # as in the studio
    with torch.device(bench.device):
        vae = AutoencoderKLWan(base_dim=96 if bench.released else 16).eval().requires_grad_(False)
    if way == "stock":
        return timed(lambda: vae.decode(latents.to(bench.device), return_dict=False), bench.device)
    model, part = (vae, 1.0) if way == "float32" else (to_half_precision(vae), 0.5)

    def run() -> None:
        for _ in CausalDecoder(model).decode(latents):
            pass

    forecast = part * decode_gib(DECODE_ELEMENTS * 64 * height * width)
    return timed(run, bench.device) | {"forecast_gib": round(forecast, 2)}


def text(bench: Bench) -> dict[str, Any]:
    wide = (4096, 10240, 24, 64) if bench.released else (64, 96, 2, 4)  # model, feed-forward, layers, heads
    d_model, d_ff, num_layers, num_heads = wide
    config = UMT5Config(d_model=d_model, d_kv=64, d_ff=d_ff, num_layers=num_layers, num_heads=num_heads)
    with torch.device(bench.device):
        encoder = UMT5EncoderModel(config).to(bench.dtype).eval()
    tokens = torch.ones(1, TEXT[1], dtype=torch.long, device=bench.device)

    def run() -> None:
        with torch.no_grad():
            encoder(tokens, torch.ones_like(tokens))

    return timed(run, bench.device) | {"weights_gib": round(sum(p.nbytes for p in encoder.parameters()) / GIB, 2)}


PARTS = {part.__name__: part for part in (matmul, forward, attention, decode, text)}


def rows(models: Sequence[str] = tuple(MODELS), parts: Sequence[str] = tuple(PARTS)) -> list[Row]:
    """The rows of these models and parts, those that say most first: what the claims compare, of the largest model."""
    largest_first = [model for model in ("14b", "1.3b") if model in models]
    cases = [(model, f"{model}, {mode}") for model in largest_first for mode in MODES]
    found: list[Row] = [("matmul",)]
    found += [("forward", case, way) for _, case in cases for way in ("stock", "compiled")]
    found += [("forward", case, "eight bits") for model, case in cases if model == "14b"]
    found += [("attention", model) for model in largest_first]
    found += [("decode", way) for way in PRECISIONS]
    found += [("forward", case, "ours") for _, case in cases]
    found += [("text",)]
    if importlib.util.find_spec("torchao"):
        found += [("forward", case, "torchao") for model, case in cases if model == "14b"]
    return [row for row in found if row[0] in parts]


def complete(bench: Bench, results: Results) -> None:
    """Add what follows from the rows of `forward`: how many times as fast as the stock class each way is, and the
    forecast of its memory.
    """
    for case, found in results.get("forward", {}).items():
        model = case.split(", ")[0]
        if model not in bench.sizes:
            continue
        heads, head_dim, ffn_dim, _ = bench.sizes[model]
        seconds = {way: one["seconds"] for way, one in found.items() if isinstance(one, dict) and "seconds" in one}
        stock = seconds.get("stock")
        found |= {"kernel": bench.kernels[model]} if model in bench.kernels else {}
        found |= {
            "pflop": round(flop(bench.sizes[model], bench.tokens) / 1e15, 6),
            "times_as_fast": {way: round(stock / one, 3) for way, one in seconds.items()} if stock else {},
            "forecast_gib": round(denoise_gib(heads * head_dim, ffn_dim, bench.tokens), 6),
        }


def make_bench(models: Sequence[str], small: bool) -> Bench:
    every = SMALL_MODELS if small else MODELS
    sizes: dict[str, tuple[int, ...]] = {name: size for name, size in every.items() if name in models}
    return Bench(sizes, SMALL_SHAPE if small else SHAPE, compute_device())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    add_flags(parser)
    flags = parser.parse_args()
    if not flags.small and compute_device().type != "cuda":
        parser.error("there is no GPU that torch can use; --small runs without")
    bench = make_bench(flags.models, flags.small)

    def measure(row: Row) -> Any:
        gc.collect()  # what the row before left on the GPU
        part, *names = row
        return PARTS[part](bench, *names)

    wanted = rows(flags.models, flags.only)
    measure_and_record("gpu", wanted, rows(), measure, lambda results: complete(bench, results), flags)


if __name__ == "__main__":
    main()
