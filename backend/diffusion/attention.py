"""Which attention kernel a GPU runs fastest: each that is installed is tried once at a film's size."""

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
from backend.diffusion.choices import remembered, seconds_in_turn, this_gpu

log = logging.getLogger(__name__)

STOCK = "native"
EXACT = (STOCK, "_native_cudnn", "_native_flash", "_flash_3", "flash")
QUANTISED = ("sage",)  # 8-bit products: for presets that trade
AS_EXACT = 1.1  # as the stock kernel, in error against float32
ROUNDING = 1e-6  # of float32 itself
CHECKED = 256  # queries of each head whose sums are taken in float32, too
STEP = 8192  # tokens; sizes are remembered in steps

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def kernel(name: str) -> Kernel:
    """Attention of (batch, tokens, heads, head_dim) by diffusers' name for it."""
    backend = AttentionBackendName(name)
    return lambda query, key, value: dispatch_attention_fn(query, key, value, backend=backend)


def candidates(preset: Preset) -> dict[str, Kernel]:
    names = EXACT if preset is Preset.EXACT else EXACT + QUANTISED
    return {name: kernel(name) for name in names}


def choose(kernels: Mapping[str, Kernel], tokens: int, heads: int, head_dim: int, device: torch.device) -> str:
    """The name of the fastest kernel that works here. The first of `kernels` is the stock one, which is chosen where
    one fails while they are timed; without a quantised kernel among them, one whose error against float32 is more than
    AS_EXACT of its is no choice.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    random = torch.Generator().manual_seed(0)
    shape = (1, tokens, heads, head_dim)
    query, key, value = (torch.randn(shape, generator=random).to(device, dtype) for _ in range(3))
    wanted = _in_float32(query[:, :CHECKED], key, value)
    stock, *_ = kernels
    errors: dict[str, float] = {}
    for name, run in kernels.items():
        try:
            found = run(query, key, value)[:, :CHECKED].float()
            errors[name] = float((found - wanted).norm() / wanted.norm())
        except Exception as error:  # not installed, not for this GPU, not for this shape
            log.info("the attention kernel %s is left out: %s", name, str(error).split("\n")[0])
    quantised = any(name in QUANTISED for name in kernels)
    good = [name for name in errors if quantised or errors[name] <= AS_EXACT * errors.get(stock, 0.0) + ROUNDING]
    try:
        seconds = seconds_in_turn({name: functools.partial(kernels[name], query, key, value) for name in good}, device)
    except Exception as error:  # of one that had worked before
        log.warning("attention is not timed: %s", str(error).split("\n")[0])
        return stock
    chosen = min(good, key=seconds.__getitem__, default=stock)
    log.info("attention of %d tokens: %s", tokens, {name: f"{s * 1000:.1f} ms" for name, s in seconds.items()})
    return chosen


def _in_float32(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    query, key, value = (x.float().transpose(1, 2) for x in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def remembered_kernel(
    file: Path | None, preset: Preset, tokens: int, heads: int, head_dim: int, device: torch.device
) -> str:
    """The kernel that was chosen on this GPU for films of about this size, or is chosen now; kept in `file`."""
    steps = max(1, round(tokens / STEP))
    lossy = "lossy" if preset is not Preset.EXACT else "exact"
    return remembered(
        file,
        f"{this_gpu(device)}, {heads}x{head_dim}, {steps}, {lossy}",
        STOCK,
        [backend.value for backend in AttentionBackendName],
        lambda: choose(candidates(preset), tokens, heads, head_dim, device),
    )


def attend_by(model: Any, backend: str) -> None:
    """Have the attention layers of `model` use that kernel, and of no other model: what diffusers has for it makes the
    kernel the default of the process, too.
    """
    name = AttentionBackendName(backend)
    for module in model.modules():
        processor = getattr(module, "processor", None)
        if processor is not None and hasattr(processor, "_attention_backend"):
            processor._attention_backend = name


@contextmanager
def attention_by(transformer: Any, name: str) -> Iterator[None]:
    """While open, `transformer` attends by that kernel; afterwards as the stock model does."""
    transformer.set_attention_backend(name)
    try:
        yield
    finally:
        transformer.set_attention_backend(STOCK)
