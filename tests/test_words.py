"""One word for one thing: old names of the code stay away (the table of renames is in this file)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("backend", "ui", "training", "benchmarks")
FILES = [
    *(file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")) if "node_modules" not in file.parts),
    *(ROOT / name for name in ("app.py", "setup.py", "test_system.py")),
]

# Names that were replaced, by what replaced them. The test searches the names of modules, classes, functions,
# parameters, variables and attributes.
RENAMED = {
    "video, animation": "Film film films",
    "Check, variation, read, poll": "take takes",
    "request, params": "wish wishes",
    "Prediction, evaluated, num_evaluations": "Answer asked worked_out",
    "PresetConfig, StepPlan, plan_steps": "Trade Work work_of",
    "per_frame_timesteps": "own_levels",
    "num_context_frames, num_started, num_final": "known begun ready",
    "LoadedLora, LoraLayer, WeightDelta, FullDelta, LoraLibrary": "Worn Wearing Added WholeWeight Shelf",
    "incompatibility, base_model_hint": "misfit said",
    "use_cpu_kernels, optimized, fp8, has_fp8_matmul": "hasten quick eight_bits multiplies",
    "MODEL_OFFLOAD, GROUP_OFFLOAD, on_device": "IN_TURNS STREAMED at_work",
    "autotune_cache, is_faster, benchmark": "choices pays faster",
    "preview, latent_rgb_factors": "look live Colours",
    "seeded_noise, metadata, fingerprint": "named_noise facts identity",
    "runtime": "ran",
    "DiskSpace, ReserveFile, create, has_space": "Room Spare lay is_there",
    "crash_count, log_tail, restore, import_job, requeue": "deaths last_words take_back adopt give_back",
    "retry_until, startup_notice, ModelStats, rejected": "_insist news Tally left_out",
    "heartbeat, suspend, resume, hang_timeout_s, since_heartbeat_s": "hear hold go_on patience_s silent_s",
    "download queue, HF_ENV, message, connect, not_found, clients": "lane MANNERS told reach nowhere door doors",
    "escape_markdown, escape_control": "plain harmless",
    "world_size, batch_size, num_workers": "together at_once MAKERS",
    "Curriculum, Dataset, pretrain, Budget": "Course Lessons teach Goal",
}
OLD = {name: new for new, names in RENAMED.items() for name in names.split()}

# Words that no line may contain, comments and docstrings included.
NOWHERE = re.compile(
    r"\b(Worn|Wearing|Shelf|hasten|wish|wishes|own_levels|last_words|deaths|give_back|_insist|patience_s|Tally|MANNERS"
    r"|Trade|IN_TURNS|eight_bits|WholeWeight|named_noise|Lessons|Film)\b"
)

# Where an old name is right: data of version 0.1, which must be read, and words that mean something else there.
ALLOWED = {
    "backend/diffusion/sampler.py": {"eight_bits"},  # fields of plans in saved states of 0.1
    "backend/jobs/migrations.py": {"eight_bits", "deaths"},  # columns and fields of 0.1
    "backend/library/fetch.py": {"wish"},  # the name of a file of 0.1
    "training/tiny/judge.py": {"look"},  # a layer, named so in judge.safetensors
}
OTHER_MEANINGS = {
    "known": {"backend", "training/tiny"},  # values that are known; frames only in backend/diffusion
    "ready": {"backend/jobs", "ui"},  # frames of a partial video
    "reach": {"training/painter"},  # of a limb
    "lane": {"training/painter"},  # of a road
    "look": {"training/painter"},  # the direction of view
}


def names_in(file: Path) -> Iterator[tuple[str, int]]:
    """Every name that `file` defines or uses, with its line; line 0 for the name of the module."""
    yield file.stem, 0
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Name):
            yield node.id, node.lineno


def is_allowed(name: str, path: str) -> bool:
    if name in ALLOWED.get(path, ()):
        return True
    elsewhere = name == "known" and path.startswith("backend/diffusion/")
    return not elsewhere and any(path.startswith(f"{folder}/") for folder in OTHER_MEANINGS.get(name, ()))


def old_names(file: Path) -> list[str]:
    path = file.relative_to(ROOT).as_posix()
    return [
        f"{path}:{line}: {name}; say {OLD[name]}"
        for name, line in names_in(file)
        if name in OLD and not is_allowed(name, path)
    ]


def old_words(file: Path) -> list[str]:
    path = file.relative_to(ROOT).as_posix()
    return [
        f"{path}:{number}: {match[1]}"
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        for match in NOWHERE.finditer(line)
        if not is_allowed(match[1], path)
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_old_name_is_used(file):
    assert not old_names(file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_text_has_an_old_word(file):
    assert not old_words(file)


def test_the_list_of_exceptions_is_short_and_in_use():
    for path, names in ALLOWED.items():
        file = ROOT / path
        found = {name for name, _ in names_in(file)} | {match[1] for match in NOWHERE.finditer(file.read_text())}
        assert names <= found, f"{path} no longer has {names - found}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def wishes(): ...", "wishes"),
        ("at.told = 1", "told"),
        ("def f(take): ...", "take"),
        ("def f(film): ...", "film"),
    ],
)
def test_an_old_name_is_found(tmp_path, monkeypatch, text, found):
    file = tmp_path / "module.py"
    file.write_text(text)
    monkeypatch.setattr("tests.test_words.ROOT", tmp_path)
    assert [line.split(": ")[1] for line in old_names(file)] == [f"{found}; say {OLD[found]}"]
