"""The metadata that diffusers writes into a LoRA file in the place of alpha tensors (`lora_adapter_metadata`): the
fields of a LoraConfig of peft, each with the name of the transformer before it.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.library.lora_keys import Unusable

KEY = "lora_adapter_metadata"
PREFIXES = ("transformer.", "transformer_2.")
# An expression of a file is of a stranger: these find a match in a name of a layer, 60 characters, in no time.
EXPRESSION_LENGTH = 200
MOST_REPEATS = 4
MOST_EXPRESSIONS = 2000


@dataclass(frozen=True, slots=True)
class AdapterMetadata:
    """`alpha` is for layers that `own_alphas` lack. Its keys are regular expressions, as peft reads them: the first
    counts that matches a layer's name or what follows a dot in it. The ranks of `rank_pattern` are those of the tensors
    and not read. With `rank_stabilised` the change is divided by the root of the rank (arXiv 2312.03732), otherwise by
    the rank.
    """

    alpha: float
    own_alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def alpha_of(self, layer: str, rank: int) -> float:
        """The alpha of `layer`, which is divided by `rank`.

        >>> AdapterMetadata(16.0, {r"blocks\\.\\d+\\.attn1\\.to_q": 8.0}).alpha_of("blocks.0.attn1.to_q", rank=4)
        8.0
        """
        own = (alpha for key, alpha in self.own_alphas.items() if _pattern(key).match(layer))
        alpha = next(own, self.alpha)
        return alpha * math.sqrt(rank) if self.rank_stabilised else alpha


def read_adapter_metadata(metadata: Mapping[str, str]) -> AdapterMetadata | None:
    """What the metadata of a safetensors file say; None where they say nothing, or nothing that can be read. Raises
    Unusable for an expression that cannot be used.
    """
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
    if len(own_alphas) > MOST_EXPRESSIONS:
        raise Unusable(
            f"it has {len(own_alphas)} alphas for layers in its metadata, and {MOST_EXPRESSIONS} are the most"
        )
    for expression in own_alphas:
        if not _is_harmless(expression):
            raise Unusable(f"its metadata name layers by {expression[:80]!r}, an expression that is not read here")
    return AdapterMetadata(alpha, own_alphas, rank_stabilised)


@functools.lru_cache(maxsize=2 * MOST_EXPRESSIONS)
def _pattern(expression: str) -> re.Pattern[str]:
    """As `get_pattern_key` of peft matches it."""
    return re.compile(rf"(.*\.)?({expression})$")


def _is_harmless(expression: str) -> bool:
    """Whether it is a regular expression, with few repeats, none of them of a group, and without references."""
    bare = re.sub(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\[^1-9]", "x", expression).replace("(?:", "(")
    if len(expression) > EXPRESSION_LENGTH or re.search(r"\)[*+{]|\(\?|\\", bare):
        return False
    if len(re.findall(r"[*+?{]", bare)) > MOST_REPEATS:
        return False
    try:
        _pattern(expression)
    except (re.error, OverflowError, RecursionError):
        return False
    return True
