"""fp8 quantization: error, memory, and a transformer whose linear layers are quantized."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from backend.core.config import GIB
from backend.core.placement import linear_parameters
from backend.core.registry import Transformer as Shape
from backend.diffusion import fp8
from backend.diffusion.components import blocks_of
from backend.diffusion.fp8 import Fp8Linear, has_fp8_matmul, quantize_fp8, quantize_rows
from backend.diffusion.transformer import Transformer

CPU = torch.device("cpu")
ROUNDING = 2**-4  # of a float8 number at most: three bits of mantissa


def layer(rows: int = 48, columns: int = 64) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(columns, rows).requires_grad_(False)


def quantized(stock: torch.nn.Linear) -> torch.nn.Linear:
    other = torch.nn.Sequential(copy.deepcopy(stock))
    quantize_fp8([other], CPU)
    return other[0]


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def test_every_row_has_its_own_scale():
    matrix = (
        torch.randn(5, 64, generator=torch.Generator().manual_seed(1)) * torch.tensor([1e-4, 1, 0, 50, 1e4])[:, None]
    )
    small, scale = quantize_rows(matrix)
    assert (small.dtype, scale.dtype, scale.shape) == (torch.float8_e4m3fn, torch.float32, (5, 1))
    again = small.float() * scale
    assert (again - matrix).abs().le(ROUNDING * matrix.abs() + 2e-3 * scale).all()
    assert small.float().abs().amax(dim=1).tolist() == [448, 448, 0, 448, 448]


@pytest.mark.parametrize("matmul", [True, False])
def test_a_layer_equals_the_stock_one_but_for_rounding(matmul):
    stock = layer()
    ours = quantized(stock)
    ours.has_fp8_matmul = matmul
    tokens = torch.randn(2, 7, 64)
    tokens[0, 3] *= 1000  # a large token costs the others no precision
    wanted = stock(tokens)
    assert 0.001 < error(ours(tokens)[1], wanted[1]) < 0.05
    assert 0.001 < error(ours(tokens)[0, 2], wanted[0, 2]) < 0.05
    by_hand = functional.linear(tokens, ours.weight.float() * ours.scale, stock.bias)
    assert error(ours(tokens), by_hand) < (0.05 if matmul else 1e-6)


def test_a_float8_product_equals_that_of_float32():
    ours, tokens = quantized(layer()), torch.randn(7, 64)
    small, scale = quantize_rows(tokens)
    wanted = functional.linear(small.float() * scale, ours.weight.float() * ours.scale, ours.bias)
    assert has_fp8_matmul(CPU)
    torch.testing.assert_close(ours(tokens), wanted, rtol=1e-5, atol=1e-5)


def test_many_tokens_are_quantized_in_chunks(monkeypatch):
    ours, tokens, parts = quantized(layer()), torch.randn(2, 21, 64), []
    wanted = ours(tokens)
    monkeypatch.setattr(fp8, "CHUNK_TOKENS", 8)
    monkeypatch.setattr(fp8, "quantize_rows", lambda matrix: parts.append(len(matrix)) or quantize_rows(matrix))
    torch.testing.assert_close(ours(tokens), wanted, rtol=1e-5, atol=1e-5)
    assert parts == [8, 8, 8, 8, 8, 2]


def test_a_device_without_float8_products_stores_only_weights(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9")

    has_fp8_matmul.cache_clear()
    monkeypatch.setattr(functional, "scaled_mm", refuse)
    try:
        ours = quantized(layer())
        assert not ours.has_fp8_matmul
        assert error(ours(torch.ones(64)), layer()(torch.ones(64))) < 0.05
    finally:
        has_fp8_matmul.cache_clear()


def test_layers_of_odd_sizes_stay_as_they_are():
    odd = torch.nn.Sequential(layer(rows=24), layer(columns=40), layer())
    quantize_fp8([odd], CPU)
    assert [type(one) for one in odd] == [torch.nn.Linear, torch.nn.Linear, Fp8Linear]


@pytest.fixture
def transformer() -> Transformer:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 4, "attention_head_dim": 24, "ffn_dim": 128, "num_layers": 3, "text_dim": 32}
    return Transformer(**sizes, inject_sample_info=True).eval().requires_grad_(False)


def ask(transformer: Transformer) -> torch.Tensor:
    random = torch.Generator().manual_seed(2)
    latents, text = torch.randn(1, 16, 3, 8, 12, generator=random), torch.randn(1, 8, 32, generator=random)
    levels = torch.full((1, 3), 500)
    with torch.no_grad():
        return transformer(latents, levels, text, enable_diffusion_forcing=True, fps=[1], return_dict=False)[0]


def test_a_transformer_keeps_its_dtype_its_output_and_a_quarter_of_its_linear_weights(transformer):
    wanted, dtype = ask(transformer), transformer.dtype
    before = sum(p.numel() * p.element_size() for p in transformer.parameters())
    quantize_fp8(blocks_of(transformer), CPU)
    after = sum(p.numel() * p.element_size() for p in transformer.parameters())
    assert before - after == 3 * linear_parameters(Shape(layers=3, dim=96, ffn_dim=128))
    assert transformer.dtype is dtype
    assert 0.0005 < error(ask(transformer), wanted) < 0.05


def test_linear_layers_are_nearly_all_of_the_released_model():
    large = Shape(layers=40, dim=5120, ffn_dim=13824)
    assert 2 * linear_parameters(large) / GIB == pytest.approx(26.1, abs=0.1)


def test_compiled_layers_give_the_same(transformer):
    quantize_fp8(blocks_of(transformer), CPU)
    wanted = ask(transformer)
    torch.compiler.reset()
    try:
        for block in transformer.blocks:
            block.forward = torch.compile(block.forward, dynamic=True, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(ask(transformer), wanted, rtol=1e-4, atol=1e-4)
    finally:
        torch.compiler.reset()
