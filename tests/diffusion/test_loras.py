"""Applied LoRAs: the output of a merged model, on every kind of layer, and nothing left behind."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from backend.core.errors import ModelUnavailable
from backend.core.schema import LoraUse
from backend.diffusion.cpu import use_cpu_kernels
from backend.diffusion.fp8 import quantize_fp8
from backend.diffusion.loras import LoadedLora, apply_loras, loras_gib
from backend.library.loras import inspect
from tests.lora_files import DIM, STYLES, tensors, write_lora


@pytest.fixture
def ask(components):
    """`ask()`: the output of the transformer of t2v for some latents."""
    random = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 16, 3, 4, 4, generator=random)
    text = torch.randn(1, 8, 32, generator=random)

    def call(model=None):
        with torch.no_grad():
            return (model or components["t2v"].transformer)(latents, torch.tensor([500]), text, return_dict=False)[0]

    return call


def load(components, file, strength=1.0, kind="t2v"):
    return LoadedLora(inspect(file), LoraUse(name=file.stem, strength=strength), components[kind])


def merged(model, given, strength=1.0, alpha=None):
    """A copy of the model with the change of `tensors("diffusers")` in its weights."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for key, down in given.items():
            if key.endswith("lora_A.weight"):
                up = given[key.replace("lora_A", "lora_B")]
                layer = other.get_submodule(key.removeprefix("transformer.").removesuffix(".lora_A.weight"))
                layer.weight += strength * (1.0 if alpha is None else alpha / len(down)) * up @ down
    return other


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("optimized", [False, True])
def test_the_output_is_that_of_the_merged_model_and_nothing_is_left_behind(components, ask, tmp_path, style, optimized):
    model = components["t2v"].transformer
    before, kept = ask(), weights(model)
    lora = load(components, write_lora(tmp_path / "grain.safetensors", style, alpha=2.0), 0.7)
    use_cpu_kernels(model, on=optimized)
    try:
        with apply_loras([lora], lambda: 0):
            changed = ask()
        between = ask()
    finally:
        use_cpu_kernels(model, on=False)
    wanted = ask(merged(model, tensors("diffusers"), 0.7, alpha=2.0))
    torch.testing.assert_close(changed, wanted, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(changed, before, atol=1e-2)
    torch.testing.assert_close(between, before, atol=2e-5, rtol=1e-4)
    assert torch.equal(ask(), before)
    assert not model._forward_pre_hooks
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert loras_gib([lora]) > 0


def test_two_at_once_add_up(components, ask, tmp_path):
    model = components["t2v"].transformer
    one, other = (write_lora(tmp_path / f"{seed}.safetensors", seed=seed, rank=3 + seed) for seed in (1, 2))
    with apply_loras([load(components, one, 0.5), load(components, other, -0.3)], lambda: 0):
        both = ask()
    first = merged(model, tensors("diffusers", seed=1, rank=4), 0.5)
    wanted = ask(merged(first, tensors("diffusers", seed=2, rank=5), -0.3))
    torch.testing.assert_close(both, wanted, atol=2e-5, rtol=1e-4)


def test_each_window_has_its_strength(components, ask, tmp_path):
    lora, windows = load(components, write_lora(tmp_path / "grain.safetensors"), [0.5, 0.0, 1.0]), [0]
    before, found = ask(), []
    with apply_loras([lora], lambda: windows[-1]):
        for window in range(5):
            windows.append(window)
            found.append(ask())
    for strength, seen in zip((0.5, 0.0, 1.0, 1.0, 1.0), found, strict=True):
        with apply_loras([load(components, tmp_path / "grain.safetensors", strength)], lambda: 0):
            assert torch.equal(ask(), seen)
    assert torch.equal(found[1], before)


@pytest.mark.parametrize(
    ("layer", "path", "shape"),
    [
        ("blocks.0.self_attn.q", "blocks.0.attn1.to_q", (DIM, DIM)),
        ("blocks.0.self_attn.norm_q", "blocks.0.attn1.norm_q", (DIM,)),
        ("blocks.1.norm3", "blocks.1.norm2", (DIM,)),
        ("patch_embedding", "patch_embedding", (DIM, 16, 1, 2, 2)),
        ("time_projection.1", "condition_embedder.time_proj", (6 * DIM, DIM)),
        ("text_embedding.0", "condition_embedder.text_embedder.linear_1", (DIM, 32)),
        ("head.head", "proj_out", (64, DIM)),
    ],
)
def test_full_deltas_of_any_layer_are_added(components, ask, tmp_path, layer, path, shape):
    random = torch.Generator().manual_seed(5)
    full, bias = 0.3 * torch.randn(shape, generator=random), 0.3 * torch.randn(shape[0], generator=random)
    given = {f"diffusion_model.{layer}.diff": full}
    model = components["t2v"].transformer
    has_bias = model.get_submodule(path).bias is not None if hasattr(model.get_submodule(path), "bias") else False
    if has_bias:
        given[f"diffusion_model.{layer}.diff_b"] = bias
    save_file(given, tmp_path / "full.safetensors")
    before = ask()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_submodule(path).weight += 0.5 * full
        if has_bias:
            other.get_submodule(path).bias += 0.5 * bias
    with apply_loras([load(components, tmp_path / "full.safetensors", 0.5)], lambda: 0):
        changed = ask()
    torch.testing.assert_close(changed, ask(other), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.equal(ask(), before)


def test_a_lora_for_image_to_video_is_applied_to_text_to_video(components, ask, tmp_path):
    """Its additional layers are left out; the others are applied."""
    pair = {"lora_A.weight": torch.ones(4, DIM), "lora_B.weight": torch.ones(DIM, 4)}
    given = tensors("diffusers") | {f"transformer.blocks.0.attn2.add_k_proj.{n}": t for n, t in pair.items()}
    save_file(given, tmp_path / "i2v.safetensors")
    with apply_loras([load(components, tmp_path / "i2v.safetensors")], lambda: 0):
        changed = ask()
    with apply_loras([load(components, write_lora(tmp_path / "t2v.safetensors"))], lambda: 0):
        assert torch.equal(ask(), changed)
    assert len(load(components, tmp_path / "i2v.safetensors", kind="i2v").deltas) == 21


def test_one_expert_or_both(components, tmp_path):
    counts = {}
    for name in ("grain", "grain_high_noise", "grain_low_noise"):
        lora = load(components, write_lora(tmp_path / f"{name}.safetensors"), kind="wan-t2v-experts")
        owners = [dict.fromkeys(map(id, expert.modules())) for expert in components["wan-t2v-experts"].transformers]
        counts[name] = [sum(id(module) in owner for module, _ in lora.deltas) for owner in owners]
    assert counts == {"grain": [20, 20], "grain_high_noise": [20, 0], "grain_low_noise": [0, 20]}


def test_an_incompatible_lora_is_refused_with_the_reason(components, tmp_path):
    wrong = {
        "transformer.proj_out.lora_A.weight": torch.ones(4, DIM),
        "transformer.proj_out.lora_B.weight": torch.ones(63, 4),
    }
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(ModelUnavailable, match=r"LoRA wrong changes proj_out by \(63, 4\) x \(4, 24\)") as caught:
        load(components, tmp_path / "wrong.safetensors")
    assert caught.value.field == "loras"
    save_file({"diffusion_model.head.head.diff": torch.ones(2, 2)}, tmp_path / "full.safetensors")
    with pytest.raises(ModelUnavailable, match=r"changes proj_out by \(2, 2\)"):
        load(components, tmp_path / "full.safetensors")
    pair = {"lora_A.weight": torch.ones(4, DIM), "lora_B.weight": torch.ones(DIM, 4)}
    save_file(
        {f"transformer.blocks.0.attn2.add_k_proj.{n}": t for n, t in pair.items()}, tmp_path / "images.safetensors"
    )
    with pytest.raises(ModelUnavailable, match="changes no layer of this model"):
        load(components, tmp_path / "images.safetensors")
    file = write_lora(tmp_path / "gone.safetensors")
    lora = inspect(file)
    file.unlink()
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        LoadedLora(lora, LoraUse(name="gone"), components["t2v"])


def test_half_precision_stays_half_precision(components, tmp_path):
    half = replace(components["t2v"], transformer=copy.deepcopy(components["t2v"].transformer).to(torch.bfloat16))
    lora = LoadedLora(inspect(write_lora(tmp_path / "grain.safetensors")), LoraUse(name="grain"), half)
    with torch.no_grad(), apply_loras([lora], lambda: 0):
        said = half.transformer(
            torch.randn(1, 16, 3, 4, 4).bfloat16(),
            torch.tensor([500]),
            torch.randn(1, 8, 32).bfloat16(),
            return_dict=False,
        )[0]
    assert said.dtype == torch.bfloat16


def test_on_fp8_layers_it_adds_the_same(components, ask, tmp_path, monkeypatch):
    monkeypatch.setattr("backend.diffusion.fp8.ALIGNMENT", 8)
    small = tensors("diffusers", size=0.3)
    small["transformer.blocks.0.ffn.net.0.proj.diff"] = 0.3 * torch.randn(32, DIM)
    save_file(small, tmp_path / "grain.safetensors")
    parts = replace(components["t2v"], transformer=copy.deepcopy(components["t2v"].transformer))
    plain = ask()
    with apply_loras([load(components, tmp_path / "grain.safetensors")], lambda: 0):
        added = ask() - plain
    quantize_fp8(parts.transformer.blocks, torch.device("cpu"))
    without = ask(parts.transformer)
    with apply_loras([load({"t2v": parts}, tmp_path / "grain.safetensors")], lambda: 0):
        found = ask(parts.transformer)
    assert not torch.equal(without, plain)
    assert (found - without - added).norm() < 0.1 * added.norm()
