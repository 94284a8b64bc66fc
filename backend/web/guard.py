"""ASGI middleware that checks every HTTP and WebSocket request, those to Streamlit's own routes included.

It accepts only known Host names (an unknown name on 127.0.0.1 is DNS rebinding), refuses unsafe requests of other
sites' pages, closes Streamlit's own upload route, requires the token if the studio has one, and adds the security
headers. It reads the raw headers, never a URL built from them.
"""

from __future__ import annotations

import html
import json
import re
import secrets
from collections.abc import Iterable
from urllib.parse import parse_qs, urlencode

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.web.network import COOKIE, COOKIE_KEEP_S

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
UPLOADS, LORAS = "/api/v1/uploads", "/api/v1/loras"
BODY_LIMIT = 2**20  # bytes of JSON
BODY_S = 20.0  # for all of them
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
STREAMLITS_UPLOADS = "upload_file"  # in the address of its own upload route, which no page of the studio uses
HOST = re.compile(r"([^:@/\s]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
ORIGIN = re.compile(r"https?://(.+)")  # https: of a reverse proxy that keeps the Host
ONCE = ("host", "origin", "sec-fetch-site", "sec-fetch-mode")

# Streamlit loads its components' scripts from blob: URLs and sets styles inline; nothing may come from another host.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' blob:",  # Streamlit's protobuf tries WebAssembly
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
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """ASGI middleware; `hosts` are the names, without port, under which the studio may be called. With a
    `token`, every request needs it: once in the address, as `?token=`, then as a cookie, or as `Authorization: Bearer`.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = LOOPBACK_HOSTS, token: str | None = None) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        reason, status, code = self.refusal(scope), 403, "forbidden"
        if reason is None and self.token is not None and not _has_token(scope, self.token):
            if scope["type"] == "http" and scope["method"] == "GET" and _equal(_token_in_query(scope), self.token):
                await _set_cookie(scope, send, self.token)
                return
            reason = "The studio asks for its token: add /?token=... to its address; it is in outputs/studio.token."
            status, code = 401, "no_token"
        if reason is None and (excess := body_problem(scope)):
            reason, status, code = excess, 413, "too_large"
        if reason is None and _has_small_body(scope):
            try:
                receive = await _with_body(receive)
            except TimeoutError:
                reason, status, code = f"The body did not come within {BODY_S:.0f} seconds; send it again.", 408, "slow"
        if reason is None:
            await self.app(_with_local_origin(scope), receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
        else:
            await _refuse(scope, send, status, code, reason)

    def refusal(self, scope: Scope) -> str | None:
        """Why the request is refused, or None."""
        found = {name: _values(scope, name) for name in ONCE}
        for name, values in found.items():
            if len(values) > 1:
                return f"The request has {len(values)} headers {name.title()}; send one."
        host, origin, site, mode = ("".join(found[name]) for name in ONCE)
        if host_name(host) not in self.hosts:
            way_out = "use http://localhost, or start the studio with --allow-host NAME (STUDIO_ALLOWED_HOSTS)."
            return f"The host name {host[:80]!r} is not one of this studio's; {way_out}"
        unsafe = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        foreign = site not in ("", "same-origin", "none")  # none: no page, but the user
        if foreign and (unsafe or mode != "navigate"):  # its links to the studio work, but it cannot embed a video
            return "A page of another site sent this request; only the studio's own pages may."
        if unsafe and found["origin"] and not _is_from(origin, host):
            way_out = "only its own pages may send this, and a reverse proxy must pass the Host on as it came."
            return f"The origin {origin[:80]!r} is not this studio's; {way_out}"
        if STREAMLITS_UPLOADS in scope["path"].lower():
            return f"The studio takes no files at this address; send them to {UPLOADS}."
        return None


def route_path(scope: Scope) -> str:
    """The path of a request without `root_path`: what the studio's routes are called.

    >>> route_path({"path": "/studio/api/v1/jobs", "root_path": "/studio"}), route_path({"path": "/docs"})
    ('/api/v1/jobs', '/docs')
    """
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _values(scope: Scope, name: str) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.decode("latin-1").lower() == name]


def host_name(host: str) -> str:
    """The name in a Host header without its port, in lower case; "[::1]" keeps its brackets. Empty for what is neither
    a name nor a name and a port.
    """
    match = HOST.fullmatch(host.lower())
    return match[1] if match else ""


def _is_from(origin: str, host: str) -> bool:
    """Whether a page with that Origin came from that Host. A browser writes the scheme in lower case."""
    match = ORIGIN.fullmatch(origin)
    return match is not None and match[1].lower() == host.lower()


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in present)]
        await send(message)

    return sender


def body_problem(scope: Scope) -> str | None:
    """The reason to refuse the body of an API call; only uploads may be large, and are streamed to disk."""
    if not _has_small_body(scope):
        return None
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers:
        return "A body without a Content-Length is only taken by uploads; send its length."
    if not length.isdigit() or int(length) > BODY_LIMIT:
        return f"A body of {length.decode('latin-1')[:20]} bytes is too large; send at most {BODY_LIMIT}."
    return None


def _has_small_body(scope: Scope) -> bool:
    path = route_path(scope)
    return scope["type"] == "http" and path.startswith("/api/") and path not in (UPLOADS, LORAS)


async def _with_body(receive: Receive) -> Receive:
    """Read the whole body and return a `receive` that replays it. Raises TimeoutError after BODY_S."""
    came: list[Message] = []
    with anyio.fail_after(BODY_S):
        while not came or came[-1].get("more_body", False):
            came.append(await receive())
    kept = iter(came)

    async def again() -> Message:
        return next(kept, None) or await receive()

    return again


def _with_local_origin(scope: Scope) -> Scope:
    """The request with localhost as its origin, which was checked: otherwise Streamlit would ask a server on the
    internet for this machine's address, to compare.
    """
    headers = []
    for name, value in scope["headers"]:
        if name == b"origin":
            value = b"http://localhost"
        elif name == b"host" and scope["type"] == "websocket":
            value = b"localhost"
        headers.append((name, value))
    return {**scope, "headers": headers}


def _has_token(scope: Scope, token: str) -> bool:
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    scheme, _, shown = headers.get(b"authorization", "").partition(" ")
    if scheme.lower() == "bearer" and _equal(shown.strip(), token):
        return True
    # Parsed by hand: a malformed cookie of another program for this host name must not hide ours.
    cookies = (pair.strip().partition("=") for pair in headers.get(b"cookie", "").split(";"))
    return any(name == COOKIE and _equal(value, token) for name, _, value in cookies)


def _equal(shown: str, token: str) -> bool:
    return secrets.compare_digest(shown.encode(), token.encode())


def _token_in_query(scope: Scope) -> str:
    shown: str = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
    return shown


async def _set_cookie(scope: Scope, send: Send, token: str) -> None:
    """Set the cookie and redirect to the same address without the token."""
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    rest = urlencode({name: values for name, values in query.items() if name != "token"}, doseq=True)
    # One slash: two would be an address on another host.
    path = "/" + scope.get("raw_path", b"/").decode("latin-1").partition("?")[0].lstrip("/\\")
    cookie = f"{COOKIE}={token}; Path={scope.get('root_path', '')}/; Max-Age={COOKIE_KEEP_S}; HttpOnly; SameSite=Strict"
    if scope.get("scheme") == "https":
        cookie += "; Secure"
    headers = [
        (b"location", (path + (f"?{rest}" if rest else "")).encode("latin-1")),
        (b"set-cookie", cookie.encode()),
        (b"cache-control", b"no-store"),
        (b"content-length", b"0"),
        *HEADERS,
    ]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(scope: Scope, send: Send, status: int, code: str, reason: str) -> None:
    """Send the reason as JSON, or as HTML to a browser that accepts a page."""
    wants_page = b"text/html" in dict(scope["headers"]).get(b"accept", b"")
    if wants_page:
        body = f"<!doctype html><title>Studio</title><p>{html.escape(reason)}</p>".encode()
    else:
        body = json.dumps({"error": {"code": code, "message": reason, "field": None}}).encode()
    kind = b"text/html; charset=utf-8" if wants_page else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *HEADERS]
    if status == 408:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
