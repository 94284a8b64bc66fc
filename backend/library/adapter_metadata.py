"""The metadata that diffusers writes into a LoRA file in the place of alpha tensors (`lora_adapter_metadata`): the
fields of a LoraConfig of peft, each with the name of the transformer before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

KEY = "lora_adapter_metadata"
PREFIXES = ("transformer.", "transformer_2.")


@dataclass(frozen=True, slots=True)
class AdapterMetadata:
    """`alpha` is for layers that `own_alphas`, by names or ends of names, lack. With `rank_stabilised` the change
    is divided by the root of the rank (arXiv 2312.03732), otherwise by the rank.
    """

    alpha: float
    own_alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def alpha_of(self, layer: str, rank: int) -> float:
        """The alpha of `layer`, which is divided by `rank`.

        >>> AdapterMetadata(16.0, {"to_q": 8.0}).alpha_of("blocks.0.attn1.to_q", rank=4)
        8.0
        """
        own = (alpha for name, alpha in self.own_alphas.items() if f".{layer}".endswith(f".{name}"))
        alpha = next(own, self.alpha)
        return alpha * math.sqrt(rank) if self.rank_stabilised else alpha


def read_adapter_metadata(metadata: Mapping[str, str]) -> AdapterMetadata | None:
    """What the metadata of a safetensors file say; None where they say nothing, or nothing that can be read."""
    try:
        fields = json.loads(metadata.get(KEY, "null"))
        prefix = next(prefix for prefix in PREFIXES if f"{prefix}lora_alpha" in fields)
        own_alphas = {name: float(own) for name, own in fields.get(f"{prefix}alpha_pattern", {}).items()}
        alpha = float(fields[f"{prefix}lora_alpha"])
        rank_stabilised = bool(fields.get(f"{prefix}use_rslora", False))
    except (ValueError, TypeError, AttributeError, StopIteration):
        return None
    if not all(map(math.isfinite, (alpha, *own_alphas.values()))):
        return None
    return AdapterMetadata(alpha, own_alphas, rank_stabilised)
