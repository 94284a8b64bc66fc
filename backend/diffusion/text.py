"""Prompt embeddings of the text encoder (UMT5), and their cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2 import prompt_clean
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from backend.diffusion.components import Components
from backend.durable import replace_file
from backend.engine import Task

log = logging.getLogger(__name__)

TEXT_TOKENS = 512  # at most; the transformer attends to padding, so another length gives another video
CACHE_BYTES = 256 * 2**20  # some hundreds of prompts


@dataclass(frozen=True, slots=True)
class Prompt:
    """Embeddings of shape (1, tokens, text_dim) in the transformer's dtype. Without `negative` there is no guidance."""

    positive: torch.Tensor
    negative: torch.Tensor | None


class PromptCache:
    """A cache of prompt embeddings, one file each. For a cached prompt the text encoder, the largest part of a small
    checkpoint, need not be loaded. Embeddings keep their bits; the least recently used files are removed first.
    """

    def __init__(self, folder: Path, checkpoint: Path, device: torch.device, max_bytes: int = CACHE_BYTES) -> None:
        self._folder, self._device, self._max_bytes = folder, device, max_bytes
        files = sorted(path for part in ("tokenizer", "text_encoder") for path in (checkpoint / part).glob("*"))
        encoder = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        self._encoder = json.dumps([device.type, torch.__version__, transformers.__version__, encoder])

    def __contains__(self, text: str) -> bool:
        return self._file(text).exists()

    def get(self, text: str) -> torch.Tensor | None:
        """The embedding of `text` on the device; None where it is not cached or its file is damaged."""
        file = self._file(text)
        try:
            with safe_open(file, framework="pt") as stored:
                tokens, length = stored.get_tensor("embedding"), int(stored.metadata()["length"])
            embedding = torch.zeros(1, length, tokens.shape[1], dtype=tokens.dtype)
            embedding[0, : len(tokens)] = tokens
            os.utime(file)
        except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError):
            return None
        return embedding.to(self._device)

    def put(self, text: str, embedding: torch.Tensor) -> None:
        """Store the embedding of `text` without the zeros of its padding. An error of the disk is ignored."""
        file = self._file(text)
        part = file.with_suffix(".part")
        (rows,) = torch.where(embedding[0].any(dim=1))
        tokens = embedding[0, : int(rows[-1]) + 1 if len(rows) else 0]
        with contextlib.suppress(OSError, SafetensorError):
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({"embedding": tokens.cpu().contiguous()}, part, metadata={"length": str(embedding.shape[1])})
            replace_file(part, file)
            self._remove_oldest()

    def _file(self, text: str) -> Path:
        name = hashlib.blake2b(json.dumps([self._encoder, prompt_clean(text)]).encode(), digest_size=20).hexdigest()
        return self._folder / f"{name}.safetensors"

    def _remove_oldest(self) -> None:
        free = self._max_bytes
        for file in sorted(self._folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True):
            free -= file.stat().st_size
            if free < 0:
                file.unlink()


def texts_of(task: Task) -> tuple[list[str], list[str]]:
    """The prompts of the windows that have their own, and the negative prompt if there is guidance."""
    num_prompts = 1 + len(task.request.skyreels.storyboard)
    prompts = [task.request.prompt_of(window) for window in range(num_prompts)]
    return prompts, [task.request.negative_prompt] if task.plan.guidance_scale > 1 else []


def encode_prompts(components: Components, task: Task, cache: PromptCache | None) -> list[Prompt]:
    """Encode the prompts of `task`, one for each window that has its own, with the negative prompt."""
    texts, negatives = texts_of(task)
    embeddings = embed(components, [*texts, *negatives], cache)
    negative = next((embeddings[text] for text in negatives), None)
    return [Prompt(embeddings[text], negative) for text in texts]


def encode_prompt(components: Components, prompt: str, negative_prompt: str | None) -> Prompt:
    """Encode both texts; the negative prompt is None where there is no guidance."""
    embeddings = embed(components, [prompt] if negative_prompt is None else [prompt, negative_prompt])
    return Prompt(embeddings[prompt], None if negative_prompt is None else embeddings[negative_prompt])


def embed(components: Components, texts: Iterable[str], cache: PromptCache | None = None) -> dict[str, torch.Tensor]:
    """The embedding of each text, cached or encoded. Loads the text encoder if one of them is not cached."""
    found = {text: cache.get(text) if cache else None for text in texts}
    missing = [text for text, embedding in found.items() if embedding is None]
    if missing:
        components.load_text_encoder()
        with torch.no_grad(), components.on_device(components.text_encoder):
            for text in missing:
                found[text] = _encode(components, text)
                if cache:
                    cache.put(text, found[text])
    return found


def _encode(components: Components, text: str) -> torch.Tensor:
    text = prompt_clean(text)
    tokenize, encoder = components.tokenizer, components.text_encoder
    limit = min(TEXT_TOKENS, tokenize.model_max_length)  # models that were trained with fewer tokens limit it
    length = len(tokenize(text).input_ids)
    if length > limit:
        log.warning("the prompt has %d tokens, the model reads the first %d", length, limit)
    tokens = tokenize([text], padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    mask = tokens.attention_mask.to(components.device)
    embedding = encoder(tokens.input_ids.to(components.device), mask).last_hidden_state
    # Padding is zero, as in training; the output of the encoder is not.
    embedding[:, int(mask.sum()) :] = 0
    return embedding.to(components.transformer.dtype)
