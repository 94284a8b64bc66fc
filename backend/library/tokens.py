"""How much of a prompt the text encoder of a checkpoint reads, by its tokenizer alone: no weights, no torch."""

from __future__ import annotations

import functools
import html
import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

from backend.core.notes import Cut

log = logging.getLogger(__name__)

TEXT_TOKENS = 512  # at most, as in backend/diffusion/text.py; a tokenizer may say less
END = 1  # the token that ends every text


def cut_of(folder: Path | None, text: str) -> Cut | None:
    """Where `text` is cut, or None where it is not. Without a tokenizer that can be read, None unless it is certain.

    `folder` is that of the checkpoint; a model without one cuts nothing.
    """
    if folder is None:
        return None
    limit = _limit(folder / "tokenizer" / "tokenizer_config.json")
    cleaned = clean(text)
    if _most_tokens(cleaned) <= limit:
        return None
    vocabulary = folder / "tokenizer" / "tokenizer.json"
    try:
        tokenizer = _tokenizer(vocabulary, vocabulary.stat().st_mtime_ns)
        encoding = tokenizer.encode(cleaned)
    except Exception as error:  # the library raises plain exceptions for files that it cannot read
        log.debug("no tokenizer in %s: %s", folder, error)
        # No token goes over a space, so there is one at least for each word.
        return Cut(limit) if len(cleaned.split()) + END > limit else None
    if len(encoding.ids) <= limit:
        return None
    return Cut(limit, cleaned[: encoding.offsets[limit - END - 1][1]])


def clean(text: str) -> str:
    """The text as the pipelines clean it before it becomes tokens (`prompt_clean` of diffusers)."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def _most_tokens(text: str) -> int:
    """A bound that no tokenizer of this family exceeds: a token for each byte and each word."""
    return len(unicodedata.normalize("NFKC", text).encode()) + len(text.split()) + END


def _limit(config: Path) -> int:
    try:
        return min(TEXT_TOKENS, int(json.loads(config.read_bytes())["model_max_length"]))
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return TEXT_TOKENS


@functools.lru_cache(maxsize=1)  # that of UMT5 takes a second to read and some 100 MB
def _tokenizer(file: Path, changed_ns: int) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))
