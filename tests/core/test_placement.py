from __future__ import annotations

import pytest

from backend.core.placement import Need, Placement, need_of, place
from backend.core.plan import Machine
from backend.core.planning import make_plan
from backend.core.registry import MODELS
from backend.core.schema import Preset, parse_request

NEED = Need(text=11, transformer=27, vae=0.5, denoise=8, decode=17, half_decode=9)


def test_each_way_takes_less_than_the_one_before():
    peaks = [NEED.peak(placement, half_decode=True) for placement in Placement]
    assert peaks == [11 + 27 + 0.5 + 9, 27 + 8, 1.5 + 8]
    small = Need(text=11, transformer=3, vae=0.5, denoise=3, decode=5, half_decode=3)
    assert small.peak(Placement.MODEL_OFFLOAD, half_decode=False) == 6  # the text encoder passes through
    assert NEED.peak(Placement.RESIDENT, half_decode=False) == 11 + 27 + 0.5 + 17


@pytest.mark.parametrize(
    ("gpu", "placement", "half"),
    [
        (80, Placement.RESIDENT, False),
        (55.5 / 0.92 + 0.1, Placement.RESIDENT, False),
        (55.5 / 0.92 - 0.1, Placement.MODEL_OFFLOAD, False),
        (35 / 0.92 - 0.1, Placement.GROUP_OFFLOAD, True),
        (24, Placement.GROUP_OFFLOAD, True),
        (2, Placement.GROUP_OFFLOAD, True),
    ],
)
def test_the_fastest_way_that_fits_is_taken(gpu, placement, half):
    placed = place(NEED, gpu)
    assert (placed.placement, placed.half_decode) == (placement, half)
    assert placed.peak_gib == NEED.peak(placement, half)


def test_what_did_not_fit_is_not_tried_again():
    assert place(NEED, 80, safer_than=Placement.RESIDENT).placement is Placement.MODEL_OFFLOAD
    assert place(NEED, 80, safer_than=Placement.MODEL_OFFLOAD).placement is Placement.GROUP_OFFLOAD
    assert place(NEED, 80, safer_than=Placement.GROUP_OFFLOAD).placement is Placement.GROUP_OFFLOAD


@pytest.mark.parametrize(
    ("model", "size", "gpu"),
    [
        ("skyreels-v2-df-1.3b-540p", "960x540", 8),
        ("skyreels-v2-df-14b-540p", "960x540", 24),
        ("skyreels-v2-df-14b-720p", "1280x720", 24),
        ("skyreels-v2-t2v-14b-720p", "1280x720", 24),
        ("skyreels-v2-df-14b-720p", "1280x720", 80),
    ],
)
def test_released_models_fit_where_they_are_promised_to(model, size, gpu):
    request = parse_request({"prompt": "a boat", "model": model, "resolution": size, "num_frames": 64})
    plan = make_plan(request, MODELS[model], Machine("H100", cores=16, ram_gib=128, vram_gib=gpu))
    assert plan.forecast.peak_gib < 0.92 * gpu
    if gpu == 8:
        assert plan.placement is Placement.MODEL_OFFLOAD
    if gpu == 80:
        assert (plan.placement, plan.half_decode) == (Placement.RESIDENT, False)


@pytest.mark.parametrize("preset", list(Preset))
def test_lossy_presets_store_large_linear_layers_in_fp8(preset):
    def planned(model, vram, **wish):
        request = parse_request({"prompt": "a boat", "model": model, "preset": preset, "num_frames": 64} | wish)
        return make_plan(request, MODELS[model], Machine("a GPU", cores=16, ram_gib=128, vram_gib=vram))

    lossy = preset is not Preset.EXACT
    large = planned("skyreels-v2-t2v-14b-720p", 80, resolution="1280x720")
    assert large.fp8 is lossy
    assert not planned("skyreels-v2-df-1.3b-540p", 80).fp8
    assert not planned("skyreels-v2-t2v-14b-720p", 0).fp8
    # A GPU of 24 GB then needs no group offloading.
    small = planned("skyreels-v2-df-14b-540p", 24, resolution="960x540")
    assert small.placement is (Placement.MODEL_OFFLOAD if lossy else Placement.GROUP_OFFLOAD)
    if lossy:
        alone = need_of(MODELS["skyreels-v2-t2v-14b-720p"], 61200, 1, 1280 * 720, fp8=True)
        assert 20 < alone.peak(Placement.MODEL_OFFLOAD, half_decode=True) < 25


def test_lossy_presets_decode_in_half_precision_on_a_gpu():
    for vram, expected in ((80, True), (0, False)):
        request = parse_request({"prompt": "a boat", "preset": Preset.BALANCED, "num_frames": 64})
        machine = Machine("a machine", cores=16, ram_gib=128, vram_gib=vram)
        assert make_plan(request, MODELS["skyreels-v2-df-1.3b-540p"], machine).half_decode is expected
