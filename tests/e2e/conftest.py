"""The real thing: the studio in a process of its own, a real Chromium in front of it."""

from collections.abc import Iterator

import pytest

from tests.studio import LiveStudio


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> Iterator[LiveStudio]:
    studio = LiveStudio(tmp_path_factory.mktemp("live") / "data")
    yield studio
    studio.stop()


@pytest.fixture
def open_tab(browser, live):
    """Open a page of the studio in a fresh session; at the end, nothing must have been asked of another host."""
    outside: list[str] = []
    contexts = []

    def open_tab(path: str = "", *, width: int = 1440, height: int = 960, theme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        own = (live.url, live.url.replace("http", "ws"), "data:", "blob:")
        tab.on("request", lambda request: None if request.url.startswith(own) else outside.append(request.url))
        tab.goto(f"{live.url}/{path}")
        tab.wait_for_selector(".st-key-band")
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    live.api.post("/queue/resume")  # a test that failed half-way must not hold up the next
    assert outside == []
