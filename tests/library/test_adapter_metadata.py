"""What diffusers writes into the metadata of a LoRA file; whatever else stands there says nothing."""

from __future__ import annotations

import json

import pytest

from backend.library.adapter_metadata import AdapterMetadata, read_adapter_metadata
from backend.library.lora_keys import Unusable


def read(**fields: object) -> AdapterMetadata | None:
    return read_adapter_metadata(
        {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in fields.items()})}
    )


def test_an_alpha_for_all_layers_and_one_of_its_own():
    found = read(r=4, lora_alpha=16, alpha_pattern={"attn1.to_q": 8})
    assert found is not None
    assert found.alpha_of("blocks.0.attn1.to_q", rank=4) == 8.0
    assert found.alpha_of("blocks.0.attn2.to_q", rank=4) == 16.0


# By `get_pattern_key` of peft 0.21.2: the first key of which `(.*\.)?(KEY)$` matches the name of the layer.
PEFT = [
    (r"blocks\.\d+\.attn1\.to_q", "blocks.0.attn1.to_q", True),
    (r"blocks\.\d+\.attn1\.to_q", "vace_blocks.0.attn1.to_q", False),
    (r"blocks\.\d+\.attn1\.to_q", "blocks.0.attn1.to_q_other", False),
    (r"blocks.(0|1).attn1.to_[qk]", "blocks.1.attn1.to_k", True),
    (r"blocks.(0|1).attn1.to_[qk]", "blocks.2.attn1.to_k", False),
    (r"^blocks\.0\..*", "blocks.0.ffn.net.2", True),
    (r"^attn1.*", "blocks.0.attn1.to_q", False),
    (r".*attn1.*", "blocks.11.attn1.to_out.0", True),
    (r"blocks\.[0-9]{2}\..+", "blocks.1.attn1.to_q", False),
    (r"to_q|to_k", "blocks.0.attn2.to_k", True),
    (r"attn1.to_q", "blocks.0.attn1.to_q", True),
    (r"ttn1.to_q", "blocks.0.attn1.to_q", False),
    (r"proj_out", "proj_out", True),
]


@pytest.mark.parametrize(("key", "layer", "matches"), PEFT)
def test_layers_are_named_by_expressions_as_in_peft(key: str, layer: str, matches: bool):
    found = read(r=4, lora_alpha=2, alpha_pattern={key: 8, ".*": 3}, rank_pattern={key: 16})
    assert found is not None
    assert found.alpha_of(layer, rank=16) == (8.0 if matches else 3.0)


@pytest.mark.parametrize("key", ["(a+)+", r"(a)\1", "(?=a)b", ".*.*.*.*.*", "(", "a" * 500, "[", "(a|b)*", "a\\"])
def test_an_expression_that_may_take_forever_or_is_none_is_refused(key: str):
    with pytest.raises(Unusable, match="an expression that is not read here"):
        read(lora_alpha=2, alpha_pattern={key: 8})


def test_rank_stabilised():
    found = read(lora_alpha=16, use_rslora=True)
    assert found is not None
    assert found.alpha_of("blocks.0.attn1.to_q", rank=64) / 64 == 16 / 64**0.5


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"lora_adapter_metadata": "{"},
        {"lora_adapter_metadata": "null"},
        {"lora_adapter_metadata": "[]"},
        {"lora_adapter_metadata": '{"text_encoder.lora_alpha": 4}'},
        {"lora_adapter_metadata": '{"transformer.lora_alpha": "much"}'},
        {"lora_adapter_metadata": '{"transformer.lora_alpha": NaN}'},
        {"lora_adapter_metadata": '{"transformer.lora_alpha": 4, "transformer.alpha_pattern": 7}'},
    ],
)
def test_what_says_nothing(metadata: dict[str, str]):
    assert read_adapter_metadata(metadata) is None
