"""Where the parts of a model lie while a video is made, so that it fits into a GPU's memory. Pure arithmetic, in GiB.

The coefficients are peaks of live tensors at the shapes of the released models, counted without running them
(`benchmarks/peaks.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from backend.core.config import GIB
from backend.core.registry import ModelSpec, Transformer

STREAM_GIB = 1.5  # the layer that works and the one that comes next, of 0.7 GiB at most
EIGHT_BITS_FROM_GIB = 8.0  # of one transformer; what is smaller fits anyway, and gains next to nothing
SPARE = 0.92  # of a GPU's memory: the allocator and the kernels keep some for themselves


class Placement(str, Enum):
    """From the fastest to the safest."""

    RESIDENT = "resident"  # all models stay on the GPU
    IN_TURNS = "in_turns"  # each is there while it works; of the text encoder, whose turn is short, layer after layer
    STREAMED = "streamed"  # of all large ones, layer after layer is there while it works


@dataclass(frozen=True, slots=True)
class Need:
    """What a render needs, in GiB: the weights of the text encoder (with the image encoder), the transformer and the
    VAE, and what the transformer and the VAE's decoder, in its own and in half precision, hold while they work. `idle`
    is the transformer that takes turns with the first, if there are two.
    """

    text: float
    transformer: float
    vae: float
    denoise: float
    decode: float
    half_decode: float
    idle: float = 0.0

    def peak(self, placement: Placement, half_decode: bool) -> float:
        """The most that lies on the GPU at a time."""
        decode = self.half_decode if half_decode else self.decode
        if placement is Placement.RESIDENT:
            return self.text + self.transformer + self.idle + self.vae + max(self.denoise, decode)
        if placement is Placement.IN_TURNS:
            return max(STREAM_GIB, self.transformer + self.denoise, self.vae + decode)
        return max(STREAM_GIB + self.denoise, self.vae + decode)


@dataclass(frozen=True, slots=True)
class Placed:
    """A way to hold a render, and the memory that it takes at its peak."""

    placement: Placement
    half_decode: bool
    peak_gib: float


def place(need: Need, gpu_gib: float, half_decode: bool = False, safer_than: Placement | None = None) -> Placed:
    """The fastest way that fits into `gpu_gib` and is safer than `safer_than`; the safest where none does.

    `half_decode` says that the video is decoded in half precision in any case; otherwise it is where it must be.
    """
    ways = list(_ways(need, half_decode, safer_than))
    return next((way for way in ways if way.peak_gib <= SPARE * gpu_gib), ways[-1])


def _ways(need: Need, half_decode: bool, safer_than: Placement | None) -> Iterator[Placed]:
    order = list(Placement)
    first = min(order.index(safer_than) + 1, len(order) - 1) if safer_than else 0
    for half in (True,) if half_decode else (False, True):
        for placement in order[first:]:
            # Streaming costs time, half precision nearly nothing that can be seen.
            if half or half_decode or placement is not Placement.STREAMED:
                yield Placed(placement, half, need.peak(placement, half))


def need_of(spec: ModelSpec, tokens: int, batch: int, pixels: int, itemsize: int = 2, eight_bits: bool = False) -> Need:
    """What a render with `spec` needs: `tokens` in its longest window, in `batch` forwards at a time, and `pixels` of a
    frame that it draws; numbers of `itemsize` bytes, in the VAE of four, with `eight_bits` of one in large matrices.
    """
    wide = itemsize / 2  # weights are counted in half precision
    vae = min(spec.vae_gib, spec.other_gib / 2)
    working = spec.weights_gib * wide / spec.experts
    shape = spec.transformer
    denoise = denoise_gib(shape.dim, shape.ffn_dim, batch * tokens, itemsize) if shape else 0.0
    if shape and eight_bits:
        working -= (itemsize - 1) * matrices(shape) / GIB
    decode = decode_gib(spec.decode_elements * pixels)
    idle = (spec.experts - 1) * working
    return Need((spec.other_gib - vae) * wide, working, vae, denoise, decode, decode / 2, idle)


def matrices(shape: Transformer) -> int:
    """Numbers in the large matrices of a transformer: self- and cross-attention and the feed-forward of its layers."""
    return shape.layers * (8 * shape.dim**2 + 2 * shape.dim * shape.ffn_dim)


def denoise_gib(dim: int, ffn_dim: int, tokens: int, itemsize: int = 2) -> float:
    """What one forward holds beside the weights: copies of its hidden states, and of those of the feed-forward."""
    return itemsize * tokens * (8.9 * dim + 1.57 * ffn_dim) / GIB


def decode_gib(elements: float) -> float:
    """What the VAE's decoder holds beside its weights: numbers of four bytes."""
    return 4 * elements / GIB
