"""A person at the studio: Create, Queue, Gallery, System, in a real Chromium."""

import re

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

PLAYS = "v => v.readyState >= 2 && v.videoWidth > 0 && !v.error"


def plays(video) -> bool:
    video.wait_for(state="visible")
    video.evaluate("v => v.play().catch(() => {})")
    handle = video.element_handle()
    video.page.wait_for_function(PLAYS, arg=handle)
    video.page.wait_for_function("v => v.currentTime > 0", arg=handle)
    return True


def stage_video(tab, job_id: str):
    """The player of the stage, once it has the finished video of that job."""
    return tab.locator(f'.stage .area video[src*="{job_id}/video.mp4"]')


def prompt_of(tab):
    return tab.get_by_role("textbox", name="Prompt", exact=True)


def press(target) -> None:
    """Click what is there once: while the page is drawn anew it may be there twice, and be gone under the click."""
    expect(target).to_have_count(1)
    target.click()


def write_prompt(tab, text: str) -> None:
    prompt_of(tab).fill(text)


def set_length(tab, frames: int) -> None:
    slider = tab.get_by_role("slider", name="Length")
    slider.focus()
    now = int(slider.input_value())
    for _ in range(abs(frames - now)):
        slider.press("ArrowLeft" if frames < now else "ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", re.compile(rf", {frames} frames$"))


def test_create_then_queue_then_gallery(live, open_tab):
    tab = open_tab()
    press(tab.get_by_role("button", name="A red fishing boat drifts"))
    expect(prompt_of(tab)).to_have_value(re.compile("A red fishing boat"))
    expect(tab.get_by_text("64 frames in one pass")).to_be_visible()
    live.api.post("/queue/pause")
    press(tab.get_by_role("button", name=re.compile("^Generate")))
    job = live.wait_for_new([])

    queue = open_tab("queue")  # a second tab, while the first one's job waits
    expect(tab.get_by_role("button", name="Queue: Paused · 1 waiting")).to_be_visible()
    expect(queue.get_by_text("A red fishing boat drifts").first).to_be_visible()

    live.api.post("/queue/resume")
    assert plays(stage_video(tab, job["id"]))
    [job] = live.jobs()
    assert job["state"] == "succeeded"
    assert job["artifact"]["frames"] == 64
    expect(queue.get_by_text("The queue is empty")).to_be_visible()

    for gallery in (open_tab("gallery"), open_tab("gallery")):  # two tabs, one truth
        expect(gallery.get_by_role("gridcell")).to_have_count(1)
    search = gallery.get_by_role("searchbox", name="Search")
    search.fill("fishing boat")
    search.press("Enter")
    gallery.wait_for_url(re.compile("search=fishing"))
    gallery.get_by_role("gridcell", name="A red fishing boat").click()
    viewer = gallery.get_by_role("dialog", name="A red fishing boat")
    assert plays(viewer.locator("video"))
    with gallery.expect_download() as download:
        press(viewer.get_by_role("link", name="Download"))
    assert download.value.path().stat().st_size == job["artifact"]["bytes"]
    press(gallery.get_by_role("button", name="Use these settings"))
    expect(prompt_of(gallery)).to_have_value(re.compile("A red fishing boat"))
    expect(gallery.get_by_label("Seed", exact=True)).to_have_value(str(job["request"]["seed"]))


def waiting_rows(tab):
    return tab.get_by_role("list", name="Waiting jobs").locator("> li")


def test_the_queue_is_paused_reordered_and_emptied(live, open_tab):
    live.api.post("/queue/pause")
    first, second = (
        live.api.post("/jobs", json={"prompt": f"video {word}", "num_frames": 16}).json()["id"]
        for word in ("one", "two")
    )
    tab = open_tab("queue")
    expect(tab.get_by_text("The queue is paused.")).to_be_visible()
    rows = waiting_rows(tab)
    expect(rows.nth(0)).to_contain_text("video one")
    rows.nth(1).focus()
    tab.keyboard.press("Alt+ArrowUp")
    expect(tab.get_by_text("Moved “video two” to place 1 of 2.")).to_be_visible()
    expect(rows.nth(0)).to_contain_text("video two")
    rows.filter(has_text="video one").focus()
    tab.keyboard.press("Delete")
    cancelled = tab.get_by_role("region", name="Cancelled today")
    expect(cancelled).to_contain_text("video one")
    press(tab.get_by_role("button", name="Resume queue"))
    assert live.wait_for(second)["state"] == "succeeded"
    assert live.api.get(f"/jobs/{first}").json()["state"] == "cancelled"
    press(cancelled.get_by_role("button", name="Retry video one"))
    expect(cancelled).to_have_count(
        0
    )  # the click has reached the studio; before that the job is still the cancelled one
    assert live.wait_for(first)["state"] == "succeeded"
    expect(tab.get_by_role("region", name="Finished today")).to_contain_text("video one")
    expect(tab.get_by_text("The queue is empty")).to_be_visible()


def test_a_running_job_is_paused_resumed_and_cancelled(live, open_tab):
    request = {"prompt": "a long video of the sea", "resolution": "1280x720", "num_frames": 400}
    job_id = live.api.post("/jobs", json=request).json()["id"]
    tab = open_tab("queue")
    card = tab.get_by_role("article", name="a long video of the sea")
    expect(card).to_contain_text(re.compile(r"step \d+ of \d+"))
    expect(card.get_by_role("img", name="Preview of a long video of the sea")).to_be_visible()
    press(card.get_by_role("button", name="Pause"))
    expect(card).to_contain_text("Paused")
    assert live.api.get(f"/jobs/{job_id}").json()["state"] == "paused"
    press(card.get_by_role("button", name="Resume"))
    expect(card.get_by_role("button", name="Pause")).to_be_visible()
    press(card.get_by_role("button", name="Cancel"))
    assert live.wait_for(job_id, timeout_s=100)["state"] == "cancelled"
    expect(tab.get_by_role("region", name="Cancelled today")).to_contain_text("a long video of the sea")


def test_a_prompt_is_text_and_nothing_else(live, open_tab):
    evil = '<img src=x onerror="window.pwned=1"> **bold** :material/star: $x$ [a](javascript:alert(1))'
    live.wait_for(live.api.post("/jobs", json={"prompt": evil, "num_frames": 16}).json()["id"])
    for page in ("", "gallery", "queue"):
        tab = open_tab(page)
        tab.wait_for_timeout(1500)
        assert tab.evaluate("window.pwned") is None
        assert tab.locator('a[href^="javascript"]').count() == 0
    tab = open_tab("gallery")
    tab.get_by_role("gridcell", name="<img src=x").click()
    expect(tab.get_by_role("heading", name="<img src=x")).to_be_visible()
    expect(tab.get_by_role("definition").filter(has_text="<img src=x")).to_contain_text("**bold** :material/star: $x$")
    assert tab.evaluate("window.pwned") is None
    assert tab.locator('a[href^="javascript"], .gallery img[src="x"]').count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", ["", "queue", "gallery", "system"])
def test_every_page_fits_a_phone_in_both_themes(open_tab, page, theme):
    tab = open_tab(page, width=390, height=844, theme=theme)
    tab.wait_for_timeout(1500)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    background = tab.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert background == {"light": "rgb(251, 251, 254)", "dark": "rgb(14, 16, 32)"}[theme]


def test_the_system_page_shows_this_machine(open_tab):
    tab = open_tab("system")
    for name in ("CPU", "Memory", "Disk"):
        expect(tab.get_by_role("img", name=f"{name} over the last")).to_be_visible()
    press(tab.get_by_role("button", name="Run the checks"))
    expect(tab.get_by_text("FFmpeg")).to_be_visible()
