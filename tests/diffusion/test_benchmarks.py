"""What is measured on a GPU runs small on a CPU."""

from __future__ import annotations

import pytest

from benchmarks import gpu


@pytest.fixture(scope="module")
def measured():
    return gpu.measure(list(gpu.PARTS), ["1.3b"], small=True)


def test_kernels_are_timed_and_one_is_taken(measured):
    found = measured["attention"]["1.3b"]
    assert found["seconds"]["native"] > 0
    assert found["taken"] in found["seconds"]


def test_both_transformers_are_called_in_both_ways_and_agree_with_float32(measured):
    assert list(measured["forward"]) == ["1.3b, text to video", "1.3b, diffusion forcing"]
    for found in measured["forward"].values():
        assert found["times_as_fast"] == pytest.approx(found["stock"]["seconds"] / found["ours"]["seconds"], rel=0.5)
        assert max(found["error"].values()) < 1e-5
        assert found["forecast_gib"] > 0


def test_the_vae_decodes_in_both_precisions(measured):
    assert set(measured["decode"]) == {"float32", "half"}
    assert all(found["seconds"] > 0 for found in measured["decode"].values())
