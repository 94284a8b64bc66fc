"""Wan through the sampler of SkyReels V2, against its own stock pipelines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline, WanVACEPipeline
from PIL import Image

from backend.diffusion.conditions import encode_conditions
from backend.diffusion.decode import CausalDecoder
from backend.engine import Inputs
from tests.tiny_checkpoints import BOUNDARY, WAN_KINDS, build_checkpoint

GUIDED = pytest.mark.parametrize("guidance_scale", [1.0, 5.0])


@pytest.fixture
def stock_plan(plan_for):
    """A plan that is to give what the stock pipelines give."""
    return lambda kind, **wishes: plan_for(kind, **wishes | {"skyreels": {"fidelity": "diffusers"}})


@GUIDED
@pytest.mark.parametrize("kind", ["wan-t2v", "wan-ti2v", "wan-t2v-experts"])
def test_text_to_video_equals_the_stock_pipeline(sample, stock, stock_plan, kind, guidance_scale):
    plan = stock_plan(kind, guidance_scale=guidance_scale)
    assert torch.equal(sample(kind, plan), stock(WanPipeline, kind, plan))


@GUIDED
@pytest.mark.parametrize("kind", ["wan-i2v", "wan-i2v-experts"])
def test_image_to_video_equals_the_stock_pipeline(sample, stock, stock_plan, picture, kind, guidance_scale):
    plan = stock_plan(kind, mode="image_to_video", guidance_scale=guidance_scale)
    theirs = stock(WanImageToVideoPipeline, kind, plan, image=Image.fromarray(picture))
    assert torch.equal(sample(kind, plan, image=picture), theirs)


@pytest.mark.parametrize("kind", ["wan-t2v", "wan-ti2v", "wan-i2v", "wan-vace"])
def test_half_precision_equals_the_stock_pipeline(sample, stock, stock_plan, picture, kind):
    image = kind == "wan-i2v"
    plan = stock_plan(kind, **({"mode": "image_to_video"} if image else {}))
    pipeline = {"wan-i2v": WanImageToVideoPipeline, "wan-vace": WanVACEPipeline}.get(kind, WanPipeline)
    theirs = stock(pipeline, kind, plan, dtype=torch.bfloat16, **({"image": Image.fromarray(picture)} if image else {}))
    ours = sample(kind, plan, image=picture if image else None, dtype=torch.bfloat16)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, sample(kind, plan, image=picture if image else None))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@GUIDED
def test_image_to_video_with_a_timestep_per_frame_equals_the_stock_pipeline(
    sample, stock, stock_plan, picture, guidance_scale, dtype
):
    plan = stock_plan("wan-ti2v", mode="image_to_video", guidance_scale=guidance_scale)
    theirs = stock(WanImageToVideoPipeline, "wan-ti2v", plan, image=Image.fromarray(picture), dtype=dtype)
    ours = sample("wan-ti2v", plan, image=picture, dtype=dtype)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, sample("wan-ti2v", plan, dtype=dtype))


def test_between_two_pictures_equals_the_stock_pipeline(sample, stock, stock_plan, picture, last_picture):
    plan = stock_plan("wan-i2v-experts", mode="image_to_video", end=True)
    pictures = {"image": Image.fromarray(picture), "last_image": Image.fromarray(last_picture)}
    theirs = stock(WanImageToVideoPipeline, "wan-i2v-experts", plan, **pictures)
    assert torch.equal(sample("wan-i2v-experts", plan, image=picture, end_image=last_picture), theirs)


def test_two_experts_have_two_scales(sample, stock, stock_plan):
    plan = replace(stock_plan("wan-t2v-experts", guidance_scale=4.0), guidance_scale_2=3.0)
    theirs = stock(WanPipeline, "wan-t2v-experts", plan, guidance_scale_2=3.0)
    assert torch.equal(sample("wan-t2v-experts", plan), theirs)
    assert not torch.equal(theirs, sample("wan-t2v-experts", replace(plan, guidance_scale_2=4.0)))


def test_each_expert_has_its_steps(components, plan_for, sample):
    parts, asked = components["wan-t2v-experts"], []
    hooks = [
        model.register_forward_pre_hook(lambda *_, number=number: asked.append(number))
        for number, model in enumerate(parts.transformers)
    ]
    try:
        sample("wan-t2v-experts", plan_for("wan-t2v-experts", guidance_scale=1.0))
    finally:
        for hook in hooks:
            hook.remove()
    assert asked == sorted(asked)
    assert 0 < sum(asked) < len(asked) == 10
    assert parts.boundary == 1000 * BOUNDARY


def test_a_velocity_is_not_extrapolated_from_one_expert_to_the_other(components, plan_for, sample):
    """The preset leaves steps out; the first two of an expert are asked all the same."""
    asked: list[int] = []
    hook = components["wan-t2v-experts"].transformer_2.register_forward_pre_hook(
        lambda _, args, wishes: asked.append(int(wishes["timestep"][0])), with_kwargs=True
    )
    seen = {}
    try:
        for preset in ("exact", "turbo"):
            for steps in range(20, 30):
                asked.clear()
                plan = plan_for("wan-t2v-experts", guidance_scale=1.0, preset=preset, num_inference_steps=steps)
                sample("wan-t2v-experts", plan)
                seen[preset, steps] = list(asked)
    finally:
        hook.remove()
    for steps in range(20, 30):
        assert seen["turbo", steps][:2] == seen["exact", steps][:2]
        assert len(seen["turbo", steps]) < len(seen["exact", steps])


@pytest.mark.parametrize("given", ["nothing", "first", "both", "clip"])
def test_control_equals_the_stock_pipeline(sample, stock, stock_plan, picture, last_picture, clip, given):
    wishes, ours, frames = {}, {}, 17
    video, known = np.full((33, 64, 64, 3), 0.5, np.float32), np.zeros(33, bool)
    if given in ("first", "both"):
        wishes, ours = {"mode": "image_to_video"}, {"image": picture}
        video[0], known[0] = picture / np.float32(255), True
    if given == "both":
        wishes["end"], ours["end_image"] = True, last_picture
        video[16], known[16] = last_picture / np.float32(255), True
    if given == "clip":
        wishes, ours, frames = {"source_frames": 17, "num_frames": 16}, {"prefix": clip}, 33
        video[:17], known[:17] = clip / np.float32(255), True
    plan = stock_plan("wan-vace", **wishes)
    assert plan.render_frames == frames
    mask = np.broadcast_to(~known[:, None, None, None], video.shape).astype(np.float32)
    as_tensors = [torch.from_numpy(x[None, :frames].copy()).permute(0, 1, 4, 2, 3) for x in (video, mask)]
    shown = {} if given == "nothing" else dict(zip(("video", "mask"), as_tensors, strict=True))
    theirs = stock(WanVACEPipeline, "wan-vace", plan, **shown)
    latents = sample("wan-vace", plan, **ours)
    assert torch.equal(latents, theirs)
    if given != "nothing":
        assert not torch.equal(latents, sample("wan-vace", stock_plan("wan-vace", num_frames=frames)))


def test_the_last_picture_stands_at_the_end_of_what_is_kept(components, plan_for, picture, last_picture):
    parts = components["wan-i2v-experts"]
    all_kept, trimmed = (
        encode_conditions(parts, plan, Inputs(picture, last_picture)).channels
        for plan in (plan_for("wan-i2v-experts", mode="image_to_video", end=True, num_frames=n) for n in (17, 16))
    )
    assert all_kept[0, :4, -1, 0, 0].tolist() == [0, 0, 0, 1]
    assert trimmed[0, :4, -1, 0, 0].tolist() == [0, 0, 1, 1]
    assert trimmed[0, :4, 0, 0, 0].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["wan-t2v", "wan-ti2v"])
def test_frames_equal_those_of_the_stock_decoder(components, kind):
    vae = components[kind].vae
    latents = torch.randn(1, vae.config.z_dim, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    mean, std = (
        torch.tensor(numbers).view(1, -1, 1, 1, 1) for numbers in (vae.config.latents_mean, vae.config.latents_std)
    )
    with torch.no_grad():
        theirs = vae.decode(latents / (1.0 / std) + mean, return_dict=False)[0].clamp(-1, 1)
    ours = torch.cat(list(CausalDecoder(vae).decode(latents)), dim=2)
    assert ours.shape == (1, 3, 9, 64, 64) if kind == "wan-ti2v" else (1, 3, 9, 32, 32)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", WAN_KINDS)
def test_what_it_needs_is_counted(components, plan_for, kind):
    mode = {} if "t2v" in kind or kind in ("wan-vace", "wan-ti2v") else {"mode": "image_to_video"}
    need = components[kind].need(plan_for(kind, **mode))
    assert need.transformer > 0
    assert (need.idle > 0) == kind.endswith("experts")
    assert need.idle == pytest.approx(need.transformer if need.idle else 0)


def test_an_attention_kernel_is_the_models_own(tmp_path):
    from diffusers.models import attention_dispatch

    from backend.diffusion.components import load_components

    folder = build_checkpoint(tmp_path / "vace", "wan-vace")
    parts = load_components(folder, torch.device("cpu"), lambda part: None)
    default = attention_dispatch._AttentionBackendRegistry.get_active_backend()
    parts.transformer.set_attention_backend("_native_math")
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend() == default
    blocks = [*parts.transformer.blocks, *parts.transformer.vace_blocks]
    kernels = {attention.processor._attention_backend for block in blocks for attention in (block.attn1, block.attn2)}
    assert kernels == {"_native_math"}
