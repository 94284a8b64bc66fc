"""The order of the rooms, held: what a room may import, and that no door pulls torch in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pace import within

ROOT = Path(__file__).resolve().parents[1]

# A room may import from the rooms left of it and from itself.
ORDER = [
    {"backend", "backend.utils"},
    {"backend.core", "backend.durable"},
    {"backend.media", "backend.library", "backend.system"},
    {"backend.diffusion"},
    {"backend.jobs"},
    {"backend.skyreels_integration", "backend.synthetic", "backend.trial"},
    {"backend.video_generator"},
    {"backend.web"},
    {"backend.studios"},
    {"backend.cli", "ui", "app"},
]
TORCH = {"torch", "diffusers", "transformers", "accelerate", "safetensors"}


def room_of(module: str) -> str:
    parts = module.split(".")
    inside = len(parts) > 1 and any((ROOT / "backend" / name).exists() for name in (parts[1], f"{parts[1]}.py"))
    return ".".join(parts[:2]) if parts[0] == "backend" and inside else parts[0]


def level(room: str) -> int:
    return next(place for place, rooms in enumerate(ORDER) if room in rooms)


def sources() -> list:
    files = [*sorted((ROOT / "backend").rglob("*.py")), *sorted((ROOT / "ui").rglob("*.py")), ROOT / "app.py"]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [pytest.param(file, name, id=name) for file, name in zip(files, names, strict=True)]


def imports(file: Path, *, top_only: bool = False):
    tree = ast.parse(file.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module in ("backend", "ui"))


@pytest.mark.parametrize(("file", "name"), sources())
def test_imports_run_one_way(file, name):
    mine = level(room_of(name))
    for imported in imports(file):
        if imported.split(".")[0] in ("backend", "ui", "app"):
            assert level(room_of(imported)) <= mine, f"{name} imports {imported}"


@pytest.mark.parametrize(("file", "name"), sources())
def test_the_studio_runs_without_its_training(file, name):
    assert not [module for module in imports(file) if module.split(".")[0] in ("training", "benchmarks", "tests")]


def test_the_painter_needs_only_numpy_opencv_and_what_a_picture_is():
    files = list((ROOT / "training" / "painter").glob("*.py"))
    assert files
    found = {module for file in files for module in imports(file)}
    others = {module for module in found if not module.startswith("training.painter")}
    assert {module.split(".")[0] for module in others} - set(sys.stdlib_module_names) <= {"numpy", "cv2", "backend"}
    assert {module for module in others if module.startswith("backend")} == {"backend.media.fitting"}


@pytest.mark.parametrize(("file", "name"), sources())
def test_torch_is_imported_late(file, name):
    if name.startswith("backend.diffusion"):
        pytest.skip("the one room that may")
    assert not {imported.split(".")[0] for imported in imports(file, top_only=True)} & TORCH


def test_rooms_side_by_side_do_not_know_each_other():
    for name, forbidden in {
        "media": {"library", "system"},
        "library": {"media", "system"},
    }.items():
        for file in (ROOT / "backend" / name).rglob("*.py"):
            known = {room_of(module).removeprefix("backend.") for module in imports(file)}
            assert not known & forbidden, f"{file.name} imports from {known & forbidden}"


@pytest.mark.parametrize("module", ["backend.cli", "backend.web.server", "backend.video_generator"])
def test_no_door_imports_torch(module):
    code = f"import sys, {module}; print(sorted({{m.split('.')[0] for m in sys.modules}} & {TORCH!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_is_quick_to_import():
    # Processor time: on a busy machine the clock on the wall measures the neighbours.
    code = "import time; t = time.process_time(); import backend.cli; print(time.process_time() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < within(0.5)


def test_utils_runs_on_a_bare_python():
    modules = {name.split(".")[0] for name in imports(ROOT / "backend" / "utils.py")}
    assert modules <= set(sys.stdlib_module_names)
