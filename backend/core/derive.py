"""Requests made from earlier ones: again, edit, extend, vary. Pages, REST and command line share these functions.

Whoever submits such a request names the job that it was made from as its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.core.errors import InvalidRequest, mention
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


def vary(
    request: GenerationRequest, count: int | None = None, setting: str | None = None, values: Sequence[Any] = ()
) -> list[GenerationRequest]:
    """`count` requests (1 by default) with the seeds after that of `request`; or one for each of `values` of a setting,
    named as in SETTINGS, with the same seed. Raises InvalidRequest.
    """
    if setting is None:
        if values:
            raise InvalidRequest("values need a setting;", hint=["name it in ", mention("field"), "."], field="values")
        count = 1 if count is None else count
        _check_count(count, "count")
        seeds = int(SEED.most) + 1
        return [edit(request, {"seed": (request.seed + number) % seeds}) for number in range(1, count + 1)]
    name = setting.removeprefix("skyreels.")
    if name not in SETTINGS:
        hint = f"use one of {', '.join(SETTINGS)}."
        raise InvalidRequest("is not a setting;", hint=hint, field="field", value=setting[:40])
    if count is not None:
        raise InvalidRequest("counts seeds, and values are given;", hint="leave one of them out.", field="count")
    _check_count(len(values), "values")
    return [edit(request, {"skyreels": {name: v}} if SETTINGS[name].is_skyreels else {name: v}) for v in values]


def _check_count(count: int, field: str) -> None:
    if not 1 <= count <= VARIATIONS_MOST:
        raise InvalidRequest(
            f"{field} asks for {count} variations;", hint=f"ask for 1 to {VARIATIONS_MOST}.", field=field
        )


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
