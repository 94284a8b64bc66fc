"""The form of the Create page, as other pages fill it: the draft that the composer shows (components/js/draft.js)."""

from __future__ import annotations

from typing import Any

from ui.studio import studio


def change(**fields: Any) -> None:
    """Change fields of the form; None takes one back to its default."""
    form = studio().forms.draft.get()["form"] or {}
    studio().forms.draft.put({name: value for name, value in {**form, **fields}.items() if value is not None})
