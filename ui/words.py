"""User text as Streamlit shows it."""

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
