"""What is measured on a GPU runs small on a CPU."""

from __future__ import annotations

import pytest

from benchmarks import gpu, page


@pytest.fixture(scope="module")
def measured():
    *_, results = gpu.measure(list(gpu.PARTS), ["1.3b"], small=True)
    return results


def test_kernels_are_timed_and_one_is_taken(measured):
    found = measured["attention"]["1.3b"]
    assert found["seconds"]["native"] > 0
    assert found["taken"] in found["seconds"]


def test_both_transformers_are_called_in_both_ways_and_agree_with_float32(measured):
    assert list(measured["forward"]) == ["1.3b, text to video", "1.3b, diffusion forcing"]
    for found in measured["forward"].values():
        assert set(found["times_as_fast"]) == {"stock", "ours", "compiled"}
        for way, times in found["times_as_fast"].items():
            assert times == pytest.approx(found["stock"]["seconds"] / found[way]["seconds"], rel=0.5)
            assert found[way]["error"] < 1e-5
        assert found["forecast_gib"] > 0


def test_the_work_of_a_forward_is_that_of_the_released_model():
    heads, head_dim, ffn_dim, _ = gpu.MODELS["14b"]
    assert gpu.flop((heads, head_dim, ffn_dim, 40), 61200) / 1e15 == pytest.approx(4.5594, rel=1e-3)


def test_the_vae_decodes_in_both_precisions(measured):
    assert set(measured["decode"]) == {"float32", "half"}
    assert all(found["seconds"] > 0 for found in measured["decode"].values())


def test_the_page_of_figures_is_made_from_the_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
    assert "Not yet measured" in page.page() or page.read("gpu")


def test_a_benchmark_that_was_never_run_is_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.page().count("Not yet measured") == len(page.SECTIONS)
