"""Timeout for request headers, and limits on the number of connections."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEADERS_S = 20.0
CONNECTIONS, CONNECTIONS_OF_ONE = 512, 256  # at a time, in all and from one address; a page takes about seven


class HeaderTimeoutProtocol(AutoHTTPProtocol):  # type: ignore[misc]
    """uvicorn's HTTP protocol, which also closes a connection that has not sent the headers of a request in HEADERS_S.

    uvicorn alone closes only connections that are idle after a response; a client that sends its headers byte by byte
    would keep a file handle of this process.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        others = [wire.client for wire in self.connections if wire.client is not None]
        address = self.client[0] if self.client else None
        if len(others) > CONNECTIONS or sum(client[0] == address for client in others) > CONNECTIONS_OF_ONE:
            transport.abort()
            return
        self._wait_for_headers()

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
