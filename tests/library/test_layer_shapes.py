"""The shapes of layers are those of the transformers that diffusers builds, with nothing missing and nothing added."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from backend.core.registry import MODELS
from backend.library.checkpoints import find_checkpoints, read_header
from backend.library.layer_shapes import layer_shape
from backend.library.lora_keys import BLOCK, ELSEWHERE, IN_BLOCKS, TABLE
from tests.tiny_checkpoints import KINDS, WAN_KINDS, build_checkpoint

# The configurations on the hub, without what the class has as its default.
LARGE: dict[str, Any] = {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
SMALL: dict[str, Any] = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
IMAGE = {"in_channels": 36, "image_dim": 1280}
RELEASED = {
    "skyreels-v2-df-1.3b-540p": ("SkyReelsV2", SMALL),
    "skyreels-v2-i2v-1.3b-540p": ("SkyReelsV2", SMALL | IMAGE | {"added_kv_proj_dim": 1536}),
    "skyreels-v2-df-14b-720p": ("SkyReelsV2", LARGE),
    "skyreels-v2-i2v-14b-720p": ("SkyReelsV2", LARGE | IMAGE | {"added_kv_proj_dim": 5120}),
    "wan2.1-t2v-1.3b": ("Wan", SMALL),
    "wan2.1-t2v-14b": ("Wan", LARGE),
    "wan2.1-i2v-14b-480p": ("Wan", LARGE | IMAGE | {"added_kv_proj_dim": 5120}),
    "wan2.1-vace-1.3b": ("WanVACE", SMALL | {"vace_layers": list(range(0, 30, 2))}),
    "wan2.1-vace-14b": ("WanVACE", LARGE | {"vace_layers": list(range(0, 40, 5))}),
    "wan2.2-ti2v-5b": (
        "Wan",
        {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
    ),
    "wan2.2-t2v-a14b": ("Wan", LARGE),
    "wan2.2-i2v-a14b": ("Wan", LARGE | {"in_channels": 36}),
    "skyreels-v2-tiny": (
        "SkyReelsV2",
        {
            "num_attention_heads": 6,
            "attention_head_dim": 48,
            "ffn_dim": 1152,
            "num_layers": 6,
            "in_channels": 32,
            "out_channels": 32,
            "text_dim": 192,
            "freq_dim": 128,
        },
    ),
}


def changeable(parameters: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes by layer, of what has a name in the table of names."""
    found = {}
    for key, shape in parameters.items():
        layer = key.removesuffix(".weight")
        block = BLOCK.fullmatch(layer)
        known = block[3] in IN_BLOCKS.values() if block else layer in ELSEWHERE.values()
        if known and (key.endswith(".weight") or layer.endswith(TABLE)):
            found[layer] = shape
    return found


def every_layer(blocks: int) -> list[str]:
    """The names of all layers that a LoRA may change, of one block more than there are."""
    inner = [
        f"{kind}.{n}.{name}"
        for kind in ("blocks", "vace_blocks")
        for n in range(blocks + 1)
        for name in set(IN_BLOCKS.values())
    ]
    return [*inner, *ELSEWHERE.values()]


@pytest.mark.parametrize("model", RELEASED)
def test_a_released_model_has_these_layers_and_no_others(model):
    kind, config = RELEASED[model]
    with torch.device("meta"):
        made = getattr(diffusers, f"{kind}Transformer3DModel")(**config)
    real = changeable({key: tuple(value.shape) for key, value in made.state_dict().items()})
    shape = MODELS[model].transformer
    ours = {layer: found for layer in every_layer(shape.layers) if (found := layer_shape(shape, layer))}
    assert ours == real


@pytest.mark.parametrize("kind", [*KINDS, *WAN_KINDS])
def test_the_layers_of_any_checkpoint_are_read_from_its_files(tmp_path, kind):
    folder = build_checkpoint(tmp_path / "Mine", kind)
    (checkpoint,) = find_checkpoints([tmp_path])
    header = read_header(folder / "transformer/diffusion_pytorch_model.safetensors")
    header.pop("__metadata__", None)
    shape = checkpoint.spec.transformer
    ours = {layer: found for layer in every_layer(shape.layers) if (found := layer_shape(shape, layer))}
    assert ours == changeable({key: tuple(entry["shape"]) for key, entry in header.items()})


def test_every_model_of_the_registry_is_compared():
    """Those that are not named have the shape of one that is."""
    shapes = {MODELS[model].transformer for model in RELEASED}
    assert {spec.transformer for spec in MODELS.values() if spec.transformer} == shapes
