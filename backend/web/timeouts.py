"""Timeout for request headers, and limits on the number of connections."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from backend.web.guard import HEADERS

HEADERS_S = 20.0
CONNECTIONS, CONNECTIONS_OF_ONE = 2048, 1024  # served at a time, in all and from one address; a page takes about seven
REFUSED = 1024  # further ones at a time that are sent BUSY; only beyond them is a connection reset
SILENT_S = 1.0  # a further one that sends nothing for so long is closed without an answer
LINGER_S = 5.0  # what a refused client still sends is read for so long: to close before would reset the connection
RETRY_AFTER_S = 5


class HeaderTimeoutProtocol(AutoHTTPProtocol):  # type: ignore[misc]
    """uvicorn's HTTP protocol, which also closes a connection that has not sent the headers of a request in HEADERS_S,
    and answers 503 on connections beyond the limits.

    uvicorn alone closes only connections that are idle after a response; a client that sends its headers byte by byte
    would keep a file handle of this process.
    """

    _deadline: asyncio.TimerHandle | None = None
    refused = False
    _answered = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        served = [wire.client for wire in self.connections if not getattr(wire, "refused", False) and wire.client]
        address = self.client[0] if self.client else None
        if len(served) > CONNECTIONS or sum(client[0] == address for client in served) > CONNECTIONS_OF_ONE:
            self._refuse()
        else:
            self._wait_for_headers()

    def _refuse(self) -> None:
        """Serve no request on this connection: the first one is answered with BUSY."""
        self.refused = True
        if sum(getattr(wire, "refused", False) for wire in self.connections) > REFUSED:
            self.transport.abort()
        else:
            self._deadline = self.loop.call_later(SILENT_S, self.transport.close)

    def data_received(self, data: bytes) -> None:
        if not self.refused:
            super().data_received(data)
        elif not self._answered:
            self._answered = True
            self._forget()
            self.transport.write(BUSY)
            self.transport.write_eof()
            self._deadline = self.loop.call_later(LINGER_S, self.transport.close)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _wait_for_headers(self) -> None:
        self._forget()
        self._deadline = self.loop.call_later(HEADERS_S, self._close_unless_busy)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _close_unless_busy(self) -> None:
        responding = self.cycle is not None and not self.cycle.response_complete
        upgraded = self.transport.get_protocol() is not self  # to a WebSocket
        if not responding and not upgraded:
            self.transport.close()


def _busy() -> bytes:
    message = f"The studio has too many connections; try again in {RETRY_AFTER_S} seconds."
    body = json.dumps({"error": {"code": "busy", "message": message, "field": None}}).encode()
    headers = (
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"%d" % RETRY_AFTER_S),
        (b"connection", b"close"),
        *HEADERS,
    )
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return b"HTTP/1.1 503 Service Unavailable\r\n" + lines + b"\r\n" + body


BUSY = _busy()  # the whole response
