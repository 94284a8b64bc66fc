"""The pictures of the documentation, made by the studio itself: `python -m benchmarks.pictures`.

Starts a studio with SkyReels V2 Tiny in a temporary folder, renders some videos and saves pictures of the pages and a
moving one of a render in docs/.
"""

from __future__ import annotations

import io

from PIL import Image
from playwright.sync_api import Page, expect

from backend.core.config import ROOT
from backend.core.registry import PAINTED_PROMPTS
from benchmarks.browser import studio_in_a_browser
from tests.studio import LiveStudio

DOCS = ROOT / "docs"
SHAPES = ("160x96", "160x96", "96x160", "160x96", "128x128", "160x96")
QUALITY = 88  # of the JPEG
MOVING_SIZE, MOVING_QUALITY, MOVING_MS = (960, 600), 72, 400  # of the moving picture, and between its pictures
LAST_MS = 2500  # for which the finished video stands
TIMEOUT_MS = 120_000


def main() -> None:
    with studio_in_a_browser(TIMEOUT_MS) as (studio, page):
        take_all(studio, page)


def take_all(studio: LiveStudio, page: Page) -> None:
    for number, shape in enumerate(SHAPES):
        render(studio, PAINTED_PROMPTS[number % len(PAINTED_PROMPTS)], resolution=shape, seed=11 + number)
    film_a_render(studio, page)
    create(studio, page)
    gallery(studio, page)
    drafts(studio, page)
    queue(studio, page)


def render(studio: LiveStudio, prompt: str, **fields: object) -> None:
    job = studio.api.post("/jobs", json={"prompt": prompt, "resolution": SHAPES[0], **fields}).json()
    studio.wait_for(job["id"], timeout_s=600)


def film_a_render(studio: LiveStudio, page: Page) -> None:
    """From the press of Generate to the playing video."""
    studio.api.put("/draft", json={"form": {"prompt": PAINTED_PROMPTS[0], "seed": 11, "num_frames": 64}})
    page.goto(studio.url)
    page.get_by_role("button", name="Generate").first.click()
    page.get_by_role("button", name="Cancel").first.wait_for()
    pictures = []
    while studio.api.get("/jobs?state=queued&state=running").json()["jobs"]:
        pictures.append(shot(page))
        page.wait_for_timeout(MOVING_MS)
    page.locator(".stage video").wait_for()
    page.wait_for_timeout(LAST_MS)
    pictures = [picture.resize(MOVING_SIZE, Image.Resampling.LANCZOS) for picture in (*pictures, shot(page))]
    times = [MOVING_MS] * (len(pictures) - 1) + [LAST_MS]
    file = DOCS / "render.webp"
    first, *others = pictures
    first.save(file, save_all=True, append_images=others, duration=times, loop=0, quality=MOVING_QUALITY, method=6)
    print(f"{file.name}: {len(pictures)} pictures, {file.stat().st_size / 1000:.0f} kB")


def create(studio: LiveStudio, page: Page) -> None:
    """The Create page with a finished video, paused in its middle."""
    for seed in (11, 12, 13):
        render(studio, PAINTED_PROMPTS[0], seed=seed)
    page.goto(studio.url)
    video = page.locator(".stage video[src*='video.mp4']")
    page.wait_for_function("v => v.readyState >= 3", arg=video.element_handle())
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("slider", name="Position").click()
    save(page, "create")


def gallery(studio: LiveStudio, page: Page) -> None:
    """All videos, one of them under the pointer."""
    page.goto(f"{studio.url}/gallery")
    tiles = page.get_by_role("gridcell")
    expect(tiles).to_have_count(len(studio.jobs(state="succeeded", limit=500)))
    tiles.nth(1).hover()
    save(page, "gallery")


def drafts(studio: LiveStudio, page: Page) -> None:
    """The contact sheet of a batch of drafts, two of them chosen."""
    page.goto(studio.url)
    request = {"prompt": PAINTED_PROMPTS[1], "resolution": SHAPES[0], "seed": 31, "draft_steps": 8}
    made = studio.api.post("/variations", json={"request": request, "count": 6}).json()["jobs"]
    for job in made:
        studio.wait_for(job["id"], timeout_s=600)
    page.reload()
    page.get_by_role("button", name="More", exact=True).click()
    page.get_by_text("Contact sheet").click()
    page.keyboard.press("2")
    page.keyboard.press("5")
    save(page, "drafts")


def queue(studio: LiveStudio, page: Page) -> None:
    """A job that runs, and some that wait."""
    for number, prompt in enumerate(PAINTED_PROMPTS):
        studio.api.post("/jobs", json={"prompt": prompt, "seed": number, "num_frames": 128})
    page.goto(f"{studio.url}/queue")
    page.locator(".card.running .picture img").wait_for()
    save(page, "queue")


def save(page: Page, name: str) -> None:
    page.wait_for_timeout(3000)  # until thumbnails and timelines are drawn
    file = DOCS / f"{name}.jpg"
    shot(page).save(file, quality=QUALITY, optimize=True)
    print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


def shot(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


if __name__ == "__main__":
    main()
