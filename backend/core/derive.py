"""Requests made from earlier ones: again, edit, extend, vary, promote. All clients share these functions.

Whoever submits such a request names the job that it was made from as its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from backend.core.errors import InvalidRequest, Words, mention
from backend.core.schema import SEED, SETTINGS, GenerationRequest, Mode, parse_request

VARIATIONS_MOST = 12
NO_CHANGES: Mapping[str, Any] = {}


def again(request: GenerationRequest, changes: Mapping[str, Any] = NO_CHANGES) -> GenerationRequest:
    """The same request with a new seed, and with `changes` to its fields. Raises InvalidRequest."""
    return edit(request, {"seed": None} | dict(changes))


def edit(request: GenerationRequest, changes: Mapping[str, Any]) -> GenerationRequest:
    """The same request, seed included, with `changes` to its fields; None takes a field back to its default.

    `changes["skyreels"]` changes single options. Raises InvalidRequest where the fields do not go together.
    """
    fields = request.model_dump(mode="json")
    changes = dict(changes)
    if "num_frames" in changes or "seconds" in changes:  # both give the length
        fields |= {"num_frames": None, "seconds": None}
    options = changes.pop("skyreels", {})
    if isinstance(options, Mapping):
        options = _without_nulls(fields["skyreels"] | dict(options))
    return parse_request(_without_nulls(fields | changes | {"skyreels": options}))


def extend(request: GenerationRequest, video: str, changes: Mapping[str, Any] = NO_CHANGES) -> GenerationRequest:
    """A request that continues the video of `request`, which is the upload `video`. Raises InvalidRequest."""
    continued = {"mode": Mode.VIDEO_EXTENSION.value, "video": video, "image": None, "end_image": None}
    options = changes.get("skyreels", {})
    if isinstance(options, Mapping):
        options = {"storyboard": None} | dict(options)
    return again(request, continued | dict(changes) | {"skyreels": options})


def promote(draft: GenerationRequest) -> GenerationRequest:
    """The request that finishes a draft: it differs in nothing but that it is none."""
    return draft.model_copy(update={"draft_steps": None})


class Variations(BaseModel):
    """What varies: the seed, `count` times, or with one and the same seed a setting or the prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int | None = Field(None, strict=True, description="how many seeds, each the next one; 1 by default")
    field: str | None = Field(None, max_length=100, description="a setting that is varied instead of the seed")
    values: tuple[Any, ...] = Field((), description="a value of that setting for each variation")
    prompts: tuple[str, ...] = Field((), description="a prompt for each variation, instead of seeds or a setting")
    draft_steps: int | None = Field(None, strict=True, description="makes drafts of so many steps")


def vary(request: GenerationRequest, wanted: Variations, *, first: int = 1) -> list[GenerationRequest]:
    """The variations of `request`, in their order. Seeds count from its own, `first` is 0, or from the next one.

    Raises InvalidRequest.
    """
    if wanted.draft_steps is not None:
        request = edit(request, {"draft_steps": wanted.draft_steps})
    name, values, field = _swept(wanted)
    if name is None:
        count = 1 if wanted.count is None else wanted.count
        _check_count(count, "count")
        seeds = int(SEED.most) + 1
        return [edit(request, {"seed": (request.seed + first + number) % seeds}) for number in range(count)]
    if wanted.count is not None:
        hint: Words = ["leave out ", mention("count"), " or ", mention(field), "."]
        raise InvalidRequest(
            "counts seeds, and another setting is to vary;", hint=hint, field="count", value=wanted.count
        )
    _check_count(len(values), field)
    return [edit(request, {"skyreels": {name: v}} if SETTINGS[name].is_skyreels else {name: v}) for v in values]


def _swept(wanted: Variations) -> tuple[str | None, Sequence[Any], str]:
    """The setting that varies, its values, and the field that gives them; no setting where the seed varies."""
    if wanted.prompts:
        if wanted.field is not None or wanted.values:
            reason: Words = [mention("prompts"), " and ", mention("values"), " are both given;"]
            raise InvalidRequest(reason, hint="send one of them.", field="prompts")
        return "prompt", wanted.prompts, "prompts"
    if wanted.field is None:
        if wanted.values:
            raise InvalidRequest("values need a setting;", hint=["name it in ", mention("field"), "."], field="values")
        return None, (), "count"
    name = wanted.field.removeprefix("skyreels.")
    if name not in SETTINGS:
        hint = f"use one of {', '.join(SETTINGS)}."
        raise InvalidRequest("is not a setting;", hint=hint, field="field", value=wanted.field[:40])
    return name, wanted.values, "values"


def _check_count(count: int, field: str) -> None:
    if not 1 <= count <= VARIATIONS_MOST:
        raise InvalidRequest(
            f"{field} asks for {count} variations;", hint=f"ask for 1 to {VARIATIONS_MOST}.", field=field
        )


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
