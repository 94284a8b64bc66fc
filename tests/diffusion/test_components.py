from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.core.errors import ModelUnavailable
from backend.core.placement import Placement
from backend.diffusion.components import is_out_of_memory, load_components
from backend.library.checkpoints import find_checkpoints

CPU = torch.device("cpu")


@pytest.fixture
def copy(checkpoints, tmp_path):
    return lambda kind: shutil.copytree(checkpoints[kind], tmp_path / f"copy-{kind}")


@pytest.mark.parametrize(
    ("kind", "forcing", "pictures"), [("df", True, False), ("t2v", False, False), ("i2v", False, True)]
)
def test_a_checkpoint_loads_as_what_it_is(components, kind, forcing, pictures):
    parts = components[kind]
    assert parts.diffusion_forcing is forcing
    assert (parts.image_encoder is not None) is pictures
    assert (parts.image_processor is not None) is pictures
    models = [parts.text_encoder, parts.transformer, parts.vae] + ([parts.image_encoder] if pictures else [])
    assert {parameter.dtype for model in models for parameter in model.parameters()} == {torch.float32}
    assert not any(model.training or next(model.parameters()).requires_grad for model in models)
    assert parts.spatial_factor == 8


def test_the_causal_mask_is_off_whatever_the_file_says(copy):
    folder = copy("df")
    config = json.loads((folder / "transformer/config.json").read_text())
    (folder / "transformer/config.json").write_text(json.dumps(config | {"num_frame_per_block": 5}))
    assert load_components(folder, CPU, lambda part: None).transformer.config.num_frame_per_block == 1


def test_loading_tells_how_far_it_is_and_can_be_stopped(checkpoints):
    parts = []
    load_components(checkpoints["i2v"], CPU, parts.append)
    assert parts == [0.0, 0.25, 0.5, 0.75, 1.0]

    def stop(part):
        if part:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_components(checkpoints["i2v"], CPU, stop)


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae", "image_encoder"])
def test_a_missing_tensor_is_not_made_up(copy, part):
    folder = copy("i2v")
    file = next((folder / part).glob("*.safetensors"))
    tensors = load_file(file)
    name = sorted(name for name in tensors if "bias" in name or "norm" in name)[0]
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        ModelUnavailable, match=rf"{part} of the checkpoint copy-i2v .*{name}.* download the model again"
    ):
        load_components(folder, CPU, lambda part: None)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model_index.json").unlink(),
        lambda folder: (folder / "vae/config.json").write_text("{"),
        lambda folder: (folder / "transformer/diffusion_pytorch_model.safetensors").unlink(),
        lambda folder: (folder / "text_encoder/model.safetensors").write_bytes(b"1234567890"),
        lambda folder: shutil.rmtree(folder / "tokenizer"),
        lambda folder: shutil.rmtree(folder / "scheduler"),
    ],
    ids=["index", "configuration", "no weights", "cut weights", "tokenizer", "scheduler"],
)
def test_damage_is_explained_without_paths(copy, damage):
    folder = copy("df")
    damage(folder)
    with pytest.raises(ModelUnavailable, match="download the model again") as caught:
        load_components(folder, CPU, lambda part: None)
    assert str(folder.parent) not in str(caught.value)


def test_weights_that_could_run_code_are_refused(copy):
    folder = copy("df")
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(ModelUnavailable, match="transformer"):
        load_components(folder, CPU, lambda part: None)


def test_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.parametrize("placement", list(Placement))
def test_a_text_encoder_that_is_read_amid_a_render_lies_where_it_should(checkpoints, placement):
    parts = load_components(checkpoints["df"], CPU, lambda part: None, text_encoder=False)
    parts.apply_offload(placement)
    parts.load_text_encoder()
    offloaded = any(
        registry.hooks
        for module in parts.text_encoder.modules()
        if (registry := getattr(module, "_diffusers_hook", None))
    )
    assert offloaded is (placement is not Placement.RESIDENT)
    parts.apply_offload(Placement.RESIDENT)
    with parts.on_device(parts.text_encoder):
        assert parts.text_encoder.device == parts.device


def test_weights_that_were_at_work_are_where_they_were_and_were_not_copied_back(checkpoints):
    parts = load_components(checkpoints["df"], torch.device("meta"), lambda part: None, text_encoder=False)
    weights = {name: weight.data_ptr() for name, weight in parts.transformer.named_parameters()}
    with parts.on_device(parts.transformer):
        assert parts.transformer.device.type == "meta"
    assert {name: weight.data_ptr() for name, weight in parts.transformer.named_parameters()} == weights
    assert parts.transformer.device.type == "cpu"


def weights_of(parts):
    models = {name: getattr(parts, name) for name in ("text_encoder", "transformer", "vae", "image_encoder")}
    return {name: model.state_dict() for name, model in models.items() if model is not None}


@pytest.mark.parametrize("shard", [None, "30KB"])
@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_weights_of_a_variant_are_loaded(checkpoints, components, tmp_path, variant, shard):
    """As diffusers and transformers write them."""
    from diffusers import SkyReelsV2ImageToVideoPipeline

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[variant]
    pipe = SkyReelsV2ImageToVideoPipeline.from_pretrained(checkpoints["i2v"], local_files_only=True)
    sizes = {"max_shard_size": shard} if shard else {}
    pipe.to(dtype).save_pretrained(tmp_path / "half", variant=variant, **sizes)
    names = [file.name for file in (tmp_path / "half").rglob("*.safetensors")]
    assert all(f".{variant}" in name for name in names)
    assert (len(names) > 4) == bool(shard)
    (checkpoint,) = find_checkpoints([tmp_path])
    loaded = weights_of(load_components(checkpoint.folder, CPU, lambda part: None))
    for part, tensors in weights_of(components["i2v"]).items():
        for name, tensor in tensors.items():
            assert torch.equal(loaded[part][name], tensor.to(dtype).float()), (part, name)
    weighed = checkpoint.spec.weights_gib + checkpoint.spec.other_gib
    assert weighed * 2**30 == sum(file.stat().st_size for file in (tmp_path / "half").rglob("*.safetensors"))


def test_shards_of_a_variant_with_the_names_of_older_versions_are_loaded(checkpoints, components, copy):
    """diffusers wrote `...safetensors.fp16.index.json` and `...-00001-of-00002.fp16.safetensors` until 0.31."""
    folder = copy("t2v")
    (file,) = (folder / "transformer").glob("*.safetensors")
    tensors = {name: tensor.half() for name, tensor in load_file(file).items()}
    shard = file.with_name("diffusion_pytorch_model-00001-of-00001.fp16.safetensors")
    save_file(tensors, shard, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, shard.name)}
    file.with_name("diffusion_pytorch_model.safetensors.fp16.index.json").write_text(json.dumps(index))
    file.unlink()
    loaded = load_components(folder, CPU, lambda part: None).transformer.state_dict()
    for name, tensor in components["t2v"].transformer.state_dict().items():
        assert torch.equal(loaded[name], tensor.half().float()), name


def test_a_snapshot_in_the_hubs_cache_with_side_files_is_loaded(checkpoints, components, tmp_path):
    place = tmp_path / "models--someone--Random-DF"
    snapshot = place / "snapshots" / ("a" * 40)
    for number, file in enumerate(file for file in checkpoints["df"].rglob("*") if file.is_file()):
        blob = place / "blobs" / str(number)
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(checkpoints["df"])
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
        link.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
    (checkpoint,) = find_checkpoints([tmp_path])
    loaded = weights_of(load_components(checkpoint.folder, CPU, lambda part: None))
    for part, tensors in weights_of(components["df"]).items():
        assert all(torch.equal(loaded[part][name], tensor) for name, tensor in tensors.items())
    (snapshot / "vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="of the checkpoint Random-DF could not be loaded"):
        load_components(checkpoint.folder, CPU, lambda part: None)
