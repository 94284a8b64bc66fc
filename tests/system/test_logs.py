"""What is logged of names and prompts of others: one line each, whatever is in them."""

from __future__ import annotations

import json
import logging

import pytest

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
