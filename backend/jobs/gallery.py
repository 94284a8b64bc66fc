"""The finished videos as a film maker sees them: cards, marks, collections, and the prompts that were used."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from backend.core.errors import Conflict, InvalidRequest, NotFound, no_such_job
from backend.core.ids import is_id
from backend.core.inputs import mode_title
from backend.core.registry import MODELS
from backend.core.text import check_name
from backend.jobs.filters import Filter, where_of
from backend.jobs.job import Job, JobState
from backend.jobs.rows import names_in
from backend.jobs.store import Store

Sort = Literal["newest", "oldest", "longest", "rating", "largest"]
Shape = Literal["landscape", "portrait", "square"]

COLLECTIONS_MOST = 500
COLLECTIONS_OF_ONE = 50  # that one video may be in

VIDEOS = Filter(kind="render", states=(JobState.SUCCEEDED,))


def _of(column: str, name: str) -> str:
    """SQL for a value in a column of JSON, null where that cannot be read: one damaged row must not hide the others."""
    return f"CASE WHEN json_valid({column}) THEN json_extract({column}, '$.{name}') END"


WIDTH, HEIGHT, FRAMES, FPS, BYTES = (_of("artifact", name) for name in ("width", "height", "frames", "fps", "bytes"))
SECONDS = f"coalesce(1.0 * {FRAMES} / {FPS}, 0)"
CARD = (
    "id, prompt, mode, model, parent, batch, finished_at, favourite, rating, approved, collections,"
    f" {WIDTH} AS width, {HEIGHT} AS height, {FRAMES} AS frames, {FPS} AS fps, {BYTES} AS bytes,"
    f" {_of('request', 'seed')} AS seed, {_of('request', 'draft_steps')} AS draft"
)
SHAPES: dict[Shape, str] = {
    "landscape": f"{WIDTH} > {HEIGHT}",
    "portrait": f"{WIDTH} < {HEIGHT}",
    "square": f"{WIDTH} = {HEIGHT}",
}
SORTS: dict[Sort, tuple[str, str]] = {
    "newest": ("finished_at", "DESC"),
    "oldest": ("finished_at", "ASC"),
    "longest": (SECONDS, "DESC"),
    "rating": ("coalesce(rating, 0)", "DESC"),
    "largest": (f"coalesce({BYTES}, 0)", "DESC"),
}
EACH_COLLECTION = "json_each(CASE WHEN json_valid(jobs.collections) THEN jobs.collections ELSE '[]' END)"
NAMES = "collections"  # the setting that holds the names of collections, the empty ones too


@dataclass(frozen=True, slots=True)
class VideoFilter:
    """Which videos to list; what is left out does not narrow. `since` and `until` are seconds since 1970."""

    search: str = ""
    mode: str | None = None
    model: str | None = None
    favourite: bool = False
    approved: bool | None = None
    collection: str | None = None
    shape: Shape | None = None
    since: float | None = None
    until: float | None = None
    parent: str | None = None
    batch: str | None = None
    trashed: bool = False

    def where(self) -> tuple[str, list[Any]]:
        where, values = where_of(
            replace(
                VIDEOS,
                search=self.search,
                mode=self.mode,
                model=self.model,
                favourite=self.favourite,
                parent=self.parent,
                batch=self.batch,
                trashed=self.trashed,
            )
        )
        clauses = [where]
        for given, clause in (
            (self.approved, "approved = ?"),
            (self.collection, f"EXISTS (SELECT 1 FROM {EACH_COLLECTION} AS name WHERE name.value = ?)"),
            (self.since, "finished_at >= ?"),
            (self.until, "finished_at < ?"),
        ):
            if given is not None:
                clauses.append(clause)
                values.append(given)
        if self.shape is not None:
            clauses.append(SHAPES[self.shape])
        return " AND ".join(clauses), values


@dataclass(frozen=True, slots=True)
class Page:
    """`cards` are JSON objects, `total` counts those of all pages; `next` is the cursor of the page after this one."""

    cards: list[dict[str, Any]]
    total: int
    next: str | None


class Gallery:
    """The videos of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._marking = threading.RLock()

    def page(self, wanted: VideoFilter, sort: Sort = "newest", limit: int = 200, cursor: str | None = None) -> Page:
        """At most `limit` cards from where the page before, whose `next` is `cursor`, has ended. Raises InvalidRequest
        for a cursor that is none.
        """
        key, direction = SORTS[sort]
        where, values = wanted.where()
        [counted] = self._store.select(f"SELECT count(*) AS total FROM jobs WHERE {where}", *values)
        if cursor is not None:
            where += f" AND ({key}, id) {'<' if direction == 'DESC' else '>'} (?, ?)"
            values += _read_cursor(cursor)
        # Sorted first, and only then are the documents of those on the page read.
        found = f"SELECT id AS found, {key} AS sort_key FROM jobs WHERE {where}"
        found += f" ORDER BY sort_key {direction}, id {direction} LIMIT ?"
        sql = f"SELECT {CARD}, sort_key FROM ({found}) JOIN jobs ON jobs.id = found"
        rows = self._store.select(f"{sql} ORDER BY sort_key {direction}, id {direction}", *values, limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        next_cursor = f"{rows[-1]['sort_key']!r}~{rows[-1]['id']}" if more else None
        return Page([_card(row) for row in rows], counted["total"], next_cursor)

    def prompts(self, search: str = "", limit: int = 50) -> list[str]:
        """Prompts of renders that are not in the trash, each once, the one used last first."""
        where, values = where_of(Filter(kind="render", search=search))
        sql = f"SELECT prompt FROM jobs WHERE {where} AND prompt <> '' GROUP BY prompt ORDER BY max(id) DESC LIMIT ?"
        return [row["prompt"] for row in self._store.select(sql, *values, limit)]

    def mark(self, job_id: str, marks: Mapping[str, Any]) -> Job:
        """Set those of `favourite`, `rating` (1 to 5, or None), `note`, `approved` and `collections` that are given.

        Raises NotFound, InvalidRequest for a name, and Conflict where what is no finished video is to be approved.
        """
        with self._marking:
            job, columns = self._store.get(job_id), dict(marks)
            if columns.get("approved") and (job.state is not JobState.SUCCEEDED or job.trashed_at is not None):
                where = "in the trash" if job.trashed_at is not None else job.state.value
                raise Conflict(f"Job {job_id} is {where};", hint="only a finished video can be approved.")
            if "collections" in columns:
                names = list(dict.fromkeys(check_name(name, "collections") for name in columns["collections"]))
                _check_number(job_id, names)
                self._make(names)
                columns["collections"] = json.dumps(names)
            if columns:
                sql = f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ?"
                self._store.change_many(sql, [(*columns.values(), job_id)], of_videos=True)
            return self._store.get(job_id)

    # --- collections: their names are a setting, what is in them is a column of the jobs ---

    def collections(self) -> list[dict[str, Any]]:
        """Each with `name`, `count` and `cover`, the id of the video in it that was finished last; by name."""
        where, values = where_of(VIDEOS)
        rows = self._store.select(
            "SELECT name.value AS name, count(*) AS count, jobs.id AS cover, max(finished_at)"
            f" FROM jobs, {EACH_COLLECTION} AS name"
            f" WHERE name.type = 'text' AND typeof(name.key) = 'integer' AND {where} GROUP BY name.value",
            *values,
        )
        found = {row["name"]: {name: row[name] for name in ("name", "count", "cover")} for row in rows}
        empty = {name: {"name": name, "count": 0, "cover": None} for name in self._names()}
        return sorted((empty | found).values(), key=lambda one: str(one["name"]).casefold())

    def collection(self, name: str) -> dict[str, Any]:
        """One of `collections`. Raises NotFound."""
        name = check_name(name, "name")
        found = [one for one in self.collections() if one["name"] == name]
        if not found:
            raise NotFound(f"There is no collection {name!r};", hint="GET /api/v1/collections lists those there are.")
        return found[0]

    def collect(self, name: str, add: Sequence[str] = (), remove: Sequence[str] = ()) -> dict[str, Any]:
        """Put jobs into a collection, which is made where there is none, and take others out of it.

        Raises NotFound for a job to add that is not there, before anything is changed, InvalidRequest and Conflict.
        """
        name = check_name(name, "name")
        with self._marking:
            rows = self._store.rows(add)
            for job_id in add:
                if job_id not in rows:
                    raise no_such_job(job_id)
                _check_number(job_id, {*names_in(rows[job_id]["collections"]), name})
            self._make([name])
            self._rewrite(add, into=name)
            self._rewrite(remove, out_of=name)
            return self.collection(name)

    def rename(self, name: str, new: str) -> dict[str, Any]:
        """Raises NotFound, InvalidRequest, and Conflict where there is a collection of the new name."""
        with self._marking:
            name, new = self.collection(name)["name"], check_name(new, "name")
            if new != name:
                if any(one["name"] == new for one in self.collections()):
                    raise Conflict(f"There is a collection {new!r} already;", hint="choose another name.")
                self._keep_names([*self._names(), new])
                self._rewrite(self._inside(name), into=new, out_of=name)
                self._forget(name)
            return self.collection(new)

    def remove(self, name: str) -> None:
        """Forget a collection; what is in it stays. Raises NotFound."""
        with self._marking:
            name = self.collection(name)["name"]
            self._rewrite(self._inside(name), out_of=name)
            self._forget(name)

    def _rewrite(self, job_ids: Sequence[str], into: str | None = None, out_of: str | None = None) -> None:
        """Put jobs into one collection and take them out of another."""
        changes = []
        for job_id, row in self._store.rows(job_ids).items():
            before = names_in(row["collections"])
            names = [name for name in before if name != out_of]
            if into is not None and into not in names:
                names.append(into)
            if names != list(before):
                changes.append((json.dumps(names), job_id))
        self._store.change_many("UPDATE jobs SET collections = ? WHERE id = ?", changes, of_videos=True)

    def _inside(self, name: str) -> list[str]:
        sql = f"SELECT id FROM jobs WHERE EXISTS (SELECT 1 FROM {EACH_COLLECTION} AS name WHERE name.value = ?)"
        return [row["id"] for row in self._store.select(sql, name)]

    def _names(self) -> tuple[str, ...]:
        return names_in(self._store.setting(NAMES) or "[]")

    def _make(self, names: Sequence[str]) -> None:
        there = {one["name"] for one in self.collections()}
        new = [name for name in names if name not in there]
        if len(there) + len(new) > COLLECTIONS_MOST:
            raise Conflict(f"There are {len(there)} collections, which is the limit;", hint="delete one first.")
        if new:
            self._keep_names([*self._names(), *new])

    def _forget(self, name: str) -> None:
        self._keep_names([one for one in self._names() if one != name])

    def _keep_names(self, names: Sequence[str]) -> None:
        self._store.set_setting(NAMES, json.dumps(names), of_videos=True)


def _check_number(job_id: str, names: Collection[str]) -> None:
    if len(names) > COLLECTIONS_OF_ONE:
        reason = f"The video {job_id} would be in {len(names)} collections;"
        raise InvalidRequest(reason, hint=f"put it into at most {COLLECTIONS_OF_ONE}.", field="collections")


def _card(row: Any) -> dict[str, Any]:
    spec = MODELS.get(row["model"])
    frames, fps = row["frames"], row["fps"]
    names = ("id", "width", "height", "frames", "fps", "bytes", "seed", "draft", "model", "mode", "parent", "batch")
    return {name: row[name] for name in (*names, "finished_at", "rating")} | {
        "title": row["prompt"] or mode_title(row["mode"] or ""),
        "seconds": round(frames / fps, 3) if frames and fps else None,
        "model_title": spec.title if spec else row["model"],
        "favourite": bool(row["favourite"]),
        "approved": bool(row["approved"]),
        "collections": list(names_in(row["collections"])),
    }


def _read_cursor(cursor: str) -> list[Any]:
    key, _, job_id = cursor.rpartition("~")
    try:
        value = float(key)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not is_id(job_id):
        raise InvalidRequest("is no cursor;", hint="use the `next` of the page before.", field="cursor", value=cursor)
    return [value, job_id]
