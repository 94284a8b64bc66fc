"""A studio with SkyReels V2 Tiny in a temporary folder, and a page of a browser, for scripts that use both."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright

from backend.core.config import ROOT
from tests.studio import CHROMIUM_FLAGS, LiveStudio, chromium

SIZE: ViewportSize = {"width": 1440, "height": 900}  # pixels


@contextmanager
def studio_in_a_browser(timeout_ms: float) -> Iterator[tuple[LiveStudio, Page]]:
    """A started studio and an empty page of Chromium, which waits at most `timeout_ms` for anything."""
    path = chromium()
    if path is None:
        sys.exit("no Chromium here; `python3 test_system.py --suite` says how to get one")
    with tempfile.TemporaryDirectory() as folder:
        studio = LiveStudio(Path(folder) / "data", STUDIO_MODELS=str(ROOT / "models"))
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
                page = browser.new_page(viewport=SIZE)
                page.set_default_timeout(timeout_ms)
                yield studio, page
                browser.close()
        finally:
            studio.stop()
