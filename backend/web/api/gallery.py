"""The gallery: cards of finished videos, and collections."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from backend.core.schema import Mode
from backend.jobs.gallery import Shape, Sort, VideoFilter
from backend.web.api.common import Generator, api

YEAR_9999 = 253402300799.0
Seconds = Annotated[float, Field(ge=0, le=YEAR_9999)]
Ids = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=500)]


class VideoQuery(BaseModel):
    """Which videos, in which order, and how many: `cursor` is the `next` of the page before."""

    search: str = Field("", max_length=1000)
    mode: Mode | None = None
    model: str | None = Field(None, max_length=200)
    favourite: bool = False
    approved: bool | None = None
    collection: str | None = Field(None, max_length=100)
    shape: Shape | None = None
    since: Seconds | None = Field(None, description="finished then or later, in seconds since 1970")
    until: Seconds | None = Field(None, description="finished before then")
    parent: str | None = Field(None, max_length=100)
    batch: str | None = Field(None, max_length=100)
    trashed: bool = False
    sort: Sort = "newest"
    limit: int = Field(200, ge=1, le=1000)
    cursor: str | None = Field(None, max_length=100)

    def filter(self) -> VideoFilter:
        fields = self.model_dump(exclude={"sort", "limit", "cursor"})
        return VideoFilter(**fields | {"mode": self.mode and self.mode.value})


@api.get("/videos", tags=["videos"])
def list_videos(generator: Generator, query: Annotated[VideoQuery, Query()]) -> dict[str, Any]:
    """Cards of finished videos, or of those in the trash: what a gallery shows, without requests and plans."""
    page = generator.gallery.page(query.filter(), query.sort, query.limit, query.cursor)
    return {"videos": page.cards, "total": page.total, "next": page.next}


@api.get("/collections", tags=["videos"])
def list_collections(generator: Generator) -> dict[str, Any]:
    """The collections by name, with the number of videos in each and the one that was finished last."""
    return {"collections": generator.gallery.collections()}


class Change(BaseModel):
    """Ids of the jobs to put into a collection, and of those to take out of it."""

    model_config = ConfigDict(extra="forbid")

    add: Ids = []
    remove: Ids = []


class NewName(BaseModel):
    """The new name of a collection."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)


@api.put("/collections/{name:path}", tags=["videos"])
def change_collection(name: str, change: Change, generator: Generator) -> dict[str, Any]:
    """Put videos into a collection, which is made where there is none, and take others out of it."""
    return generator.gallery.collect(name, change.add, change.remove)


@api.patch("/collections/{name:path}", tags=["videos"])
def rename_collection(name: str, new: NewName, generator: Generator) -> dict[str, Any]:
    """Give a collection another name."""
    return generator.gallery.rename(name, new.name)


@api.delete("/collections/{name:path}", tags=["videos"])
def remove_collection(name: str, generator: Generator) -> dict[str, str]:
    """Forget a collection; the videos in it stay."""
    generator.gallery.remove(name)
    return {"removed": name}
