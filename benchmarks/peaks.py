"""The memory that a render takes at its peak beside the forecast of it, at the shapes of the released models.

    python -m benchmarks.peaks

Counted, not run: fake tensors go through the real transformer and the real decoder, and every live one is counted, so
it takes neither weights nor a GPU. What the allocator rounds up and kernels use for themselves is not in it. Claim:
the forecast is within 10 percent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from backend.core.placement import decode_gib, denoise_gib
from backend.core.registry import DECODE_ELEMENTS
from backend.core.units import GIB
from backend.diffusion.decode import CausalDecoder
from backend.diffusion.fp8 import has_fp8_matmul, quantize_fp8
from backend.diffusion.transformer import Transformer
from benchmarks.record import record

MODELS = {"1.3b": (12, 8960), "14b": (40, 13824)}  # heads of 128 channels, feed-forward width
SHAPES = {
    "960x544, 97 frames": (25, 68, 120),
    "1280x720, 65 frames": (17, 90, 160),
    "1280x720, 121 frames": (31, 90, 160),
}
LAYERS = 2  # the peak is within a layer


def peak_of(run: Callable[[], Any], held: Callable[[], Sequence[Any]]) -> float:
    """GiB of all tensors at the peak of `run()`; `held()` are modules and tensors that are there before, called here so
    that nobody holds what `run` lets go.
    """
    tracker = MemTracker()
    tracker.track_external(*held())
    with tracker:
        run()
    return float(sum(found["Total"] for found in tracker.get_tracker_snapshot("peak").values()) / GIB)


def weights_of(model: Any) -> float:
    return float(sum(p.numel() * p.element_size() for p in model.parameters()) / GIB)


def built(build: Any, dtype: torch.dtype) -> Any:
    torch.set_default_dtype(dtype)
    try:
        return build().eval()
    finally:
        torch.set_default_dtype(torch.float32)


def denoising(heads: int, ffn_dim: int, frames: int, height: int, width: int, fp8: bool = False) -> dict[str, float]:
    model = built(
        lambda: Transformer(
            num_attention_heads=heads, ffn_dim=ffn_dim, num_layers=LAYERS, text_dim=4096, inject_sample_info=True
        ),
        torch.bfloat16,
    )
    if fp8:
        quantize_fp8(model.blocks, torch.device("cpu"))
        model.requires_grad_()  # the tracker wants to hook on to it
    latents = torch.randn(1, 16, frames, height, width, dtype=torch.bfloat16)
    text = torch.randn(1, 512, 4096, dtype=torch.bfloat16)
    steps = torch.full((1, frames), 500)

    def run() -> None:
        model(latents, steps, text, enable_diffusion_forcing=True, fps=[1], return_dict=False)

    counted = peak_of(run, lambda: [model]) - weights_of(model)
    return compared(counted, denoise_gib(128 * heads, ffn_dim, frames * height * width // 4))


def decoding(dtype: torch.dtype, height: int, width: int) -> dict[str, float]:
    vae = built(AutoencoderKLWan, dtype)
    decoder = CausalDecoder(vae)
    latents = torch.randn(1, 16, 3, height, width)
    list(decoder.decode(latents[:, :, :2]))  # from now on its cache is full

    def held() -> list[Any]:
        return [vae, *(kept for kept in decoder._cache if isinstance(kept, torch.Tensor))]

    counted = peak_of(lambda: list(decoder.decode(latents[:, :, 2:])), held) - weights_of(vae)
    return compared(counted, decode_gib(DECODE_ELEMENTS * 64 * height * width) * dtype.itemsize / 4)


def compared(counted: float, forecast: float) -> dict[str, float]:
    return {"gib": round(counted, 2), "forecast_gib": round(forecast, 2), "ratio": round(forecast / counted, 3)}


def main() -> None:
    results: dict[str, Any] = {}
    has_fp8_matmul(torch.device("cpu"))  # fake tensors could not tell
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for shape, (frames, height, width) in SHAPES.items():
            for model, (heads, ffn_dim) in MODELS.items():
                for name, fp8 in (("", False), (", eight bits", True))[: 2 if model == "14b" else 1]:
                    found = denoising(heads, ffn_dim, frames, height, width, fp8)
                    results[f"denoising, {model}{name}, {shape}"] = found
            for dtype in (torch.float32, torch.bfloat16):
                results[f"decoding, {str(dtype)[6:]}, {shape}"] = decoding(dtype, height, width)
    record("peaks", results)


if __name__ == "__main__":
    main()
