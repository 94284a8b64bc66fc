"""What is read from a LoRA's header, in every style of names, and why files are refused."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import unicodedata
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

from backend.cli.flags import lora_use
from backend.core.config import MIB
from backend.core.errors import Conflict, InvalidRequest, NotEnoughSpace, NotFound
from backend.core.registry import MODELS, SYNTHETIC, Transformer
from backend.core.schema import parse_request
from backend.library.lora_keys import Unusable
from backend.library.loras import LoraLibrary, inspect
from tests.lora_files import (
    DIM,
    FFN,
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

FITTING = replace(MODELS["wan2.1-t2v-14b"], transformer=Transformer(LAYERS, DIM, FFN))


@pytest.fixture
def library(tmp_path) -> LoraLibrary:
    return LoraLibrary([tmp_path / "models", tmp_path / "shared"], tmp_path / "trash", MIB)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_names_is_understood(tmp_path, style):
    lora = inspect(write_lora(tmp_path / "grain.safetensors", style, rank=3, alpha=1.5))
    assert lora.style == STYLES[style][3]
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


def retyped(file: Path, dtype: str) -> Path:
    """A LoRA whose first tensor says that its numbers are of another type."""
    data = write_lora(file).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    next(entry for key, entry in header.items() if key != "__metadata__")["dtype"] = dtype
    return raw(file, header, data[8 + length :])


Q = "transformer.blocks.0.attn1.to_q"
REFUSED = {
    "a pickle": (as_pickle, "it is a pickle with another name"),
    "an old pickle": (lambda f: f.write_bytes(pickle.dumps({"a": 1}, 4)), "it is a pickle with another name"),
    "nothing": (lambda f: f.write_bytes(b""), "cut short or damaged"),
    "a page": (lambda f: f.write_bytes(b"<!doctype html>" * 20), "it is a web page, .* download it again, signed in"),
    "another page": (lambda f: f.write_bytes(b"\xef\xbb\xbf\n<!-- a -->\n<HTML lang=en><body>"), "it is a web page"),
    "a git-lfs pointer": (
        lambda f: f.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        "it is a git-lfs pointer, not the file itself; run `git lfs pull`",
    ),
    "whole numbers": (
        lambda f: save_file({key: (value * 10).to(torch.int8) for key, value in tensors("original").items()}, f),
        r"it has whole numbers \(I8, .*whose scale is not known here",
    ),
    "a type of numbers that nobody knows": (
        lambda f: retyped(f, "X9"),
        "it has numbers of the type X9 .*unknown here",
    ),
    "numbers of half a byte": (lambda f: retyped(f, "F4"), "it has numbers of the type F4"),
    "complex numbers": (lambda f: retyped(f, "C64"), "it has numbers of the type C64"),
    "a tensor without all of its numbers": (lambda f: retyped(f, "F64"), "it is damaged: .* has 384 bytes"),
    "an expression that may take forever": (
        lambda f: save_file(
            tensors("diffusers"),
            f,
            {
                "lora_adapter_metadata": json.dumps(
                    {"transformer.lora_alpha": 4, "transformer.alpha_pattern": {"(a+)+": 8}}
                )
            },
        ),
        "an expression that is not read here",
    ),
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
    "kohya LTX": (lambda f: named(f, "lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight"), "LTX-Video"),
    "a quarter of a LoHa": (lambda f: named(f, f"{Q}.hada_w1_a"), "only one half of the change of blocks.0.attn1.to_q"),
    "a LoHa of two sizes": (
        lambda f: save_file(
            {f"{Q}.hada_w{n}_{half}": torch.ones(DIM + n, DIM + n) for n in (1, 2) for half in "ab"}, f
        ),
        r"do not fit: \(25, 25\) and \(26, 26\)",
    ),
    "half a LoKr": (lambda f: named(f, f"{Q}.lokr_w1"), "only one half"),
    "a LoKr of a vector": (
        lambda f: save_file({f"{Q}.lokr_w1": torch.ones(4, 4), f"{Q}.lokr_w2": torch.ones(6)}, f),
        "do not fit",
    ),
    "two kinds at once": (
        lambda f: changed(f, **{f"{Q}.lokr_w1": torch.ones(4, 4), f"{Q}.lokr_w2": torch.ones(6, 6)}),
        "is LoRA and LoKr at once",
    ),
    "an OFT": (lambda f: named(f, f"{Q}.oft_blocks"), "it is of the kind OFT"),
    "magnitudes alone": (lambda f: save_file({f"{Q}.dora_scale": torch.ones(DIM)}, f), "only a scale"),
    "mostly strangers": (
        lambda f: named(f, f"{Q}.lora_A.weight", *(f"blocks.{n}.attn9.to_q.lora_A.weight" for n in range(2))),
        "attn9.* which no model here has",
    ),
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
    for name in (".hidden", ".DS_Store", "Thumbs.db", "desktop.ini", ".0123456789abcdef.part"):
        (folder / name).write_bytes(b"x")
    (folder / "._a.safetensors").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")  # AppleDouble
    (folder / ".0123456789abcdef.safetensors").write_bytes(b"x")  # on its way to version 0.1
    os.mkfifo(folder / "d.safetensors")
    (folder / "e\n.safetensors").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(folder) + b"/f\xff.safetensors")).write_bytes(b"x")
    found, refused = library.all()
    assert found == []
    assert sorted(refused) == ["a.pt", "b.bin", "c.ckpt", "d.safetensors", "e\n.safetensors", "f?.safetensors"]
    assert "can run code" in refused["a.pt"]
    assert all("rename it" in refused[name] for name in ("e\n.safetensors", "f?.safetensors"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"transformer": Transformer(LAYERS, 1536, FFN)}, "models of width 24, .* has 1536"),
        ({"transformer": Transformer(LAYERS, DIM, 99)}, "with 32 in the middle, .* has 99"),
        ({"transformer": Transformer(1, DIM, FFN)}, "changes block 2, .* has 1"),
        ({"transformer": Transformer(LAYERS, DIM, FFN, 36)}, "with 16 input channels, .* has 36"),
    ],
)
def test_a_model_of_another_shape_is_no_model_for_it(tmp_path, change, reason):
    embedding = {"patch_embedding.diff": torch.zeros(DIM, 16, 1, 2, 2)}
    lora = inspect(changed(tmp_path / "grain.safetensors", **embedding))
    assert re.search(reason, lora.incompatibility(replace(FITTING, **change)))
    assert "no layers to change" in lora.incompatibility(SYNTHETIC)


def pair(layer: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
    bare = f"diffusion_model.{layer}"
    return {f"{bare}.lora_A.weight": torch.ones(4, columns), f"{bare}.lora_B.weight": torch.ones(rows, 4)}


ATTENTION = "diffusion_model.blocks.0.self_attn.q"
OTHER_SHAPES = {
    "another text width": (
        pair("blocks.0.cross_attn.k", DIM, 99),
        r"attn2.to_k by \(24, 4\) x \(4, 99\), .* \(24, 24\)",
    ),
    "another middle": (pair("blocks.0.ffn.2", DIM, 99), r"blocks.0.ffn.net.2 by .*99\), .* has \(24, 32\) there"),
    "another head": (pair("head.head", 192, DIM), r"proj_out by \(192, 4\) x \(4, 24\), .* has \(64, 24\) there"),
    "another encoder": (pair("text_embedding.0", DIM, 99), r"linear_1 by .*, .* has \(24, 4096\) there"),
    "another time": (pair("time_embedding.0", DIM, 99), r"linear_1 by .*, .* has \(24, 256\) there"),
    "another table": (
        {"diffusion_model.blocks.0.diff_m": torch.ones(1, 6, DIM + 1)},
        r"scale_shift_table by \(1, 6, 25\), .* has \(1, 6, 24\)",
    ),
    "another norm": ({"diffusion_model.blocks.0.norm3.diff": torch.ones(DIM + 1)}, r"norm2 by \(25,\), .* \(24,\)"),
    "another kernel": ({"diffusion_model.patch_embedding.diff": torch.ones(DIM, 64)}, r"by \(24, 64\), .*16, 1, 2, 2"),
    "another bias": (
        pair("blocks.0.self_attn.q", DIM, DIM) | {f"{ATTENTION}.diff_b": torch.ones(DIM + 1)},
        r"attn1.to_q by a bias of shape \(25,\)",
    ),
    "other magnitudes": (
        pair("blocks.0.self_attn.q", DIM, DIM) | {f"{ATTENTION}.dora_scale": torch.ones(7)},
        r"attn1.to_q by magnitudes of shape \(7,\)",
    ),
    "a LoHa": (
        {f"{ATTENTION}.hada_w{n}_a": torch.ones(DIM, 3) for n in (1, 2)}
        | {f"{ATTENTION}.hada_w{n}_b": torch.ones(3, 7) for n in (1, 2)},
        r"attn1.to_q by \(24, 7\)",
    ),
    "pictures only": (
        pair("blocks.0.cross_attn.k_img", DIM, DIM),
        "only layers that .* not have, such as .*add_k_proj",
    ),
    "an image encoder only": (pair("img_emb.proj.1", 1280, 1280), "only layers that .* does not have"),
    "control only": (
        pair("vace_blocks.0.self_attn.q", DIM, DIM),
        "only layers that .* not have, such as vace_blocks.0",
    ),
}


@pytest.mark.parametrize("what", OTHER_SHAPES)
def test_a_layer_of_another_shape_is_said_before_anything_is_loaded(tmp_path, what):
    given, reason = OTHER_SHAPES[what]
    save_file(given, tmp_path / "x.safetensors")
    assert re.search(reason, inspect(tmp_path / "x.safetensors").incompatibility(FITTING))


def test_layers_that_the_model_lacks_are_left_out_beside_others(tmp_path):
    given = tensors("original") | pair("blocks.0.cross_attn.k_img", DIM, DIM) | pair("vace_blocks.0.ffn.2", DIM, FFN)
    save_file(given, tmp_path / "x.safetensors")
    assert inspect(tmp_path / "x.safetensors").incompatibility(FITTING) is None


@pytest.mark.parametrize("model", ["wan2.1-vace-1.3b", "wan2.1-vace-14b"])
def test_blocks_of_control_are_no_blocks(tmp_path, model):
    shape = MODELS[model].transformer
    given = {f"blocks.{shape.layers - 1}.attn1.to_q.lora_{half}.weight": torch.ones(1, 1) for half in "AB"}
    save_file(given, tmp_path / "x.safetensors")
    lora = replace(inspect(tmp_path / "x.safetensors"), width=0)
    assert re.search(f"changes block {shape.layers}, .* has {shape.blocks}", lora.incompatibility(MODELS[model]))


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


def test_one_in_a_subfolder_is_used_by_its_way(tmp_path, library):
    loras = tmp_path / "models/loras"
    file = write_lora(loras / "wan/high noise/x.v1.safetensors")
    write_lora(loras / "x.v1.safetensors")
    elsewhere = write_lora(tmp_path / "elsewhere/deep/y.safetensors").parents[1]
    (loras / "linked").symlink_to(elsewhere)
    (loras / "wan/around").symlink_to(loras)
    write_lora(loras / ".cache/z.safetensors")
    (loras / "wan/notes.txt").write_text("x")
    names = ["x.v1", "linked/deep/y", "wan/high noise/x.v1"]
    found, refused = library.all()
    assert ([lora.name for lora in found], list(refused)) == (names, ["wan/notes.txt"])
    name = names[2]
    assert (library.get(name).file, library.get(name).expert) == (file, 0)
    assert library.get("x.v1").file.parent == loras
    assert parse_request({"prompt": "x", "loras": [{"name": name}]}).loras[0].name == name
    assert lora_use(f"{name}:0.8") == {"name": name, "strength": [0.8]}
    library.remove(name)
    assert (library.trashed(), library.get("x.v1").file.exists()) == ([name], True)
    with pytest.raises(NotFound):
        library.get(name)
    library.restore(name)
    assert (library.get(name).file, library.trashed()) == (file, [])
    for wrong in ("wan/../x.v1", "/x.v1", "./x.v1", "wan", "wan/", "high noise/x.v1", "wan//high noise/x.v1"):
        with pytest.raises(NotFound):
            library.get(wrong)
        with pytest.raises(NotFound):
            library.remove(wrong)


def test_a_name_that_no_request_can_hold_is_said(tmp_path, library):
    write_lora(tmp_path / "models/loras" / ("x" * 200) / f"{'y' * 100}.safetensors")
    found, refused = library.all()
    [reason] = refused.values()
    assert (found, "its name with its folders has 301 characters" in reason) == ([], True)


def test_a_folder_that_is_a_link_to_nowhere_is_said(tmp_path, library):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/loras").symlink_to(tmp_path / "gone")
    assert library.all() == ([], {})
    with pytest.raises(Conflict, match=r"models/loras is a link to .*gone, which is not there; mount or restore that"):
        library.receive("x.safetensors")


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
    for name in ("../evil", "/etc/passwd", "a/b", "..\\evil", "", " ", ".", "..", "x\0", "x\ny", "x\udcff"):
        for filename in (name, f"{name}.safetensors"):
            with pytest.raises(InvalidRequest, match="is no name"):
                library.receive(filename)
    for name in ("x" * 300, "\N{FILM FRAMES}" * 64):
        with pytest.raises(InvalidRequest, match=r"has (312|268) bytes, 255 are the most; shorten it"):
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


LAYER_NAMES = {f"blocks.{number}.{OURS[inner]}" for number in range(LAYERS) for inner in INNER}


@pytest.mark.parametrize("style", STYLES)
def test_each_style_takes_exactly_the_layers_that_it_names(tmp_path, style):
    """One layer of each kind alone, and all of them: none is mistaken for another."""
    given = tensors(style)
    for number in range(LAYERS):
        for inner in INNER:
            name = layer_name(style, number, inner)
            one = {key: value for key, value in given.items() if key.startswith(f"{name}.")}
            assert len(one) == 2
            save_file(one, tmp_path / "one.safetensors")
            lora = inspect(tmp_path / "one.safetensors", f"{number} {inner}")
            assert {tensor.layer for tensor in lora.tensors} == {f"blocks.{number}.{OURS[inner]}"}
            (tmp_path / "one.safetensors").unlink()
    save_file(given, tmp_path / "all.safetensors")
    lora = inspect(tmp_path / "all.safetensors")
    assert (lora.layers, len(lora.tensors), lora.notes) == (20, 40, ())
    assert {tensor.layer for tensor in lora.tensors} == LAYER_NAMES


@pytest.mark.parametrize("magnitude", [None, *MAGNITUDES])
@pytest.mark.parametrize("kind", KINDS)
def test_lokr_loha_and_dora_are_taken_with_the_shapes_of_their_changes(tmp_path, kind, magnitude):
    save_file(factors(kind, magnitude=magnitude), tmp_path / "x.safetensors")
    lora = inspect(tmp_path / "x.safetensors")
    assert (lora.layers, lora.width, lora.ffn_width, lora.blocks, lora.notes) == (20, DIM, FFN, LAYERS, ())
    ranks = {"LoKr of whole matrices": (), "LoKr with a core": (5,)}
    assert lora.ranks == ranks.get(kind, (3,))
    assert {tensor.layer for tensor in lora.tensors} == LAYER_NAMES


def noted(file: Path, **more: torch.Tensor) -> list[str]:
    save_file(tensors("original") | more, file)
    shown = inspect(file).as_dict()
    assert shown["layers"] == 20
    return shown["notes"]


def test_what_is_left_out_or_changed_is_counted_in_notes(tmp_path):
    file = tmp_path / "x.safetensors"
    half, marker = torch.zeros(4, 4), torch.zeros(2).to(torch.float8_e4m3fn)
    assert noted(file) == []
    one = {"text_encoder.layer.lora_A.weight": half}
    assert noted(file, **one) == ["1 tensor for a text encoder is left out."]
    keys = ("lora_te_a.lora_down.weight", "lora_te1_b.alpha", "text_encoders.umt5.q.lora_A.weight", "te.x.diff")
    assert noted(file, **{key: half.clone() for key in keys}) == ["4 tensors for a text encoder are left out."]
    strange = {"diffusion_model.face_adapter.fuse.lora_A.weight": half, "diffusion_model.blocks.0.modulation": half + 1}
    assert noted(file, **strange) == [
        "2 tensors of what no model here has, such as diffusion_model.blocks.0.modulation, are left out."
    ]
    assert noted(file, scaled_fp8=marker) == ["1 marker of fp8 weights is left out."]
    assert noted(file, **{"diffusion_model.scaled_fp8": marker}) == ["1 marker of fp8 weights is left out."]
    scale = {"diffusion_model.blocks.0.self_attn.q.scale_weight": torch.ones(1)}
    assert noted(file, **scale) == ["1 scale without an fp8 tensor is left out."]


@pytest.mark.parametrize("end", ["scale_weight", "weight_scale", "weight.scale", "scale"])
def test_a_scale_belongs_to_the_fp8_tensor_beside_it(tmp_path, end):
    given = tensors("comfy kohya")
    down = "diffusion_model.blocks.0.self_attn.q.lora_down.weight"
    given[down] = given[down].to(torch.float8_e4m3fn)
    save_file(
        given | {f"diffusion_model.blocks.0.self_attn.q.lora_down.{end}": torch.ones(1)}, tmp_path / "x.safetensors"
    )
    lora = inspect(tmp_path / "x.safetensors")
    assert lora.notes == ("1 fp8 tensor is multiplied by a scale beside it.",)
    assert [tensor.key for tensor in lora.tensors if tensor.scale] == [down]


@pytest.mark.parametrize("marker", ["scale_input", "input_scale", "comfy_quant", "weight.comfy_quant"])
@pytest.mark.parametrize("style", ["original", "comfy kohya", "peft"])
def test_a_marker_of_an_fp8_tensor_is_no_adapter(tmp_path, style, marker):
    given = {key: value.to(torch.float8_e4m3fn) for key, value in tensors(style).items()}
    scales = {f"{key.removesuffix('.weight')}.scale_weight": torch.ones(()) for key in given}
    markers = {f"{key.removesuffix('.weight')}.{marker}": torch.ones(1) for key in given}
    save_file(given | scales | markers, tmp_path / "x.safetensors")
    lora = inspect(tmp_path / "x.safetensors")
    assert {tensor.key for tensor in lora.tensors if tensor.scale} == given.keys()
    assert lora.notes == (
        "40 fp8 tensors are multiplied by a scale beside it.",
        "40 markers of fp8 weights are left out.",
    )


@pytest.mark.parametrize("end", ["scale_weight", "weight_scale", "scale"])
def test_a_scale_of_half_a_lora_that_is_not_there_is_no_half(tmp_path, end):
    scale = {f"diffusion_model.blocks.0.norm3.lora_A.{end}": torch.ones(())}
    assert noted(tmp_path / "x.safetensors", **scale) == ["1 scale without an fp8 tensor is left out."]


def test_both_experts_in_one_file_are_told_apart(tmp_path):
    """`transformer_2` is the second of diffusers' Wan 2.2, as are `dit2` of DiffSynth and `low_noise_model` of Wan."""
    for prefix in ("transformer_2", "pipe.dit2", "low_noise_model", "base_model.model.transformer_2"):
        given = tensors("diffusers")
        second = {key.replace("transformer.", f"{prefix}."): value + 1 for key, value in given.items()}
        save_file(second, tmp_path / "x.safetensors")
        lora = inspect(tmp_path / "x.safetensors", prefix)
        assert {tensor.expert for tensor in lora.tensors} == {1}
        assert lora.notes == ("It has 20 layers for the second expert of Wan 2.2.",)
        (tmp_path / "x.safetensors").unlink()
        save_file(given | second, tmp_path / "x.safetensors")
        lora = inspect(tmp_path / "x.safetensors", f"{prefix}, both")
        assert lora.layers == 40
        assert lora.notes == ("It has 20 layers for the first expert of Wan 2.2 and 20 layers for the second.",)
        (tmp_path / "x.safetensors").unlink()


@pytest.mark.parametrize(
    ("prefixes", "note"),
    [
        (["transformer_2"], "was made for the second expert of Wan 2.2, and .* has one transformer"),
        (["low_noise_model"], "was made for the second expert"),
        (["high_noise_model"], "was made for the first expert"),
        (["transformer", "transformer_2"], "its layers for the second expert of Wan 2.2 are left out"),
        (["transformer"], None),
    ],
)
def test_layers_for_experts_that_a_model_lacks_are_noted(tmp_path, prefixes, note):
    given = tensors("diffusers")
    given = {
        key.replace("transformer.", f"{name}."): value + n
        for n, name in enumerate(prefixes)
        for key, value in given.items()
    }
    save_file(given, tmp_path / "x.safetensors")
    lora = inspect(tmp_path / "x.safetensors")
    assert lora.note_on_experts(replace(FITTING, experts=2)) is None
    found = lora.note_on_experts(FITTING)
    assert re.search(f"The LoRA x .*{note}", found) if note else found is None


NAMES = {
    "a copy": "x (1)",
    "brackets": "[flux] {wan} <v2>",
    "emoji": "\N{FILM FRAMES}\ufe0f grain \N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}",
    "long": "x" * 243,
    "long in bytes": "\u6620" * 81,
    "dots in front": "..hidden",
    "one dot in front": ".hidden",
    "spaces around": "  grain  ",
    "reserved in Windows": "CON",
    "signs that Windows has not": 'a:b*c?"d"|e.',
    "ends like a strength": "grain:0.5",
    "signs of addresses": "50% a&b=c#d+e;f",
    "markup": "<b>*bold*<b> `code` $x$",
    "quotes": 'it\'s "good"',
    "composed": unicodedata.normalize("NFC", "caf\u00e9"),
    "decomposed": unicodedata.normalize("NFD", "caf\u00e9"),
    "right to left": "\u05e1\u05e8\u05d8",
    "a version": "wan2.1_v1.5",
    "a dash in front": "-rf",
}


@pytest.mark.parametrize("suffix", [".safetensors", ".SAFETENSORS"])
@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_any_name_is_kept_and_works_everywhere(tmp_path, library, name, suffix):
    source = write_lora(tmp_path / "source.safetensors").rename(tmp_path / f"{name}{suffix}")
    lora = library.add(source)
    assert (lora.name, lora.file.name, lora.as_dict()["name"]) == (name, f"{name}{suffix}", name)
    assert [found.name for found in library.all()[0]] == [name]
    assert library.all()[1] == {}
    assert library.get(name) == lora
    for typed in (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        assert library.get(typed) == lora
        with pytest.raises(Conflict):
            library.receive(f"{typed}.safetensors") if len(typed.encode()) < 244 else library.receive(source.name)
        library.remove(typed)
        assert (library.all()[0], library.trashed()) == ([], [name])
        library.restore(typed)
        assert (library.get(name), library.trashed()) == (lora, [])
    assert parse_request({"prompt": "x", "loras": [{"name": name}]}).loras[0].name == name
    assert lora_use(f"{name}:0.8") == {"name": name, "strength": [0.8]}
    library.remove(name, for_good=True)
    assert list((tmp_path / "models/loras").iterdir()) == []


def test_two_files_of_one_name_are_said(tmp_path, library):
    write_lora(tmp_path / "models/loras/x.safetensors")
    write_lora(tmp_path / "models/loras/y.safetensors").rename(tmp_path / "models/loras/x.SAFETENSORS")
    found, refused = library.all()
    assert [lora.file.name for lora in found] == ["x.SAFETENSORS"]
    assert refused == {"x.safetensors": "x.SAFETENSORS has the same name; rename one"}


def test_a_name_that_the_disk_refuses_is_said(tmp_path, library, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("backend.library.loras.replace_file", refuse)
    with pytest.raises(InvalidRequest, match=r"no file named 'a:b\.safetensors' .*give it another name"):
        library.add(write_lora(tmp_path / "a:b.safetensors"))
    assert list((tmp_path / "models/loras").iterdir()) == []


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("paper theatre", ("paper theatre",)),
        (" god rays , deep  water,, god rays", ("god rays", "deep water")),
        ("a\nb\x1b[31m", ("a b [31m",)),
        ("", ()),
        ("x" * 500, ("x" * 80,)),
        (", ".join(map(str, range(500))), tuple(map(str, range(20)))),
    ],
)
def test_trigger_words_are_the_trigger_phrase_of_the_metadata(tmp_path, phrase, words):
    lora = inspect(write_lora(tmp_path / "grain.safetensors", metadata={"modelspec.trigger_phrase": phrase}))
    assert lora.trigger_words == words
    assert lora.as_dict()["trigger_words"] == list(words)


def test_only_loras_of_the_own_folder_are_removable(library, tmp_path):
    write_lora(tmp_path / "models/loras/styles/own.safetensors")
    write_lora(tmp_path / "shared/loras/other.safetensors")
    found, _ = library.all()
    assert {lora.name: library.is_removable(lora) for lora in found} == {"styles/own": True, "other": False}
