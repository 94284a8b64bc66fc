"""The sampler against the stock pipelines, and where those give up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
)
from PIL import Image

from backend.core.errors import RenderFailed
from backend.core.schedule import Schedule
from backend.core.schema import Fidelity
from backend.diffusion.conditions import Conditions, encode_conditions
from backend.diffusion.decode import StreamingDecoder
from backend.diffusion.sampler import Sampler, seeded_noise
from backend.diffusion.text import encode_prompt
from backend.engine import Inputs
from tests.diffusion.conftest import NEGATIVE, REQUEST, SEED, to_the_end

SHORT_BASE = {"base_num_frames": 17, "overlap_history": 5}
ASYNC = {"ar_step": 3, "causal_block_size": 2, "base_num_frames": 29, "overlap_history": 13}
BFLOAT16 = pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture
def stock_plan(plan_for):
    """A plan that is to give what the stock pipelines give."""

    def plan(kind, **wishes):
        return plan_for(kind, **wishes | {"skyreels": wishes.get("skyreels", {}) | {"fidelity": "diffusers"}})

    return plan


@BFLOAT16
@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
def test_text_to_video_equals_the_stock_pipeline(sample, stock, stock_plan, guidance_scale, dtype):
    plan = stock_plan("t2v", guidance_scale=guidance_scale)
    assert torch.equal(sample("t2v", plan, dtype=dtype), stock(SkyReelsV2Pipeline, "t2v", plan, dtype=dtype))


@BFLOAT16
@pytest.mark.parametrize(
    "wishes",
    [
        {"num_frames": 17},
        {"num_frames": 17, "fps": 16},
        {"num_frames": 29, "skyreels": SHORT_BASE},  # two full windows
        {"num_frames": 37, "skyreels": SHORT_BASE},  # a short window last
        {"num_frames": 21, "skyreels": {"ar_step": 3, "causal_block_size": 2}},
        {"num_frames": 21, "skyreels": {"ar_step": 4, "causal_block_size": 1}},
        {"num_frames": 21, "skyreels": ASYNC | {"ar_step": 12}},  # each block waits for the one before to finish
        {"num_frames": 53, "skyreels": ASYNC, "guidance_scale": 1},  # a short window last
    ],
    ids=["short", "16fps", "two windows", "short last window", "async", "frame by frame", "in turn", "async windows"],
)
def test_forcing_equals_the_stock_pipeline(sample, stock, stock_plan, wishes, dtype):
    plan = stock_plan("df", **wishes)
    theirs = stock(SkyReelsV2DiffusionForcingPipeline, "df", plan, dtype=dtype)
    assert torch.equal(sample("df", plan, dtype=dtype), theirs)


@BFLOAT16
@pytest.mark.parametrize(
    ("num_frames", "windows", "waiting"),
    [(17, 1, {}), (29, 2, {}), (17, 1, {"ar_step": 3, "causal_block_size": 1})],
    ids=["short", "two windows", "frame by frame"],
)
def test_forcing_from_a_picture_equals_the_stock_pipeline(
    sample, stock, stock_plan, picture, num_frames, windows, waiting, dtype
):
    plan = stock_plan("df", mode="image_to_video", num_frames=num_frames, skyreels=SHORT_BASE | waiting)
    assert len(plan.windows) == windows
    image = Image.fromarray(picture)
    theirs = stock(SkyReelsV2DiffusionForcingImageToVideoPipeline, "df", plan, dtype=dtype, image=image)
    assert torch.equal(sample("df", plan, image=picture, dtype=dtype), theirs)


@pytest.mark.parametrize("waiting", [{}, {"ar_step": 3, "causal_block_size": 1}], ids=["at once", "frame by frame"])
def test_forcing_between_two_pictures_equals_the_stock_pipeline(
    sample, stock, stock_plan, picture, last_picture, waiting
):
    plan = stock_plan("df", mode="image_to_video", end=True, skyreels=waiting)
    inputs = {"image": Image.fromarray(picture), "last_image": Image.fromarray(last_picture)}
    theirs = stock(SkyReelsV2DiffusionForcingImageToVideoPipeline, "df", plan, **inputs)[:, :, :-1]
    ours = sample("df", plan, image=picture, end_image=last_picture)
    # The stock pipeline encodes both pictures as one batch, which rounds differently.
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours, sample("df", plan, image=picture), atol=1e-2)


@BFLOAT16
@pytest.mark.parametrize("skyreels", [SHORT_BASE, ASYNC], ids=["sync", "async"])
def test_extension_equals_the_stock_pipeline(sample, stock, stock_plan, clip, skyreels, dtype):
    plan = stock_plan("df", source_frames=17, num_frames=24, skyreels=skyreels)
    video = [Image.fromarray(frame) for frame in clip]
    theirs = stock(SkyReelsV2DiffusionForcingVideoToVideoPipeline, "df", plan, dtype=dtype, video=video)
    assert torch.equal(sample("df", plan, prefix=clip[-plan.prefix_frames :], dtype=dtype), theirs)


@BFLOAT16
def test_image_to_video_equals_the_stock_pipeline(sample, stock, stock_plan, picture, dtype):
    plan = stock_plan("i2v", mode="image_to_video")
    theirs = stock(SkyReelsV2ImageToVideoPipeline, "i2v", plan, dtype=dtype, image=Image.fromarray(picture))
    assert torch.equal(sample("i2v", plan, image=picture, dtype=dtype), theirs)


def test_noise_on_known_frames_is_mixed_as_the_stock_pipeline_does(sample, stock, stock_plan, monkeypatch):
    plan = stock_plan("df", num_frames=29, skyreels=SHORT_BASE | {"addnoise_condition": 20})
    steps = iter(range(plan.num_inference_steps))  # only the second window has context frames
    ours = sample("df", plan)
    monkeypatch.setattr(torch, "randn_like", lambda known: seeded_noise(known.shape, SEED, 1, next(steps)))
    assert torch.equal(ours, stock(SkyReelsV2DiffusionForcingPipeline, "df", plan))


def test_noise_has_a_name(sample, plan_for):
    plan = plan_for("df", num_frames=29, skyreels=SHORT_BASE | {"addnoise_condition": 20})
    first = sample("df", plan)
    torch.manual_seed(99)  # the global generator has no say
    assert torch.equal(first, sample("df", plan))
    assert not torch.equal(first, sample("df", plan, seed=SEED + 1))
    names = [(7, 0, 0), (8, 0, 0), (7, 1, 0), (7, 0, 1), (7, 0)]
    assert len({seeded_noise((4,), *name)[0].item() for name in names}) == 5


def test_the_original_keeps_known_frames_in_float32(sample, plan_for, stock_plan, components, picture):
    prefix = encode_conditions(components["df"], plan_for("df"), Inputs(picture)).prefix
    wishes = {"mode": "image_to_video"}
    kept, rounded = (
        sample("df", plan("df", **wishes), image=picture, dtype=torch.bfloat16)[:, :, :1]
        for plan in (plan_for, stock_plan)
    )
    assert torch.equal(kept, prefix)
    assert torch.equal(rounded, prefix.bfloat16().float())


def test_the_fidelities_make_different_films_of_the_same_thing(sample, plan_for, stock_plan):
    ours, theirs = sample("df", plan_for("df")), sample("df", stock_plan("df"))
    assert not torch.equal(ours, theirs)
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.9


def test_the_prompt_matters(sample, plan_for):
    plan = plan_for("df")
    assert not torch.equal(sample("df", plan), sample("df", plan, prompt="A fox"))


def test_a_long_film_from_a_picture_ends_with_a_short_window(sample, plan_for, picture):
    """The stock pipeline raises IndexError here (37 frames of windows of 17 with 5 in common)."""
    plan = plan_for("df", mode="image_to_video", num_frames=37, skyreels=SHORT_BASE)
    assert [window.stop - window.start for window in plan.windows] == [5, 5, 4]
    assert sample("df", plan, image=picture).shape == (1, 16, 10, 8, 8)


def test_blocks_that_wait_see_the_whole_window_in_the_original(sample, stock_plan, plan_for, components):
    """The port hides later blocks from earlier ones, and its transformer does so for the next render too."""
    wishes = {"num_frames": 21, "skyreels": {"ar_step": 3, "causal_block_size": 2}}
    transformer = components["df"].transformer
    plan = plan_for("df", **wishes)
    free = sample("df", plan)
    assert transformer.config.num_frame_per_block == 1
    sample("df", stock_plan("df", **wishes))
    assert transformer.config.num_frame_per_block == 2
    assert torch.equal(free, sample("df", plan))
    assert transformer.config.num_frame_per_block == 1
    masked = sample("df", replace(plan, fidelity=Fidelity.DIFFUSERS))
    assert not torch.allclose(free, masked, atol=1e-2)


@pytest.mark.parametrize("fidelity", Fidelity)
@pytest.mark.parametrize(
    ("skyreels", "solvers"), [({}, 1), ({"ar_step": 2, "causal_block_size": 3}, 3)], ids=["sync", "async"]
)
def test_one_solver_moves_all_frames_with_the_same_history(
    sample, components, plan_for, monkeypatch, skyreels, fidelity, solvers
):
    plan = plan_for("df", num_frames=33, skyreels=skyreels | {"fidelity": fidelity})
    grouped = sample("df", plan)
    sampler = Sampler(components["df"], plan, REQUEST, [encode_prompt(components["df"], "A boat", None)], Conditions())
    assert len(sampler._solvers) == solvers
    monkeypatch.setattr(Schedule, "frame_groups", [(frame, frame + 1) for frame in range(9)])
    assert torch.equal(grouped, sample("df", plan))


def test_blocks_go_down_one_after_another_until_all_are_clean(components, plan_for):
    """Stock pipelines leave the frames that fill no block as pure noise."""
    plan = plan_for("df", num_frames=30, guidance_scale=1, skyreels={"ar_step": 3, "causal_block_size": 3})
    assert plan.render_frames == 33  # 9 latent frames
    sampler = Sampler(components["df"], plan, REQUEST, [encode_prompt(components["df"], "A boat", None)], Conditions())
    moved, steps = torch.zeros(9, dtype=int), 0
    while not sampler.finished:
        before = sampler.latents.clone()
        sampler.step()
        after = sampler.latents
        moved += (before != after).flatten(3).any(3)[0].any(0)
        steps += 1
    assert moved.tolist() == [10] * 9
    assert steps == plan.window_steps[0] == 10 + 2 * 3


def test_the_end_picture_acts_on_the_last_window_only(sample, plan_for, picture, last_picture):
    plan = plan_for("df", mode="image_to_video", num_frames=37, end=True, skyreels=SHORT_BASE)
    ends = sample("df", plan, image=picture, end_image=last_picture)
    free = sample("df", plan, image=picture)
    assert ends.shape == free.shape == (1, 16, 10, 8, 8)
    known = plan.windows[-2].stop
    assert torch.equal(ends[:, :, :known], free[:, :, :known])
    assert not torch.allclose(ends[:, :, known:], free[:, :, known:], atol=1e-3)


@pytest.mark.parametrize(
    ("num_frames", "skyreels", "source_frames"),
    [
        (16, {}, 0),
        (98, {}, 1),
        (100, {}, 3),
        (101, {}, 120),
        (61, {"base_num_frames": 17}, 120),  # 13 of 17 frames in common
        (41, {"base_num_frames": 33, "overlap_history": 29}, 40),  # one new latent frame a window
        (100, {"ar_step": 5}, 0),
        (61, {"ar_step": 2, "causal_block_size": 3, "base_num_frames": 33}, 40),
        (40, {"ar_step": 50, "causal_block_size": 1, "base_num_frames": 17}, 3),
        (1457, {}, 0),
    ],
)
def test_every_plan_runs_to_its_end(components, plan_for, num_frames, skyreels, source_frames):
    plan = plan_for(
        "df", source_frames, num_frames=num_frames, guidance_scale=1, end=bool(source_frames), skyreels=skyreels
    )
    parts = components["df"]
    frames = np.zeros((plan.prefix_frames, 64, 64, 3), dtype=np.uint8) if source_frames else None
    end_image = np.zeros((64, 64, 3), dtype=np.uint8) if source_frames else None
    conditions = encode_conditions(parts, plan, Inputs(end_image=end_image, prefix=frames))
    sampler = Sampler(parts, plan, REQUEST, [encode_prompt(parts, "A boat", None)], conditions)
    parts_done = [sampler.fraction]
    frames = np.concatenate(to_the_end(StreamingDecoder(sampler), lambda: parts_done.append(sampler.fraction)))
    assert len(parts_done) - 1 == plan.forwards
    assert (parts_done[0], parts_done[-1]) == (0, 1)
    assert parts_done == sorted(parts_done)
    assert len(frames) == plan.render_frames


@pytest.mark.parametrize("fidelity", Fidelity)
def test_guidance_is_mixed_in_float32_unless_diffusers_is_wanted(components, plan_for, fidelity):
    """bfloat16 would round each prediction and the difference of two that are close to each other."""
    plan = plan_for("t2v", guidance_scale=6, skyreels={"fidelity": fidelity})
    parts = components["t2v"]
    text = encode_prompt(parts, "A boat", NEGATIVE)
    seen = []

    class Bfloat16:
        dtype = torch.bfloat16
        config = parts.transformer.config

        def __call__(self, hidden_states, encoder_hidden_states, **_):
            assert hidden_states.dtype is torch.bfloat16
            seen.append(hidden_states * (1.0 if encoder_hidden_states is text.positive else 1.01))
            return (seen[-1],)

    sampler = Sampler(replace(parts, transformer=Bfloat16()), plan, REQUEST, [text], Conditions())
    mixed = sampler._velocity()
    positive, negative = (prediction.double() for prediction in seen)
    exact = negative + 6 * (positive - negative)
    if fidelity is Fidelity.DIFFUSERS:
        assert mixed.dtype is torch.bfloat16
        return
    assert mixed.dtype is torch.float32
    torch.testing.assert_close(mixed.double(), exact, rtol=1e-6, atol=1e-6)


def test_numbers_astray_fail_the_render(components, plan_for):
    parts = components["df"]
    sampler = Sampler(parts, plan_for("df"), REQUEST, [encode_prompt(parts, "A boat", NEGATIVE)], Conditions())
    sampler.step()
    sampler.latents[0, 0, 2] = float("nan")
    with pytest.raises(RenderFailed, match=r"Step 2 of window 1 .* not numbers; lower guidance_scale"):
        sampler.step()


def test_an_interrupted_step_can_be_done_again(components, plan_for, sample):
    parts = components["df"]
    plan = plan_for("df")
    sampler = Sampler(parts, plan, REQUEST, [encode_prompt(parts, "A boat", NEGATIVE)], Conditions())

    def stop(*_):
        raise KeyboardInterrupt

    while not sampler.finished:
        hook = parts.transformer.blocks[1].register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            sampler.step()
        hook.remove()
        sampler.step()
    assert torch.equal(sampler.latents, sample("df", plan))


def test_the_guess_at_the_end_comes_nearer(components, plan_for):
    parts = components["df"]
    plan = plan_for("df", num_frames=21, skyreels={"ar_step": 3, "causal_block_size": 2})
    sampler = Sampler(parts, plan, REQUEST, [encode_prompt(parts, "A boat", NEGATIVE)], Conditions())
    assert sampler.predict_clean().shape[2] == 0
    guesses = []
    while not sampler.finished:
        sampler.step()
        guesses.append(sampler.predict_clean())
    # Blocks begin 3 steps after one another.
    assert [guess.shape[2] for guess in guesses] == [2] * 3 + [4] * 3 + [6] * 10
    far = [(guess[:, :, :2] - sampler.latents[:, :, :2]).abs().mean().item() for guess in guesses[5:]]
    assert far == sorted(far, reverse=True)
    assert far[0] > far[-1] == 0


def test_both_forwards_of_guidance_can_be_one(sample, plan_for, components, picture):
    for kind, wishes, given in (
        ("df", {}, {}),
        ("df", {"num_frames": 21, "skyreels": {"ar_step": 3, "causal_block_size": 2}}, {}),
        ("t2v", {}, {}),
        ("i2v", {"mode": "image_to_video"}, {"image": picture}),
    ):
        plan = plan_for(kind, **wishes)
        calls = []
        hook = components[kind].transformer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        batched = sample(kind, replace(plan, batch_guidance=True), **given)
        hook.remove()
        assert len(calls) == sum(plan.window_steps)
        torch.testing.assert_close(batched, sample(kind, plan, **given), atol=1e-4, rtol=0)


def test_causal_blocks_leave_out_what_has_not_begun(components, plan_for, monkeypatch):
    plan = plan_for("df", num_frames=29, guidance_scale=1, skyreels={"ar_step": 3, "causal_block_size": 2})
    parts = components["df"]
    text = [encode_prompt(parts, "A boat", None)]

    def run(plan):
        seen = []
        hook = parts.transformer.patch_embedding.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].shape[2])
        )
        sampler = Sampler(parts, plan, REQUEST, text, Conditions())
        while not sampler.finished:
            sampler.step()
        hook.remove()
        return sampler.latents, seen

    causal, seen = run(replace(plan, causal_attention=True))
    assert seen == [2] * 3 + [4] * 3 + [6] * 3 + [8] * 10
    free, all_frames = run(plan)
    assert all_frames == [8] * 19
    assert not torch.allclose(causal, free, atol=1e-3)
    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "num_started", property(lambda _: [8] * 19))
        whole, seen = run(replace(plan, causal_attention=True))
    assert seen == [8] * 19
    torch.testing.assert_close(causal, whole, atol=1e-5, rtol=0)


def test_causal_blocks_equal_the_stock_pipelines_mask(components, plan_for):
    """Every step of a render, with the mask of the stock transformer instead of ours."""
    plan = plan_for("df", num_frames=21, skyreels={"ar_step": 3, "causal_block_size": 3})
    parts = components["df"]
    sampler = Sampler(
        parts, replace(plan, causal_attention=True), REQUEST, [encode_prompt(parts, "A", "b")], Conditions()
    )
    masked = Sampler(parts, plan, REQUEST, sampler.prompts, Conditions())
    masked._set_mask = lambda: parts.transformer._set_ar_attention(3)
    try:
        while not sampler.finished:
            masked.latents.copy_(sampler.latents)
            masked.step_index = sampler.step_index
            num_started = sampler._schedule.num_started[sampler.step_index]
            torch.testing.assert_close(sampler._velocity(), masked._velocity()[:, :, :num_started], atol=2e-5, rtol=0)
            parts.transformer._set_ar_attention(1)
            sampler.step()
    finally:
        parts.transformer._set_ar_attention(1)


def test_a_storyboard_tells_each_window_its_own(components, plan_for):
    plan = plan_for("df", num_frames=45, guidance_scale=1, skyreels=SHORT_BASE)
    parts = components["df"]
    told = [encode_prompt(parts, text, None) for text in ("A boat", "A fox")]
    heard = []
    hook = parts.transformer.register_forward_pre_hook(
        lambda *args: heard.append(
            [torch.equal(args[2]["encoder_hidden_states"], one.positive) for one in told].index(True)
        ),
        with_kwargs=True,
    )
    to_the_end(StreamingDecoder(Sampler(parts, plan, REQUEST, told, Conditions())))
    hook.remove()
    assert heard == [0] * 10 + [1] * 10 * (len(plan.windows) - 1)
