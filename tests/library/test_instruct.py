"""A language model beside the checkpoints: found, asked in a process of its own, and what can go wrong with it."""

import json
import logging
import shutil
import subprocess
import sys

import pytest

from backend.core.errors import ModelUnavailable
from backend.library import instruct
from backend.library.instruct import find_instruct_models, rewrite

TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}<assistant> "


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a Qwen2 of random numbers that knows sixty words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("models") / "Tiny-Instruct"
    words = [
        "<unk>",
        "<end>",
        *["a", "red", "boat", "drifts", "left", "on", "the", "calm", "sea", "at", "sunset", "slowly"],
    ]
    words += [f"word{number}" for number in range(40)]
    known = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=known, unk_token="<unk>", eos_token="<end>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            eos_token_id=1,
        )
        Qwen2ForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    return folder.parent


@pytest.fixture
def copy(models, tmp_path):
    shutil.copytree(models, tmp_path / "models")
    return tmp_path / "models" / "Tiny-Instruct"


def test_a_language_model_is_found_by_its_own_files(models, tmp_path):
    (found,) = find_instruct_models([tmp_path, models])
    assert found.title == "Tiny-Instruct"
    assert 0 < found.weights_gib < 0.001


def test_it_answers_from_a_process_of_its_own_and_each_take_anew(models):
    (found,) = find_instruct_models([models])
    first, again, other = (rewrite(found, "A red boat", variation) for variation in (0, 0, 1))
    assert first.by == "Tiny-Instruct"
    assert first.prompt.count("word") > 5
    assert first == again != other


def test_finding_one_imports_no_torch():
    code = "import sys, backend.library.instruct; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "asks for code"),
        ("tokenizer_config.json", {"chat_template": None}, "chat template"),
        ("model.safetensors", None, "no weights"),
    ],
)
def test_what_cannot_be_used_is_left_out_and_the_log_says_why(copy, caplog, file, change, reason):
    if change is None:
        (copy / file).rename(copy / "pytorch_model.bin")
        reason = "run code"
    else:
        said = json.loads((copy / file).read_text()) | change
        (copy / file).write_text(json.dumps({name: value for name, value in said.items() if value is not None}))
    if reason == "chat template":
        (copy / "chat_template.jinja").unlink(missing_ok=True)
    with caplog.at_level(logging.WARNING):
        assert find_instruct_models([copy.parent]) == []
    assert reason in caplog.text


def test_another_kind_of_model_is_none(copy, caplog):
    said = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(said | {"architectures": ["BertModel"]}))
    with caplog.at_level(logging.WARNING):
        assert find_instruct_models([copy.parent]) == []
    assert not caplog.text


def test_one_that_cannot_be_loaded_or_does_not_answer_is_a_sentence(copy, monkeypatch):
    (found,) = find_instruct_models([copy.parent])
    with pytest.raises(ModelUnavailable, match=r"has not answered within 0 s.*by rules"):
        rewrite(found, "A boat", timeout_s=0.01)
    said = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(said | {"hidden_size": 24}))
    with pytest.raises(ModelUnavailable, match="Tiny-Instruct failed") as refused:
        rewrite(found, "A boat")
    assert str(copy) not in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [
        ('Here is the caption:\n\n"A red boat\n on the sea."', "A red boat on the sea."),
        ("<think>boats are nice</think>A boat.", "A boat."),
        ("<think>boats are", ""),
        ("A boat: it drifts.\nThe sea is calm.", "A boat: it drifts. The sea is calm."),
        ("word " * 2000, ("word " * 800).strip()),
    ],
)
def test_the_dressing_is_taken_off(answer, prompt):
    assert instruct._cleaned(answer) == prompt
