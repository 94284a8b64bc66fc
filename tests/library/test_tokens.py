"""How much of a prompt the text encoder reads, beside the tokenizers of transformers and the cleaning of diffusers."""

from __future__ import annotations

import shutil

import pytest
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2 import prompt_clean
from transformers import AutoTokenizer

from backend.core.config import ROOT
from backend.core.notes import Cut
from backend.library.tokens import clean, cut_of

TINY = ROOT / "models" / "skyreels-v2-tiny"
TEXTS = [
    "a red star drifts left over the sea at night",
    "word " * 70,
    "a yellow   star\n\tand &amp;amp; â€œquotesâ€\x9d " * 20,
    "unbelievably-long-compound " * 40,
    "ein grüner Stern, 一艘红色的船在海上 " * 15,
    "🙂" * 100,
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_is_cleaned_as_the_pipelines_clean_it(text):
    assert clean(text) == prompt_clean(text)


@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_is_cut_where_the_tokenizer_of_the_model_cuts_it(text):
    tokenizer = AutoTokenizer.from_pretrained(TINY / "tokenizer", local_files_only=True)
    limit = tokenizer.model_max_length
    found = cut_of(TINY, text)
    assert (found is not None) == (len(tokenizer(prompt_clean(text)).input_ids) > limit)
    if found:
        assert found.limit == limit == 64
        assert prompt_clean(text).startswith(found.kept)
        read = tokenizer(prompt_clean(text), truncation=True, max_length=limit, return_offsets_mapping=True)
        assert len(found.kept) == max(stop for _, stop in read.offset_mapping)


@pytest.fixture
def without_tokenizer(tmp_path):
    """A checkpoint whose tokenizer cannot be read."""
    folder = tmp_path / "model"
    shutil.copytree(TINY / "tokenizer", folder / "tokenizer")
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    return folder


@pytest.mark.parametrize(("words", "expected"), [(511, None), (512, Cut(512))])
def test_without_a_tokenizer_only_more_words_than_tokens_are_certain(without_tokenizer, words, expected):
    assert cut_of(without_tokenizer, "a " * words) == expected
    assert cut_of(without_tokenizer, "extraordinarily" * 250) is None
    assert cut_of(None, "a " * words) is None


def test_the_tokenizer_is_not_read_for_a_short_prompt(without_tokenizer, monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr("backend.library.tokens._tokenizer", refuse)
    assert cut_of(without_tokenizer, "a red boat " * 40) is None
