"""What is measured on a GPU runs small on a CPU."""

from __future__ import annotations

import pytest
import torch

from backend.diffusion.transformer import Transformer
from benchmarks import errors, gpu, page, videos


@pytest.fixture(scope="module")
def measured():
    *_, results = gpu.measure(list(gpu.PARTS), ["1.3b", "14b"], small=True)
    return results


def test_kernels_are_timed_and_one_is_taken(measured):
    found = measured["attention"]["1.3b"]
    assert found["seconds"]["native"] > 0
    assert found["taken"] in found["seconds"]


def test_both_transformers_are_called_in_both_ways_and_agree_with_float32(measured):
    both = "text to video", "diffusion forcing"
    assert list(measured["forward"]) == [f"{model}, {mode}" for model in ("1.3b", "14b") for mode in both]
    for name, found in measured["forward"].items():
        exact, rounded = ["stock", "ours", "compiled"], ["eight bits"] if name.startswith("14b") else []
        assert list(found["times_as_fast"]) == exact + rounded
        for way, times in found["times_as_fast"].items():
            assert times == pytest.approx(found["stock"]["seconds"] / found[way]["seconds"], rel=0.5)
            least, most = (1e-3, 0.1) if way in rounded else (0, 1e-5)
            assert least <= found[way]["error"] < most
            assert least <= found[way]["error_after_steps"] < most
        assert found["forecast_gib"] > 0


def test_the_work_of_a_forward_is_that_of_the_released_model():
    heads, head_dim, ffn_dim, _ = gpu.MODELS["14b"]
    assert gpu.flop((heads, head_dim, ffn_dim, 40), 61200) / 1e15 == pytest.approx(4.5594, rel=1e-3)


def test_the_text_encoder_is_timed(measured):
    assert measured["text"]["seconds"] > 0
    assert measured["text"]["weights_gib"] > 0


def test_the_vae_decodes_in_both_precisions(measured):
    assert set(measured["decode"]) == {"stock", "float32", "half"}
    assert all(found["seconds"] > 0 for found in measured["decode"].values())


def test_both_precisions_have_the_same_weights():
    """So that an error is one of the arithmetic."""
    size, device = gpu.SMALL_MODELS["14b"], torch.device("cpu")
    one, other = (gpu.build(Transformer, size, True, device, dtype) for dtype in (torch.float32, torch.bfloat16))
    for name, weight in one.named_parameters():
        assert torch.equal(weight, other.get_parameter(name).float()), name
    assert other.blocks[0].attn1.to_q.weight.dtype is torch.bfloat16
    assert other.blocks[0].scale_shift_table.dtype is torch.float32


def test_what_counts_as_exact_is_as_near_to_float32_as_the_stock_class():
    found = errors.measure({"14b": gpu.SMALL_MODELS["14b"]}, errors.SMALL_SHAPE, backend="eager")
    assert list(found) == ["14b, text to video", "14b, diffusion forcing"]
    for ways in found.values():
        assert 0 < ways["stock"]["one_call"] < 0.02  # bfloat16's own, not that of other weights
        assert ways["ours"]["of_stock"] == ways["stock"]["of_stock"] == 1
        assert ways["compiled"]["of_stock"] <= 1.1
        assert 1 < ways["eight bits"]["of_stock"] < 3
    assert "| 14b, text to video | eight bits |" in page.errors(found)


@pytest.fixture(scope="module")
def whole_films():
    cases = [videos.Case("tiny", "tiny", mode, 10) for mode in ("text", "async", "long")]
    *_, results = videos.measure(cases, layers=1, small=True)
    return results


def test_films_are_made_by_every_preset_and_beside_every_peer(whole_films):
    peers = ["stock", "stock, compiled", "cache-dit, medium", "cache-dit, fast"]
    presets = ["exact", "balanced", "turbo", "turbo, LoRA"]
    for mode, found in zip(("text", "async", "long"), whole_films.values(), strict=True):
        assert list(found) == (peers if mode == "text" else ["stock"]) + presets
        forwards = {way: one["forwards"] for way, one in found.items()}
        assert forwards["exact"] == forwards["stock"] == {"text": 20, "async": 30, "long": 40}[mode]
        assert forwards["turbo, LoRA"] == {"text": 4, "async": 8, "long": 8}[mode]
        assert forwards["turbo"] < forwards["balanced"] < forwards["exact"]
        assert all(found["stock"]["forwards"] > forwards[way] for way in found if way.startswith("cache-dit"))
        assert all(one["times_as_fast"] > 0 for one in found.values())


def test_the_page_can_tell_of_them(whole_films):
    text = page.videos(whole_films | {"14b, text, b": {"stock": "CUDA out of memory"}})
    assert text.count("| exact | ") == 3
    assert "native, optimized, float32" in text
    assert "| stock |  |  |  |  |  | CUDA out of memory |" in text


def test_what_all_blocks_would_take_is_reckoned_from_some():
    case = videos.Case("14b", "b", "sync", None)
    taken = {"total_s": 12.0, "denoising_s": 10.0, "peak_gib": 12.0}
    found = videos.reckoned(taken, case, layers=4, blocks_gib=0.65)
    assert found["whole_s"] == 102
    assert found["beside_denoising"] == pytest.approx(2 / 102, abs=1e-4)
    assert found["whole_gib"] == pytest.approx(12 + 36 * 0.65)
    eight = videos.reckoned(taken | {"runtime": {"matrices": "float8"}}, case, layers=4, blocks_gib=0.65)
    assert eight["whole_gib"] == pytest.approx(12 + 18 * 0.65)


def test_the_page_of_figures_is_made_from_the_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
    assert "Not yet measured" in page.page() or page.read("videos")


def test_a_benchmark_that_was_never_run_is_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.page().count("Not yet measured") == len(page.SECTIONS)
