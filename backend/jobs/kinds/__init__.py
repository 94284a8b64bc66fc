"""The kinds of jobs by name. A new kind is a file here and an entry below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from backend.core.errors import InvalidRequest
from backend.core.schema import explain
from backend.jobs.job import JobRequest
from backend.jobs.kind import AnyKind
from backend.jobs.kinds.export import EXPORT
from backend.jobs.kinds.render import RENDER

KINDS: dict[str, AnyKind] = {kind.name: kind for kind in (RENDER, EXPORT)}


def kind_of(body: Any) -> str:
    """The kind that a JSON body asks for: its field `kind`, or `render`."""
    return str(body.get("kind", RENDER.name)) if isinstance(body, Mapping) else RENDER.name


def parse_job_request(data: Mapping[str, Any]) -> JobRequest:
    """The request in `data`, of the kind that it names. Raises InvalidRequest."""
    kind = KINDS.get(kind_of(data))
    if kind is None:
        raise unknown_kind(kind_of(data))
    try:
        request: JobRequest = kind.request.model_validate(dict(data))
    except ValidationError as error:
        raise explain(error.errors(), kind.request) from None
    return request


def unknown_kind(name: str) -> InvalidRequest:
    """The refusal of a kind that there is not."""
    *others, last = KINDS
    hint = f"use {', '.join(others)} or {last}."
    return InvalidRequest("is not a kind of job;", hint=hint, field="kind", value=name[:40])
