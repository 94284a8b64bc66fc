"""A prompt as the tokens that the transformer attends to."""

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

log = logging.getLogger(__name__)

TEXT_TOKENS = 512  # at most; padding is attended to, so another length is another film
MEMORY_BYTES = 256 * 2**20  # some hundreds of prompts


@dataclass(frozen=True, slots=True)
class Prompt:
    """Embeddings of shape (1, tokens, text_dim) in the transformer's dtype; no `negative` means no guidance."""

    positive: torch.Tensor
    negative: torch.Tensor | None


class PromptMemory:
    """What texts became, in files: one that comes again needs no text encoder, which is most of what is read of a
    checkpoint. The same bits as if it were encoded again; files that were not asked for the longest make room.
    """

    def __init__(self, folder: Path, checkpoint: Path, device: torch.device, room: int = MEMORY_BYTES) -> None:
        self._folder, self._device, self._room = folder, device, room
        files = sorted(path for part in ("tokenizer", "text_encoder") for path in (checkpoint / part).glob("*"))
        made_by = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        self._encoder = json.dumps([device.type, torch.__version__, transformers.__version__, made_by])

    def knows(self, text: str) -> bool:
        return self._file(text).exists()

    def recall(self, text: str) -> torch.Tensor | None:
        """Its embedding on the device; None where it is not known, or its file is spoiled."""
        file = self._file(text)
        try:
            with safe_open(file, framework="pt") as kept:
                said, length = kept.get_tensor("said"), int(kept.metadata()["length"])
            embedding = torch.zeros(1, length, said.shape[1], dtype=said.dtype)
            embedding[0, : len(said)] = said
            os.utime(file)
        except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError):
            return None
        return embedding.to(self._device)

    def keep(self, text: str, embedding: torch.Tensor) -> None:
        """Write it down, without the zeros of its padding; a disk that refuses is no matter."""
        file = self._file(text)
        part = file.with_suffix(".part")
        (rows,) = torch.where(embedding[0].any(dim=1))
        said = embedding[0, : int(rows[-1]) + 1 if len(rows) else 0]
        with contextlib.suppress(OSError, SafetensorError):
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({"said": said.cpu().contiguous()}, part, metadata={"length": str(embedding.shape[1])})
            replace_file(part, file)
            self._forget_the_oldest()

    def _file(self, text: str) -> Path:
        name = hashlib.blake2b(json.dumps([self._encoder, prompt_clean(text)]).encode(), digest_size=20).hexdigest()
        return self._folder / f"{name}.safetensors"

    def _forget_the_oldest(self) -> None:
        room = self._room
        for file in sorted(self._folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True):
            room -= file.stat().st_size
            if room < 0:
                file.unlink()


def encode_prompt(components: Components, prompt: str, negative_prompt: str | None) -> Prompt:
    """Embed both texts; pass None as the negative where there is no guidance, and half of the work is saved."""
    found = embed(components, [prompt] if negative_prompt is None else [prompt, negative_prompt])
    return Prompt(found[prompt], None if negative_prompt is None else found[negative_prompt])


def embed(components: Components, texts: Iterable[str], memory: PromptMemory | None = None) -> dict[str, torch.Tensor]:
    """The embedding of each text, remembered or made. The text encoder is there if one of them must be made."""
    found = {text: memory.recall(text) if memory else None for text in texts}
    missing = [text for text, embedding in found.items() if embedding is None]
    if missing:
        components.load_text_encoder()
        with torch.no_grad(), components.on_device(components.text_encoder):
            for text in missing:
                found[text] = _encode(components, text)
                if memory:
                    memory.keep(text, found[text])
    return found


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
