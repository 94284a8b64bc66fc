"""Who may knock: a pure ASGI gate in front of every HTTP and WebSocket route, Streamlit's own included.

It takes only known Host names (a foreign name on 127.0.0.1 is DNS rebinding), refuses unsafe requests that another
site's page sends, and adds the security headers. It reads the raw headers, never a URL rebuilt from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
UPLOADS = "/api/v1/uploads"
BODY_LIMIT = 2**20  # bytes of JSON
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}

# Streamlit loads its components' scripts from blob: URLs and sets styles inline; nothing may come from another host.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Guard:
    """ASGI middleware; `hosts` are the names, without port, under which the studio may be called."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = LOOPBACK_HOSTS) -> None:
        self.app = app
        self.hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        reason = self.refusal(scope)
        if reason is None and (excess := body_problem(scope)):
            await _refuse(send, 413, "too_large", excess)
        elif reason is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
        else:
            await _refuse(send, 403, "forbidden", reason)

    def refusal(self, scope: Scope) -> str | None:
        """Why the request is refused, or None."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if host_name(host) not in self.hosts:
            return f"The host name {host[:80]!r} is not one of this studio's; use http://localhost."
        unsafe = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if unsafe and headers.get("sec-fetch-site") == "cross-site":
            return "A page of another site sent this request; only the studio's own pages may."
        origin = headers.get("origin")
        if unsafe and origin is not None and origin.partition("://")[2] != host:
            return f"The origin {origin[:80]!r} is not this studio's; only its own pages may send this."
        return None


def host_name(host: str) -> str:
    """The name in a Host header without its port, in lower case; "[::1]" keeps its brackets."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in present)]
        await send(message)

    return sender


def body_problem(scope: Scope) -> str | None:
    """Why the body of an API call is not read: only uploads may be large, and they are streamed to disk."""
    path = scope["path"]
    if scope["type"] != "http" or not path.startswith("/api/") or path == UPLOADS:
        return None
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers:
        return "A body without a Content-Length is only taken by uploads; send its length."
    if not length.isdigit() or int(length) > BODY_LIMIT:
        return f"A body of {length.decode('latin-1')[:20]} bytes is too large; send at most {BODY_LIMIT}."
    return None


async def _refuse(send: Send, status: int, code: str, reason: str) -> None:
    body = json.dumps({"error": {"code": code, "message": reason, "field": None}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
