"""Model offloading: where the parts of a model lie during a render, so that it fits into a GPU's memory. In GiB.

Pure arithmetic. The coefficients are peaks of live tensors at the shapes of the released models, counted without
running them (`benchmarks/peaks.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from backend.core.registry import ModelSpec, Transformer
from backend.core.units import GIB

GROUP_OFFLOAD_GIB = 1.5  # the layer that computes and the one that is copied meanwhile, of 0.7 GiB at most
FP8_FROM_GIB = 8.0  # of one transformer; a smaller one fits anyway, and float8 hardly makes it faster
USABLE_VRAM = 0.92  # of a GPU's memory: the allocator and the kernels keep some for themselves


class Placement(str, Enum):
    """Where models lie during a render, from the fastest to the one that takes the least memory."""

    RESIDENT = "resident"  # all models stay on the GPU
    # Model offloading: each model is on the GPU only while it runs; the text encoder, which runs once, layer by layer.
    MODEL_OFFLOAD = "model_offload"
    GROUP_OFFLOAD = "group_offload"  # group offloading: the layers of all large models are copied while they run


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that a render needs, in GiB: the weights of the text encoder (with the image encoder), the transformer and
    the VAE, and the activations of the transformer and of the VAE's decoder, in its own and in half precision. `idle`
    is the weights of the second expert, if there are two.
    """

    text: float
    transformer: float
    vae: float
    denoise: float
    decode: float
    half_decode: float
    idle: float = 0.0

    def peak(self, placement: Placement, half_decode: bool) -> float:
        """Peak memory on the GPU."""
        decode = self.half_decode if half_decode else self.decode
        if placement is Placement.RESIDENT:
            return self.text + self.transformer + self.idle + self.vae + max(self.denoise, decode)
        if placement is Placement.MODEL_OFFLOAD:
            return max(GROUP_OFFLOAD_GIB, self.transformer + self.denoise, self.vae + decode)
        return max(GROUP_OFFLOAD_GIB + self.denoise, self.vae + decode)


@dataclass(frozen=True, slots=True)
class Placed:
    """A placement, the precision of decoding, and the peak memory of both."""

    placement: Placement
    half_decode: bool
    peak_gib: float


def place(need: Need, gpu_gib: float, half_decode: bool = False, safer_than: Placement | None = None) -> Placed:
    """The fastest placement that fits into `gpu_gib` and takes less memory than `safer_than`; the one that takes the
    least where none fits.

    With `half_decode` the VAE always decodes in half precision; otherwise only where float32 does not fit.
    """
    options = list(_options(need, half_decode, safer_than))
    return next((option for option in options if option.peak_gib <= USABLE_VRAM * gpu_gib), options[-1])


def _options(need: Need, half_decode: bool, safer_than: Placement | None) -> Iterator[Placed]:
    order = list(Placement)
    first = min(order.index(safer_than) + 1, len(order) - 1) if safer_than else 0
    for half in (True,) if half_decode else (False, True):
        for placement in order[first:]:
            # Group offloading costs time, decoding in half precision hardly changes a pixel.
            if half or half_decode or placement is not Placement.GROUP_OFFLOAD:
                yield Placed(placement, half, need.peak(placement, half))


def need_of(spec: ModelSpec, tokens: int, batch: int, pixels: int, itemsize: int = 2, fp8: bool = False) -> Need:
    """Memory that a render with `spec` needs: `tokens` in its longest window, `batch` of them in one forward, `pixels`
    of a rendered frame; weights and activations of `itemsize` bytes, 4 in the VAE, and 1 in linear layers with `fp8`.
    """
    scale = itemsize / 2  # weights are counted in half precision
    vae = min(spec.vae_gib, spec.other_gib / 2)
    transformer = spec.weights_gib * scale / spec.experts
    shape = spec.transformer
    denoise = denoise_gib(shape.dim, shape.ffn_dim, batch * tokens, itemsize) if shape else 0.0
    if shape and fp8:
        transformer -= (itemsize - 1) * linear_parameters(shape) / GIB
    decode = decode_gib(spec.decode_elements * pixels)
    idle = (spec.experts - 1) * transformer
    return Need((spec.other_gib - vae) * scale, transformer, vae, denoise, decode, decode / 2, idle)


def linear_parameters(shape: Transformer) -> int:
    """Parameters of a transformer's linear layers: self-attention, cross-attention and feed-forward."""
    return shape.layers * (8 * shape.dim**2 + 2 * shape.dim * shape.ffn_dim)


def denoise_gib(dim: int, ffn_dim: int, tokens: int, itemsize: int = 2) -> float:
    """Activations of one forward: copies of the hidden states, and of those of the feed-forward."""
    return itemsize * tokens * (8.9 * dim + 1.57 * ffn_dim) / GIB


def decode_gib(elements: float) -> float:
    """Activations of the VAE's decoder, in float32."""
    return 4 * elements / GIB
