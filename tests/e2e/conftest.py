"""The real thing: the studio in a process of its own, a real Chromium in front of it."""

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from tests.studio import BROWSER_TIMEOUT_MS, LiveStudio


def wait_for_page(tab) -> None:
    """Until all of a page is there: its header comes first, and shortcuts are heeded once their button is there."""
    tab.wait_for_selector(".st-key-band, .st-key-queue")
    tab.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')


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
        tab.set_default_timeout(BROWSER_TIMEOUT_MS)
        own = (live.url, live.url.replace("http", "ws"), "data:", "blob:")
        tab.on("request", lambda request: None if request.url.startswith(own) else outside.append(request.url))
        tab.goto(f"{live.url}/{path}")
        wait_for_page(tab)
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    live.api.post("/queue/resume")  # a test that failed half-way must not hold up the next
    assert outside == []


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photograph-like picture with soft gradients and edges."""
    y, x = np.mgrid[0:600, 0:900]
    picture = np.stack([x * 255 / 900, y * 255 / 600, 128 + 100 * np.sin(x / 40)], -1)
    picture[200:400, 300:500] = (200, 60, 40)
    file = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(picture.astype(np.uint8)).save(file, quality=95)
    return file


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """30 frames at 25 fps of a square that moves."""
    from tests.media_files import write_film

    frames = np.full((30, 240, 320, 3), 60, np.uint8)
    for n in range(30):
        frames[n, 80:140, 20 + 6 * n : 80 + 6 * n] = (220, 180, 40)
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_film(file, [frames], fps=25, width=320, height=240, recipe={}, title="clip")
    return file
