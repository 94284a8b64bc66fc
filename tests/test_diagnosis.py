"""test_system.py and .ci/run: the diagnosis, and the one command that runs every test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import setup
import test_system

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The commands that would be run, each ending well with nothing to say."""
    seen: list[dict[str, Any]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.append({"command": command, **options})
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return seen


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    def have(path: str | None) -> None:
        monkeypatch.setattr(test_system, "find_browser", lambda: path)

    return have


@pytest.fixture(autouse=True)
def nothing_is_set_up_for_real(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(setup, "prepare", lambda **options: calls.append(options))
    return calls


def test_the_diagnosis_as_json_from_any_python(tmp_path: Path) -> None:
    """With the environment's own Python, as this one; a data folder that fails a check decides the exit code."""
    (tmp_path / "outputs").touch()
    environ = {**os.environ, "STUDIO_DATA": str(tmp_path)}
    code = "import sys, setup, test_system, pathlib; setup.ENVIRONMENT = pathlib.Path(sys.prefix); "
    code += "sys.exit(test_system.main(['--json']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["Folders"]["status"] == "failed"
    assert checks["Python"]["status"] == "ok"
    assert done.returncode == 1


def test_another_python_starts_the_environments(
    commands: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup, "ENVIRONMENT", tmp_path)
    monkeypatch.setattr(test_system, "works", lambda environment: True)
    assert test_system.main(["--json"]) == 0
    python, script, flag = commands[0]["command"]
    assert (python, Path(script).name, flag) == (str(tmp_path / "bin" / "python"), "test_system.py", "--json")


def test_no_environment_names_the_command_that_makes_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "ENVIRONMENT", tmp_path / "none")
    assert test_system.main([]) == 1
    assert "`python3 setup.py`" in capsys.readouterr().err


def test_unknown_flags_belong_to_the_suite_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        test_system.main(["-k", "foo"])
    assert stopped.value.code == 2
    assert "-k foo is not known" in capsys.readouterr().err


def test_the_suite_ends_with_pytest_and_its_exit_code(
    commands: list[dict[str, Any]],
    browser: Callable[[str | None], None],
    monkeypatch: pytest.MonkeyPatch,
    nothing_is_set_up_for_real: list[dict[str, Any]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STUDIO_DATA", "/home/me/films")
    monkeypatch.setattr(test_system, "run_python", fails_with_5(test_system.run_python))
    browser("/usr/bin/chromium")
    assert test_system.main(["--suite", "-k", "gallery", "-x"]) == 5
    assert nothing_is_set_up_for_real == [{"test_extras": True, "quiet": True}]
    last = commands[-1]
    assert last["command"][1:] == [
        "-m",
        "pytest",
        "-n",
        "3",
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
        "-k",
        "gallery",
        "-x",
    ]
    assert last["cwd"] == ROOT
    assert last["env"]["CHROMIUM"] == "/usr/bin/chromium"
    assert "STUDIO_DATA" not in last["env"]
    assert last["env"]["PATH"] == os.environ["PATH"]
    assert last["env"]["OMP_NUM_THREADS"] == "1"
    assert capfd.readouterr().out == ""


def fails_with_5(run_python: Callable[..., int]) -> Callable[..., int]:
    return lambda *arguments: run_python(*arguments) or 5


def test_the_suite_runs_without_a_browser_and_says_so(
    commands: list[dict[str, Any]],
    browser: Callable[[str | None], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    browser(None)
    assert test_system.main(["--suite"]) == 0
    assert "browser tests will be skipped" in capsys.readouterr().out
    assert "CHROMIUM" not in commands[-1]["env"]


def test_a_failed_set_up_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(**options: Any) -> None:
        raise setup.SetupFailed("no disk space")

    monkeypatch.setattr(setup, "prepare", fail)
    assert test_system.main(["--suite"]) == 1
    assert capsys.readouterr().err == "no disk space\n"


def a_browser(path: Path, exit_code: int) -> Path:
    path.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    path.chmod(0o755)
    return path


def test_the_browser_that_was_named_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_system, "playwright_browser", lambda: None)
    system = a_browser(tmp_path / "chromium", 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert test_system.find_browser() == str(system)
    named = a_browser(tmp_path / "my-chromium", 0)
    monkeypatch.setenv("CHROMIUM", str(named))
    assert test_system.find_browser() == str(named)


def test_a_browser_that_does_not_start_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_browser(tmp_path / "chromium-browser", 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "gone"))
    monkeypatch.setattr(test_system, "playwright_browser", lambda: None)
    assert test_system.find_browser() is None
    of_playwright = a_browser(tmp_path / "headless", 0)
    monkeypatch.setattr(test_system, "playwright_browser", lambda: str(of_playwright))
    assert test_system.find_browser() == str(of_playwright)


def test_playwright_tells_where_its_browser_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "ENVIRONMENT", Path(sys.prefix))
    assert "chrom" in str(test_system.playwright_browser())


@pytest.mark.parametrize(
    ("user", "programs"),
    [(0, ["apt-get update", "apt-get install", "playwright install"]), (1000, ["playwright install"])],
)
def test_a_browser_is_installed_where_it_can_be(
    commands: list[dict[str, Any]],
    browser: Callable[[str | None], None],
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    programs: list[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    browser(None)
    assert test_system.install_browser() is None
    for program, call in zip(programs, commands, strict=True):
        assert program in " ".join(call["command"])


def test_installing_stops_at_the_first_browser_that_starts(
    commands: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(test_system, "find_browser", lambda: "/usr/bin/chromium" if len(commands) == 2 else None)
    assert test_system.install_browser() == "/usr/bin/chromium"
    assert commands[-1]["command"][:2] == ["apt-get", "install"]


# --- .ci/run ---


@pytest.mark.parametrize("failing", [None, "ruff", "mypy", "npm"])
def test_ci_runs_everything_and_stops_at_the_first_failure(tmp_path: Path, failing: str | None) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    tools = (tmp_path / "python3", tmp_path / "npm", *(tmp_path / ".venv" / "bin" / name for name in ("ruff", "mypy")))
    for tool in tools:
        a_browser(tool, int(tool.name == failing))
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([str(tmp_path / ".ci" / "run")], env=environ, capture_output=True, text=True)
    steps = [line.removeprefix("== ").removeprefix(".venv/bin/") for line in done.stdout.splitlines()]
    everything = [
        "python3 setup.py --quiet --test-extras",
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "mypy setup.py test_system.py",
        "npm --prefix ui/components/js run check",
        "python3 test_system.py --suite",
    ]
    without_packages = "the components of the pages are not checked: no npm here, or its packages cannot be fetched"
    assert (
        steps
        == {
            None: everything,
            "ruff": everything[:2],
            "mypy": everything[:4],
            "npm": [*everything[:5], without_packages, everything[6]],
        }[failing]
    )
    assert done.returncode == (failing in ("ruff", "mypy"))
