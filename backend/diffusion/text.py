"""A prompt as the tokens that the transformer attends to."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2 import prompt_clean

from backend.diffusion.components import Components

log = logging.getLogger(__name__)

TEXT_TOKENS = 512  # at most; padding is attended to, so another length is another film


@dataclass(frozen=True, slots=True)
class Prompt:
    """Embeddings of shape (1, tokens, text_dim) in the transformer's dtype; no `negative` means no guidance."""

    positive: torch.Tensor
    negative: torch.Tensor | None


def encode_prompt(components: Components, prompt: str, negative_prompt: str | None) -> Prompt:
    """Embed both texts; pass None as the negative where there is no guidance, and half of the work is saved."""
    with torch.no_grad(), components.at_work(components.text_encoder):
        return Prompt(
            positive=_encode(components, prompt),
            negative=None if negative_prompt is None else _encode(components, negative_prompt),
        )


def _encode(components: Components, text: str) -> torch.Tensor:
    text = prompt_clean(text)
    tokenize, encoder = components.tokenizer, components.text_encoder
    limit = min(TEXT_TOKENS, tokenize.model_max_length)  # only a model trained on fewer says so
    length = len(tokenize(text).input_ids)
    if length > limit:
        log.warning("the prompt has %d tokens, the model reads the first %d", length, limit)
    tokens = tokenize([text], padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    mask = tokens.attention_mask.to(components.device)
    embedding = encoder(tokens.input_ids.to(components.device), mask).last_hidden_state
    # Zeros after the text's end, as in training: the encoder writes something else there.
    embedding[:, int(mask.sum()) :] = 0
    return embedding.to(components.transformer.dtype)
