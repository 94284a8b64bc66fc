from __future__ import annotations

import logging
import os

import pytest
import torch
from diffusers import SkyReelsV2Pipeline

from backend.diffusion.components import load_components
from backend.diffusion.text import PromptCache, embed, encode_prompt


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


@pytest.fixture
def cache(checkpoints, tmp_path):
    return PromptCache(tmp_path / "prompts", checkpoints["t2v"], torch.device("cpu"))


@pytest.mark.parametrize("text", ["A boat", "", "word " * 300], ids=["plain", "empty", "long"])
def test_a_cached_embedding_has_the_same_bits_and_needs_no_encoder(checkpoints, components, cache, text):
    made = embed(components["t2v"], [text], cache)[text]
    without = load_components(checkpoints["t2v"], torch.device("cpu"), lambda part: None, text_encoder=False)
    cached = embed(without, [text, f"  {text} "], cache)
    assert torch.equal(cached[text], made)
    assert torch.equal(cached[f"  {text} "], made)  # cleaned, it is the same text
    assert cached[text].dtype == made.dtype
    assert without.text_encoder is None
    assert embed(without, ["A bird"], cache)["A bird"].any()
    assert without.text_encoder is not None


@pytest.mark.parametrize("spoil", [lambda file: file.write_bytes(b"no"), lambda file: file.unlink()])
def test_a_damaged_file_is_made_again(components, cache, spoil):
    made = embed(components["t2v"], ["A boat"], cache)["A boat"]
    (file,) = cache._folder.iterdir()
    spoil(file)
    assert torch.equal(embed(components["t2v"], ["A boat"], cache)["A boat"], made)
    assert cache.get("A boat") is not None


def test_another_encoder_has_its_own_embeddings(checkpoints, components, cache):
    embed(components["t2v"], ["A boat"], cache)
    assert "A boat" in cache
    assert "A boat" not in PromptCache(cache._folder, checkpoints["df"], torch.device("cpu"))


def test_the_oldest_prompts_are_removed(checkpoints, components, tmp_path):
    small = PromptCache(tmp_path / "prompts", checkpoints["t2v"], torch.device("cpu"), max_bytes=20_000)
    texts = [f"{number} boats" for number in range(30)]
    for age, text in enumerate(reversed(texts)):
        embed(components["t2v"], [text], small)
        os.utime(small._file(text), (1e9 + age, 1e9 + age))
    assert texts[0] in small
    assert texts[-1] not in small
    assert sum(file.stat().st_size for file in small._folder.iterdir()) <= 20_000


def test_a_folder_that_cannot_be_written_is_no_matter(checkpoints, components, tmp_path):
    (tmp_path / "prompts").write_text("a file")
    cache = PromptCache(tmp_path / "prompts", checkpoints["t2v"], torch.device("cpu"))
    assert embed(components["t2v"], ["A boat"], cache)["A boat"].any()
