from __future__ import annotations

import logging

import pytest
import torch
from diffusers import SkyReelsV2Pipeline

from backend.diffusion.text import encode_prompt


@pytest.mark.parametrize(
    "text", ["A boat", "", "  Caf\u00e9 &amp;  sea \n", "word " * 300], ids=["plain", "empty", "odd", "long"]
)
def test_embeddings_equal_the_stock_pipelines(checkpoints, components, text):
    pipe = SkyReelsV2Pipeline.from_pretrained(checkpoints["t2v"], local_files_only=True)
    with torch.no_grad():
        positive, negative = pipe.encode_prompt(text, "blurry", max_sequence_length=512)
    ours = encode_prompt(components["t2v"], text, "blurry")
    assert ours.positive.shape == (1, 512, 32)
    assert torch.equal(ours.positive, positive)
    assert torch.equal(ours.negative, negative)


def test_without_guidance_there_is_no_negative(components):
    assert encode_prompt(components["t2v"], "A boat", None).negative is None
    assert encode_prompt(components["t2v"], "A boat", "").negative is not None


def test_a_prompt_that_is_too_long_is_logged(components, caplog):
    with caplog.at_level(logging.WARNING, "backend.diffusion.text"):
        encode_prompt(components["t2v"], "x" * 400, None)
        assert not caplog.records
        encode_prompt(components["t2v"], "x" * 600, None)
    assert "602 tokens, the model reads the first 512" in caplog.text


def test_a_model_trained_on_fewer_tokens_says_so(components, monkeypatch, caplog):
    monkeypatch.setattr(components["t2v"].tokenizer, "model_max_length", 64)
    with caplog.at_level(logging.WARNING, "backend.diffusion.text"):
        assert encode_prompt(components["t2v"], "x" * 100, None).positive.shape == (1, 64, 32)
    assert "102 tokens, the model reads the first 64" in caplog.text
