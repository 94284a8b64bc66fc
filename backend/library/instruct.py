"""Prompt expansion by a language model that follows instructions, if one is in a models folder.

It runs in a process of its own, on the GPU if it fits, else on the CPU, and ends with its answer, so that no render
waits for its memory. Nothing is downloaded and no code of a checkpoint is run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.core.config import GIB, ROOT
from backend.core.errors import ModelUnavailable
from backend.core.prompts import Expansion, expand
from backend.core.registry import ModelSpec
from backend.core.schema import PROMPT_LENGTH
from backend.library.checkpoints import (
    Damaged,
    checkpoint_name,
    read_json,
    refuse_code,
    snapshot_of,
    sub_folders,
    weights_bytes,
)
from backend.library.foreign import is_side_file

log = logging.getLogger(__name__)

CLASSES = re.compile(r"(Qwen2|Qwen3|Llama|Mistral|Gemma2|Gemma3|Phi3|SmolLM3|Granite)ForCausalLM")
ANSWER_TIMEOUT_S = 240.0
NEW_TOKENS = 256
GPU_HEADROOM = 1.3  # times its weights must be free
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
SYSTEM_PROMPT = (
    "You write captions for a model that makes short videos from text. Make the user's request longer: one paragraph of"
    " 60 to 100 words in the request's own language. Say who or what is seen and how it looks, what it does, where, in"
    " what light, how the camera moves, and the style. Keep every fact of the request and add none that contradicts it."
    " Answer with the paragraph alone: no title, no list, no quotation marks."
)


@dataclass(frozen=True, slots=True)
class InstructModel:
    """A language model in transformers' format."""

    title: str
    folder: Path
    weights_gib: float


def expand_prompt(prompt: str, spec: ModelSpec, folders: Sequence[Path], variation: int) -> Expansion:
    """`prompt` made longer for a model: by the largest language model in `folders`; by rules where there is none, or
    where the model knows the painted world only. Raises ModelUnavailable if the language model gives nothing.
    """
    writers = [] if spec.painted else find_instruct_models(folders)
    if writers:
        return rewrite(writers[-1], prompt, variation)
    return expand(prompt, painted=spec.painted, variation=variation)


def find_instruct_models(folders: Iterable[Path]) -> list[InstructModel]:
    """Language models one level below `folders` that have safetensors and a chat template, the smallest first; others
    are left out with a line in the log.
    """
    found = []
    for folder in (snapshot_of(child) or child for parent in folders for child in sub_folders(parent)):
        try:
            classes = read_json(folder / "config.json").get("architectures") or []
            if not (classes and CLASSES.fullmatch(str(classes[0]))):
                continue
            for file in folder.glob("*.json"):
                if not is_side_file(file.name):
                    refuse_code(file)
            if not ((folder / "chat_template.jinja").is_file() or "chat_template" in _settings(folder)):
                raise Damaged("it has no chat template; take an instruct model")
            found.append(InstructModel(checkpoint_name(folder), folder, weights_bytes(folder) / GIB))
        except (OSError, ValueError, Damaged) as error:
            if (folder / "config.json").exists():
                log.warning("language model %s is left out: %s", folder, error)
    return sorted(found, key=lambda model: model.weights_gib)


def _settings(folder: Path) -> dict[str, object]:
    return dict(read_json(folder / "tokenizer_config.json"))


def rewrite(model: InstructModel, prompt: str, variation: int = 0, timeout_s: float = ANSWER_TIMEOUT_S) -> Expansion:
    """Expand `prompt` by `model`; `variation` is the seed of its sampling.

    Raises ModelUnavailable if it cannot be loaded, answers nothing or takes longer than `timeout_s`.
    """
    task = json.dumps({"folder": str(model.folder), "prompt": prompt, "variation": variation})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "backend.library.instruct"],
            cwd=ROOT,
            env=os.environ | OFFLINE,
            input=task.encode(),
            capture_output=True,
            timeout=timeout_s,
            start_new_session=True,  # Ctrl-C in the terminal is the studio's to handle
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _refused(model, f"has not answered within {timeout_s:.0f} s", "use a smaller one") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        log.warning("%s failed: %s", model.folder, reason[0])
        raise _refused(model, f"failed ({reason[0][:200].replace(str(model.folder), model.title)})", "see the log")
    text = _cleaned(json.loads(done.stdout)["text"])
    if not text:
        raise _refused(model, "answered nothing", "try again, or use another one")
    return Expansion(text, (), by=model.title)


def _refused(model: InstructModel, what: str, way_out: str) -> ModelUnavailable:
    return ModelUnavailable(f"The language model {model.title} {what};", hint=f"{way_out}, or expand by rules.")


def _cleaned(answer: str) -> str:
    """The answer as one paragraph without introduction, quotation marks or reasoning, cut to PROMPT_LENGTH.

    >>> _cleaned('Sure! Here is it:\\n\\n"A red boat\\non the sea."')
    'A red boat on the sea.'
    """
    answer = re.sub(r"<think>.*?(</think>|$)", "", answer, flags=re.DOTALL).strip()
    answer = re.sub(r"\A[^\n]{0,80}:\s*\n+", "", answer)
    return " ".join(answer.split()).strip("\"'“”*` ")[:PROMPT_LENGTH].strip()


def main() -> None:
    """The child process: reads a task from stdin and writes the answer to stdout, as JSON."""
    task = json.load(sys.stdin)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(task["folder"])
    local = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, use_safetensors=True, output_loading_info=True, **local
    )
    if report["missing_keys"]:  # which the library fills with random numbers
        raise ValueError(f"{len(report['missing_keys'])} tensors are missing")
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    on_gpu = torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > GPU_HEADROOM * size
    model = model.to("cuda" if on_gpu else "cpu")
    if not on_gpu:
        os.nice(5)  # a running render has priority
    messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": task["prompt"]}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    torch.manual_seed(task["variation"])
    with torch.no_grad():
        tokens = model.generate(
            **inputs.to(model.device), max_new_tokens=NEW_TOKENS, do_sample=True, temperature=0.7, top_p=0.9
        )
    text = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    json.dump({"text": text}, sys.stdout)


if __name__ == "__main__":
    main()
