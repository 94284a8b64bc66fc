"""Requests made from earlier ones: again, edit, extend, vary. Pages, REST and command line share these functions.

Whoever submits such a request names the job that it was made from as its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.core.errors import InvalidRequest
from backend.core.schema import SEED, GenerationRequest, Mode, parse_request

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
    request: GenerationRequest, count: int, field: str | None = None, values: Sequence[Any] = ()
) -> list[GenerationRequest]:
    """`count` requests with seeds in a row, beginning with that of `request`; or with `field` one for each of `values`
    with the same seed. Raises InvalidRequest.
    """
    if field is not None:
        if field not in GenerationRequest.model_fields:
            raise InvalidRequest(f"field={field[:40]} is not a field of a request;", hint="name one.", field="field")
        _check_count(len(values), "values")
        return [edit(request, {field: value}) for value in values]
    _check_count(count, "count")
    seeds = int(SEED.most) + 1
    return [edit(request, {"seed": (request.seed + number) % seeds}) for number in range(count)]


def _check_count(count: int, field: str) -> None:
    if not 1 <= count <= VARIATIONS_MOST:
        raise InvalidRequest(
            f"{field} asks for {count} variations;", hint=f"ask for 1 to {VARIATIONS_MOST}.", field=field
        )


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
