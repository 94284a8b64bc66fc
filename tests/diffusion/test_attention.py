from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional

from backend.core.schema import Preset
from backend.diffusion import attention
from backend.diffusion.attention import cached_kernel, fastest_kernel, kernel

CPU = torch.device("cpu")
SIZE = (64, 2, 8)  # tokens, heads, channels of a head


def wrong(query, key, value):
    return value


def broken(query, key, value):
    raise RuntimeError("not on this GPU")


def test_kernels_of_diffusers_are_called_by_name():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, *SIZE) for _ in range(3))
    by_heads = [x.transpose(1, 2) for x in (query, key, value)]
    wanted = functional.scaled_dot_product_attention(*by_heads).transpose(1, 2)
    for name in ("native", "_native_flash", "_native_math"):
        torch.testing.assert_close(kernel(name)(query, key, value), wanted)


def test_the_fastest_kernel_is_chosen_and_one_that_fails_is_not(clock):
    slow, quick = clock.taking(0.02, kernel("native")), clock.taking(0.01, kernel("_native_math"))
    assert fastest_kernel({"native": slow, "quick": quick, "broken": broken}, *SIZE, CPU) == "quick"
    assert fastest_kernel({"native": quick, "slow": slow}, *SIZE, CPU) == "native"
    assert fastest_kernel({"native": broken, "other": broken}, *SIZE, CPU) == "native"


def test_the_stock_kernel_is_chosen_where_one_fails_while_it_is_timed(clock):
    calls = []

    def fails_later(query, key, value):
        calls.append(1)
        return broken(query, key, value) if len(calls) > 1 else kernel("native")(query, key, value)

    slow = clock.taking(0.02, kernel("native"))
    assert fastest_kernel({"native": slow, "other": fails_later}, *SIZE, CPU) == "native"


def test_a_less_exact_kernel_is_for_lossy_presets(clock):
    slow, quick = clock.taking(0.02, kernel("native")), clock.taking(0.01, wrong)
    assert fastest_kernel({"native": slow, "wrong": quick}, *SIZE, CPU) == "native"
    assert fastest_kernel({"native": slow, "sage": quick}, *SIZE, CPU) == "sage"
    assert "sage" not in attention.candidates(Preset.EXACT)
    assert "sage" in attention.candidates(Preset.TURBO)


@pytest.fixture
def gpu(monkeypatch):
    chosen = []

    def choice(kernels, *_):
        chosen.append(list(kernels))
        return "_native_cudnn"

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(attention, "fastest_kernel", choice)
    return chosen


def test_a_choice_is_made_once(gpu, tmp_path):
    file = tmp_path / "kernels.json"
    for tokens in (61_200, 61_000, 20_000):
        assert cached_kernel(file, Preset.EXACT, tokens, 12, 128, CPU) == "_native_cudnn"
    assert len(gpu) == 2
    cached_kernel(file, Preset.TURBO, 61_200, 12, 128, CPU)
    assert len(gpu) == 3
    assert len(json.loads(file.read_text())) == 3


@pytest.mark.parametrize("spoiled", ["{", "[1]", '{"a GPU": 7}', ""])
def test_a_damaged_cache_is_no_error(gpu, tmp_path, spoiled):
    file = tmp_path / "kernels.json"
    file.write_text(spoiled)
    assert cached_kernel(file, Preset.EXACT, 100, 12, 128, CPU) == "_native_cudnn"
    assert "_native_cudnn" in file.read_text()


def test_a_cached_name_that_is_no_kernel_is_ignored(gpu, tmp_path):
    file = tmp_path / "kernels.json"
    cached_kernel(file, Preset.EXACT, 100, 12, 128, CPU)
    file.write_text(file.read_text().replace("_native_cudnn", "no kernel"))
    assert cached_kernel(file, Preset.EXACT, 100, 12, 128, CPU) == "_native_cudnn"
    assert len(gpu) == 2


def test_a_transformer_goes_back_to_the_stock_kernel(components):
    transformer = components["df"].transformer
    with attention.attention_backend(transformer, "_native_math"):
        assert transformer.blocks[0].attn1.processor._attention_backend == "_native_math"
    assert transformer.blocks[0].attn1.processor._attention_backend == "native"
