"""The WebSocket that tells open pages what has changed; one poller serves all of them.

A WebSocket, because a browser opens at most six HTTP/1.1 connections to a host, those of all its tabs together.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from backend.core.errors import StudioError
from backend.jobs.feed import Feed
from backend.web.api.common import api

EVERY_S = 0.5  # between two messages to a page, at least
TRY_AGAIN = 1013  # of RFC 6455's registry of close codes

log = logging.getLogger(__name__)


@api.websocket("/live")
async def feed(socket: WebSocket) -> None:
    """Send what the pages show, then every change of it, until the client closes; what the client sends is ignored."""
    await socket.accept()
    async with _broadcast(socket.app).connection() as broadcast, anyio.create_task_group() as group:
        group.start_soon(broadcast.send_to, socket)
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
        group.cancel_scope.cancel()


def _broadcast(app: Starlette) -> Broadcast:
    """That of the connections that are open, a new one where there are none."""
    found: Broadcast | None = getattr(app.state, "broadcast", None)
    if found is None or not found.connections or found.failed:
        found = app.state.broadcast = Broadcast(app.state.generator.feed)
    return found


class Broadcast:
    """Polls a feed for as long as there are connections, and encodes a message once for all that need the same."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.connections = 0
        self.failed = False
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()
        self._poller: asyncio.Task[None] | None = None
        self._texts: dict[tuple[int, int], str] = {}

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Broadcast]:
        self.connections += 1
        try:
            await self._read()
            if self._poller is None:
                self._poller = asyncio.create_task(self._poll())
            yield self
        finally:
            self.connections -= 1
            if not self.connections and self._poller is not None:
                self._poller.cancel()

    async def send_to(self, socket: WebSocket) -> None:
        """Send all, then what is new, at most every EVERY_S; close the socket where nothing can be read any more."""
        sent = 0
        with suppress(WebSocketDisconnect):
            while not self.failed:
                changed = self._changed
                if (version := self._feed.version) != sent:
                    await socket.send_text(self._text(version, sent))
                    sent = version
                    await asyncio.sleep(EVERY_S)
                await changed.wait()
            if socket.application_state is WebSocketState.CONNECTED:
                await socket.close(TRY_AGAIN)

    def _text(self, version: int, since: int) -> str:
        """The message to who has seen `since`, of `version` or, where the feed has just gone on, of a later one."""
        if (version, since) not in self._texts:
            self._texts[version, since] = json.dumps(self._feed.message(since))
        return self._texts[version, since]

    async def _poll(self) -> None:
        while not self.failed:
            await asyncio.sleep(EVERY_S)
            await self._read()

    async def _read(self) -> None:
        async with self._reading:
            try:
                if not await run_in_threadpool(self._feed.poll):
                    return
            except (sqlite3.Error, OSError, StudioError):
                log.exception("the pages cannot be told what has changed; they connect again")
                self.failed = True
            self._texts = {}
            self._changed.set()
            self._changed = asyncio.Event()
