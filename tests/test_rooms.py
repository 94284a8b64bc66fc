"""The order of imports: what each room may import, and that no client imports torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room may import from the rooms left of it and from itself.
ORDER = [
    {"backend", "backend.utils"},
    {"backend.core", "backend.durable"},
    {"backend.media", "backend.library", "backend.system"},
    {"backend.engine"},
    {"backend.diffusion", "backend.finishing"},
    {"backend.jobs"},
    {"backend.doctor", "backend.skyreels_integration", "backend.synthetic", "backend.trial"},
    {"backend.video_generator"},
    {"backend.web"},
    {"backend.studios"},
    {"backend.cli", "ui", "app"},
]
# What each top-level package may import; within backend and ui the order above holds too.
MAY_IMPORT = {
    "backend": {"backend"},
    "ui": {"backend", "ui"},
    "app": {"backend", "ui"},
    "training": {"backend", "training"},
    "benchmarks": {"backend", "benchmarks", "training", "tests"},
}
TEST_HELPERS = {"tests.studio", "tests.tiny_checkpoints"}  # those that benchmarks may import
OTHER_CLIENTS = {"backend.cli", "backend.studios", "backend.web"}
RENDERING = {
    "backend.diffusion",
    "backend.finishing",
    "backend.skyreels_integration",
    "backend.synthetic",
    "backend.trial",
}
TORCH = {"torch", "diffusers", "transformers", "accelerate", "safetensors"}


def room_of(module: str) -> str:
    parts = module.split(".")
    inside = len(parts) > 1 and any((ROOT / "backend" / name).exists() for name in (parts[1], f"{parts[1]}.py"))
    return ".".join(parts[:2]) if parts[0] == "backend" and inside else parts[0]


def level(room: str) -> int:
    return next(place for place, rooms in enumerate(ORDER) if room in rooms)


def files_of(*tops: str) -> list[Path]:
    return [file for top in tops for file in sorted([*(ROOT / top).rglob("*.py"), *ROOT.glob(f"{top}.py")])]


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def sources(*tops: str) -> list:
    return [pytest.param(file, name_of(file), id=name_of(file)) for file in files_of(*tops)]


def is_script(module: str) -> bool:
    """Whether the module is one that is run: `__main__`, or one that tests for it."""
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return file.is_file() and (file.stem == "__main__" or 'if __name__ == "__main__"' in file.read_text())


def imports(file: Path, *, top_only: bool = False):
    tree = ast.parse(file.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{file} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(file: Path) -> list[str]:
    """What a file imports of the studio's own packages."""
    return [name for name in imports(file) if name.split(".")[0] in {*MAY_IMPORT, "tests", "setup", "test_system"}]


@pytest.mark.parametrize(("file", "name"), sources("backend", "ui", "app"))
def test_imports_run_one_way(file, name):
    mine = level(room_of(name))
    for imported in imports(file):
        if imported.split(".")[0] in ("backend", "ui", "app"):
            assert level(room_of(imported)) <= mine, f"{name} imports {imported}"


@pytest.mark.parametrize(("file", "name"), sources(*MAY_IMPORT))
def test_top_level_packages_import_only_those_they_may(file, name):
    for imported in ours(file):
        assert imported.split(".")[0] in MAY_IMPORT[name.split(".")[0]], f"{name} imports {imported}"


@pytest.mark.parametrize(("file", "name"), sources("benchmarks"))
def test_benchmarks_import_no_script_of_training_and_few_helpers_of_tests(file, name):
    for imported in ours(file):
        top = imported.split(".")[0]
        assert not (top == "training" and is_script(imported)), f"{name} imports the script {imported}"
        helper = any(f"{imported}.".startswith(f"{helper}.") for helper in TEST_HELPERS)
        assert top != "tests" or helper, f"{name} imports {imported}"


@pytest.mark.parametrize(("file", "name"), sources("ui"))
def test_pages_import_neither_other_clients_nor_what_renders(file, name):
    for imported in ours(file):
        assert room_of(imported) not in OTHER_CLIENTS | RENDERING, f"{name} imports {imported}"


@pytest.mark.parametrize(("file", "name"), sources("ui", "app", "backend/web", "backend/studios", "backend/cli"))
def test_clients_do_not_reach_past_the_generator(file, name):
    """The store, the worker and the services of kinds are the generator's own."""
    private = {"store", "_store", "_worker", "_services"}
    found = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
    assert not found & private, name


def test_the_generator_stays_a_facade():
    assert (ROOT / "backend" / "video_generator.py").read_text().count("\n") <= 300


def test_the_painter_needs_only_numpy_opencv_and_what_a_picture_is():
    files = list((ROOT / "training" / "painter").glob("*.py"))
    assert files
    found = {module for file in files for module in imports(file)}
    others = {module for module in found if not module.startswith("training.painter")}
    assert {module.split(".")[0] for module in others} - set(sys.stdlib_module_names) <= {"numpy", "cv2", "backend"}
    assert {room_of(module) for module in others if module.startswith("backend")} == {"backend.media"}


@pytest.mark.parametrize(("file", "name"), sources("backend", "ui", "app"))
def test_torch_is_imported_late(file, name):
    if name.startswith("backend.diffusion"):
        pytest.skip("the one room that may")
    assert not {imported.split(".")[0] for imported in imports(file, top_only=True)} & TORCH


def test_rooms_side_by_side_do_not_know_each_other():
    for name, forbidden in {
        "media": {"library", "system"},
        "library": {"media", "system"},
        "diffusion": {"finishing"},
        "finishing": {"diffusion"},
    }.items():
        for file in (ROOT / "backend" / name).rglob("*.py"):
            known = {room_of(module).removeprefix("backend.") for module in imports(file)}
            assert not known & forbidden, f"{file.name} imports from {known & forbidden}"


@pytest.mark.parametrize("module", ["backend.cli.main", "backend.web.server", "backend.video_generator"])
def test_no_client_imports_torch(module):
    code = f"import sys, {module}; print(sorted({{m.split('.')[0] for m in sys.modules}} & {TORCH!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_imports_no_library_that_only_pictures_need():
    """Half of the time of a short command would be that of these imports."""
    code = "import sys, backend.cli.main; print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(ast.literal_eval(done.stdout)) & {"numpy", "PIL", "av", "streamlit", "fastapi", "uvicorn", "httpx"}


def test_utils_runs_on_a_bare_python():
    modules = {name.split(".")[0] for name in imports(ROOT / "backend" / "utils.py")}
    assert modules <= set(sys.stdlib_module_names)
