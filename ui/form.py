"""The form of the Create page, as other pages fill it: the draft that the composer shows (components/js/draft.js)."""

from __future__ import annotations

from typing import Any

from backend.core.errors import StudioError
from backend.core.schema import SETTINGS
from ui.studio import studio


def worded(error: StudioError) -> str:
    """The message of `error`, with the page's names for the settings."""
    return error.worded({setting.field: f'"{setting.title}"' for setting in SETTINGS.values()}, equals=" ")


def change(**fields: Any) -> None:
    """Change fields of the form; None takes one back to its default."""
    form = studio().forms.draft.get()["form"] or {}
    studio().forms.draft.put({name: value for name, value in {**form, **fields}.items() if value is not None})
