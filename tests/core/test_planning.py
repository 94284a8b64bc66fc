import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.calibration import Timing, calibrate
from backend.core.delivery import FitStep, Strip
from backend.core.errors import InvalidRequest
from backend.core.forecast import BYTES_PER_PIXEL, ENCODE_S_PER_PIXEL, forward_flops
from backend.core.model_choice import choose_model, fit_words, recommend, suitability
from backend.core.placement import Placement
from backend.core.plan import Machine, Source, Stage, fraction_done
from backend.core.planning import frames_at, make_plan, plan_promotion
from backend.core.registry import LARGE, MODELS, SMALL, SYNTHETIC, TINY
from backend.core.schedule import make_schedule
from backend.core.schema import parse_request
from backend.core.windows import Window, latent_frames, plan_windows

H100 = Machine("NVIDIA H100 80GB HBM3", cores=16, ram_gib=128, vram_gib=79)
CARD_16 = Machine("NVIDIA RTX A4000", cores=8, ram_gib=32, vram_gib=16)
CARD_24 = Machine("NVIDIA GeForce RTX 4090", cores=16, ram_gib=64, vram_gib=24)
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
    assert plan.finishing_steps == (FitStep(width=960, height=540, method="crop"),)
    assert plan.rendered == Strip(960, 544, 24, 64)
    assert plan.delivered == Strip(960, 540, 24, 64)


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
    assert plan.finishing_steps == (FitStep(width=1280, height=720, method="enlarge"),)


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


@pytest.mark.parametrize(
    ("source_fps", "fps"),
    [
        (24, 24),
        (23.976, 24),
        (29.97, 30),
        (48, 24),
        (50, 25),
        (59.94, 30),
        (60, 30),
        (100, 25),
        (120, 30),
        (240, 30),
        (5, 8),
    ],
)
def test_the_rate_follows_the_source_and_frames_are_left_out_evenly(source_fps, fps):
    request = parse_request({"mode": "video_extension", "video": "0" * 20, "num_frames": 30})
    assert make_plan(request, DF_SMALL, H100, Source(640, 360, 200, source_fps)).fps == fps


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


def wait(num_frames=100, source=None, model=DF_SMALL, **options):
    """A plan whose blocks wait for one another by 5 steps."""
    wish = {"num_frames": num_frames, "skyreels": {"ar_step": 5} | options}
    if source:
        wish |= {"mode": "video_extension", "video": "0" * 20}
    return make_plan(ask(**wish), model, H100, Source(64, 64, source, 24.0) if source else None)


def test_blocks_that_wait_divide_every_window_and_the_rest_is_trimmed():
    plan = wait(num_frames=100)
    assert (plan.ar_step, plan.causal_block_size) == (5, 5)
    assert (plan.windows, plan.render_frames) == ((Window(0, 25), Window(20, 30)), 117)
    # The second window has one block that is known and one that is not.
    assert plan.window_steps == (30 + 4 * 5, 30)
    assert plan.forwards == 2 * 80
    assert plan.forecast.total_s > make_plan(ask(num_frames=100), DF_SMALL, H100).forecast.total_s


def test_what_was_left_open_fits_the_blocks():
    hd = MODELS["skyreels-v2-df-14b-720p"]
    assert wait(num_frames=300, model=hd).windows[0] == Window(0, 30)  # of 121 frames, 31 latent frames
    assert wait(num_frames=300, causal_block_size=4).windows[1].start == 24 - 8
    assert wait(num_frames=300, causal_block_size=12).windows[1].start == 12
    assert wait(num_frames=64, base_num_frames=121).windows == (Window(0, 20),)  # one window: its most is no matter


def test_an_extension_begins_with_whole_blocks():
    assert wait(source=100).prefix_frames == 17
    assert wait(source=100, causal_block_size=2).prefix_frames == 21
    assert wait(source=12, causal_block_size=2).prefix_frames == 5
    with pytest.raises(InvalidRequest, match=r"17 frames or more, the video has 9; use skyreels.causal_block_size=3,"):
        wait(source=9)


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        (
            {"base_num_frames": 121},
            "base_num_frames",
            "121 is 31 latent frames, .* divided by .* 5; use 117 or 137",
        ),
        ({"base_num_frames": 17}, "base_num_frames", "17 is 5 latent frames, which leaves no room .* use 37 or 57"),
        ({"base_num_frames": 17, "causal_block_size": 2}, "base_num_frames", "17 is 5 .* blocks of 2; use 21 or 29"),
        ({"overlap_history": 21}, "overlap_history", "21 is 6 latent frames, .* divided by blocks of 5; use 17 or 37"),
        ({"overlap_history": 97}, "overlap_history", "97 is 25 latent frames, which leaves no room .* use 57 or 77"),
        ({"base_num_frames": 57, "overlap_history": 77}, "base_num_frames", "use 97 or 117"),
    ],
)
def test_windows_that_are_not_whole_blocks_are_refused_with_the_two_nearest(options, field, words):
    with pytest.raises(InvalidRequest, match=words) as refused:
        wait(num_frames=300, **options)
    assert refused.value.field == f"skyreels.{field}"


def test_a_first_picture_and_plain_models_cannot_wait():
    """The original and the port take the picture for a part of a block, and denoise it away."""
    picture = {"mode": "image_to_video", "image": "0" * 20, "skyreels": {"ar_step": 5}}
    with pytest.raises(InvalidRequest, match=r"ar_step=5 .* first picture .* use skyreels.ar_step=0"):
        make_plan(ask(**picture), DF_SMALL, H100)
    with pytest.raises(InvalidRequest, match=r"same noise level; use skyreels.ar_step=0 or a DF model"):
        wait(model=MODELS["skyreels-v2-t2v-14b-540p"])
    ends = {"mode": "video_extension", "video": "0" * 20, "end_image": "0" * 20}
    source = Source(64, 64, 100, 24.0)
    assert make_plan(ask(**ends, skyreels={"ar_step": 5}), DF_SMALL, H100, source).ar_step == 5
    with pytest.raises(InvalidRequest, match=r"of diffusers; use skyreels.ar_step=0 or skyreels.fidelity=original"):
        make_plan(ask(**ends, skyreels={"ar_step": 5, "fidelity": "diffusers"}), DF_SMALL, H100, source)


def test_a_first_picture_is_a_block_of_one():
    picture = {"mode": "image_to_video", "image": "0" * 20, "num_frames": 21}
    plan = make_plan(ask(**picture, skyreels={"ar_step": 5, "causal_block_size": 1}), DF_SMALL, H100)
    # Of 6 latent frames one is the picture, 5 go down, and the last 4 of them wait.
    assert plan.window_steps == (30 + 4 * 5,)


def test_causal_blocks_are_whole_and_go_down_together():
    plan = make_plan(ask(num_frames=100, skyreels={"causal_attention": True}), DF_SMALL, H100)
    assert (plan.causal_attention, plan.ar_step, plan.causal_block_size) == (True, 0, 5)
    assert plan.windows == (Window(0, 25), Window(20, 30))
    assert plan.window_steps == (30, 30)
    assert wait(causal_attention=True).window_steps == (50, 30)


def test_what_causal_blocks_cannot_show_is_refused():
    with pytest.raises(InvalidRequest, match=r"=true .* same noise level; use skyreels\.causal_attention=false"):
        make_plan(ask(num_frames=64, skyreels={"causal_attention": True}), MODELS["skyreels-v2-t2v-14b-540p"], H100)
    picture = {"mode": "image_to_video", "image": "0" * 20, "num_frames": 64}
    with pytest.raises(InvalidRequest, match=r"first picture fills no block of 5; .*causal_block_size=1"):
        make_plan(ask(**picture, skyreels={"causal_attention": True}), DF_SMALL, H100)
    frames = {"causal_attention": True, "causal_block_size": 1}
    assert make_plan(ask(**picture, skyreels=frames), DF_SMALL, H100).causal_attention
    with pytest.raises(InvalidRequest, match=r"causal_attention=true .* no frame would see the last picture"):
        make_plan(ask(**picture, end_image="0" * 20, skyreels=frames | {"ar_step": 5}), DF_SMALL, H100)
    with pytest.raises(InvalidRequest, match=r"121 is 31 latent frames, .* use 117 or 137"):
        make_plan(ask(num_frames=300, skyreels={"causal_attention": True, "base_num_frames": 121}), DF_SMALL, H100)


def test_the_overlap_that_a_refusal_names_is_taken():
    options = {"causal_attention": True, "causal_block_size": 9}
    wish = {"mode": "video_extension", "video": "0" * 20, "num_frames": 16}
    source = Source(640, 360, 206, 24.0)
    with pytest.raises(InvalidRequest, match=r"overlap_history=5 is 2 latent frames.* use 33\.$"):
        make_plan(ask(**wish, skyreels=options | {"overlap_history": 5}), DF_SMALL, H100, source)
    assert make_plan(ask(**wish, skyreels=options | {"overlap_history": 33}), DF_SMALL, H100, source)


def test_guidance_in_one_call_halves_the_calls_and_not_the_work():
    two = make_plan(ask(), DF_SMALL, H100)
    one = make_plan(ask(skyreels={"batch_guidance": True}), DF_SMALL, H100)
    assert (two.num_evaluations, two.forwards, one.num_evaluations, one.forwards) == ((60,), 60, (60,), 30)
    assert one.forecast.seconds == two.forecast.seconds
    large = MODELS["skyreels-v2-df-14b-540p"]  # of the small one the peak is when it is decoded
    peaks = [
        make_plan(ask(num_frames=97, skyreels={"batch_guidance": at_once}), large, H100).forecast.peak_gib
        for at_once in (True, False)
    ]
    assert peaks[0] > peaks[1] + 2
    unguided = make_plan(ask(guidance_scale=1, skyreels={"batch_guidance": True}), DF_SMALL, H100)
    assert unguided.forecast == make_plan(ask(guidance_scale=1), DF_SMALL, H100).forecast
    assert unguided.forwards == 30


@pytest.mark.parametrize("model", [DF_SMALL, SYNTHETIC])
def test_a_storyboard_has_at_most_a_prompt_for_each_window(model):
    told = {"num_frames": 128, "skyreels": {"storyboard": ["noon"]}}
    assert len(make_plan(ask(**told), model, H100).windows) == 2
    with pytest.raises(InvalidRequest) as refused:
        make_plan(ask(**told | {"skyreels": {"storyboard": ["noon", "dusk", "night"]}}), model, H100)
    assert str(refused.value) == (
        "skyreels.storyboard has 3 prompts for the windows after the first, of which the video has 1;"
        " use at most 1, or take num_frames=258 or more, or use skyreels.base_num_frames=53."
    )
    assert refused.value.field == "skyreels.storyboard"
    told["skyreels"]["storyboard"] = ["noon", "dusk", "night"]
    assert len(make_plan(ask(**told | {"num_frames": 258}), model, H100).windows) == 4
    for base, windows in ((53, 4), (57, 3)):
        assert len(make_plan(ask(num_frames=128, skyreels={"base_num_frames": base}), model, H100).windows) == windows
    with pytest.raises(InvalidRequest, match="use at most 1, or take num_frames=178"):
        make_plan(ask(**told | {"num_frames": 177, "skyreels": {"storyboard": ["noon", "dusk"]}}), model, H100)


def test_a_storyboard_that_no_film_is_long_enough_for_names_no_length():
    with pytest.raises(InvalidRequest, match=r"30 prompts .* has 0; leave skyreels.storyboard out\.$"):
        make_plan(ask(num_frames=64, skyreels={"storyboard": ["x"] * 30}), DF_SMALL, H100)


def test_one_window_has_one_prompt():
    with pytest.raises(InvalidRequest, match=r"from one prompt; leave skyreels\.storyboard out, or use a DF model"):
        make_plan(ask(skyreels={"storyboard": ["noon"]}), MODELS["skyreels-v2-t2v-14b-540p"], H100)


def test_the_test_pattern_has_nothing_that_waits():
    plan = wait(model=SYNTHETIC, causal_attention=True, batch_guidance=True)
    assert (plan.ar_step, plan.causal_block_size, plan.render_frames) == (0, 1, 101)
    assert (plan.causal_attention, plan.batch_guidance) == (False, False)


@pytest.mark.parametrize(
    "options", [{"ar_step": 5}, {"causal_attention": True}, {"storyboard": ["noon"]}, {"base_num_frames": 49}]
)
def test_auto_takes_a_model_that_can_do_what_only_diffusion_forcing_can(options):
    plain = MODELS["skyreels-v2-t2v-14b-540p"]
    assert choose_model(ask(), [plain, DF_SMALL], H100) is plain
    assert choose_model(ask(skyreels=options), [plain, DF_SMALL], H100) is DF_SMALL


@given(
    frames=st.integers(16, 1457),
    ar_step=st.integers(1, 50),
    steps=st.integers(10, 50),
    block=st.none() | st.integers(1, 12),
    base=st.none() | st.integers(4, 64).map(lambda k: 4 * k + 1),
    overlap=st.none() | st.integers(1, 24).map(lambda k: 4 * k + 1),
    source=st.none() | st.integers(1, 300),
    hd=st.booleans(),
)
def test_blocks_that_wait_have_a_legal_plan_or_a_refusal_that_leads_to_one(
    frames, ar_step, steps, block, base, overlap, source, hd
):
    model = MODELS["skyreels-v2-df-14b-720p" if hd else "skyreels-v2-df-1.3b-540p"]
    options = {"ar_step": ar_step, "causal_block_size": block, "base_num_frames": base, "overlap_history": overlap}
    wish = {"num_frames": frames, "num_inference_steps": steps}
    if source:
        wish |= {"mode": "video_extension", "video": "0" * 20}
    plan = None
    for _ in range(4):
        try:
            plan = make_plan(ask(**wish, skyreels=options), model, H100, source and Source(64, 64, source, 24.0))
            break
        except InvalidRequest as refused:
            name = refused.field.removeprefix("skyreels.")
            nearest = [int(number) for number in re.findall(r"\d+", refused.hint.replace("ar_step=0", ""))]
            options[name] = nearest[-1]
    assert plan, options
    size = plan.causal_block_size
    assert plan.prefix_frames + frames <= plan.render_frames < plan.prefix_frames + frames + 4 * size
    assert plan.windows[-1].stop == latent_frames(plan.render_frames)
    known = [latent_frames(plan.prefix_frames) if plan.prefix_frames else 0]
    known += [before.stop - after.start for before, after in itertools.pairwise(plan.windows)]
    for window, num_context_frames, counted in zip(plan.windows, known, plan.window_steps, strict=True):
        length = window.stop - window.start
        assert length % size == num_context_frames % size == 0
        assert (
            num_context_frames
            < length
            <= max(latent_frames(options["base_num_frames"] or model.base_num_frames), 2 * size)
        )
        if len(plan.windows) < 8:
            assert counted == len(make_schedule(length, steps, ar_step, size, num_context_frames).timestep_indices)


def test_frames_at_another_rate():
    source = Source(64, 64, 100, 25.0)
    assert [frames_at(source, fps) for fps in (25, 24, 30)] == [100, 96, 120]
    assert frames_at(Source(64, 64, 1, 60.0), 8) == 1


def test_auto_takes_the_largest_that_fits_then_what_came_with_the_studio():
    models = list(MODELS.values())
    assert choose_model(ask(), models, H100).id == "skyreels-v2-df-14b-540p"
    assert choose_model(ask(resolution="720p"), models, H100).id == "skyreels-v2-df-14b-720p"
    assert choose_model(ask(), models, CARD_16).id == "wan2.2-ti2v-5b"
    own = [spec for spec in models if spec.family == "skyreels-v2"]
    assert choose_model(ask(), own, CARD_16).id == "skyreels-v2-df-1.3b-540p"
    assert choose_model(ask(), models, CARD_8).id == "skyreels-v2-df-1.3b-540p"  # its text encoder passes through
    assert choose_model(ask(), models, replace(CARD_8, vram_gib=4.0)) is TINY
    # What would have to be streamed is not held, and in eight bits it is.
    assert choose_model(ask(), own, CARD_24).id == "skyreels-v2-df-1.3b-540p"
    assert choose_model(ask(), own, replace(CARD_24, vram_gib=31.4)).id == "skyreels-v2-df-1.3b-540p"
    assert choose_model(ask(preset="balanced"), own, CARD_24).id == "skyreels-v2-df-14b-540p"
    assert choose_model(ask(), models, CPU) is TINY
    assert choose_model(ask(), [SYNTHETIC], H100) is SYNTHETIC


@pytest.mark.parametrize("wish", [{}, {"mode": "image_to_video", "image": "0" * 20}, {"resolution": "720p"}])
def test_auto_takes_the_test_pattern_where_torch_is_not_installed(wish):
    request = parse_request({"prompt": "A boat"} | wish)
    for machine in (H100, CPU):
        assert choose_model(request, list(MODELS.values()), machine) is not SYNTHETIC
        without = replace(machine, has_torch=False)
        spec = choose_model(request, list(MODELS.values()), without)
        assert spec is SYNTHETIC
        assert make_plan(request, spec, without).engine == "synthetic"


def test_a_row_says_what_its_model_can_do():
    for spec in MODELS.values():
        drawn = spec is SYNTHETIC
        assert (spec.needs_checkpoint, spec.denoises, spec.any_size) == (not drawn, not drawn, drawn), spec.id
        assert spec.many_windows == (drawn or spec.diffusion_forcing), spec.id
        assert (spec.transformer is not None) == spec.denoises, spec.id


def test_a_new_row_gets_the_plan_that_its_capabilities_ask_for():
    """Plans ask a row what it can do, never which engine it is of."""
    new = replace(DF_SMALL, id="new", engine="new", any_size=True)
    plan = make_plan(ask(resolution="100x70", num_frames=300, preset="balanced"), new, H100)
    assert (plan.engine, plan.render_width, plan.render_height, len(plan.windows)) == ("new", 100, 70, 4)
    assert (plan.preset, plan.on_gpu) == ("balanced", True)
    drawn = replace(new, denoises=False, transformer=None, diffusion_forcing=False)
    plan = make_plan(ask(num_frames=300, preset="balanced", skyreels={"storyboard": ["b"]}), drawn, H100)
    assert (plan.preset, plan.on_gpu, len(plan.windows)) == ("exact", False, 4)
    with pytest.raises(InvalidRequest, match=r"more than .* makes in its one window"):
        make_plan(ask(num_frames=300), replace(new, diffusion_forcing=False), H100)


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
    cold = make_plan(ask(num_frames=32), DF_SMALL, H100).forecast
    assert cold.guess == cold.seconds
    slow = Timing(cold.guess, {Stage.DENOISING: 3 * cold.guess[Stage.DENOISING]})
    learned = make_plan(ask(num_frames=32), DF_SMALL, H100, calibration=calibrate([slow])).forecast
    assert learned.guess == cold.guess
    assert learned.seconds == pytest.approx(cold.seconds | {Stage.DENOISING: 3 * cold.seconds[Stage.DENOISING]})


def test_the_forecast_counts_finishing_the_delivered_file_and_loras():
    bare, enlarged = (make_plan(ask(resolution=size), DF_SMALL, CPU) for size in ("960x544", "720p"))
    assert bare.finishing_steps == ()
    [step] = enlarged.finishing_steps
    more_pixels = enlarged.delivered.pixels - bare.delivered.pixels
    finishing_s = enlarged.forecast.seconds[Stage.DECODING] - bare.forecast.seconds[Stage.DECODING]
    assert finishing_s == pytest.approx(step.seconds(enlarged.rendered) + ENCODE_S_PER_PIXEL * more_pixels)
    assert enlarged.forecast.disk_bytes - bare.forecast.disk_bytes == pytest.approx(BYTES_PER_PIXEL * more_pixels, 1e-6)
    assert enlarged.forecast.peak_gib - bare.forecast.peak_gib == pytest.approx(
        step.memory_gib(enlarged.rendered, on_gpu=False), abs=0.01
    )
    with_loras = make_plan(ask(resolution="720p"), DF_SMALL, CPU, loras={"grain": 2**30, "noir": 2**29})
    assert with_loras.forecast.peak_gib - enlarged.forecast.peak_gib == pytest.approx(1.5)
    assert [lora.name for lora in with_loras.loras] == ["grain", "noir"]
    request = ask(mode="video_extension", video="0" * 20, num_frames=64)
    longer = make_plan(request, DF_SMALL, CPU, Source(960, 540, 50, 24.0))
    assert longer.rendered.frames == 64
    assert longer.delivered.frames == 114
    assert longer.forecast.disk_bytes == int(longer.delivered.pixels * BYTES_PER_PIXEL) + 100_000


def test_the_fraction_runs_from_nothing_to_all():
    plan = make_plan(ask(), DF_SMALL, H100)
    assert fraction_done(plan.forecast, {}) == 0.0
    assert fraction_done(plan.forecast, dict.fromkeys(Stage, 1.0)) == pytest.approx(1.0)
    half = fraction_done(plan.forecast, {Stage.LOADING: 1.0, Stage.DENOISING: 0.5, Stage.DECODING: 0.5})
    seconds = plan.forecast.seconds
    worked = seconds[Stage.LOADING] + (seconds[Stage.DENOISING] + seconds[Stage.DECODING]) / 2
    assert half == pytest.approx(worked / plan.forecast.total_s)


@pytest.mark.parametrize(
    ("wishes", "segments"),
    [
        ({"num_frames": 64}, [(0, 64)]),  # 65 are made
        ({"num_frames": 200}, [(0, 97), (97, 177), (177, 200)]),
        ({"num_frames": 97, "ar_step": 5}, [(0, 17), (17, 37), (37, 57), (57, 77), (77, 97)]),
        ({"num_frames": 97, "ar_step": 5, "causal_block_size": 2}, [(0, 21), (21, 45), (45, 69), (69, 93), (93, 97)]),
        (
            {"num_frames": 60, "ar_step": 2, "base_num_frames": 37, "causal_block_size": 5},
            [(0, 17), (17, 37), (37, 57), (57, 60)],
        ),
    ],
)
def test_segments_are_what_becomes_final_together(wishes, segments):
    wishes = dict(wishes)
    frames = wishes.pop("num_frames")
    assert list(make_plan(ask(num_frames=frames, skyreels=wishes), DF_SMALL, H100).segments) == segments


def test_segments_of_an_extension_begin_after_the_prefix():
    request = ask(mode="video_extension", video="0" * 20, num_frames=100)
    plan = make_plan(request, DF_SMALL, H100, Source(960, 544, 50, 24.0))
    assert plan.prefix_frames == 17
    assert plan.segments == ((17, 97), (97, 117))


@pytest.mark.parametrize(
    ("wish", "shown"),
    [
        ({"num_frames": 64}, 64),
        ({"num_frames": 200}, 97),
        ({"num_frames": 97, "skyreels": {"ar_step": 5}}, 37),  # in 8 steps two blocks of 5 latent frames begin
        ({"num_frames": 97, "skyreels": {"ar_step": 5, "causal_block_size": 1}}, 5),
        ({"num_frames": 97, "skyreels": {"ar_step": 10}}, 17),
    ],
)
def test_a_draft_shows_the_frames_of_the_first_window_that_have_begun(wish, shown):
    draft, whole = (make_plan(ask(**wish | part), DF_SMALL, H100) for part in ({"draft_steps": 8}, {}))
    assert (draft.new_frames, draft.total_frames, draft.rendered.frames) == (shown, shown, shown)
    assert draft.segments == ((0, shown),)
    assert draft.window_steps == (8,)
    assert replace(draft, draft_steps=None, forecast=whole.forecast) == whole


@pytest.mark.parametrize("preset", ["exact", "balanced", "turbo"])
def test_draft_and_rest_take_the_steps_of_the_whole(preset):
    """Those that the preset extrapolates count as steps."""
    wish = {"num_frames": 200, "preset": preset, "num_inference_steps": 30}
    whole = make_plan(ask(**wish), DF_SMALL, H100)
    draft = make_plan(ask(**wish, draft_steps=20), DF_SMALL, H100)
    rest = plan_promotion(draft, 20, DF_SMALL, H100)
    assert len(draft.step_plans[0]) == 20
    assert draft.step_plans[0] + rest.step_plans[0] == whole.step_plans[0]
    assert rest.step_plans[1:] == whole.step_plans[1:]
    assert draft.forwards + rest.forwards == whole.forwards
    seconds = [plan.forecast.seconds[Stage.DENOISING] for plan in (draft, rest, whole)]
    assert seconds[0] + seconds[1] == pytest.approx(seconds[2])
    assert draft.forecast.whole_guess_s == rest.forecast.whole_guess_s == whole.forecast.guess[Stage.DENOISING]
    assert draft.forecast.seconds[Stage.DECODING] < rest.forecast.seconds[Stage.DECODING]
    assert rest.forecast.seconds[Stage.DECODING] == whole.forecast.seconds[Stage.DECODING]
    assert replace(rest, done_steps=0, forecast=whole.forecast) == whole


def test_a_draft_counts_the_disk_that_its_state_takes():
    """Latents, two predictions of the solver and its last sample, 16 channels of float32 for 8x8 pixels of 4 frames;
    where steps are extrapolated also two predictions of the transformer, each with and without guidance.
    """
    plan = make_plan(ask(num_frames=97, draft_steps=8), DF_SMALL, H100)
    latents = 4 * 16 * 25 * (960 // 8) * (544 // 8)
    video = int(plan.delivered.pixels * BYTES_PER_PIXEL) + 100_000
    assert 8 * latents * 0.95 <= plan.forecast.disk_bytes - video <= 8 * latents * 1.05


def test_what_a_promotion_is_made_of_is_what_the_draft_was_made_of():
    """Another machine, or a model whose row has changed, changes nothing but the forecast."""
    draft = make_plan(ask(draft_steps=8, preset="turbo"), DF_SMALL, H100)
    other = replace(DF_SMALL, num_inference_steps=50, guidance_scale=1.0, flow_shift=3.0)
    rest = plan_promotion(draft, 8, other, CPU)
    assert replace(rest, done_steps=0, draft_steps=8, forecast=draft.forecast) == draft
    assert rest.forecast.peak_gib == draft.forecast.peak_gib


@pytest.mark.parametrize(("model", "steps"), [(DF_SMALL, 30), (SYNTHETIC, 20)])
def test_a_draft_has_fewer_steps_than_its_model_makes(model, steps):
    assert make_plan(ask(draft_steps=steps - 1), model, H100).draft_steps == steps - 1
    with pytest.raises(
        InvalidRequest, match=f"is not below the {steps} steps of the finished video; use 1 to {steps - 1}"
    ):
        make_plan(ask(draft_steps=steps), model, H100)


def test_a_plan_knows_whether_it_counts_on_a_gpu():
    request = parse_request({"prompt": "x"})
    assert make_plan(request, TINY, Machine("NVIDIA H100", 8, 64, vram_gib=80)).on_gpu
    assert not make_plan(request, TINY, Machine("CPU", 2, 8)).on_gpu
    assert not make_plan(request, SYNTHETIC, Machine("NVIDIA H100", 8, 64, vram_gib=80)).on_gpu


@pytest.mark.parametrize(
    ("model", "machine", "fits", "words"),
    [
        ("skyreels-v2-df-14b-720p", H100, True, "all of it stays on the GPU"),
        ("skyreels-v2-df-1.3b-540p", CARD_16, True, "its parts take turns on the GPU"),
        ("skyreels-v2-t2v-14b-540p", CARD_8, True, "layer by layer through the GPU, slowly"),
        ("skyreels-v2-df-14b-540p", CARD_24, True, "slowly; with balanced its parts take turns on the GPU"),
        ("skyreels-v2-df-1.3b-540p", CARD_8, True, "its parts take turns on the GPU"),
        ("skyreels-v2-i2v-14b-720p", CARD_8, False, "needs 9 GiB on the GPU; you have 7"),
        ("skyreels-v2-df-14b-540p", CPU, False, "GiB of memory; you have 16"),
        ("skyreels-v2-tiny", CPU, True, "on this CPU"),
    ],
)
def test_a_model_says_how_it_goes_with_a_machine(model, machine, fits, words):
    found = suitability(MODELS[model], machine)
    assert found.fits is fits
    assert words in found.words
    assert found.plan.model == model
    assert (found.plan.height == 720) == model.endswith("720p")


@pytest.mark.parametrize(
    ("machine", "model", "why"),
    [
        (H100, "skyreels-v2-df-14b-720p", "All of it stays on your NVIDIA H100"),
        (Machine("RTX 6000 Ada", 16, 128, 48), "skyreels-v2-df-14b-720p", "Its parts take turns on your RTX 6000 Ada"),
        (CARD_24, "wan2.2-ti2v-5b", "Its parts take turns"),
        (CARD_8, "skyreels-v2-df-1.3b-540p", "It renders 960x540 and long videos, window by window."),
        (Machine("An old card", 8, 32, 1), "skyreels-v2-tiny", "all others need more GPU memory"),
        (CPU, "skyreels-v2-tiny", "No GPU was found. This small demo model is what runs here; all others need a GPU."),
        (Machine("CPU", 4, 16, has_torch=False), "synthetic", "because torch is not installed"),
    ],
    ids=lambda value: getattr(value, "device", None),
)
def test_the_largest_model_that_a_machine_holds_is_recommended_with_the_reason(machine, model, why):
    found = recommend(MODELS.values(), machine)
    assert found.spec.id == model
    assert why in found.why


def test_without_the_small_model_a_machine_without_a_gpu_is_left_with_the_placeholder():
    assert recommend([SYNTHETIC, MODELS["skyreels-v2-df-14b-720p"]], CPU).spec is SYNTHETIC


def test_a_model_that_needs_a_picture_is_not_the_one_to_begin_with():
    models = [MODELS["skyreels-v2-i2v-14b-720p"], MODELS["skyreels-v2-df-1.3b-540p"]]
    assert recommend(models, H100).spec is models[1]


def test_of_models_as_large_one_that_stays_on_the_gpu_comes_first():
    card = Machine("A card", 16, 128, 58)
    resident = suitability(MODELS["skyreels-v2-df-14b-540p"], card).plan.placement
    in_turns = suitability(MODELS["skyreels-v2-df-14b-720p"], card).plan.placement
    assert (resident, in_turns) == (Placement.RESIDENT, Placement.MODEL_OFFLOAD)
    assert recommend(MODELS.values(), card).spec.id == "skyreels-v2-df-14b-540p"


@pytest.mark.parametrize(
    ("model", "machine", "fit"),
    [
        ("skyreels-v2-df-14b-720p", H100, (True, "fits this GPU")),
        ("skyreels-v2-df-1.3b-540p", CARD_16, (True, "fits in turns")),
        ("skyreels-v2-t2v-14b-540p", CARD_8, (True, "fits layer by layer, slowly")),
        ("skyreels-v2-i2v-14b-720p", CARD_8, (False, "needs 9 GiB on the GPU; you have 7")),
        ("skyreels-v2-tiny", CPU, (True, "runs on the CPU")),
    ],
)
def test_how_a_model_fits_is_said_in_a_few_words(model, machine, fit):
    assert fit_words(MODELS[model], machine) == fit
