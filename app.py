"""The pages: a Streamlit script. `./launch.sh` and `streamlit run app.py` serve it together with the REST API."""

from __future__ import annotations

if __name__ == "__main__":  # Streamlit runs this file as a script whenever a page is drawn
    from ui.frame import draw_page

    draw_page()
else:  # `streamlit run app.py` finds an ASGI application in it, imports it as a module and serves that
    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager

    from starlette.applications import Starlette
    from starlette.routing import Mount

    from backend.core.config import Settings
    from backend.web.server import create_app

    studio = create_app(Settings.from_env())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with studio.router.lifespan_context(studio):
            yield

    app = Starlette(routes=[Mount("/", studio)], lifespan=lifespan)
