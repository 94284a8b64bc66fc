"""LoRAs of random numbers for the checkpoints of `tiny_checkpoints`, in every style of names and kind of change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

DIM, FFN, LAYERS = 24, 32, 2  # of the checkpoints' transformers
INNER = {
    "self_attn.q": (DIM, DIM),
    "self_attn.k": (DIM, DIM),
    "self_attn.v": (DIM, DIM),
    "self_attn.o": (DIM, DIM),
    "cross_attn.q": (DIM, DIM),
    "cross_attn.k": (DIM, DIM),
    "cross_attn.v": (DIM, DIM),
    "cross_attn.o": (DIM, DIM),
    "ffn.0": (FFN, DIM),
    "ffn.2": (DIM, FFN),
}
OURS = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
# By what a style is known: the name of a layer and the ends of its halves, and which style the library calls it.
# {ours} is the layer's name in diffusers, {name} in the original Wan, {_ours} and {_name} are those without dots.
STYLES = {
    "diffusers": ("transformer.blocks.{n}.{ours}", "lora_A.weight", "lora_B.weight", "diffusers"),
    "original": ("diffusion_model.blocks.{n}.{name}", "lora_A.weight", "lora_B.weight", "original"),
    "kohya": ("lora_unet_blocks_{n}_{_name}", "lora_down.weight", "lora_up.weight", "kohya"),
    "peft": ("base_model.model.blocks.{n}.{ours}", "lora_A.default.weight", "lora_B.default.weight", "diffusers"),
    "comfy kohya": ("diffusion_model.blocks.{n}.{name}", "lora_down.weight", "lora_up.weight", "original"),
    "Wan Fun": ("lora_unet__blocks_{n}_{_name}", "lora_down.weight", "lora_up.weight", "kohya"),
    "dots and underscores": ("lora_unet_blocks_{n}.{name}", "lora_down.weight", "lora_up.weight", "kohya"),
    "underscores": ("diffusion_model_blocks_{n}_{_name}", "lora_A.weight", "lora_B.weight", "original"),
    "dit": ("dit.blocks.{n}.{name}", "lora_A.default_0.weight", "lora_B.default_0.weight", "original"),
    "DiffSynth": ("pipe.dit.blocks.{n}.{name}", "lora_A.default.weight", "lora_B.default.weight", "original"),
    "no prefix": ("blocks.{n}.{name}", "lora_A.style.weight", "lora_B.style.weight", "original"),
    "parameters": ("transformer.blocks.{n}.{ours}", "lora_A", "lora_B", "diffusers"),
    "old diffusers": ("transformer.blocks.{n}.{ours}", "lora.down.weight", "lora.up.weight", "diffusers"),
    "OneTrainer": ("lora_transformer_blocks_{n}_{_ours}", "lora_down.weight", "lora_up.weight", "kohya"),
    "LyCORIS": ("lycoris_blocks_{n}_{_ours}", "lora_down.weight", "lora_up.weight", "kohya"),
    "distilled": ("generator_ema.model.net.blocks.{n}.{name}", "lora_A.weight", "lora_B.weight", "original"),
    "compiled": ("_orig_mod.model.diffusion_model.blocks.{n}.{name}", "lora_A.weight", "lora_B.weight", "original"),
    "compiled blocks": ("blocks.{n}._orig_mod.{name}", "lora_A.weight", "lora_B.weight", "original"),
    "sharded": ("_fsdp_wrapped_module.blocks.{n}.{name}", "lora_A.weight", "lora_B.weight", "original"),
    "sharded blocks": (
        "module.blocks.{n}._fsdp_wrapped_module._checkpoint_wrapped_module.{ours}",
        "lora_A.weight",
        "lora_B.weight",
        "diffusers",
    ),
    "hyphens": ("base_model.model.blocks.{n}.{ours}", "lora_A.my-style.weight", "lora_B.my-style.weight", "diffusers"),
    "any name": ("blocks.{n}.{ours}", "lora_A.a style (v1.5).weight", "lora_B.a style (v1.5).weight", "diffusers"),
}


def layer_name(style: str, number: int, inner: str) -> str:
    """The name of a layer, given as in the original Wan, in that style."""
    ours = OURS.get(inner, inner)
    flat = {"_name": inner.replace(".", "_"), "_ours": ours.replace(".", "_")}
    return STYLES[style][0].format(n=number, name=inner, ours=ours, **flat)


def tensors(style: str, rank: int = 4, alpha: float | None = None, seed: int = 0, size: float = 0.5) -> dict[str, Any]:
    """The tensors of a LoRA on all layers of both blocks; the same changes in every style."""
    import torch

    random = torch.Generator().manual_seed(seed)
    found = {}
    for number in range(LAYERS):
        for inner, (rows, columns) in INNER.items():
            down = size * torch.randn(rank, columns, generator=random)
            up = size * torch.randn(rows, rank, generator=random)
            layer = layer_name(style, number, inner)
            found |= {f"{layer}.{STYLES[style][1]}": down, f"{layer}.{STYLES[style][2]}": up}
            if alpha is not None:
                found[f"{layer}.alpha"] = torch.tensor(alpha)
    return found


def write_lora(
    file: Path, style: str = "diffusers", metadata: Mapping[str, str] = MappingProxyType({}), **wishes: Any
) -> Path:
    """Write such a LoRA, with further `metadata`; see `tensors`."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors(style, **wishes), file, metadata={"ss_base_model_version": "wan", **metadata})
    return file


# The factors of one linear layer of (rows, columns), by the kind of its change: role -> shape.
KINDS: dict[str, Any] = {
    "LoHa": lambda rows, columns: {
        "hada_w1_a": (rows, 3),
        "hada_w1_b": (3, columns),
        "hada_w2_a": (rows, 3),
        "hada_w2_b": (3, columns),
    },
    "LoKr": lambda rows, columns: {"lokr_w1": (4, 2), "lokr_w2_a": (rows // 4, 3), "lokr_w2_b": (3, columns // 2)},
    "LoKr of two products": lambda rows, columns: {
        "lokr_w1_a": (4, 3),
        "lokr_w1_b": (3, 2),
        "lokr_w2_a": (rows // 4, 3),
        "lokr_w2_b": (3, columns // 2),
    },
    "LoKr of whole matrices": lambda rows, columns: {"lokr_w1": (2, 4), "lokr_w2": (rows // 2, columns // 4)},
    "LoKr with a core": lambda rows, columns: {
        "lokr_w1": (4, 2),
        "lokr_t2": (3, 5),
        "lokr_w2_a": (3, rows // 4),
        "lokr_w2_b": (5, columns // 2),
    },
    "LoHa with cores": lambda rows, columns: {
        "hada_t1": (3, 3),
        "hada_w1_a": (3, rows),
        "hada_w1_b": (3, columns),
        "hada_t2": (3, 3),
        "hada_w2_a": (3, rows),
        "hada_w2_b": (3, columns),
    },
    "LoRA": lambda rows, columns: {"lora_down.weight": (3, columns), "lora_up.weight": (rows, 3)},
}
MAGNITUDES: dict[str, Any] = {  # of DoRA: the end of the key and the shape
    "rows": ("dora_scale", lambda rows, columns: (rows, 1)),
    "columns": ("dora_scale", lambda rows, columns: (1, columns)),
    "peft": ("lora_magnitude_vector.default.weight", lambda rows, columns: (rows,)),
    "diffusers": ("lora_magnitude_vector", lambda rows, columns: (rows,)),
}


def factors(kind: str, alpha: float | None = 1.5, magnitude: str | None = None, seed: int = 0) -> dict[str, Any]:
    """The tensors of a change of that kind on all layers of both blocks, with the magnitudes of a DoRA."""
    import torch

    random = torch.Generator().manual_seed(seed)
    found = {}
    for number in range(LAYERS):
        for inner, size in INNER.items():
            layer = layer_name("original", number, inner)
            for role, shape in KINDS[kind](*size).items():
                found[f"{layer}.{role}"] = 0.5 * torch.randn(shape, generator=random)
            if alpha is not None:
                found[f"{layer}.alpha"] = torch.tensor(alpha)
            if magnitude:
                end, shape = MAGNITUDES[magnitude]
                found[f"{layer}.{end}"] = 0.5 + torch.rand(shape(*size), generator=random)
    return found
