import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.errors import InvalidRequest
from backend.core.planning import (
    Machine,
    Source,
    Stage,
    Window,
    choose_model,
    forward_flops,
    fraction_done,
    frames_at,
    latent_frames,
    make_plan,
    plan_windows,
)
from backend.core.registry import LARGE, MODELS, SMALL, SYNTHETIC
from backend.core.schema import parse_request

H100 = Machine("NVIDIA H100 80GB HBM3", cores=16, ram_gib=128, vram_gib=79)
CARD_16 = Machine("NVIDIA RTX A4000", cores=8, ram_gib=32, vram_gib=16)
CARD_8 = Machine("NVIDIA GeForce RTX 4060", cores=8, ram_gib=32, vram_gib=8)
CPU = Machine("CPU, 2 cores", cores=2, ram_gib=16)
DF_SMALL = MODELS["skyreels-v2-df-1.3b-540p"]


def ask(**wish):
    return parse_request({"prompt": "a boat", "seed": 1} | wish)


def test_64_frames_at_540p_are_made_as_65_at_544_and_cropped():
    plan = make_plan(ask(num_frames=64), DF_SMALL, H100)
    assert (plan.render_frames, plan.num_frames, plan.total_frames) == (65, 64, 64)
    assert (plan.render_width, plan.render_height, plan.enlarged) == (960, 544, False)
    assert (plan.width, plan.height, plan.fps) == (960, 540, 24)
    assert plan.windows == (Window(0, 17),)


def test_more_frames_than_a_window_become_windows():
    plan = make_plan(ask(num_frames=128), DF_SMALL, H100)
    assert plan.windows == (Window(0, 25), Window(20, 33))
    assert plan.forwards == 2 * 30 * 2


def test_a_model_with_one_window_refuses_more_and_names_the_most():
    with pytest.raises(InvalidRequest, match="at most 97 frames"):
        make_plan(ask(num_frames=128), MODELS["skyreels-v2-t2v-14b-540p"], H100)


def test_720p_on_a_540p_model_is_enlarged():
    plan = make_plan(ask(resolution="720p"), DF_SMALL, H100)
    assert (plan.render_width, plan.render_height, plan.enlarged) == (960, 544, True)
    assert (plan.width, plan.height) == (1280, 720)


def test_seconds_become_frames_and_too_long_is_refused():
    assert make_plan(ask(seconds=4, fps=12), DF_SMALL, H100).num_frames == 48
    with pytest.raises(InvalidRequest, match="seconds=100 at 24 fps are 2400 frames"):
        make_plan(ask(seconds=100), DF_SMALL, H100)


@pytest.mark.parametrize("fps", range(8, 31))
def test_the_way_out_for_seconds_is_legal(fps):
    with pytest.raises(InvalidRequest) as refused:
        make_plan(ask(seconds=182, fps=fps) if fps > 8 else ask(seconds=0.5, fps=fps), DF_SMALL, H100)
    for seconds in re.findall(r"[\d.]+(?= to| seconds)", refused.value.hint):
        assert make_plan(ask(seconds=float(seconds), fps=fps), DF_SMALL, H100).total_frames >= 16


def test_a_model_with_one_window_takes_no_other_window():
    with pytest.raises(InvalidRequest, match="makes one window"):
        make_plan(ask(skyreels={"base_num_frames": 257}), MODELS["skyreels-v2-t2v-14b-540p"], H100)


def test_an_extension_keeps_the_rate_and_counts_new_frames():
    request = parse_request({"mode": "video_extension", "video": "0" * 20, "num_frames": 30})
    plan = make_plan(request, DF_SMALL, H100, Source(640, 360, 100, 25.0))
    assert (plan.fps, plan.source_frames, plan.num_frames, plan.total_frames) == (25, 100, 30, 130)
    assert plan.prefix_frames == 17
    assert plan.render_frames >= 47


def test_a_source_shorter_than_the_overlap_gives_what_it_has():
    request = parse_request({"mode": "video_extension", "video": "0" * 20, "num_frames": 16})
    plan = make_plan(request, DF_SMALL, H100, Source(640, 360, 7, 24.0))
    assert (plan.source_frames, plan.prefix_frames) == (7, 5)


def test_overlap_must_be_shorter_than_the_window():
    with pytest.raises(InvalidRequest, match=r"overlap_history=49 is not shorter.*use at most 45"):
        make_plan(ask(skyreels={"overlap_history": 49, "base_num_frames": 49}), DF_SMALL, H100)


@given(
    frames=st.integers(16, 1457),
    base=st.integers(4, 64).map(lambda k: 4 * k + 1),
    overlap=st.integers(1, 24).map(lambda k: 4 * k + 1),
)
def test_windows_cover_every_latent_frame_and_share_the_overlap(frames, base, overlap):
    if overlap >= base:
        with pytest.raises(InvalidRequest):
            plan_windows(4 * frames + 1, base, overlap)
        return
    windows = plan_windows(4 * frames + 1, base, overlap)
    assert windows[0].start == 0
    assert windows[-1].stop == frames + 1
    for before, after in itertools.pairwise(windows):
        assert before.stop - after.start == latent_frames(overlap)
        assert after.stop > before.stop
    assert all(window.stop - window.start <= latent_frames(base) for window in windows)


@given(
    width=st.integers(32, 960).map(lambda n: 2 * n),
    height=st.integers(32, 960).map(lambda n: 2 * n),
    frames=st.integers(16, 1457),
    fps=st.integers(8, 30),
    model=st.sampled_from([m for m in MODELS.values() if m.diffusion_forcing or m is SYNTHETIC]),
    source=st.none() | st.builds(Source, st.just(64), st.just(64), st.integers(1, 2000), st.floats(5, 60)),
)
def test_every_wish_has_a_legal_plan(width, height, frames, fps, model, source):
    wish = {"resolution": f"{width}x{height}", "num_frames": frames, "fps": fps, "prompt": "x", "seed": 0}
    if source:
        wish |= {"mode": "video_extension", "video": "0" * 20}
    plan = make_plan(parse_request(wish), model, H100, source)
    assert (plan.width, plan.height, plan.num_frames, plan.fps) == (width, height, frames, fps)
    assert plan.render_frames % 4 == 1
    assert plan.render_frames - 4 < plan.prefix_frames + frames <= plan.render_frames
    assert plan.windows[-1].stop == latent_frames(plan.render_frames)
    if model is not SYNTHETIC:
        assert plan.render_width % 16 == plan.render_height % 16 == 0
        assert plan.render_width * plan.render_height <= 1.1 * model.max_pixels + 16 * (width + height)
    if not plan.enlarged:
        assert plan.render_width >= width
        assert plan.render_height >= height
    assert plan.forecast.total_s > 0


def test_frames_at_another_rate():
    source = Source(64, 64, 100, 25.0)
    assert [frames_at(source, fps) for fps in (25, 24, 30)] == [100, 96, 120]
    assert frames_at(Source(64, 64, 1, 60.0), 8) == 1


def test_auto_takes_the_largest_that_fits_then_the_sketch():
    models = list(MODELS.values())
    assert choose_model(ask(), models, H100).id == "skyreels-v2-df-14b-540p"
    assert choose_model(ask(resolution="720p"), models, H100).id == "skyreels-v2-df-14b-720p"
    assert choose_model(ask(), models, CARD_16).id == "skyreels-v2-df-1.3b-540p"
    assert choose_model(ask(), models, CARD_8) is SYNTHETIC  # the text encoder alone needs more
    assert choose_model(ask(), models, CPU) is SYNTHETIC
    assert choose_model(ask(), [SYNTHETIC], H100) is SYNTHETIC


def test_auto_never_takes_a_model_that_lacks_the_mode():
    request = parse_request({"mode": "video_extension", "video": "0" * 20})
    t2v_only = [MODELS["skyreels-v2-t2v-14b-540p"], SYNTHETIC]
    assert choose_model(request, t2v_only, H100) is SYNTHETIC


def test_a_named_model_that_is_not_here_or_cannot_is_refused():
    with pytest.raises(InvalidRequest, match="model='nope' is not here; use auto, or one of synthetic"):
        choose_model(ask(model="nope"), [SYNTHETIC], CPU)
    i2v = MODELS["skyreels-v2-i2v-1.3b-540p"]
    with pytest.raises(InvalidRequest, match="cannot do text_to_video; use synthetic"):
        choose_model(ask(model=i2v.id), [i2v, SYNTHETIC], H100)


@pytest.mark.parametrize(("shape", "petaflops"), [(SMALL, 0.8494), (LARGE, 4.5594)])
def test_the_work_of_a_forward_is_what_was_counted(shape, petaflops):
    assert forward_flops(shape, 61_200) / 1e15 == pytest.approx(petaflops, rel=0.002)


def test_the_forecast_grows_with_the_work_and_with_what_was_learned():
    short, long = (make_plan(ask(num_frames=n), DF_SMALL, H100).forecast.total_s for n in (32, 97))
    assert short < long
    learned = make_plan(ask(num_frames=32), DF_SMALL, H100, calibration=3.0).forecast
    assert learned.total_s == pytest.approx(3 * short)


def test_the_fraction_runs_from_nothing_to_all():
    plan = make_plan(ask(), DF_SMALL, H100)
    marks = [fraction_done(plan, stage, part) for stage in Stage for part in (0.0, 0.5, 1.0)]
    assert marks[0] == 0.0
    assert marks[-1] == pytest.approx(1.0)
    assert marks == sorted(marks)
