"""backend/utils.py: what setup.py knows about Pythons, folders and environments."""

from __future__ import annotations

import stat
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from backend.utils import (
    damaged_packages,
    inside,
    is_current,
    keep_private,
    make_folders,
    packages,
    python_of,
    python_problem,
    stamp,
    works,
)

ROOT = Path(__file__).resolve().parents[1]


def add_package(environment: Path, name: str, version: str) -> Path:
    """What pip leaves behind, in little; the package's one module."""
    (site,) = environment.glob("lib/python3*/site-packages")
    module, info = site / f"{name}.py", site / f"{name}-{version}.dist-info"
    module.touch()
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{name}.py,,\n__pycache__/{name}.pyc,,\n{info.name}/METADATA,,\n")
    return module


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A real one, in which only pip's metadata pretends to be there."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    add_package(folder, "pip", "24.0")
    return folder


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 13, 1), (4, 0, 0)])
def test_a_new_python_is_fine(version: tuple[int, ...]) -> None:
    assert python_problem(version) is None


def test_an_old_python_is_named_with_the_way_out() -> None:
    problem = python_problem((3, 10, 13))
    assert problem is not None
    assert "3.10.13" in problem
    assert "3.11 or newer" in problem
    assert "python3.12" in problem


def test_everything_that_a_bare_python_runs_imports_without_packages() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import setup, test_system, backend.utils"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=60)


def test_folders_are_made_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "kept").touch()
    make_folders([tmp_path / "models", tmp_path / "deep" / "outputs"])
    assert (tmp_path / "models" / "kept").exists()
    assert stat.S_IMODE((tmp_path / "deep" / "outputs").stat().st_mode) == 0o700


def test_only_our_own_folders_are_closed_to_others(tmp_path: Path) -> None:
    for name in ("outputs", "shared"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "temp").symlink_to(tmp_path / "shared")
    keep_private([tmp_path / "outputs", tmp_path / "temp"])
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("outputs", "shared")] == [0o700, 0o755]


def test_a_path_inside_stays(tmp_path: Path) -> None:
    assert inside(tmp_path, "outputs/a.mp4") == tmp_path.resolve() / "outputs" / "a.mp4"


@pytest.mark.parametrize("path", ["../neighbour", "/etc/passwd", "outputs/../../x", "link/x"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(ValueError, match="leads out"):
        inside(tmp_path, path)


def test_an_environment_works(environment: Path) -> None:
    assert works(environment)


def test_an_environment_without_pip_is_half_made(tmp_path: Path) -> None:
    venv.create(tmp_path / "half", with_pip=False, symlinks=True)
    assert not works(tmp_path / "half")


def test_an_environment_whose_python_went_away_does_not_work(environment: Path, tmp_path: Path) -> None:
    python_of(environment).unlink()
    python_of(environment).symlink_to(tmp_path / "removed")
    assert not works(environment)
    assert not works(tmp_path / "nowhere")


def test_an_environment_of_an_old_python_does_not_work(environment: Path) -> None:
    python_of(environment).unlink()
    python_of(environment).write_text("#!/bin/sh\nexit 1\n")
    python_of(environment).chmod(0o755)
    assert not works(environment)


def test_packages_are_read_from_the_folder(environment: Path) -> None:
    add_package(environment, "torch", "2.13.0+cpu")
    assert packages(environment) == {"pip": "24.0", "torch": "2.13.0+cpu"}


def test_a_package_that_lost_a_file_is_damaged(environment: Path) -> None:
    module = add_package(environment, "streamlit", "1.67.0")
    assert damaged_packages(environment) == []  # though no compiled file is there
    module.unlink()
    assert damaged_packages(environment) == ["streamlit==1.67.0"]


@pytest.fixture
def requirements(environment: Path, tmp_path: Path) -> list[Path]:
    """Installed and stamped."""
    files = [tmp_path / "requirements.txt", tmp_path / "requirements-test.txt"]
    for file in files:
        file.write_text("pip==24.0\n")
    stamp(environment, files)
    return files


def test_what_was_stamped_is_current(environment: Path, requirements: list[Path]) -> None:
    assert is_current(environment, requirements)


def test_a_changed_requirement_is_not_current(environment: Path, requirements: list[Path]) -> None:
    requirements[1].write_text("pip==24.1\n")
    assert not is_current(environment, requirements)
    assert is_current(environment, requirements[:1])


def test_a_removed_or_added_package_is_not_current(environment: Path, requirements: list[Path]) -> None:
    add_package(environment, "another", "1.0")
    assert not is_current(environment, requirements)


def test_a_broken_stamp_is_not_current(environment: Path, requirements: list[Path]) -> None:
    (environment / "studio" / "packages.json").write_text("{")
    assert not is_current(environment, requirements)


def test_an_environment_without_a_stamp_is_not_current(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").touch()
    assert not is_current(environment, [tmp_path / "requirements.txt"])


def pins(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("name", ["requirements.txt", "requirements-test.txt"])
def test_every_requirement_has_one_pin_for_each_python(name: str, version: str) -> None:
    counted = {pin.name: 0 for pin in pins(name)}
    for pin in pins(name):
        assert [specifier.operator for specifier in pin.specifier] == ["=="]
        counted[pin.name] += pin.marker is None or pin.marker.evaluate({"python_version": version})
    assert set(counted.values()) == {1}


def test_the_requirements_keep_torchvision_out() -> None:
    names = {pin.name for file in ("requirements.txt", "requirements-test.txt") for pin in pins(file)}
    assert names.isdisjoint({"torchvision", "torchaudio", "torchcodec", "spandrel", "opencv-python"})
    assert "torch==2.13.0" in (ROOT / "requirements.txt").read_text().splitlines()
