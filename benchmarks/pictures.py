"""The pictures of the documentation, made by the studio itself: `python -m benchmarks.pictures`.

Starts a studio with SkyReels V2 Tiny in a temporary folder, renders three videos and saves docs/create.jpg.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

from backend.core.config import ROOT
from tests.studio import CHROMIUM_FLAGS, LiveStudio, chromium

SIZE: ViewportSize = {"width": 1440, "height": 900}  # pixels
PROMPTS = ("A red boat drifts left on a calm sea at sunset",) * 3
QUALITY = 88  # of the JPEG


def main() -> None:
    path = chromium()
    if path is None:
        sys.exit("no Chromium here; `python3 test_system.py --suite` says how to get one")
    with tempfile.TemporaryDirectory() as folder:
        studio = LiveStudio(Path(folder) / "data", STUDIO_MODELS=str(ROOT / "models"))
        try:
            for seed, prompt in enumerate(PROMPTS):
                job = studio.api.post("/jobs", json={"prompt": prompt, "seed": 11 + seed}).json()
                studio.wait_for(job["id"], timeout_s=600)
            studio.api.put("/draft", json={"form": {"mode": "text_to_video", "prompt": PROMPTS[0]}})
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
                save(browser.new_page(viewport=SIZE), studio.url, ROOT / "docs" / "create.jpg")
                browser.close()
        finally:
            studio.stop()


def save(page: Page, url: str, file: Path) -> None:
    """The Create page with a finished video, paused in its middle."""
    page.goto(url)
    video = page.locator(".stage video[src*='video.mp4']")
    page.wait_for_function("v => v.readyState >= 3", arg=video.element_handle())
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("slider", name="Position").click()
    page.wait_for_timeout(3000)  # until the timeline is drawn
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(file, quality=QUALITY, optimize=True)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
