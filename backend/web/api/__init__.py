"""The REST API under /api/v1, and the media of the pages. Handlers only translate; VideoGenerator does the work."""

from __future__ import annotations

import re

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from backend.web.api import (  # noqa: F401 - they add their routes to api and media
    feed,
    forms,
    gallery,
    jobs,
    models,
    scripts,
    system,
    uploads,
    videos,
)
from backend.web.api.common import api, install_error_handlers, media
from backend.web.guard import route_path

METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
not_found = APIRouter(include_in_schema=False)


@not_found.api_route("/api/{path:path}", methods=METHODS)
@not_found.api_route("/api", methods=METHODS)
@not_found.api_route("/v1/{path:path}", methods=METHODS)
def nothing_here(request: Request) -> Response:
    """Without this, an unknown address would fall through to Streamlit, which answers every path with its page."""
    path = route_path(request.scope)
    known = any(getattr(route, "path_regex", re.compile("$^")).match(path) for route in api.routes)
    raise HTTPException(405 if known else 404)


def install(app: FastAPI) -> None:
    """The API and the media of the pages, their errors, and an answer for addresses under which there is nothing."""
    install_error_handlers(app)
    for router in (media, api, not_found):
        app.include_router(router)
