import json
import sys
import unicodedata

import pytest

from backend.core.text import escape_control, is_blank

TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def test_nothing_that_steers_is_left():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    left = escape_control(every)
    assert not [c for c in left if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in TURNING]
    left.encode()


@pytest.mark.parametrize(
    "text", ["a red boat", "Boot, größer  als “meins”", "夕焼けの船", "سفينة", "👩\u200d🚀", "क्\u200dष"]
)
def test_what_people_write_stays(text):
    assert escape_control(text) == text
    assert not is_blank(text)


def test_json_reads_it_back():
    text = "\x1b]0;title\x07\r\n\x85\u2028\u202e\x7f\\n"
    line = escape_control(json.dumps(text, ensure_ascii=False))
    assert len(line.splitlines()) == 1
    assert json.loads(line) == text


@pytest.mark.parametrize(
    "text", ["", " \t\n", "\u200b", "\u200d\u200c\ufeff", "\u2060 \u00ad", "\u202e", "\ufe0f", "\u3164", "\u0301"]
)
def test_what_nobody_can_see_is_blank(text):
    assert is_blank(text)
