"""fp8 quantization (float8 e4m3) of a transformer's linear layers: half the memory of bfloat16, and faster matrix
products on GPUs that have float8 ones.

Weights have one scale per output channel and inputs have one scale per token, so that a large token or channel does not
cost the others precision.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch.nn import functional
from torch.nn.functional import ScalingType

FLOAT8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FLOAT8).max
ALIGNMENT = 16  # the kernels need dimensions that are multiples of it
CHUNK_TOKENS = 8192  # tokens that are quantized at a time, because the intermediate values are float32


class Fp8Linear(torch.nn.Linear):  # type: ignore[misc]
    """A linear layer after `quantize_fp8`: `weight` is float8 of shape (out, in), times `scale` of shape (out, 1)."""

    scale: torch.Tensor
    compute_dtype: torch.dtype  # of the weight before quantization
    has_fp8_matmul: bool  # whether the device multiplies float8 matrices; otherwise weights are dequantized

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.has_fp8_matmul:
            return functional.linear(x, (self.weight.float() * self.scale).to(x.dtype), self.bias)
        tokens = x.reshape(-1, self.in_features)
        if len(tokens) <= CHUNK_TOKENS or torch.compiler.is_compiling():  # a compiler fuses the intermediate values
            return self._matmul(tokens).view(*x.shape[:-1], self.out_features)
        output = x.new_empty(len(tokens), self.out_features)
        for start in range(0, len(tokens), CHUNK_TOKENS):
            output[start : start + CHUNK_TOKENS] = self._matmul(tokens[start : start + CHUNK_TOKENS])
        return output.view(*x.shape[:-1], self.out_features)

    def _matmul(self, tokens: torch.Tensor) -> torch.Tensor:
        quantized, scale = quantize_rows(tokens)
        output: torch.Tensor = functional.scaled_mm(
            quantized,
            self.weight.t(),
            scale,
            ScalingType.RowWise,
            self.scale.t(),
            ScalingType.RowWise,
            bias=self.bias,
            output_dtype=tokens.dtype,
            use_fast_accum=True,
        )
        return output


def quantize_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`matrix` in float8, each row divided by its scale, and the scales: float32 of shape (rows, 1)."""
    largest = torch.linalg.vector_norm(matrix, ord=torch.inf, dim=-1, keepdim=True)
    scale = (largest.float() / FP8_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    return (matrix / scale).to(FLOAT8), scale


@functools.cache
def has_fp8_matmul(device: torch.device) -> bool:
    """Whether `device` multiplies float8 matrices; where it does not, only the weights are stored in float8."""
    ones = torch.ones(ALIGNMENT, ALIGNMENT, device=device)
    quantized, scale = quantize_rows(ones)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        product = functional.scaled_mm(
            quantized, quantized.t(), scale, ScalingType.RowWise, scale.t(), ScalingType.RowWise, output_dtype=dtype
        )
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError):
        return False
    return bool(torch.allclose(product.float(), ones @ ones, rtol=0.01))


def quantize_fp8(blocks: Iterable[torch.nn.Module], device: torch.device) -> None:
    """Quantize the weights of the linear layers of `blocks` in place, computing on `device`; they stay on theirs."""
    for block in blocks:
        for layer in block.modules():
            if type(layer) is torch.nn.Linear and all(size % ALIGNMENT == 0 for size in layer.weight.shape):
                weight = layer.weight
                quantized, scale = (tensor.to(weight.device) for tensor in quantize_rows(weight.to(device)))
                layer.weight = torch.nn.Parameter(quantized, requires_grad=False)
                layer.register_buffer("scale", scale, persistent=False)
                layer.compute_dtype, layer.has_fp8_matmul = weight.dtype, has_fp8_matmul(device)
                layer.__class__ = Fp8Linear
