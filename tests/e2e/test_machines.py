"""Machines that are not set up as usual: a user without a name or a home, a terminal that is not UTF-8."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from backend.jobs.worker import _without_paths
from backend.utils import settle_home
from tests.studio import ROOT, LiveStudio

UNKNOWN_USER = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
SMALL = ("--model", "synthetic", "--resolution", "128x96", "--num-frames", "16", "--steps", "10")


def can_be_unknown() -> bool:
    try:
        done = subprocess.run([*UNKNOWN_USER, "true"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


unknown = pytest.mark.skipif(not can_be_unknown(), reason="no user namespaces here")


def without_home() -> dict[str, str]:
    hidden = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {"PYTHONPATH": str(ROOT)}


def command(
    data: Path, *words: str, environ: dict[str, str], wrapper: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[bytes]:
    line = [*wrapper, sys.executable, "-m", "backend.cli", "--data", str(data), *words]
    return subprocess.run(line, cwd=ROOT, env=environ, capture_output=True, timeout=200)


@unknown
@pytest.mark.parametrize("home", [{}, {"HOME": "/"}, {"HOME": "/nonexistent"}])
def test_an_unknown_user_without_a_home_makes_a_video(tmp_path, home):
    words = ("generate", "--prompt", "a boat", *SMALL, "--json")
    done = command(tmp_path / "data", *words, environ=without_home() | home, wrapper=UNKNOWN_USER)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["state"] == "succeeded"


@unknown
def test_an_unknown_user_without_a_home_gets_the_pages(tmp_path, monkeypatch):
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(LiveStudio, "command", (*UNKNOWN_USER, *LiveStudio.command))
    studio = LiveStudio(tmp_path / "data")
    try:
        assert "<title>" in httpx.get(studio.url).text
        assert studio.wait_for(studio.api.post("/jobs", json={"prompt": "x", "num_frames": 16}).json()["id"])[
            "state"
        ] in ("succeeded",)
    finally:
        assert studio.stop() == 0
    assert "Traceback" not in studio.log.read_text()


def test_a_user_with_a_home_and_a_name_keeps_both(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "ada")
    settle_home(tmp_path / "other")
    assert (Path.home(), getpass.getuser()) == (tmp_path, "ada")


def test_a_user_without_a_name_is_called_by_its_number(tmp_path, monkeypatch):
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    settle_home(tmp_path)
    assert getpass.getuser() == str(os.getuid())


@pytest.mark.parametrize("home", ["/", "", "/root"])
def test_what_an_error_says_keeps_its_slashes_whatever_the_home(settings, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    error = OSError(f"{settings.data}/temp/x and /dev/shm/y are full")
    assert _without_paths(error, settings) == "/temp/x and /dev/shm/y are full"


def test_a_data_folder_in_the_home_of_nobody_is_one_sentence(tmp_path):
    done = command(Path("~nobody-of-this-name/x"), "jobs", "list", environ=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode != 0
    assert b"STUDIO_DATA=~nobody-of-this-name/x does not fit" in done.stderr
    assert b"Traceback" not in done.stderr


TERMINALS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "locale C, UTF-8 mode": {"LC_ALL": "C", "LANG": "C"},
    "locale C, no UTF-8 mode": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("terminal", TERMINALS.values(), ids=TERMINALS)
def test_a_terminal_that_is_not_utf_8_gets_question_marks_and_the_right_exit_code(tmp_path, terminal):
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environ |= {"PYTHONPATH": str(ROOT)} | terminal
    data = tmp_path / "Däten"
    prompt, out = "Ein Böot \N{SPEEDBOAT}", tmp_path / "Böot \N{SPEEDBOAT}.mp4"

    def run(*words: str) -> tuple[int, str, str]:
        done = command(data, *words, environ=environ)
        encoding = (
            "utf-8" if terminal == TERMINALS["locale C, UTF-8 mode"] else terminal.get("PYTHONIOENCODING", "ascii")
        )
        return done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)

    code, said, err = run("generate", "--prompt", prompt, *SMALL, "--out", str(out))
    assert (code, "Traceback" in err) == (0, False), err
    assert out.is_file()
    assert "16 frames" in said
    code, recipe, err = run("inspect", str(out))
    assert (code, json.loads(recipe)["request"]["prompt"]) == (0, prompt), err
    for words, exit_code in {
        ("jobs", "list"): 0,
        ("expand", prompt): 0,
        ("plan", "--prompt", prompt, *SMALL): 0,
        ("inspect", str(tmp_path / "kein Böot \N{SPEEDBOAT}")): 2,
        ("plan", "--prompt", prompt, "--model", "\N{SPEEDBOAT}ö"): 2,
        ("generate", "--prompt", prompt, "--image", str(tmp_path / "ö\N{SPEEDBOAT}.png")): 2,
        ("jobs", "show", "\N{SPEEDBOAT}"): 2,
        ("export", "\N{SPEEDBOAT}"): 2,
        ("models", "remove", "\N{SPEEDBOAT}"): 2,
    }.items():
        code, said, err = run(*words)
        assert (code, "Traceback" in err) == (exit_code, False), (words, said, err)
        assert said + err
