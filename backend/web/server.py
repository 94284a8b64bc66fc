"""One process, one port: FastAPI outermost with the API and the media, Streamlit's pages mounted last."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from backend import __version__
from backend.core.config import ROOT, Settings
from backend.video_generator import shared_generator, stop_shared_generator
from backend.web.api import install
from backend.web.base_path import BasePath
from backend.web.guard import LOOPBACK_HOSTS, Guard

log = logging.getLogger(__name__)


def page_failed(error: Exception) -> bool:
    """A page raised what it should not have: into the log, and a sentence in its place."""
    import streamlit

    log.error("a page failed: %s", error, exc_info=error)
    streamlit.error(
        "This page could not be shown; your videos and the queue are as they were. Reload it; the reason is in"
        " outputs/studio.log.",
        icon=":material/error:",
    )
    return True


def create_app(settings: Settings, hosts: Iterable[str] = LOOPBACK_HOSTS, token: str | None = None) -> FastAPI:
    """The whole studio as an ASGI application; its generator starts and stops with it.

    `hosts` and `token` are those of `Guard`, which takes those of the settings too.

    Changes the working directory to the checkout, because Streamlit looks for its configuration there.
    """
    os.chdir(ROOT)
    from streamlit.web.server.starlette import App

    pages = App(str(ROOT / "app.py"), on_script_error=page_failed)
    pages_lifespan = pages.lifespan()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.generator = await asyncio.to_thread(shared_generator, settings)
        app.state.upload_slots = asyncio.Semaphore(settings.upload_slots)
        try:
            async with pages_lifespan(app):
                yield
        finally:
            with suppress(OSError):
                settings.address.unlink()
            await asyncio.to_thread(stop_shared_generator)

    app: FastAPI = FastAPIOffline(
        title="AI Video Generation Studio",
        version=__version__,
        description="A private video studio on this machine. Errors are `{error: {code, message, field}}`.",
        redoc_url=None,
        lifespan=lifespan,
    )
    install(app)
    app.add_middleware(Guard, hosts=(*hosts, *settings.allowed_hosts), token=token)
    if settings.base_path:
        app.add_middleware(BasePath, base_path=settings.base_path)
    app.mount("/", pages)
    return app
