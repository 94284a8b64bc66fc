"""What people bring into models/ that is no checkpoint in diffusers format is named with its kind and the way out."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from backend import doctor
from backend.core.config import Settings
from backend.library import foreign
from backend.library.catalog import Catalog
from backend.library.checkpoints import look_for_checkpoints
from tests.tiny_checkpoints import build_checkpoint

LFS_POINTER = (  # as https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md has it
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def safetensors(*names: str) -> bytes:
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]} for n, name in enumerate(names)}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * len(names))


TRANSFORMER = safetensors("model.diffusion_model.blocks.0.self_attn.q.weight")
GGUF = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)  # version 3, no tensors, no metadata
PICKLE = b"PK\x03\x04"
CONFIG = json.dumps({"_class_name": "WanModel", "dim": 1536, "num_layers": 30}).encode()
ORIGINAL = {
    "config.json": CONFIG,
    "model.safetensors": TRANSFORMER,
    "Wan2.1_VAE.pth": PICKLE,
    "models_t5_umt5-xxl-enc-bf16.pth": PICKLE,
    "google/umt5-xxl/tokenizer.json": b"{}",
}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("files", "name", "words"),
    [
        ({"wan.safetensors": TRANSFORMER}, "wan.safetensors", ["single safetensors file", "diffusers format"]),
        (
            {"wan2.1_t2v_1.3B_fp16.safetensors": TRANSFORMER},
            "wan2.1_t2v_1.3B_fp16.safetensors",
            ["single safetensors file", "download wan2.1-t2v-1.3b on the Models page"],
        ),
        ({"old.ckpt": PICKLE}, "old.ckpt", ["single .ckpt file", "can run code", "diffusers format"]),
        ({"Wan2.1_VAE.pth": PICKLE}, "Wan2.1_VAE.pth", ["single .pth file", "can run code"]),
        ({"model.PT": PICKLE}, "model.PT", ["single .pt file"]),
        ({"Wan2.1-T2V-14B-Q4_K_M.gguf": GGUF}, "Wan2.1-T2V-14B-Q4_K_M.gguf", ["GGUF", "download wan2.1-t2v-14b"]),
        ({"quantised/x-Q8_0.gguf": GGUF}, "quantised", ["GGUF", "x-Q8_0.gguf"]),
        ({"city96/wan/x-Q8_0.gguf": GGUF}, "city96/wan", ["GGUF"]),
        (
            {"mine/a.safetensors": TRANSFORMER, "mine/b.pth": PICKLE},
            "mine",
            ["(a.safetensors and 1 more)"],
        ),
        ({"x.safetensors": LFS_POINTER}, "x.safetensors", ["git-lfs pointer", "`git lfs pull`"]),
        ({"x.gguf": LFS_POINTER}, "x.gguf", ["git-lfs pointer", "`git lfs pull`"]),
        ({"x.safetensors": b"<!DOCTYPE html>\n<html>"}, "x.safetensors", ["a web page", "download it again"]),
        ({"x.gguf": b"<html>"}, "x.gguf", ["a web page"]),
        ({"x.safetensors": safetensors("blocks.0.self_attn.q.diff")}, "x.safetensors", ["a LoRA", "models/loras/"]),
        ({"x.safetensors": safetensors("a.lora.down.weight")}, "x.safetensors", ["a LoRA"]),
        ({"x.safetensors": safetensors("a.lora_A.my-style.weight")}, "x.safetensors", ["a LoRA"]),
        ({"x.safetensors": safetensors("a.dora_scale", "a" * 100_000)}, "x.safetensors", ["a LoRA"]),
        ({"x.safetensors": safetensors("a" * 100_000, "b.lokr_w2")}, "x.safetensors", ["a LoRA"]),
        ({"x.safetensors": safetensors("act.alpha", "diff.weight")}, "x.safetensors", ["single safetensors file"]),
        ({"x.safetensors": safetensors("a.lora_A.weight")}, "x.safetensors", ["a LoRA", "models/loras/"]),
        ({"x.safetensors": safetensors("lora_unet_a.lora_down.weight")}, "x.safetensors", ["a LoRA"]),
        (
            {"lora/a.safetensors": safetensors("a.lora_A.weight"), "lora/b.safetensors": safetensors("a.hada_w1_a")},
            "lora",
            ["LoRAs (a.safetensors and 1 more); move them into models/loras/"],
        ),
        ({"SkyReels.zip": PICKLE}, "SkyReels.zip", ["an archive; unpack it"]),
        (
            {f"SkyReels-V2-DF-1.3B-540P/{name}": content for name, content in ORIGINAL.items()},
            "SkyReels-V2-DF-1.3B-540P",
            ["original layout", "download skyreels-v2-df-1.3b-540p on the Models page"],
        ),
        (
            {f"Skywork/SkyReels-V2-I2V-14B-720P/{name}": content for name, content in ORIGINAL.items()},
            "Skywork/SkyReels-V2-I2V-14B-720P",
            ["original layout", "download skyreels-v2-i2v-14b-720p"],
        ),
        (
            {"Wan2.2-T2V-A14B/high_noise_model/config.json": CONFIG, "Wan2.2-T2V-A14B/Wan2.1_VAE.pth": PICKLE},
            "Wan2.2-T2V-A14B",
            ["original layout", "download wan2.2-t2v-a14b"],
        ),
        ({"renamed/config.json": CONFIG, "renamed/x.safetensors": TRANSFORMER}, "renamed", ["original layout"]),
        (
            {"models--Skywork--SkyReels-V2-DF-14B-540P/snapshots/0fad/Wan2.1_VAE.pth": PICKLE},
            "models--Skywork--SkyReels-V2-DF-14B-540P",
            ["original layout"],
        ),
        ({"diffusion_models/wan.safetensors": TRANSFORMER}, "diffusion_models", ["ComfyUI", "wan.safetensors"]),
        ({"upscale_models/4x.pth": PICKLE}, "upscale_models", ["ComfyUI", "4x.pth"]),
        ({"unet/wan-Q4.gguf": GGUF}, "unet", ["ComfyUI", "wan-Q4.gguf"]),
        ({"vae/wan_2.1_vae.safetensors": TRANSFORMER}, "vae", ["ComfyUI"]),
        ({"text_encoders/umt5_xxl_fp8.safetensors": TRANSFORMER}, "text_encoders", ["ComfyUI"]),
        ({"diffusion_models/Wan/wan.safetensors": TRANSFORMER}, "diffusion_models", ["ComfyUI"]),
        (
            {"Comfy/vae/v.safetensors": TRANSFORMER, "Comfy/unet/u.safetensors": TRANSFORMER},
            "Comfy",
            ["ComfyUI (unet/u.safetensors and 1 more)"],
        ),
        (
            {"ComfyUI/models/unet/u.safetensors": TRANSFORMER},
            "ComfyUI/models",
            ["ComfyUI (unet/u.safetensors)"],
        ),
        (
            {"half/transformer/config.json": b"{}", "half/vae/config.json": b"{}"},
            "half",
            ["parts of a model (transformer, vae) and no model_index.json"],
        ),
        (
            {"vae/config.json": b'{"_class_name": "AutoencoderKLWan"}', "vae/diffusion_pytorch_model.safetensors": b""},
            "vae",
            ["one part of a model alone (AutoencoderKLWan)"],
        ),
        ({"model_index.json": b"{}", "vae/config.json": b"{}"}, "model_index.json", ["in models/ itself; move them"]),
    ],
)
def test_a_foreign_model_is_named_with_its_kind_and_the_way_out(tmp_path, files, name, words):
    settings = Settings(data=tmp_path, shared_models=tmp_path / "models")
    write(settings.models, files)
    refused = Catalog(settings).rejected()
    assert list(refused) == [name]
    for word in words:
        assert word in refused[name]
    check = doctor.check_models(settings)
    assert (check.status, check.detail, check.way_out) == ("warning", f"{name} cannot be used", refused[name])


@pytest.mark.parametrize("way", ["backup/2024/mine", "a/b/c/mine", "a/b/c/d/e/f/g/mine"])
def test_a_model_too_deep_is_named(tmp_path, way):
    build_checkpoint(tmp_path / way)
    build_checkpoint(tmp_path / "owner" / "fine")
    found, rejected = look_for_checkpoints([tmp_path])
    assert [one.spec.id for one in found] == ["fine"]
    assert rejected == {tmp_path / way: "the model lies too deep; move the folder mine into models/"}


def test_a_folder_of_the_hubs_cache_too_deep_is_named(tmp_path):
    write(tmp_path, {"home/.x": b"", "home/hf/hub/models--a--b/snapshots/0fad/model_index.json": b"{}"})
    _, rejected = look_for_checkpoints([tmp_path])
    place = tmp_path / "home/hf/hub/models--a--b"
    assert rejected == {place: "the model lies too deep; move the folder models--a--b into models/"}


@pytest.mark.parametrize("file", ["a/b/c/x.gguf", "a/b/c/d/e/f/x.GGUF", "a/b/c/x.safetensors", "a/b/c/d/x.ckpt"])
def test_weights_too_deep_are_named(tmp_path, file):
    write(tmp_path, {file: GGUF if file.lower().endswith("gguf") else TRANSFORMER})
    _, rejected = look_for_checkpoints([tmp_path])
    assert list(rejected) == [(tmp_path / file).parent]
    assert (tmp_path / file).name in next(iter(rejected.values()))


@pytest.mark.parametrize("place", ["models--a--b", "hub/models--a--b", "x/huggingface/hub/models--a--b"])
@pytest.mark.parametrize("rest", ["refs/main", "blobs/0f", "snapshots/0fad/README.md"])
def test_a_folder_of_the_hubs_cache_without_a_model_is_named(tmp_path, place, rest):
    write(tmp_path, {f"{place}/{rest}": b"0fad", f"{place}/refs/v1": b"0fad"})
    _, rejected = look_for_checkpoints([tmp_path])
    assert list(rejected) == [tmp_path / place]


@pytest.mark.parametrize("name", ["SkyReels", "mine", "Wan2.1-T2V", "Skywork/SkyReels", "wan.safetensors", "loras"])
def test_a_link_that_leads_nowhere_is_named_with_its_target(tmp_path, name):
    link = tmp_path / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to("/media/disk/gone")
    reason = "it is a link to /media/disk/gone, which is not there; mount or restore that, or remove the link"
    assert look_for_checkpoints([tmp_path]) == ([], {link: reason})
    check = doctor.check_models(Settings(data=tmp_path, shared_models=tmp_path))
    assert (check.detail, check.way_out) == (f"{name} cannot be used", reason)


@pytest.mark.parametrize(
    "files",
    [
        {"loras/grain.safetensors": safetensors("a.lora_A.weight")},
        {".downloads/x/checkpoint/vae.safetensors": b"", ".trash/x/model.pth": b""},
        {"._wan.safetensors": b"\0\5\x16\7", ".DS_Store": b"", "Thumbs.db": b"", "desktop.ini": b""},
        {"__MACOSX/mine/._model.safetensors": b"", "@eaDir/x.gguf": b""},
        {"README.md": b"", "notes/list.txt": b"", "photos/a/b/c/d.jpg": b""},
        {"Qwen/config.json": b'{"architectures": ["Qwen2ForCausalLM"]}', "Qwen/model.safetensors": b""},
        {"Qwen/config.json": b'{"architectures": ["Qwen2ForCausalLM"]}', "Qwen/unet/model.gguf": b""},
        {"models--Qwen--Q/snapshots/0fad/config.json": b'{"architectures": ["Q"]}', "models--Qwen--Q/blobs/a.bin": b""},
    ],
)
def test_other_files_are_not_named(tmp_path, files):
    write(tmp_path, files)
    assert look_for_checkpoints([tmp_path]) == ([], {})


def test_a_damaged_configuration_is_no_reason_to_stop(tmp_path):
    write(tmp_path, {"a/config.json": b"[" * 90_000, "a/x.safetensors": b"", "b/config.json": b"[]", "c/x.gguf": GGUF})
    (tmp_path / "d").mkdir()
    (tmp_path / "d/config.json").symlink_to("/dev/zero")
    (tmp_path / "e.gguf").symlink_to(tmp_path / "e.gguf")
    _, rejected = look_for_checkpoints([tmp_path])
    assert [path.name for path in rejected] == ["a", "c", "e.gguf"]


def test_a_huge_folder_is_not_searched_to_its_end(tmp_path, monkeypatch):
    looked = []
    entries = foreign._entries
    monkeypatch.setattr(foreign, "MOST_LOOKED_AT", 20)
    monkeypatch.setattr(foreign, "_entries", lambda folder: looked.append(folder) or entries(folder))
    for number in range(100):
        (tmp_path / "photos" / f"{number:03}").mkdir(parents=True)
    assert look_for_checkpoints([tmp_path]) == ([], {})
    assert len(looked) < 60
