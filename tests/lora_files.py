"""LoRAs of random numbers for the checkpoints of `tiny_checkpoints`, in every style of names."""

from __future__ import annotations

from pathlib import Path
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
STYLES = ("diffusers", "original", "kohya", "peft", "comfy kohya")


def tensors(style: str, rank: int = 4, alpha: float | None = None, seed: int = 0, size: float = 0.5) -> dict[str, Any]:
    """The tensors of a LoRA on all layers of both blocks; the same changes in every style."""
    import torch

    random = torch.Generator().manual_seed(seed)
    found = {}
    for number in range(LAYERS):
        for inner, (rows, columns) in INNER.items():
            down = size * torch.randn(rank, columns, generator=random)
            up = size * torch.randn(rows, rank, generator=random)
            original = f"blocks.{number}.{inner}"
            layer, names = {
                "diffusers": (f"transformer.blocks.{number}.{OURS[inner]}", ("lora_A.weight", "lora_B.weight")),
                "original": (f"diffusion_model.{original}", ("lora_A.weight", "lora_B.weight")),
                "comfy kohya": (f"diffusion_model.{original}", ("lora_down.weight", "lora_up.weight")),
                "kohya": (f"lora_unet_{original.replace('.', '_')}", ("lora_down.weight", "lora_up.weight")),
                "peft": (
                    f"base_model.model.blocks.{number}.{OURS[inner]}",
                    ("lora_A.default.weight", "lora_B.default.weight"),
                ),
            }[style]
            found |= {f"{layer}.{names[0]}": down, f"{layer}.{names[1]}": up}
            if alpha is not None:
                found[f"{layer}.alpha"] = torch.tensor(alpha)
    return found


def write_lora(file: Path, style: str = "diffusers", **wishes: Any) -> Path:
    """Write such a LoRA; see `tensors`."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors(style, **wishes), file, metadata={"ss_base_model_version": "wan"})
    return file
