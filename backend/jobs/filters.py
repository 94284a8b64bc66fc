"""Which jobs to list, and the SQL that finds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from backend.jobs.job import JobState

SEARCH_WORDS = 50  # SQLite refuses conditions without end


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs to list; what is left out does not narrow. `before` is the id after which a list goes on."""

    states: Sequence[JobState] = ()
    kind: str | None = None
    parent: str | None = None
    batch: str | None = None
    search: str = ""
    mode: str | None = None
    model: str | None = None
    favourite: bool = False
    trashed: bool = False
    before: str | None = None
    ended_since: float | None = None
    last_ended_first: bool = False


ALL = Filter()


def where_of(wanted: Filter) -> tuple[str, list[Any]]:
    """The condition of a query of the jobs table that narrows it to `wanted`, and its values."""
    clauses = ["trashed_at IS NOT NULL" if wanted.trashed else "trashed_at IS NULL"]
    values: list[Any] = []

    def narrow(clause: str, *given: Any) -> None:
        clauses.append(clause)
        values.extend(given)

    for column in ("kind", "parent", "batch"):
        if getattr(wanted, column) is not None:
            narrow(f"{column} = ?", getattr(wanted, column))
    if wanted.states:
        narrow(f"state IN ({marks(wanted.states)})", *(state.value for state in wanted.states))
    for word in wanted.search.split()[:SEARCH_WORDS]:
        narrow("prompt LIKE ? ESCAPE '\\'", f"%{_escape_like(word)}%")
    if wanted.mode:
        narrow("mode = ?", wanted.mode)
    if wanted.model:
        narrow("model = ?", wanted.model)
    if wanted.favourite:
        narrow("favourite = 1")
    if wanted.before:
        narrow("id < ?", wanted.before)
    if wanted.ended_since is not None:
        narrow("finished_at >= ?", wanted.ended_since)
    return " AND ".join(clauses), values


def marks(values: Iterable[Any]) -> str:
    """Question marks, one for each value of a statement."""
    return ", ".join("?" for _ in values)


def _escape_like(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
