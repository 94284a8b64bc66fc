"""The faults of the common port, one test each: a check that the stock pipeline fails and ours passes.

They are numbered as in the notes on SkyReels V2 that this studio was built from. Where the stock side is marked to
fail, the suite turns red on the day when diffusers mends it.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Transformer3DModel,
)
from diffusers.models import attention_dispatch
from PIL import Image

from backend.core.config import ROOT
from backend.core.errors import InvalidRequest
from backend.core.registry import MODELS
from backend.core.schedule import make_schedule
from backend.diffusion.components import _load_model, load_components
from backend.diffusion.conditions import Conditions, encode_conditions
from backend.diffusion.decode import StreamingDecoder
from backend.diffusion.sampler import Sampler
from backend.diffusion.solver import make_unipc
from backend.diffusion.text import TEXT_TOKENS, encode_prompt
from backend.diffusion.transformer import Transformer
from backend.engine import Inputs
from tests.diffusion.conftest import NEGATIVE, REQUEST, to_the_end

SHORT_BASE = {"base_num_frames": 17, "overlap_history": 5}
STOCK = pytest.param("stock", marks=pytest.mark.xfail(strict=True))
BOTH = pytest.mark.parametrize("who", [STOCK, "ours"])
DF = SkyReelsV2DiffusionForcingPipeline
DF_IMAGE = SkyReelsV2DiffusionForcingImageToVideoPipeline
DF_VIDEO = SkyReelsV2DiffusionForcingVideoToVideoPipeline


def pil(pictures):
    return [Image.fromarray(picture) for picture in pictures]


@BOTH
def test_fault_01_a_render_can_begin_from_given_latents(who, stock, components, plan_for):
    plan = plan_for("df")
    noise = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(5))

    def render(latents):
        if who == "stock":
            return stock(DF, "df", plan, latents=latents)
        text = [encode_prompt(components["df"], "A boat", NEGATIVE)]
        sampler = Sampler(components["df"], plan, REQUEST, text, Conditions())
        tensors, metadata = sampler.state()
        sampler.restore(type(sampler.state())(tensors | {"latents": latents}, metadata))
        while not sampler.finished:
            sampler.step()
        return sampler.latents

    assert torch.equal(render(noise), render(noise))
    assert not torch.equal(render(noise), render(-noise))


@BOTH
def test_fault_02_a_long_film_from_a_picture_may_end_with_a_short_window(who, stock, sample, plan_for, picture):
    plan = plan_for("df", mode="image_to_video", num_frames=37, skyreels=SHORT_BASE)
    if who == "stock":
        latents = stock(DF_IMAGE, "df", plan, image=Image.fromarray(picture))
    else:
        latents = sample("df", plan, image=picture)
    assert latents.shape[2] == 10


@BOTH
def test_fault_03_a_long_film_can_end_on_a_picture(who, stock, sample, plan_for, picture, last_picture):
    plan = plan_for("df", mode="image_to_video", num_frames=29, end=True, skyreels=SHORT_BASE)
    if who == "stock":
        first, last = pil([picture, last_picture])
        latents = stock(DF_IMAGE, "df", plan, image=first, last_image=last)
    else:
        latents = sample("df", plan, image=picture, end_image=last_picture)
    assert latents.shape[2] == 8


@BOTH
def test_fault_04_no_frame_stays_noise_where_blocks_do_not_divide_the_film(who, stock, sample, plan_for):
    plan = plan_for("df", num_frames=29, skyreels={"ar_step": 3, "causal_block_size": 3})  # 8 latent frames are asked
    latents = sample("df", plan) if who == "ours" else stock(DF, "df", replace(plan, render_frames=29))
    noise = torch.randn(1, 16, latents.shape[2], 8, 8, generator=torch.Generator().manual_seed(REQUEST.seed))
    assert not (latents == noise).flatten(3).all(3).any()


@BOTH
def test_fault_05_blocks_do_not_denoise_the_first_picture_away(who, stock, components, plan_for, picture):
    """Ours says before the start that a picture and blocks do not go together."""
    options = {"ar_step": 3, "causal_block_size": 2}
    if who == "ours":
        with pytest.raises(InvalidRequest, match="picture fills no block"):
            plan_for("df", mode="image_to_video", num_frames=21, skyreels=options)
        return
    plan = replace(plan_for("df", mode="image_to_video", num_frames=21), ar_step=3, causal_block_size=2)
    latents = stock(DF_IMAGE, "df", plan, image=Image.fromarray(picture))
    assert torch.allclose(
        latents[:, :, :1], encode_conditions(components["df"], plan, Inputs(picture)).prefix, atol=1e-4
    )


@BOTH
def test_fault_06_an_extension_shows_each_frame_of_the_source_once(who, checkpoints, components, plan_for, clip):
    plan = plan_for("df", source_frames=17, num_frames=20, skyreels={"overlap_history": 5})
    if who == "stock":
        pipe = DF_VIDEO.from_pretrained(checkpoints["df"], local_files_only=True)
        video = pipe(
            prompt="A boat",
            video=pil(clip),
            height=64,
            width=64,
            num_frames=plan.render_frames,
            overlap_history=5,
            num_inference_steps=2,
            output_type="np",
        ).frames[0]
        total = len(video)
    else:
        conditions = encode_conditions(components["df"], plan, Inputs(prefix=clip[-plan.prefix_frames :]))
        text = [encode_prompt(components["df"], "A boat", NEGATIVE)]
        decoder = StreamingDecoder(Sampler(components["df"], plan, REQUEST, text, conditions), first=plan.prefix_frames)
        total = len(clip) + sum(len(chunk) for chunk in to_the_end(decoder))
    assert total == len(clip) + plan.render_frames - plan.prefix_frames


@BOTH
@pytest.mark.parametrize("wish", [{}, {"num_frames": 17}], ids=["no overlap named", "no longer than the overlap"])
def test_fault_07_an_extension_needs_no_more_than_a_clip(who, wish, stock, sample, plan_for):
    clip = np.random.default_rng(3).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    plan = plan_for("df", source_frames=40, num_frames=wish.get("num_frames", 20))
    if who == "stock":
        overlap = 17 if wish else None
        frames = min(plan.render_frames, 17) if wish else plan.render_frames
        latents = stock(DF_VIDEO, "df", replace(plan, render_frames=frames, overlap_history=overlap), video=pil(clip))
    else:
        latents = sample("df", plan, prefix=clip[-plan.prefix_frames :])
    assert latents.shape[2] == (plan.render_frames - 1) // 4 + 1


@BOTH
def test_fault_08_a_render_leaves_no_mask_for_the_next(who, checkpoints, sample, plan_for):
    options = {"ar_step": 3, "causal_block_size": 2}
    if who == "ours":
        plan = plan_for("df", num_frames=21, skyreels={"fidelity": "diffusers"})
        fresh = sample("df", plan)
        sample("df", plan_for("df", num_frames=21, skyreels=options | {"fidelity": "diffusers"}))
        assert torch.equal(sample("df", plan), fresh)
        return
    pipe = DF.from_pretrained(checkpoints["df"], local_files_only=True)

    def run(**options):
        generator = torch.Generator().manual_seed(7)
        size = {"height": 64, "width": 64, "num_frames": 21, "base_num_frames": 21, "num_inference_steps": 4}
        return pipe("A boat", **size, **options, generator=generator, output_type="latent").frames

    fresh = run()
    run(**options)
    assert torch.equal(run(), fresh)


def looks_ahead(model, **options):
    """Whether the first frame of a forward depends on the last."""
    latents, text = torch.randn(1, 16, 4, 8, 8), torch.randn(1, 512, 32)
    wish = {"timestep": torch.full((1, 4), 500), "encoder_hidden_states": text, "enable_diffusion_forcing": True}
    wish |= {"fps": [1], "return_dict": False}
    with torch.no_grad():
        before = model(latents, **wish, **options)[0]
        latents[:, :, -1] += 1
        return not torch.equal(before[:, :, 0], model(latents, **wish, **options)[0][:, :, 0])


@BOTH
def test_fault_09_a_block_of_one_frame_can_be_causal(who, checkpoints):
    if who == "stock":
        model = SkyReelsV2Transformer3DModel.from_pretrained(checkpoints["df"] / "transformer", local_files_only=True)
        model._set_ar_attention(1)
        assert not looks_ahead(model)
    else:
        model = Transformer.from_pretrained(checkpoints["df"] / "transformer", local_files_only=True)
        assert looks_ahead(model)
        assert not looks_ahead(model, causal_block_size=1)


@BOTH
def test_fault_10_two_prompts_go_in_one_forward_where_the_rate_is_told(who, checkpoints):
    model = {"stock": SkyReelsV2Transformer3DModel, "ours": Transformer}[who]
    model = model.from_pretrained(checkpoints["df"] / "transformer", local_files_only=True)
    assert model.config.inject_sample_info
    latents, text = torch.randn(2, 16, 4, 8, 8), torch.randn(2, 512, 32)
    with torch.no_grad():
        (velocity,) = model(latents, torch.full((2, 4), 500), text, None, True, [1, 1], False)
    assert velocity.shape == latents.shape


@BOTH
def test_fault_11_a_last_picture_is_refused_by_models_that_have_none(who, stock, plan_for, picture, last_picture):
    """In words, before the render."""
    if who == "ours":
        with pytest.raises(InvalidRequest, match="cannot end on a picture"):
            plan_for("i2v", mode="image_to_video", end=True)
        return
    first, last = pil([picture, last_picture])
    plan = plan_for("i2v", mode="image_to_video")
    with pytest.raises(ValueError, match="last_image"):
        stock(SkyReelsV2ImageToVideoPipeline, "i2v", plan, image=first, last_image=last)


@BOTH
def test_fault_12_the_text_is_as_long_as_the_model_takes_it_for(who, checkpoints, components):
    """Image tokens are told from text tokens by there being 512 of the latter."""
    if who == "stock":
        pipe = SkyReelsV2ImageToVideoPipeline.from_pretrained(checkpoints["i2v"], local_files_only=True)
        text, _ = pipe.encode_prompt("A boat", max_sequence_length=256)
        assert text.shape[1] == 512
    else:
        assert TEXT_TOKENS == 512
        for words in ("", "A boat", "A boat " * 400):
            assert encode_prompt(components["i2v"], words, None).positive.shape[1] == 512


@BOTH
def test_fault_13_an_attention_backend_is_one_models_own(who, checkpoints):
    model = {"stock": SkyReelsV2Transformer3DModel, "ours": Transformer}[who]
    registry = attention_dispatch._AttentionBackendRegistry
    before = registry._active_backend
    try:
        model.from_pretrained(checkpoints["df"] / "transformer", local_files_only=True).set_attention_backend(
            "_native_math"
        )
        assert registry._active_backend == before
    finally:
        registry._active_backend = before


@BOTH
def test_fault_14_causal_attention_asks_no_kernel_for_a_mask(who, checkpoints, monkeypatch):
    """Kernels without masks refuse one; those for sequences of different lengths quietly see all."""
    masks = []

    def watched(*args, attn_mask=None, **kwargs):
        masks.append(attn_mask)
        return attention_dispatch.dispatch_attention_fn(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr("diffusers.models.transformers.transformer_skyreels_v2.dispatch_attention_fn", watched)
    monkeypatch.setattr("backend.diffusion.transformer.dispatch_attention_fn", watched)
    model = {"stock": SkyReelsV2Transformer3DModel, "ours": Transformer}[who]
    model = model.from_pretrained(checkpoints["df"] / "transformer", local_files_only=True)
    if who == "stock":
        model._set_ar_attention(2)
        assert not looks_ahead(model)
    else:
        assert not looks_ahead(model, causal_block_size=2)
    assert masks
    assert all(mask is None for mask in masks)


@BOTH
def test_fault_15_bfloat16_leaves_what_needs_float32(who, checkpoints):
    if who == "stock":
        pipe = DF.from_pretrained(checkpoints["df"], local_files_only=True).to(torch.bfloat16)
        model = pipe.transformer
    else:
        model = _load_model(Transformer, checkpoints["df"] / "transformer", torch.bfloat16)
    assert model.blocks[0].attn1.to_q.weight.dtype is torch.bfloat16
    assert model.scale_shift_table.dtype is torch.float32
    assert model.condition_embedder.time_embedder.linear_1.weight.dtype is torch.float32


@BOTH
def test_fault_16_the_shift_does_not_depend_on_the_schedulers_file(who, checkpoints, plan_for, tmp_path):
    folder = shutil.copytree(checkpoints["df"], tmp_path / "df")
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in config.items() if name != "flow_shift"}))
    plan = plan_for("df", skyreels={"flow_shift": 8.0})
    if who == "stock":
        scheduler = DF.from_pretrained(folder, local_files_only=True).scheduler
        scheduler.set_timesteps(10)
    else:
        scheduler = make_unipc(load_components(folder, torch.device("cpu"), lambda part: None), plan)
    middle = scheduler.sigmas[5].item()  # of 0.5 before the shift
    assert middle == pytest.approx(8 / 9, abs=0.01)


def test_fault_17_only_checkpoints_that_exist_are_named():
    """The port's pages on the web name DF-1.3B-720P; what is installed does not, so there is no stock side here."""
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "backend" / "core" / "registry.py"]
    text = "\n".join(file.read_text() for file in files)
    text += "\n".join(spec.repo_id or "" for spec in MODELS.values())
    named = set(re.findall(r"SkyReels-V2-[\w.-]+-Diffusers", text))
    released = {
        f"SkyReels-V2-{name}-Diffusers"
        for name in (
            *("DF-1.3B-540P", "DF-14B-540P", "DF-14B-720P", "T2V-14B-540P", "T2V-14B-720P"),
            *("I2V-1.3B-540P", "I2V-14B-540P", "I2V-14B-720P"),
        )
    }
    assert named
    assert named <= released


@BOTH
def test_fault_18_what_reads_the_tokenizer_is_installed(who):
    """Checkpoints with a spiece.model and no tokenizer.json need sentencepiece and protobuf."""
    if who == "stock":
        wanted = [*importlib.metadata.requires("diffusers"), *importlib.metadata.requires("transformers")]
        wanted = [line for line in wanted if "extra ==" not in line]
    else:
        wanted = (ROOT / "requirements.txt").read_text().splitlines()
    names = {re.split(r"[^\w-]", line)[0].lower() for line in wanted}
    assert {"sentencepiece", "protobuf"} <= names


@BOTH
def test_fault_19_weights_come_out_of_a_render_as_they_went_in(who, components, checkpoints, sample, plan_for):
    """Fusing a LoRA into them and taking it out again rounds twice; nothing is ever fused here."""
    loaded = SkyReelsV2Transformer3DModel.from_pretrained(checkpoints["df"] / "transformer", local_files_only=True)
    files = loaded.state_dict()
    if who == "stock":
        after = {name: weight.clone() for name, weight in files.items()}
        torch.manual_seed(0)
        name = "blocks.0.attn1.to_q.weight"
        change = torch.randn(24, 4) @ torch.randn(4, 24)
        after[name] = (after[name] + change) - change  # what fuse_lora and unfuse_lora do
    else:
        sample("df", plan_for("df"))
        after = components["df"].transformer.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in files.items())


@BOTH
def test_fault_20_a_lag_too_short_for_what_the_model_sees_is_refused(who, checkpoints):
    """Three blocks seen of five, each 2 steps behind: the first must be done, after 10, before the fourth begins."""
    if who == "ours":
        with pytest.raises(ValueError, match="at least 4"):
            make_schedule(10, 10, ar_step=2, block_size=2, base=6)
        return
    pipe = DF.from_pretrained(checkpoints["df"], local_files_only=True)
    with pytest.raises(ValueError, match="at least"):
        pipe(
            "A boat",
            height=64,
            width=64,
            num_frames=37,
            base_num_frames=21,
            overlap_history=5,
            ar_step=2,
            causal_block_size=2,
            num_inference_steps=10,
            output_type="latent",
        )
