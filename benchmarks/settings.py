"""The tables of docs/usage.md that repeat what the code declares: settings of a request, variables of the environment.

python -m benchmarks.settings
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

from backend.cli.flags import FLAGS, flag_type
from backend.core.config import GIB, MIB, ROOT, Settings, variable_of, wanted
from backend.core.inputs import INPUTS
from backend.core.schema import SETTINGS, Setting

PAGE = ROOT / "docs" / "usage.md"


def page(text: str) -> str:
    """`text`, a page of docs, with its tables as the code has them; each stands between two comments with its name."""
    for name, rows in {"settings": settings(), "variables": variables()}.items():
        mark = f"<!-- {name}: python -m benchmarks.settings -->"
        before, _, after = text.split(mark)
        text = mark.join([before, "\n".join(["", *rows, ""]), after])
    return text


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    columns = list(head)
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def settings() -> list[str]:
    rows = [
        (setting.title, f"`{FLAGS[setting.name]}`", f"`{setting.field}`", setting.help, accepts(setting))
        for setting in SETTINGS.values()
    ]
    return table(("setting", "command line", "REST", "what it does", "takes"), rows)


def accepts(setting: Setting) -> str:
    """
    >>> [accepts(SETTINGS[name]) for name in ("fps", "orientation", "causal_attention", "image", "prompt")]
    ['8 to 30', '`landscape`, `portrait`, `square`', 'on or off', 'a file', 'text']
    """
    kind = flag_type(setting.annotation)
    if setting.bounds:
        return str(setting.bounds)
    if setting.name in INPUTS:
        return "a file"
    if kind is bool:
        return "on or off"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{choice.value}`" for choice in kind)
    return "text" if kind is str else "a list"


def variables() -> list[str]:
    rows = [
        (f"`{variable_of(field)}`", info.description or "", wanted(field), shown(field, info.default))
        for field, info in Settings.model_fields.items()
    ]
    return table(("variable", "what it sets", "takes", "if left out"), rows)


def shown(field: str, value: Any) -> str:
    """A default in words.

    >>> shown("trash_keep_s", 7 * 24 * 3600.0), shown("save_every_s", 30.0), shown("upload_limit_bytes", 500 * MIB)
    ('604800 (7 days)', '30', '524288000 (500 MiB)')
    """
    if value in (None, "", ()) or isinstance(value, Path):
        return ""
    if field.endswith("_bytes"):
        return f"{value} ({value // GIB} GiB)" if value >= GIB else f"{value} ({value // MIB} MiB)"
    days = value / (24 * 3600)
    if field.endswith("_s") and days >= 1:
        return f"{value:.0f} ({days:.0f} day{'s' if days > 1 else ''})"
    return f"{value:g}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
