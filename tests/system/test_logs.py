"""What is logged of names and prompts of others: one line each, whatever is in them."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

import pytest

from backend.core.errors import StudioError
from backend.system import logs

NASTY = "cat\n2030-01-01 00:00:00 INFO backend: all is well\r\x1b[2J\x85\u2028\u202egnp.exe\x9b31m\ud800"
log = logging.getLogger("backend.test")


@pytest.fixture
def file(tmp_path):
    handler = logs.write_to_file(tmp_path / "log")
    yield tmp_path / "log"
    logs.stop_writing(handler)


def test_a_name_cannot_forge_a_line_of_the_file(file):
    token = logs.current_job.set("the-job")
    log.warning("upload %s is refused", NASTY)
    logs.current_job.reset(token)
    [line] = file.read_text("utf-8").splitlines()
    assert not set(line) & set("\x1b\x9b\u202e\u2028")
    assert json.loads(line)["message"] == f"upload {NASTY} is refused"
    assert logs.last_lines(file, "the-job") == (f"WARNING upload {NASTY} is refused",)


def test_a_name_cannot_forge_a_line_of_the_terminal(capsys):
    before = logging.getLogger().handlers[:]
    logs.write_to_terminal()
    try:
        log.warning("upload %s is refused", NASTY)
        try:
            raise ValueError(NASTY)
        except ValueError:
            log.exception("broken")
    finally:
        [handler] = [one for one in logging.getLogger().handlers if one not in before]
        logs.stop_writing(handler)
    said = capsys.readouterr().err
    assert not set(said) & set("\x1b\x9b\r\u202e\u2028\x85")
    assert "\\u001b[2J" in said
    starts = [line for line in said.splitlines() if not line.startswith("    ")]
    assert [line.split(" ", 2)[2] for line in starts] == [
        "WARNING backend.test: upload cat",
        "ERROR backend.test: broken",
    ]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda file: file.symlink_to(file)])
def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path, make):
    make(tmp_path / "studio.log")
    with pytest.raises(StudioError, match=r"studio.log cannot be written \(.+\); remove what lies there"):
        logs.write_to_file(tmp_path / "studio.log")


def test_a_full_disk_does_not_forbid_the_start(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logs.os, "open", full)
    handler = logs.write_to_file(tmp_path / "studio.log")
    monkeypatch.undo()
    log.warning("there is room again")
    logs.stop_writing(handler)
    assert "room again" in (tmp_path / "studio.log").read_text()


def test_where_an_older_log_cannot_be_moved_the_lines_stay(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logs, "FILE_BYTES", 300)
    file = tmp_path / "log"
    file.with_name("log.1").touch()
    file.with_name("log.2").mkdir()
    handler = logs.write_to_file(file)
    for number in range(10):
        log.warning("line %d of many, and quite a long one", number)
    logs.stop_writing(handler)
    assert [json.loads(line)["message"][5] for line in file.read_text().splitlines()] == list("0123456789")
    said = capsys.readouterr().err
    assert said == "log cannot be kept as it should (Is a directory); see to its folder.\n"


def test_a_log_that_is_lost_meanwhile_is_one_sentence(tmp_path, capsys):
    handler = logs.write_to_file(tmp_path / "log")
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()
    for _ in range(3):
        log.warning("nobody reads this")
    logs.stop_writing(handler)
    assert capsys.readouterr().err.count("log cannot be kept") == 1
