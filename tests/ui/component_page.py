"""A component of ui/components/js in a real browser, with a studio that is made up: no server, no Streamlit."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser, Page, Request, Route, WebSocketRoute

from backend.core.config import ROOT
from tests.studio import BROWSER_TIMEOUT_MS

SCRIPTS = ROOT / "ui" / "components" / "js"
URL = "https://studio.test/"  # a secure context, as localhost is; nothing is asked of a network
HTML = """<!doctype html><meta charset="utf-8"><title>A component</title>
<style>html, body {{ margin: 0; background: {background}; --st-background-color: {background}; }}</style>
<main><div id="host"></div></main>
<script type="module">
  const {{ default: show }} = await import("/app/static/components/1/{name}.js");
  const root = document.querySelector("#host").attachShadow({{ mode: "open" }});
  const style = document.createElement("style");
  style.textContent = {css};
  root.append(style);
  window.triggers = [];
  const setTriggerValue = (name, value) => window.triggers.push([name, value]);
  window.end = show({{ parentElement: root, data: {data}, key: "it", setTriggerValue }});
</script>"""
BACKGROUNDS = {"light": "#fbfbfe", "dark": "#0e1020"}
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


class ComponentPage:
    """A page with one component. `answer(method, path, body)` gives the JSON of the studio for what is below /api/v1; a
    tuple of a status and JSON refuses. What changes something is kept in `asked`. `tell` sends the live state.
    """

    def __init__(
        self,
        browser: Browser,
        name: str,
        *parts: str,
        data: Any = None,
        answer: Callable[[str, str, Any], Any],
        width: int = 1440,
        height: int = 900,
        theme: str = "light",
        script: str = "",
        **context: Any,
    ) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.errors: list[str] = []
        self._answer = answer
        self._socket: WebSocketRoute | None = None
        self._told: dict[str, Any] = {}
        css = "\n".join(
            file.read_text() for part in ("base", *parts, name) if (file := SCRIPTS / f"{part}.css").exists()
        )
        self._html = HTML.format(name=name, css=json.dumps(css), data=json.dumps(data), background=BACKGROUNDS[theme])
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme, **context)
        self.page: Page = self.context.new_page()
        if script:
            self.page.add_init_script(script)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.route(re.compile(re.escape(URL)), self._serve)
        self.page.route_web_socket(re.compile("/api/v1/live$"), self._connect)
        self.page.goto(URL)

    def tell(self, **fields: Any) -> None:
        """Send what has changed, as the studio does."""
        self._told |= fields
        if self._socket is not None:
            self._socket.send(json.dumps({"version": 1, "jobs": []} | fields))

    def _connect(self, socket: WebSocketRoute) -> None:
        self._socket = socket
        if self._told:
            socket.send(json.dumps({"version": 1, "jobs": []} | self._told))

    def _serve(self, route: Route, request: Request) -> None:
        path = request.url.removeprefix(URL).split("?")[0]
        if path == "":
            route.fulfill(body=self._html, content_type="text/html")
        elif path.startswith("app/static/components/"):
            route.fulfill(body=(SCRIPTS / path.rsplit("/", 1)[1]).read_bytes(), content_type="text/javascript")
        elif path.startswith("app/static/") or path.endswith("/live"):
            route.fulfill(body=PIXEL, content_type="image/png")
        elif path.startswith("api/v1/"):
            self._answer_to(route, request)
        else:
            route.fulfill(status=404)

    def _answer_to(self, route: Route, request: Request) -> None:
        path = request.url.removeprefix(f"{URL}api/v1")
        body = request.post_data_json if request.post_data else None
        if request.method != "GET":
            self.asked.append((request.method, path, body))
        found = self._answer(request.method, path, body)
        status, found = found if isinstance(found, tuple) else (200, found)
        route.fulfill(status=status, json=found)

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Wait for what the component does to the studio: what a press shows at once is sent a moment later."""
        deadline = time.monotonic() + BROWSER_TIMEOUT_MS / 1000
        while not is_so():
            assert time.monotonic() < deadline, self.asked
            self.page.wait_for_timeout(20)

    def wait_for_asked(self, method: str, path: str, body: Any = None) -> None:
        """Wait until the component has sent this, last or not."""
        self.wait_for(lambda: (method, path, body) in self.asked)

    def close(self) -> None:
        self.context.close()
        assert self.errors == []
