"""The large products of a transformer in numbers of eight bits: half the memory, and on GPUs that multiply such numbers
less time.

A weight has a scale for every channel that comes out, and what goes in has one for every token, so that a strong token
or channel takes no precision from the others.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch.nn import functional
from torch.nn.functional import ScalingType

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
SIDE = 16  # kernels want sides that are multiples of it
PART = 8192  # tokens that are rounded at a time: what this takes beside them is float32


class EightBitLinear(torch.nn.Linear):  # type: ignore[misc]
    """A stock layer after `to_eight_bits`: `weight` is float8 of shape (out, in), times `scale` of shape (out, 1)."""

    scale: torch.Tensor
    working_dtype: torch.dtype  # that the weight had
    multiplies: bool  # the device multiplies such numbers by itself

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.multiplies:
            return functional.linear(x, (self.weight.float() * self.scale).to(x.dtype), self.bias)
        tokens = x.reshape(-1, self.in_features)
        if len(tokens) <= PART or torch.compiler.is_compiling():  # a compiler leaves nothing lying between
            return self._product(tokens).view(*x.shape[:-1], self.out_features)
        found = x.new_empty(len(tokens), self.out_features)
        for start in range(0, len(tokens), PART):
            found[start : start + PART] = self._product(tokens[start : start + PART])
        return found.view(*x.shape[:-1], self.out_features)

    def _product(self, tokens: torch.Tensor) -> torch.Tensor:
        rounded, scale = rounded_rows(tokens)
        found: torch.Tensor = functional.scaled_mm(
            rounded,
            self.weight.t(),
            scale,
            ScalingType.RowWise,
            self.scale.t(),
            ScalingType.RowWise,
            bias=self.bias,
            output_dtype=tokens.dtype,
            use_fast_accum=True,
        )
        return found


def rounded_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`matrix` in float8, each row divided by its scale, and the scales: float32, of shape (rows, 1)."""
    largest = torch.linalg.vector_norm(matrix, ord=torch.inf, dim=-1, keepdim=True)
    scale = (largest.float() / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (matrix / scale).to(FLOAT8), scale


@functools.cache
def multiplies_eight_bits(device: torch.device) -> bool:
    """Whether `device` multiplies numbers of eight bits by itself; where not, only weights are kept in them."""
    ones = torch.ones(SIDE, SIDE, device=device)
    rounded, scale = rounded_rows(ones)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        found = functional.scaled_mm(
            rounded, rounded.t(), scale, ScalingType.RowWise, scale.t(), ScalingType.RowWise, output_dtype=dtype
        )
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError):
        return False
    return bool(torch.allclose(found.float(), ones @ ones, rtol=0.01))


def to_eight_bits(blocks: Iterable[torch.nn.Module], device: torch.device) -> None:
    """Round the weights of the linear layers of `blocks`, working on `device`; they stay where they lie."""
    for block in blocks:
        for layer in block.modules():
            if type(layer) is torch.nn.Linear and all(side % SIDE == 0 for side in layer.weight.shape):
                weight = layer.weight
                rounded, scale = (tensor.to(weight.device) for tensor in rounded_rows(weight.to(device)))
                layer.weight = torch.nn.Parameter(rounded, requires_grad=False)
                layer.register_buffer("scale", scale, persistent=False)
                layer.working_dtype, layer.multiplies = weight.dtype, multiplies_eight_bits(device)
                layer.__class__ = EightBitLinear
