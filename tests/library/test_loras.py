"""What is read from a LoRA's header, in every style of names, and why files are refused."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from safetensors.torch import save_file

from backend.core.config import MIB
from backend.core.errors import Conflict, InvalidRequest, NotEnoughSpace, NotFound
from backend.core.registry import MODELS, SYNTHETIC, Transformer
from backend.library.loras import LoraLibrary, Unusable, inspect
from tests.lora_files import DIM, FFN, LAYERS, STYLES, tensors, write_lora

FITTING = replace(MODELS["wan2.1-t2v-14b"], transformer=Transformer(LAYERS, DIM, FFN))


@pytest.fixture
def library(tmp_path) -> LoraLibrary:
    return LoraLibrary([tmp_path / "models", tmp_path / "shared"], tmp_path / "trash", MIB)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_names_is_understood(tmp_path, style):
    lora = inspect(write_lora(tmp_path / "grain.safetensors", style, rank=3, alpha=1.5))
    assert lora.style == {"peft": "diffusers", "comfy kohya": "original"}.get(style, style)
    assert (lora.name, lora.layers, lora.ranks, lora.blocks) == ("grain", 20, (3,), 2)
    assert (lora.width, lora.ffn_width, lora.sees_pictures, lora.base_model_hint) == (DIM, FFN, False, "wan")
    assert lora.bytes == (tmp_path / "grain.safetensors").stat().st_size
    assert lora.incompatibility(FITTING) is None
    shown = lora.as_dict()
    assert shown["base_model_hint"] == shown["said"] == "wan"  # `said` is its name in version 0.1
    reference = inspect(write_lora(tmp_path / "same.safetensors", "diffusers", rank=3, alpha=1.5))
    assert {(t.layer, t.role, t.shape) for t in lora.tensors} == {(t.layer, t.role, t.shape) for t in reference.tensors}


@pytest.mark.parametrize(
    ("style", "convert"),
    [
        ("original", _convert_non_diffusers_wan_lora_to_diffusers),
        ("kohya", _convert_musubi_wan_lora_to_diffusers),
    ],
)
def test_layers_are_those_that_diffusers_finds(tmp_path, style, convert):
    """Also those that few LoRAs change: what sees pictures, the embedders, the head."""
    given = tensors(style, alpha=4.0)
    pair = torch.zeros(4, DIM), torch.zeros(DIM, 4)
    images = ["blocks.0.cross_attn.k_img", "blocks.0.cross_attn.v_img"]
    images += ["blocks.1.cross_attn.k_img", "blocks.1.cross_attn.v_img"]
    more = ["head.head", "text_embedding.0", "text_embedding.2", "time_embedding.0", "time_embedding.2"]
    more += ["time_projection.1", "img_emb.proj.1", "img_emb.proj.3"]
    names = ("lora_A", "lora_B") if style == "original" else ("lora_down", "lora_up")
    for layer in [*images, *(more if style == "original" else [])]:
        bare = f"diffusion_model.{layer}" if style == "original" else f"lora_unet_{layer.replace('.', '_')}"
        given |= {f"{bare}.{name}.weight": half for name, half in zip(names, pair, strict=True)}
        if layer in images:
            given[f"{bare}.alpha"] = torch.tensor(4.0)
    save_file({key: value.clone() for key, value in given.items()}, tmp_path / "full.safetensors")
    lora = inspect(tmp_path / "full.safetensors")
    theirs = {key.removeprefix("transformer.").split(".lora_")[0] for key in convert(dict(given))}
    assert {tensor.layer for tensor in lora.tensors} == theirs
    assert lora.sees_pictures


def changed(file: Path, **more: torch.Tensor | None) -> Path:
    given = tensors("diffusers") | more
    save_file({key: value for key, value in given.items() if value is not None}, file)
    return file


def named(file: Path, *keys: str) -> Path:
    save_file({key: torch.zeros(4, 4) for key in keys}, file)
    return file


def as_pickle(file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    return file


def raw(file: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


def many(file: Path) -> Path:
    entry = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    return raw(file, {f"a{number}": entry for number in range(120_000)})


Q = "transformer.blocks.0.attn1.to_q"
REFUSED = {
    "a pickle": (as_pickle, "it is a pickle with another name"),
    "an old pickle": (lambda f: f.write_bytes(pickle.dumps({"a": 1}, 4)), "it is a pickle with another name"),
    "nothing": (lambda f: f.write_bytes(b""), "cut short or damaged"),
    "a page": (lambda f: f.write_bytes(b"<!doctype html>" * 20), "it is cut short or damaged"),
    "cut": (lambda f: f.write_bytes(write_lora(f).read_bytes()[:-1]), "cut short or damaged"),
    "no JSON": (lambda f: raw(f, b"{nothing}"), "no list of tensors"),
    "a list": (lambda f: raw(f, [1]), "no list of tensors"),
    "nonsense": (lambda f: raw(f, {"a": 1}), "no list of tensors"),
    "no tensors": (lambda f: raw(f, {}), "cut short or damaged"),
    "deep": (lambda f: raw(f, b'{"a":' * 100_000), "damaged"),
    "120,000 keys": (many, "it has 120000 tensors"),
    "120,000 long keys": (
        lambda f: raw(
            f,
            {f"diffusion_model.blocks.{n}.attn1.to_q.lora_A.weight": {"shape": [1], "x": "y"} for n in range(120_000)},
        ),
        "it has a header of .* bytes, and 8388608 are the most",
    ),
    "Flux": (lambda f: named(f, "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"), "for .*Flux"),
    "Hunyuan": (lambda f: named(f, "diffusion_model.double_blocks.0.img_attn_qkv.lora_A.weight"), "HunyuanVideo"),
    "Stable Diffusion": (lambda f: named(f, "lora_unet_down_blocks_0_attentions_0.lora_down.weight"), "Diffusion"),
    "LTX": (lambda f: named(f, "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"), "LTX-Video"),
    "a text encoder": (lambda f: named(f, "lora_te_text_model_encoder_layers_0.lora_down.weight"), "text encoder"),
    "LoHa": (lambda f: named(f, f"{Q}.hada_w1_a"), "it is a LoHa"),
    "DoRA": (lambda f: changed(f, **{f"{Q}.dora_scale": torch.ones(DIM)}), "it is a DoRA"),
    "a stranger": (lambda f: changed(f, **{"blocks.0.attn9.to_q.lora_A.weight": torch.ones(4, DIM)}), "attn9"),
    "a whole model": (lambda f: named(f, "blocks.0.attn1.to_q.weight"), "it changes 'blocks.0.attn1.to_q.weight'"),
    "one half": (lambda f: changed(f, **{f"{Q}.lora_B.weight": None}), "only one half of the change of blocks.0.attn1"),
    "other halves": (lambda f: changed(f, **{f"{Q}.lora_B.weight": torch.ones(DIM, 5)}), r"do not fit: \(4, 24\)"),
    "twice": (lambda f: changed(f, **{"blocks.0.attn1.to_q.lora_A.weight": torch.ones(4, DIM)}), "to_q twice"),
    "a great rank": (
        lambda f: save_file({f"{Q}.lora_A.weight": torch.ones(2000, 1), f"{Q}.lora_B.weight": torch.ones(1, 2000)}, f),
        "rank 2000, and 1024 is the most",
    ),
    "two widths": (
        lambda f: changed(f, **{f"{Q}.lora_B.weight": torch.ones(DIM + 1, 4)}),
        r"different widths: \[24, 25\]",
    ),
    "a scale alone": (lambda f: save_file({f"{Q}.alpha": torch.ones(1)}, f), "only a scale"),
    "a bias alone": (lambda f: save_file({f"{Q}.diff_b": torch.ones(DIM)}, f), "changes no layer"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_lora_for_models_here_is_refused_with_the_reason(tmp_path, library, what):
    make, reason = REFUSED[what]
    (tmp_path / "models/loras").mkdir(parents=True)
    file = tmp_path / "models/loras/evil.safetensors"
    make(file)
    with pytest.raises(Unusable, match=reason):
        inspect(file)
    found, refused = library.all()
    assert (found, list(refused)) == ([], ["evil.safetensors"])
    with pytest.raises(NotFound, match="'evil' cannot be used: "):
        library.get("evil")


def test_other_files_are_refused_without_being_read(tmp_path, library):
    folder = tmp_path / "models/loras"
    folder.mkdir(parents=True)
    for name in ("a.pt", "b.bin", "c.ckpt"):
        (folder / name).write_bytes(b"x")
    (folder / ".hidden").write_bytes(b"x")
    (folder / "d.safetensors").mkdir()
    (folder / "e\n.safetensors").write_bytes(b"x")
    found, refused = library.all()
    assert found == []
    assert sorted(refused) == ["a.pt", "b.bin", "c.ckpt", "d.safetensors", "e\n.safetensors"]
    assert "can run code" in refused["a.pt"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"transformer": Transformer(LAYERS, 1536, FFN)}, "models of width 24, .* has 1536"),
        ({"transformer": Transformer(LAYERS, DIM, 99)}, "with 32 in the middle, .* has 99"),
        ({"transformer": Transformer(1, DIM, FFN)}, "changes block 2, .* has 1"),
    ],
)
def test_a_model_of_another_shape_is_no_model_for_it(tmp_path, change, reason):
    lora = inspect(write_lora(tmp_path / "grain.safetensors"))
    assert re.search(reason, lora.incompatibility(replace(FITTING, **change)))
    assert "no layers to change" in lora.incompatibility(SYNTHETIC)


@pytest.mark.parametrize(
    ("name", "expert"), [("x_high_noise", 0), ("x-LowNoise", 1), ("high_noise_low", 0), ("high", None), ("grain", None)]
)
def test_the_name_tells_for_which_expert_it_was_made(tmp_path, name, expert):
    assert inspect(write_lora(tmp_path / f"{name}.safetensors")).expert == expert


def test_one_comes_goes_and_comes_back(tmp_path, library):
    elsewhere = write_lora(tmp_path / "film grain.safetensors")
    lora = library.add(elsewhere)
    assert (lora.name, lora.file) == ("film grain", tmp_path / "models/loras/film grain.safetensors")
    assert lora.file.read_bytes() == elsewhere.read_bytes()
    assert library.get("film grain") == lora
    assert len(library.sha256(lora)) == 64
    with pytest.raises(Conflict, match="is here already"):
        library.add(elsewhere)
    library.remove("film grain")
    with pytest.raises(NotFound, match="put its safetensors file into models/loras"):
        library.get("film grain")
    library.restore("film grain")
    assert library.get("film grain") == lora
    library.remove("film grain", for_good=True)
    with pytest.raises(NotFound, match="in the trash"):
        library.restore("film grain")


def test_another_file_of_the_same_name_has_another_hash(tmp_path, library):
    lora = library.add(write_lora(tmp_path / "grain.safetensors"))
    before = library.sha256(lora)
    write_lora(lora.file, seed=1)
    assert library.sha256(library.get("grain")) != before


def test_what_is_refused_leaves_nothing(tmp_path, library):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidRequest, match="x cannot be used: it is cut short"):
        library.add(tmp_path / "x.safetensors")
    assert list((tmp_path / "models/loras").iterdir()) == []
    for name in ("../evil.safetensors", "/etc/passwd", ".hidden.safetensors", "a/b.safetensors", "", "x\0.safetensors"):
        with pytest.raises(InvalidRequest, match="is no name"):
            library.receive(name)
    for name in ("../evil", "..", "a/b"):
        with pytest.raises(NotFound):
            library.remove(name)
        with pytest.raises(NotFound):
            library.restore(name)
    full = LoraLibrary([tmp_path / "models"], tmp_path / "trash", 10**15)
    with pytest.raises(NotEnoughSpace):
        full.add(write_lora(tmp_path / "y.safetensors"))
    assert list((tmp_path / "models/loras").iterdir()) == []


def test_one_of_a_shared_folder_is_used_and_not_removed(tmp_path, library):
    write_lora(tmp_path / "shared/loras/grain.safetensors")
    assert library.get("grain").name == "grain"
    with pytest.raises(Conflict, match="another folder"):
        library.remove("grain")
