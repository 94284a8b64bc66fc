"""Applied LoRAs: the output of a merged model, on every kind of layer, and nothing left behind."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from backend.core.errors import ModelUnavailable
from backend.core.schema import LoraUse
from backend.diffusion.cpu import use_cpu_kernels
from backend.diffusion.fp8 import quantize_fp8
from backend.diffusion.loras import LoadedLora, apply_loras, loras_gib
from backend.diffusion.sampler import Sampler
from backend.library.loras import inspect
from tests.diffusion.conftest import REQUEST
from tests.lora_files import (
    DIM,
    INNER,
    KINDS,
    LAYERS,
    MAGNITUDES,
    OURS,
    STYLES,
    factors,
    layer_name,
    tensors,
    write_lora,
)


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


def change_of(roles, alpha):
    """The change of a linear layer as the papers write it, element by element: LyCORIS, arXiv 2309.14859."""

    def product(kind, number):
        a, b = roles[f"{kind}_w{number}_a"], roles[f"{kind}_w{number}_b"]
        core = roles.get(f"{kind}_t{number}")
        return a @ b if core is None else a.T @ core @ b

    scale = 1.0
    if "lora_up.weight" in roles:
        change, scale = roles["lora_up.weight"] @ roles["lora_down.weight"], alpha / 3
    elif "hada_w1_a" in roles:
        change, scale = product("hada", 1) * product("hada", 2), alpha / 3
    else:
        left = roles["lokr_w1"] if "lokr_w1" in roles else product("lokr", 1)
        right = roles["lokr_w2"] if "lokr_w2" in roles else product("lokr", 2)
        (rows, columns), (high, wide) = left.shape, right.shape
        change = torch.empty(rows * high, columns * wide)
        for row in range(rows * high):
            for column in range(columns * wide):
                change[row, column] = left[row // high, column // wide] * right[row % high, column % wide]
        if "lokr_w2_b" in roles:
            scale = alpha / len(roles["lokr_w2_b"])
    return scale * change


def merged_factors(model, given, strength, alpha, magnitude=None):
    """A copy of the model with the change of `factors` in its weights; with magnitudes as DoRA, arXiv 2402.09353."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for number in range(LAYERS):
            for inner in INNER:
                prefix = layer_name("original", number, inner) + "."
                roles = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
                weight = other.get_submodule(f"blocks.{number}.{OURS[inner]}").weight
                changed = weight + change_of(roles, alpha)
                if magnitude:
                    norm = changed.square().sum(0 if magnitude == "columns" else 1, keepdim=True).sqrt()
                    changed = changed / norm * roles[MAGNITUDES[magnitude][0]].reshape(norm.shape)
                weight += strength * (changed - weight)
    return other


@pytest.mark.parametrize("magnitude", [None, *MAGNITUDES])
@pytest.mark.parametrize("kind", KINDS)
def test_lokr_loha_and_dora_give_the_output_of_the_merged_model(components, ask, tmp_path, kind, magnitude):
    model = components["t2v"].transformer
    before = ask()
    save_file(given := factors(kind, 1.5, magnitude), tmp_path / "x.safetensors")
    lora = load(components, tmp_path / "x.safetensors", 0.6)
    assert len(lora.deltas) == 20
    with apply_loras([lora], lambda: 0):
        changed = ask()
    torch.testing.assert_close(changed, ask(merged_factors(model, given, 0.6, 1.5, magnitude)), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(changed, before, atol=1e-2)
    assert torch.equal(ask(), before)
    assert loras_gib([lora]) > 0


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
@pytest.mark.parametrize("magnitude", [None, "rows", "columns"])
def test_every_kind_works_on_fp8_layers_and_in_half_precision(components, tmp_path, monkeypatch, kind, magnitude):
    monkeypatch.setattr("backend.diffusion.fp8.ALIGNMENT", 8)
    save_file(factors(kind, 0.3, magnitude), tmp_path / "x.safetensors")
    half = replace(components["t2v"], transformer=copy.deepcopy(components["t2v"].transformer).to(torch.bfloat16))
    quantize_fp8(half.transformer.blocks, torch.device("cpu"))
    latents, text = torch.randn(1, 16, 3, 4, 4).bfloat16(), torch.randn(1, 8, 32).bfloat16()
    lora = LoadedLora(inspect(tmp_path / "x.safetensors"), LoraUse(name="x"), half)
    with torch.no_grad(), apply_loras([lora], lambda: 0):
        output = half.transformer(latents, torch.tensor([500]), text, return_dict=False)[0]
    assert (output.dtype, bool(output.isfinite().all())) == (torch.bfloat16, True)


@pytest.mark.parametrize("magnitude", [None, (DIM, 1, 1, 1, 1), (1, 16, 1, 1, 1)])
@pytest.mark.parametrize("kind", ["LoRA", "LoRA, flattened", "LoCon", "LoHa", "LoKr"])
def test_the_patch_embedding_takes_every_kind(components, ask, tmp_path, kind, magnitude):
    """A convolution of (DIM, 16, 1, 2, 2). The expected change is written with the indices of the papers."""
    shapes = {
        "LoRA": {"lora_down.weight": (3, 16, 1, 2, 2), "lora_up.weight": (DIM, 3, 1, 1, 1)},
        "LoRA, flattened": {"lora_down.weight": (3, 64), "lora_up.weight": (DIM, 3)},
        "LoCon": {
            "lora_down.weight": (3, 16, 1, 1, 1),
            "lora_mid.weight": (3, 3, 1, 2, 2),
            "lora_up.weight": (DIM, 3, 1, 1, 1),
        },
        "LoHa": {
            "hada_t1": (3, 3, 1, 2, 2),
            "hada_w1_a": (3, DIM),
            "hada_w1_b": (3, 16),
            "hada_t2": (3, 3, 1, 2, 2),
            "hada_w2_a": (3, DIM),
            "hada_w2_b": (3, 16),
        },
        "LoKr": {"lokr_w1": (4, 2), "lokr_t2": (3, 3, 1, 2, 2), "lokr_w2_a": (3, DIM // 4), "lokr_w2_b": (3, 8)},
    }[kind]
    random = torch.Generator().manual_seed(4)
    t = {role: 0.5 * torch.randn(shape, generator=random) for role, shape in shapes.items()}
    if kind.startswith("LoRA"):
        change = (t["lora_up.weight"].reshape(DIM, 3) @ t["lora_down.weight"].reshape(3, 64)).reshape(DIM, 16, 1, 2, 2)
    elif kind == "LoCon":
        up, down = t["lora_up.weight"].reshape(DIM, 3), t["lora_down.weight"].reshape(3, 16)
        change = torch.einsum("or,rsabc,si->oiabc", up, t["lora_mid.weight"], down)
    elif kind == "LoHa":
        halves = [
            torch.einsum("ro,rsabc,si->oiabc", t[f"hada_w{n}_a"], t[f"hada_t{n}"], t[f"hada_w{n}_b"]) for n in (1, 2)
        ]
        change = halves[0] * halves[1]
    else:
        right = torch.einsum("ro,rsabc,si->oiabc", t["lokr_w2_a"], t["lokr_t2"], t["lokr_w2_b"])
        change = torch.einsum("oi,uvabc->ouivabc", t["lokr_w1"], right).reshape(DIM, 16, 1, 2, 2)
    if magnitude:
        t["dora_scale"] = 0.5 + torch.rand(magnitude, generator=random)
    save_file(
        {f"diffusion_model.patch_embedding.{role}": value for role, value in t.items()}
        | {"diffusion_model.patch_embedding.alpha": torch.tensor(3.0)},
        tmp_path / "x.safetensors",
    )
    other = copy.deepcopy(components["t2v"].transformer)
    with torch.no_grad():
        weight = other.patch_embedding.weight
        changed = weight + change  # alpha is the rank
        if magnitude:
            dims = [dim for dim, size in enumerate(magnitude) if size == 1]
            changed = changed / changed.square().sum(dims, keepdim=True).sqrt() * t["dora_scale"]
        weight += 0.5 * (changed - weight)
    assert inspect(tmp_path / "x.safetensors").in_channels == 16
    with apply_loras([load(components, tmp_path / "x.safetensors", 0.5)], lambda: 0):
        torch.testing.assert_close(ask(), ask(other), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("end", ["diff_m", "modulation.diff"])
def test_differences_of_modulation_tables_are_added(components, ask, tmp_path, end):
    """`diff_m` is what LightX2V calls the difference of a block's modulation."""
    model = components["t2v"].transformer
    random = torch.Generator().manual_seed(5)
    block, head = torch.randn(1, 6, DIM, generator=random), torch.randn(1, 2, DIM, generator=random)
    save_file(
        {f"diffusion_model.blocks.1.{end}": block, f"diffusion_model.head.{end}": head}, tmp_path / "x.safetensors"
    )
    before, kept = ask(), weights(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.blocks[1].scale_shift_table += 0.5 * block
        other.scale_shift_table += 0.5 * head
    with apply_loras([load(components, tmp_path / "x.safetensors", 0.5)], lambda: 0):
        torch.testing.assert_close(ask(), ask(other), atol=2e-5, rtol=1e-4)
        assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert torch.equal(ask(), before)


def test_a_modulation_table_does_not_change_the_fingerprint_of_a_saved_state(components, plan_for, tmp_path):
    save_file({"diffusion_model.head.diff_m": torch.ones(1, 2, DIM)}, tmp_path / "x.safetensors")
    lora = load(components, tmp_path / "x.safetensors", kind="df")

    def fingerprint():
        sampler = object.__new__(Sampler)
        sampler.components, sampler.plan, sampler.request = components["df"], plan_for("df"), REQUEST
        return sampler.fingerprint

    before = fingerprint()
    with apply_loras([lora], lambda: 0):
        lora.strength.fill_(1.0)
        assert fingerprint() == before


def test_fp8_tensors_are_multiplied_by_their_scales(components, ask, tmp_path):
    given, scaled = tensors("original"), {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    exact = {}
    for key, value in given.items():
        scale = value.abs().max() / 448  # the largest number of e4m3fn
        scaled[key] = (value / scale).to(torch.float8_e4m3fn)
        scaled[key.replace(".weight", ".scale_weight")] = scale
        exact[key.replace("diffusion_model.", "transformer.")] = scaled[key].float() * scale
    save_file(scaled, tmp_path / "fp8.safetensors")
    save_file(exact, tmp_path / "exact.safetensors")
    with apply_loras([load(components, tmp_path / "fp8.safetensors")], lambda: 0):
        found = ask()
    with apply_loras([load(components, tmp_path / "exact.safetensors")], lambda: 0):
        assert torch.equal(found, ask())


def test_tensors_of_transformer_2_change_the_second_expert(components, tmp_path):
    first, second = tensors("diffusers"), tensors("diffusers", seed=1)
    second = {key.replace("transformer.", "transformer_2."): value for key, value in second.items()}
    counts = {}
    for name, given in (("both", first | second), ("second", second)):
        save_file(given, tmp_path / f"{name}.safetensors")
        lora = load(components, tmp_path / f"{name}.safetensors", kind="wan-t2v-experts")
        owners = [dict.fromkeys(map(id, expert.modules())) for expert in components["wan-t2v-experts"].transformers]
        counts[name] = [sum(id(module) in owner for module, _ in lora.deltas) for owner in owners]
        query = components["wan-t2v-experts"].transformer_2.blocks[0].attn1.to_q
        (down,) = [delta.down for module, delta in lora.deltas if module is query]
        assert torch.equal(down, second["transformer_2.blocks.0.attn1.to_q.lora_A.weight"])
        assert len(load(components, tmp_path / f"{name}.safetensors").deltas) == 20  # a model without experts
    assert counts == {"both": [20, 20], "second": [0, 20]}


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("style", "optimized"), [*((style, False) for style in STYLES), ("kohya", True)])
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


def test_the_alpha_of_diffusers_metadata(components, ask, tmp_path):
    """diffusers saves no alpha tensors: the alpha of the training stands in the file's metadata."""
    file = tmp_path / "grain.safetensors"
    fields = {"r": 4, "lora_alpha": 6, "alpha_pattern": {"blocks.0.attn1.to_q": 2.0}, "use_rslora": False}
    adapter = json.dumps({f"transformer.{name}": value for name, value in fields.items()})
    save_file(tensors("diffusers"), file, metadata={"format": "pt", "lora_adapter_metadata": adapter})
    lora = load(components, file, 0.7)
    with apply_loras([lora], lambda: 0):
        changed = ask()
    given = tensors("diffusers")
    given["transformer.blocks.0.attn1.to_q.lora_B.weight"] *= 2 / 6
    wanted = ask(merged(components["t2v"].transformer, given, 0.7, alpha=6.0))
    torch.testing.assert_close(changed, wanted, atol=2e-5, rtol=1e-4)


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("key", "layer"),
    [
        ("transformer.blocks.1.attn2.to_v.lora_A.weight", "blocks.1.attn2.to_v"),
        ("transformer.blocks.1.ffn.net.2.alpha", "blocks.1.ffn.net.2"),
        ("diffusion_model.head.head.diff_b", "proj_out"),
        ("diffusion_model.blocks.0.diff_m", "blocks.0.scale_shift_table"),
    ],
)
def test_values_that_are_no_numbers_are_said_with_their_layer(components, tmp_path, key, layer, value):
    """One such value spoils the whole video, and the model is not to blame."""
    given = {
        "diffusion_model.head.head.diff_b": torch.zeros(64),
        "diffusion_model.blocks.0.diff_m": torch.zeros(1, 6, DIM),
    }
    given |= tensors("diffusers", alpha=4.0)
    given[key].view(-1)[-1] = value
    save_file(given, tmp_path / "grain.safetensors")
    with pytest.raises(
        ModelUnavailable, match=f"LoRA grain has NaN or infinite values in its change of {layer}; leave"
    ) as caught:
        load(components, tmp_path / "grain.safetensors")
    assert caught.value.field == "loras"


def test_an_infinite_scale_of_fp8_tensors_is_said(components, tmp_path):
    given = {key: value.to(torch.float8_e4m3fn) for key, value in tensors("diffusers").items()}
    given["transformer.blocks.0.attn1.to_q.lora_B.scale_weight"] = torch.tensor(float("inf"))
    save_file(given, tmp_path / "grain.safetensors")
    with pytest.raises(ModelUnavailable, match=r"in its change of blocks.0.attn1.to_q; leave"):
        load(components, tmp_path / "grain.safetensors")


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
