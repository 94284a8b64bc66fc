"""ASGI middleware for a studio that a reverse proxy shows under a path of its own, as https://example.org/studio/.

The proxy may remove the path from the address of a request or leave it there.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from backend.web.guard import HEADERS


class BasePath:
    """Give every request `base_path` as its `root_path`, which the ASGI specification has at the beginning of `path`.

    An address with the path and one without it are the same. `base_path` is "/studio" or the like, without a slash at
    its end. The path alone is redirected to the path with a slash: links of the pages are relative.
    """

    def __init__(self, app: ASGIApp, base_path: str) -> None:
        self.app = app
        self.base_path = base_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == self.base_path:
            await self._add_slash(scope, send)
        else:
            raw_path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
            paths = {"path": self._full(scope["path"]), "raw_path": self._full(raw_path).encode("latin-1")}
            await self.app({**scope, **paths, "root_path": self.base_path}, receive, send)

    def _full(self, path: str) -> str:
        return path if path.startswith(f"{self.base_path}/") else self.base_path + path

    async def _add_slash(self, scope: Scope, send: Send) -> None:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        headers = [(b"location", self.base_path.encode() + b"/" + query), (b"content-length", b"0"), *HEADERS]
        await send({"type": "http.response.start", "status": 308, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
