"""Numbers and user text as the pages show them."""

from __future__ import annotations

import re
import time

LINK = re.compile(r"(:(?=//)|www(?=\.)|@)", re.IGNORECASE)  # an invisible joiner behind it keeps it from being a link
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>$:~])")


def escape_markdown(text: str) -> str:
    """User text for a Markdown slot: nothing in it means anything.

    >>> escape_markdown("**a** :material/star: $x$")
    '\\\\*\\\\*a\\\\*\\\\* \\\\:material/star\\\\: \\\\$x\\\\$'
    """
    return MARKDOWN.sub(r"\\\1", LINK.sub("\\1\u2060", " ".join(text.split())))


def shortened(text: str, most: int = 60) -> str:
    """At most `most` characters, cut at a word."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rsplit(" ", 1)[0].rstrip(",;.") + "…"


def duration(seconds: float) -> str:
    """
    >>> [duration(s) for s in (0.4, 2.66, 14, 200, 3900)]
    ['0.4 s', '2.7 s', '14 s', '3 min 20 s', '1 h 05 min']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """
    >>> [size(n) for n in (999, 41_300_000, 1_250_000_000)]
    ['1.0 kB', '41.3 MB', '1.2 GB']
    """
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} GB"


def clock(at: float) -> str:
    """A time of day, as on the wall."""
    return time.strftime("%H:%M", time.localtime(at))


def ago(then: float, now: float | None = None) -> str:
    """
    >>> [ago(5, now) for now in (4, 17.4, 100, 8000)]
    ['0 s ago', '12 s ago', '1 min ago', '2 h ago']
    """
    passed = max(0.0, (time.time() if now is None else now) - then)
    return f"{passed:.0f} s ago" if passed < 60 else age(0, passed)


def age(then: float, now: float | None = None) -> str:
    """
    >>> [age(0, now) for now in (20, 200, 7300, 200_000)]
    ['just now', '3 min ago', '2 h ago', '2 days ago']
    """
    passed = (time.time() if now is None else now) - then
    if passed < 60:
        return "just now"
    if passed < 3600:
        return f"{passed // 60:.0f} min ago"
    if passed < 86400:
        return f"{passed // 3600:.0f} h ago"
    days = int(passed // 86400)
    return "yesterday" if days == 1 else f"{days} days ago"
