"""The tokenizer and the text encoder of the tiny model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from training.painter.scene import Scene, Size
from training.tiny.clips import scene_of
from training.tiny.run import learning_rate
from training.tiny.world import CAMERAS, COLOURS, KINDS, MOTIONS, SETTINGS, TIMES, WEATHERS, caption, draw_scene

PIECES = 1000
WIDTH = 192
TOKENS = 64  # that the model reads; a caption has half as many. More padding would drown the words
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"


def captions(count: int) -> Iterable[str]:
    """One caption for each of the first `count` clips."""
    random = np.random.default_rng(0)
    return (caption(scene_of(number), random) for number in range(count))


def new_tokenizer() -> T5Tokenizer:
    """Unigram tokenizer trained on captions, with every printable ASCII character for unknown words."""
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


def pretrain(tokenizer: Any, encoder: UMT5EncoderModel, steps: int = 800) -> float:
    """Pretrain the text encoder to classify what captions say. Trained with the denoiser from the start, it learned to
    give the same output for all captions and stayed so. Returns the accuracy over the last 50 steps; about a tenth of
    the labels is not in the caption.
    """
    random = np.random.default_rng(1)
    labels: dict[str, tuple[Any, ...]] = {
        "kind": KINDS,
        "colour": COLOURS,
        "size": tuple(Size),
        "motion": MOTIONS,
        "setting": SETTINGS,
        "time": TIMES,
        "weather": WEATHERS,
        "camera": CAMERAS,
    }
    heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(answers)) for name, answers in labels.items()}).to(encoder.device)
    learned = [*encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(learned, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    right: list[float] = []
    for step in range(steps):
        scenes = [draw_scene(random) for _ in range(64)]
        tokens = tokenizer(
            [caption(scene, random) for scene in scenes],
            padding=True,
            max_length=TOKENS,
            truncation=True,
            return_tensors="pt",
        ).to(encoder.device)
        found = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        mask = tokens.attention_mask.unsqueeze(-1)
        mean = (found * mask).sum(1) / mask.sum(1)
        losses = []
        for name, answers in labels.items():
            wanted = torch.tensor([answers.index(_answer(scene, name)) for scene in scenes], device=encoder.device)
            scores = heads[name](mean)
            losses.append(nn.functional.cross_entropy(scores, wanted))
            right.append((scores.argmax(1) == wanted).float().mean().item())
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * learning_rate(step, step / steps, warmup=50)
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    last = right[-50 * len(labels) :]
    return sum(last) / len(last)


def pretrained(folder: Path) -> tuple[T5Tokenizer, UMT5EncoderModel]:
    """The tokenizer and the pretrained encoder in `folder`, made first if there are none. They belong together: the
    order of the rarest pieces differs each time that a vocabulary is trained.
    """
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        tokenizer = new_tokenizer()
        encoder = new_text_encoder(tokenizer)
        print("text", {"right": round(pretrain(tokenizer, encoder), 4)}, flush=True)
        tokenizer.save_pretrained(folder)
        encoder.save_pretrained(folder)
    tokenizer = T5Tokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, UMT5EncoderModel.from_pretrained(folder, local_files_only=True).float()


def _answer(scene: Scene, name: str) -> Any:
    return getattr(scene.actors[0] if name in ("kind", "colour", "size", "motion") else scene, name)


def embed(tokenizer: Any, encoder: UMT5EncoderModel, texts: list[str]) -> Tensor:
    """Text embeddings of shape (texts, 64, 192), zero after the end of each text, as the studio pads them."""
    tokens = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    tokens = tokens.to(encoder.device)
    found = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return found * tokens.attention_mask.unsqueeze(-1)
