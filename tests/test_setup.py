"""setup.py and launch.sh: from a fresh clone to an environment that works, and back to one when it is broken."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import setup
from backend.utils import is_current, packages, python_of, works

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own with a data folder beside it; its environment is not made yet."""
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "ENVIRONMENT", tmp_path / ".venv")
    for name in ("REQUIREMENTS", "TEST_REQUIREMENTS"):
        file = tmp_path / f"{name.lower()}.txt"
        file.touch()
        monkeypatch.setattr(setup, name, file)
    monkeypatch.setenv("STUDIO_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def pip(studio: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The calls of pip, instead of pip; the environment is made without it, so that it is quick."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(setup, "run_pip", lambda *arguments: calls.append(arguments))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(studio / ".venv")], check=True)
    (site,) = (studio / ".venv").glob("lib/python3*/site-packages")
    (site / "pip-24.0.dist-info").mkdir()
    (site / "pip-24.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pip\nVersion: 24.0\n")
    (site / "pip-24.0.dist-info" / "RECORD").write_text("pip.py,,\n")
    (site / "pip.py").touch()
    return calls


def lose_a_file(studio: Path) -> None:
    next((studio / ".venv").glob("lib/python3*/site-packages/pip.py")).unlink()


def test_the_first_run_installs_and_makes_the_folders(studio: Path, pip: list[Any]) -> None:
    assert setup.main(["--quiet"]) == 0
    assert pip == [("-r", str(setup.REQUIREMENTS))]
    assert sorted(folder.name for folder in (studio / "data").iterdir()) == ["models", "outputs", "temp", "uploads"]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (studio / "data").iterdir()} == {0o700}


def test_the_folders_of_a_checkout_are_closed_to_other_users(studio: Path, pip: list[Any]) -> None:
    folders = [studio / "data" / name for name in ("models", "outputs", "temp", "uploads")]
    for folder in folders:
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    setup.prepare(quiet=True)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o755, 0o700, 0o700, 0o700]


def test_the_second_run_installs_nothing_and_says_nothing(
    studio: Path, pip: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    setup.prepare()
    pip.clear()
    capsys.readouterr()
    setup.prepare(quiet=True)
    assert pip == []
    assert capsys.readouterr().out == ""


def test_a_changed_requirement_is_installed(studio: Path, pip: list[Any]) -> None:
    setup.prepare()
    setup.REQUIREMENTS.write_text("new==1.0\n")
    setup.prepare()
    assert len(pip) == 2


def test_a_damaged_package_is_installed_anew(studio: Path, pip: list[Any]) -> None:
    setup.prepare()
    lose_a_file(studio)
    pip.clear()
    setup.prepare()
    assert pip[0] == ("--force-reinstall", "--no-deps", "pip==24.0")


def test_the_test_extras_stay_once_they_are_there(studio: Path, pip: list[Any]) -> None:
    setup.prepare(test_extras=True)
    lose_a_file(studio)
    setup.prepare()
    assert pip[0] == pip[-1] == ("-r", str(setup.TEST_REQUIREMENTS))


def test_what_was_stopped_is_not_taken_for_installed(
    studio: Path, pip: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "run_pip", stop)
    assert setup.main(["--quiet"]) == 130
    assert "Run it again" in capsys.readouterr().err
    assert not is_current(studio / ".venv", [setup.REQUIREMENTS])


def test_a_half_made_environment_is_made_anew(studio: Path) -> None:
    (studio / ".venv" / "bin").mkdir(parents=True)
    (studio / ".venv" / "bin" / "python").symlink_to("/nowhere/python3")
    assert setup.make_environment() is True
    assert works(studio / ".venv")
    assert "pip" in packages(studio / ".venv")
    assert setup.make_environment() is False


def test_a_link_to_something_else_is_not_emptied(
    studio: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "thesis.txt").touch()
    (studio / ".venv").symlink_to(elsewhere)
    assert setup.main([]) == 1
    assert "remove the link" in capsys.readouterr().err
    assert (elsewhere / "thesis.txt").exists()


def test_a_python_without_venv_is_told_what_to_install(
    studio: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert setup.main([]) == 1
    assert f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in capsys.readouterr().err


def test_an_old_python_is_told_so_before_anything_is_made(
    studio: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    assert setup.main([]) == 1
    assert "3.9.18 is too old" in capsys.readouterr().err
    assert not (studio / ".venv").exists()


def test_a_folder_that_cannot_be_made_is_named(
    studio: Path, pip: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (studio / "data").touch()
    assert setup.main(["--quiet"]) == 1
    assert "STUDIO_DATA" in capsys.readouterr().err


def test_the_diagnosis_ends_the_run_and_gives_its_exit_code(studio: Path, pip: list[Any]) -> None:
    (studio / "test_system.py").write_text("import sys; sys.exit(7)")
    assert setup.main([]) == 7


@pytest.mark.parametrize("command", ["egg_info", "install", "develop", "bdist_wheel"])
def test_it_is_no_package(command: str) -> None:
    done = subprocess.run([sys.executable, "setup.py", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "`python3 setup.py`" in done.stderr


def test_pips_own_reason_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "ENVIRONMENT", Path(sys.prefix))
    with pytest.raises(setup.SetupFailed, match=r"No matching distribution found for not-there(.|\n)*run this again"):
        setup.run_pip("--no-index", "--dry-run", "not-there==1.0")


PIP_LINES = """\
Looking in links: /wheels
Collecting torch==2.13.0
  Downloading torch-2.13.0.whl.metadata (30 kB)
  Downloading torch-2.13.0.whl (883.0 MB)
Progress 441500000 of 883000000
Requirement already satisfied: numpy==2.4.6
Installing collected packages: torch
"""


def test_progress_is_one_line_a_package(capsys: pytest.CaptureFixture[str]) -> None:
    setup.show_progress(PIP_LINES.splitlines(keepends=True))
    assert capsys.readouterr().out.splitlines() == ["  torch-2.13.0.whl (883.0 MB)", "  unpacking"]


def test_a_terminal_sees_how_far_a_download_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    setup.show_progress(PIP_LINES.splitlines(keepends=True))
    assert "(883.0 MB), 50 %" in capsys.readouterr().out


def test_complaints_win_over_last_words() -> None:
    assert setup.show_progress(["ERROR: no space\n", "bye\n"]) == ["ERROR: no space"]
    assert setup.show_progress(["Killed\n"]) == ["Killed"]


# --- launch.sh, with a Python that only tells how it was called ---

TELLING_PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then exit 0; fi
echo "pid $$"; echo "cwd $PWD"; echo "path $PYTHONPATH"
for argument in "$@"; do echo "argument $argument"; done
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """launch.sh in a checkout that is set up."""
    studio = tmp_path / "my studio"
    (studio / ".venv" / "bin").mkdir(parents=True)
    (studio / ".venv" / "studio").mkdir()
    shutil.copy(ROOT / "launch.sh", studio)
    for file in (studio / "requirements.txt", studio / ".venv" / "studio" / "requirements.txt"):
        file.write_text("torch==2.13.0\n")
    python = python_of(studio / ".venv")
    python.write_text(TELLING_PYTHON)
    python.chmod(0o755)
    (studio / "setup.py").write_text("import sys; print('setting up', *sys.argv[1:], file=sys.stderr)")
    return studio / "launch.sh"


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., tuple[int, str, str, int]]:
    def run(launcher: Path, *arguments: str, **environ: str) -> tuple[int, str, str, int]:
        """Exit code, both outputs and the process id, called from another folder."""
        caller = tmp_path / "caller"
        caller.mkdir(exist_ok=True)
        with subprocess.Popen(
            [str(launcher), *arguments],
            cwd=caller,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            out, err = child.communicate(timeout=100)
        return child.returncode, out, err, child.pid

    return run


def test_the_launcher_becomes_the_studio(launcher: Path, launch: Callable[..., Any], tmp_path: Path) -> None:
    code, out, err, pid = launch(launcher, "generate", "--prompt", "a red  boat")
    assert code == 0
    assert err == ""
    arguments = [f"argument {word}" for word in ("-m", "backend.cli", "generate", "--prompt", "a red  boat")]
    assert out.splitlines() == [f"pid {pid}", f"cwd {tmp_path / 'caller'}", f"path {launcher.parent}", *arguments]


def test_the_launcher_is_found_through_links(launcher: Path, launch: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "absolute").symlink_to(launcher)
    (tmp_path / "bin" / "relative").symlink_to("absolute")
    _, out, _, _ = launch(tmp_path / "bin" / "relative")
    assert f"path {launcher.parent}" in out.splitlines()


def test_the_launcher_finds_its_own_folder_despite_cdpath(launcher: Path, tmp_path: Path) -> None:
    decoy = tmp_path / "decoy" / launcher.parent.name
    decoy.mkdir(parents=True)
    command = ["bash", f"{launcher.parent.name}/launch.sh"]
    environ = {**os.environ, "CDPATH": str(decoy.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert f"path {launcher.parent}" in done.stdout.splitlines()


def test_new_requirements_are_set_up_first(launcher: Path, launch: Callable[..., Any]) -> None:
    (launcher.parent / "requirements.txt").write_text("torch==2.14.0\n")
    code, out, err, _ = launch(launcher)
    assert code == 0
    assert err == "setting up --quiet\n"
    assert "argument backend.cli" in out


def test_a_missing_environment_is_set_up_first(launcher: Path, launch: Callable[..., Any]) -> None:
    python_of(launcher.parent / ".venv").unlink()
    assert "setting up --quiet" in launch(launcher)[2]


def test_nothing_starts_when_the_set_up_fails(launcher: Path, launch: Callable[..., Any]) -> None:
    (launcher.parent / "requirements.txt").write_text("torch==2.14.0\n")
    (launcher.parent / "setup.py").write_text("import sys; sys.exit(3)")
    code, out, _, _ = launch(launcher)
    assert (code, out) == (3, "")


def test_a_machine_without_python_is_told_what_to_install(
    launcher: Path, launch: Callable[..., Any], tmp_path: Path
) -> None:
    python_of(launcher.parent / ".venv").unlink()
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "readlink", "cmp"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    code, out, err, _ = launch(launcher, PATH=str(tools))
    assert (code, out) == (1, "")
    assert "Python 3.11 or newer" in err
