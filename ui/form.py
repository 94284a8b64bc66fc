"""The form of the Create page, as other pages fill it: the draft that the composer shows (components/js/draft.js)."""

from __future__ import annotations

from typing import Any

from backend.core.errors import StudioError
from backend.core.plan import Plan
from backend.core.schema import SETTINGS, GenerationRequest
from ui.studio import studio


def worded(error: StudioError) -> str:
    """The message of `error`, with the page's names for the settings."""
    return error.worded({setting.field: f'"{setting.title}"' for setting in SETTINGS.values()}, equals=" ")


def change(**fields: Any) -> None:
    """Change fields of the form; None takes one back to its default."""
    form = studio().forms.draft.get()["form"] or {}
    studio().forms.draft.put({name: value for name, value in {**form, **fields}.items() if value is not None})


def restore(request: GenerationRequest, plan: Plan, *, seed: int | None, **more: Any) -> None:
    """Put the settings of a request into the form; `seed=None` leaves it to chance. Defaults stay defaults."""
    form = request.model_dump(mode="json", exclude_defaults=True)
    form |= {"mode": request.mode.value, "prompt": request.prompt, "num_frames": plan.num_frames, "seed": seed} | more
    form.pop("seconds", None)
    if form.get("skyreels", {}).get("storyboard"):
        form |= {"story": True, "prompt": "\n".join([request.prompt, *request.skyreels.storyboard])}
    studio().forms.draft.put({name: value for name, value in form.items() if value is not None})
