"""Numbers and user text as the pages show them."""

from __future__ import annotations

import re

LINK = re.compile(r"(:(?=//)|www(?=\.)|@)", re.IGNORECASE)  # an invisible joiner behind it keeps it from being a link
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>$:~])")


def escape_markdown(text: str) -> str:
    """User text for a Markdown slot: nothing in it means anything.

    >>> escape_markdown("**a** :material/star: $x$")
    '\\\\*\\\\*a\\\\*\\\\* \\\\:material/star\\\\: \\\\$x\\\\$'
    """
    return MARKDOWN.sub(r"\\\1", LINK.sub("\\1\u2060", " ".join(text.split())))


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
