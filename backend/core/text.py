"""Words where they are shown: characters that steer a terminal, end a line or turn its direction; counted nouns."""

from __future__ import annotations

import re
import unicodedata

from backend.core.errors import InvalidRequest

STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: line ends, and the escapes that colour, move and name things
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # the direction of what follows
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # further line ends, marks of order and of notes
    "\ud800-\udfff]"  # halves of characters, as undecodable file names have them: no stream can write them
)
NAME_LENGTH = 80  # characters of the name of a preset or a collection
INVISIBLE_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # fillers, which count as letters or symbols


def escape_control(text: str) -> str:
    r"""`text` in one line, with what would steer a terminal or a log as \uXXXX, which JSON reads back as it was.

    >>> print(escape_control("a \x1b[31mred\x1b[0m boat\n\u202e"))
    a \u001b[31mred\u001b[0m boat\u000a\u202e
    """
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_blank(text: str) -> bool:
    r"""Whether nothing of it can be seen: only spaces, controls, marks without a letter and other invisible characters.

    >>> is_blank(" \u200b\ufeff\u2060"), is_blank("\U0001f642"), is_blank("\u0661")
    (True, False, False)
    """
    return not any(unicodedata.category(c)[0] in "LNPS" and c not in INVISIBLE_LETTERS for c in text)


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "video"), counted(0, "video")
    ('1 video', '0 videos')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def check_name(name: str, field: str) -> str:
    """A name that a user gave, in NFC and without spaces around it. Raises InvalidRequest, about `field`, for one that
    is empty, longer than NAME_LENGTH, or has characters that are not printed; "." and ".." are steps of an address.

    >>> check_name(" Caf\u0065\u0301 ", "name")
    'Café'
    """
    found = unicodedata.normalize("NFC", name).strip()
    if not 1 <= len(found) <= NAME_LENGTH or not found.isprintable() or {".", ".."} & {*found.split("/")}:
        hint = f"use 1 to {NAME_LENGTH} printable characters, other than . and .. alone."
        raise InvalidRequest("is no name;", hint=hint, field=field, value=escape_control(name[:NAME_LENGTH]))
    return found
