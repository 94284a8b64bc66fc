"""Attention kernels: which of those that are installed is the fastest on this GPU at the size of a render."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch.nn import functional

from backend.core.schema import Preset
from backend.diffusion.autotune import autotune_cache, gpu_key, median_seconds

log = logging.getLogger(__name__)

STOCK = "native"
EXACT = (STOCK, "_native_cudnn", "_native_flash", "_flash_3", "flash")
QUANTIZED = ("sage",)  # 8-bit products, for the presets that are not exact
MAX_ERROR_RATIO = 1.1  # error of an exact kernel against float32, relative to that of the stock kernel
FLOAT32_ERROR = 1e-6  # rounding of float32 itself
CHECKED_QUERIES = 256  # queries of each head that are computed in float32 too
TOKEN_STEP = 8192  # sizes are rounded to multiples of it in the cache

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def kernel(name: str) -> Kernel:
    """Attention of (batch, tokens, heads, head_dim) by the kernel that diffusers calls `name`."""
    backend = AttentionBackendName(name)
    return lambda query, key, value: dispatch_attention_fn(query, key, value, backend=backend)


def candidates(preset: Preset) -> dict[str, Kernel]:
    """The kernels that `preset` may use, by name; the stock one is the first."""
    names = EXACT if preset is Preset.EXACT else EXACT + QUANTIZED
    return {name: kernel(name) for name in names}


def fastest_kernel(kernels: Mapping[str, Kernel], tokens: int, heads: int, head_dim: int, device: torch.device) -> str:
    """The name of the fastest of `kernels` that works on `device`. The first must be the stock one: it is the choice
    where a kernel fails while it is timed.

    Unless there is a quantized kernel among them, a kernel is rejected if its error against float32 is more than
    MAX_ERROR_RATIO times that of the stock one.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    random = torch.Generator().manual_seed(0)
    shape = (1, tokens, heads, head_dim)
    query, key, value = (torch.randn(shape, generator=random).to(device, dtype) for _ in range(3))
    expected = _in_float32(query[:, :CHECKED_QUERIES], key, value)
    stock, *_ = kernels
    errors: dict[str, float] = {}
    for name, run in kernels.items():
        try:
            output = run(query, key, value)[:, :CHECKED_QUERIES].float()
            errors[name] = float((output - expected).norm() / expected.norm())
        except Exception as error:  # not installed, not for this GPU, not for this shape
            log.info("the attention kernel %s is not used: %s", name, str(error).split("\n")[0])
    quantized = any(name in QUANTIZED for name in kernels)
    most = MAX_ERROR_RATIO * errors.get(stock, 0.0) + FLOAT32_ERROR
    accurate = [name for name in errors if quantized or errors[name] <= most]
    try:
        seconds = median_seconds(
            {name: functools.partial(kernels[name], query, key, value) for name in accurate}, device
        )
    except Exception as error:  # of a kernel that had worked before
        log.warning("attention kernels cannot be timed: %s", str(error).split("\n")[0])
        return stock
    log.info("attention of %d tokens: %s", tokens, {name: f"{s * 1000:.1f} ms" for name, s in seconds.items()})
    return min(accurate, key=seconds.__getitem__, default=stock)


def _in_float32(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    query, key, value = (x.float().transpose(1, 2) for x in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def cached_kernel(
    file: Path | None, preset: Preset, tokens: int, heads: int, head_dim: int, device: torch.device
) -> str:
    """The fastest kernel on this GPU for about this many tokens, from the cache in `file` or measured now."""
    steps = max(1, round(tokens / TOKEN_STEP))
    lossy = "lossy" if preset is not Preset.EXACT else "exact"
    return autotune_cache(
        file,
        f"{gpu_key(device)}, {heads}x{head_dim}, {steps}, {lossy}",
        STOCK,
        [backend.value for backend in AttentionBackendName],
        lambda: fastest_kernel(candidates(preset), tokens, heads, head_dim, device),
    )


def set_attention_backend(model: Any, backend: str) -> None:
    """Set the kernel of the attention layers of `model` alone: the method of diffusers also makes it the default of the
    process.
    """
    name = AttentionBackendName(backend)
    for module in model.modules():
        processor = getattr(module, "processor", None)
        if processor is not None and hasattr(processor, "_attention_backend"):
            processor._attention_backend = name


@contextmanager
def attention_backend(transformer: Any, name: str) -> Iterator[None]:
    """While open, `transformer` uses the kernel `name`; afterwards the stock one."""
    transformer.set_attention_backend(name)
    try:
        yield
    finally:
        transformer.set_attention_backend(STOCK)
