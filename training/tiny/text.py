"""The tokenizer and the text encoder of the tiny model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from training.tiny.films import scene_of
from training.tiny.world import caption

PIECES = 1000
WIDTH = 192
TOKENS = 64  # that the model reads; a caption has half as many. More padding would drown the words
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"


def captions(count: int) -> Iterable[str]:
    """What the first `count` films are called, each told once."""
    random = np.random.default_rng(0)
    return (caption(scene_of(number), random) for number in range(count))


def new_tokenizer() -> T5Tokenizer:
    """Pieces of words by how often captions use them, and every printable letter for the words of others."""
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=BLANK)
    letters = [chr(code) for code in range(33, 127)]
    special = ["<pad>", "</s>", "<unk>"]
    learner.train_from_iterator(
        captions(20_000),
        trainers.UnigramTrainer(
            vocab_size=PIECES, special_tokens=special, unk_token="<unk>", initial_alphabet=letters, show_progress=False
        ),
    )
    scores: dict[str, float] = {}
    for piece, score in _pieces(learner):
        scores.setdefault(piece, score)
    rare = min(scores.values()) - 1
    known = [(piece, score) for piece, score in scores.items() if piece not in special]
    known += [(letter, rare) for letter in (BLANK, *letters) if letter not in scores]
    vocabulary = [(name, 0.0) for name in special] + known
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=TOKENS)


def _pieces(learner: Tokenizer) -> list[tuple[str, float]]:
    import json

    return [(piece, score) for piece, score in json.loads(learner.to_str())["model"]["vocab"]]


def new_text_encoder(tokenizer: T5Tokenizer) -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer), d_model=WIDTH, d_kv=32, num_heads=6, d_ff=512, num_layers=3, dropout_rate=0.0
        )
    )


def embed(tokenizer: Any, encoder: UMT5EncoderModel, texts: list[str]) -> Tensor:
    """(texts, 64, 192): zeros behind the end of each text, as the studio pads them."""
    tokens = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    tokens = tokens.to(encoder.device)
    found = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return found * tokens.attention_mask.unsqueeze(-1)
