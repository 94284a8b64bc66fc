"""What diffusers writes into the metadata of a LoRA file; whatever else stands there says nothing."""

from __future__ import annotations

import json

import pytest

from backend.library.adapter_metadata import AdapterMetadata, read_adapter_metadata


def read(**fields: object) -> AdapterMetadata | None:
    return read_adapter_metadata(
        {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in fields.items()})}
    )


def test_an_alpha_for_all_layers_and_one_of_its_own():
    found = read(r=4, lora_alpha=16, alpha_pattern={"attn1.to_q": 8})
    assert found is not None
    assert found.alpha_of("blocks.0.attn1.to_q", rank=4) == 8.0
    assert found.alpha_of("blocks.0.attn2.to_q", rank=4) == 16.0


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
