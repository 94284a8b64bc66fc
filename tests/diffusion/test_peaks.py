"""The forecast of memory beside what the real models hold, counted with fake tensors at the released shapes."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from backend.core.plan import Machine
from backend.core.planning import make_plan
from backend.core.registry import MODELS
from backend.core.schema import parse_request
from backend.diffusion.fp8 import has_fp8_matmul
from benchmarks.peaks import MODELS as SHAPES
from benchmarks.peaks import decoding, denoising


@pytest.mark.parametrize("model", SHAPES)
def test_what_a_forward_holds_is_foreseen(model):
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        found = denoising(*SHAPES[model], frames=17, height=68, width=120)
    assert found["gib"] > 1
    assert found["ratio"] == pytest.approx(1, abs=0.1)


def test_fp8_layers_take_no_more_memory_beside_the_weights():
    assert has_fp8_matmul(torch.device("cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        found = denoising(*SHAPES["14b"], frames=17, height=68, width=120, fp8=True)
    assert found["ratio"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_decoding_holds_is_foreseen(dtype):
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        found = decoding(dtype, height=68, width=120)
    assert found["gib"] > 1
    assert found["ratio"] == pytest.approx(1, abs=0.1)


def test_the_peak_of_a_large_film_is_that_of_its_decoding():
    wish = {"prompt": "a boat", "model": "skyreels-v2-df-1.3b-540p", "num_frames": 97}
    request = parse_request(wish)
    plan = make_plan(request, MODELS[request.model], Machine("H100", cores=16, ram_gib=128, vram_gib=80))
    assert plan.forecast.peak_gib > MODELS[request.model].memory_gib + 9
