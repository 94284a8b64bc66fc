"""The draft of the form, and presets of settings."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from backend.jobs.forms import Form
from backend.web.api.common import Generator, api

Name = Annotated[str, Path(description="1 to 80 printable characters")]


class DraftBody(BaseModel):
    """The form of Create; null forgets the draft."""

    model_config = ConfigDict(extra="forbid")

    form: Form | None


@api.get("/draft", tags=["forms"])
def show_draft(generator: Generator) -> dict[str, Any]:
    """The form as it was left last, in whichever browser; null where nothing was kept."""
    return generator.forms.draft.get()


@api.put("/draft", tags=["forms"])
def keep_draft(body: DraftBody, generator: Generator) -> dict[str, Any]:
    """Keep the form in place of the one before; it is on the disk when this answers."""
    return generator.forms.draft.put(body.form)


class PresetBody(BaseModel):
    """The settings of a preset; `is_default` is left as it is where it is left out."""

    model_config = ConfigDict(extra="forbid")

    form: Form
    is_default: bool | None = Field(None, strict=True)


@api.get("/presets", tags=["forms"])
def list_presets(generator: Generator) -> dict[str, Any]:
    """The presets of settings, by name."""
    return {"presets": generator.forms.presets.all()}


@api.put("/presets/{name:path}", tags=["forms"])
def keep_preset(name: Name, body: PresetBody, generator: Generator) -> dict[str, Any]:
    """Keep settings under a name, in place of an earlier preset of that name; a new default replaces the old one."""
    return generator.forms.presets.put(name, body.form, body.is_default)


@api.delete("/presets/{name:path}", tags=["forms"])
def remove_preset(name: Name, generator: Generator) -> dict[str, str]:
    """Forget a preset."""
    generator.forms.presets.remove(name)
    return {"removed": name}
