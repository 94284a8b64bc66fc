"""Names of jobs and uploads: 20 characters of 0-9 and a-z that sort as they were made."""

from __future__ import annotations

import re
import secrets
import time

from backend.core.schema import UPLOAD_ID

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
TIME_LENGTH = 10  # microseconds since 1970 fit into 10 digits until the year 2085
RANDOM_LENGTH = 10  # 51 bits, so that nobody guesses the id of somebody else's upload


def new_id(now: float | None = None, after: str = "") -> str:
    """A new id; `now` is in seconds since 1970, the clock's time by default. It sorts behind the id `after` even where
    the clock was set back since that one was made.

    >>> new_id(now=0)[:10], len(new_id())
    ('0000000000', 20)
    """
    moment = time.time_ns() // 1000 if now is None else int(now * 1e6)
    if after:
        moment = max(moment, int(after[:TIME_LENGTH], len(DIGITS)) + 1)
    return _in_base_36(moment, TIME_LENGTH) + "".join(secrets.choice(DIGITS) for _ in range(RANDOM_LENGTH))


def is_id(text: str) -> bool:
    """Whether `text` could have come from `new_id`; anything else must not become part of a path."""
    return re.fullmatch(UPLOAD_ID, text, re.ASCII) is not None


def _in_base_36(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(DIGITS))
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))
