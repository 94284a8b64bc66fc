"""The kinds of jobs by name. A new kind is a file here and an entry below."""

from __future__ import annotations

from backend.jobs.kind import AnyKind
from backend.jobs.kinds.export import EXPORT
from backend.jobs.kinds.render import RENDER

KINDS: dict[str, AnyKind] = {kind.name: kind for kind in (RENDER, EXPORT)}
