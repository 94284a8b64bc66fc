"""The JavaScript modules and styles of the pages' components, at an address that changes with their content."""

from __future__ import annotations

import re

from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from backend.core.config import ROOT
from backend.web.api.common import media

COMPONENTS = ROOT / "ui" / "components" / "js"
NAME = re.compile(r"[a-z]+\.js")
FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


@media.get("/app/static/components/{version}/{name}")
def script_of_a_component(version: str, name: str) -> FileResponse:
    """`version` is `ui.components.VERSION`, so that a browser never runs modules of two versions together."""
    file = COMPONENTS / name
    if not NAME.fullmatch(name) or not file.is_file():
        raise HTTPException(404)
    return FileResponse(file, media_type="text/javascript", headers=FOREVER)
