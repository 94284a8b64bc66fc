"""A person at the studio: Create, Queue, Gallery, System, in a real Chromium."""

import re

import pytest
from playwright.sync_api import expect

from tests.studio import ROOT, LiveStudio

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
    """The player of a finished video; while the page is drawn anew, that of the one before may be there too."""
    return tab.locator(f".st-key-stage_{job_id} video")


def press(target) -> None:
    """Click what is there once: while the page is drawn anew it may be there twice, and be gone under the click."""
    expect(target).to_have_count(1)
    target.click()


def write_prompt(tab, text: str) -> None:
    field = tab.get_by_role("textbox", name="Prompt", exact=True)
    field.fill(text)
    field.blur()


def set_length(tab, frames: int) -> None:
    slider = tab.get_by_role("slider", name="Length")
    slider.focus()
    now = int(slider.input_value())
    for _ in range(abs(frames - now)):
        slider.press("ArrowLeft" if frames < now else "ArrowRight")
    expect(tab.get_by_text(re.compile(rf"^{frames} (new )?frames[ ,]"))).to_be_visible()


def video_named(tab, title: str):
    return tab.locator('[class*="st-key-open_"] button', has_text=title)


def test_create_then_queue_then_gallery(live, open_tab):
    tab = open_tab()
    press(tab.get_by_role("radio", name="A red fishing boat drifts"))
    expect(tab.get_by_role("textbox", name="Prompt", exact=True)).to_have_value(re.compile("A red fishing boat"))
    expect(tab.get_by_text("64 frames (65 rendered)")).to_be_visible()
    live.api.post("/queue/pause")
    press(tab.get_by_role("button", name="Generate"))
    job = live.wait_for_new([])

    queue = open_tab("queue")  # a second tab, while the first one's job waits
    expect(tab.locator(".st-key-band")).to_contain_text("1 in the queue")
    expect(queue.get_by_text("A red fishing boat drifts").first).to_be_visible()

    live.api.post("/queue/resume")
    assert plays(stage_video(tab, job["id"]))
    [job] = live.jobs()
    assert job["state"] == "succeeded"
    assert job["artifact"]["frames"] == 64
    expect(queue.get_by_text("The queue is empty")).to_be_visible()

    for gallery in (open_tab("gallery"), open_tab("gallery")):  # two tabs, one truth
        expect(gallery.get_by_text("1 video", exact=True)).to_be_visible()
    search = gallery.get_by_role("textbox", name="Search")
    search.fill("fishing boat")
    search.press("Enter")
    gallery.wait_for_url(re.compile("search=fishing"))
    gallery.get_by_role("img", name="A red fishing boat").click(
        force=True
    )  # its name's button lies over the whole card
    assert plays(gallery.get_by_role("dialog").locator("video"))
    with gallery.expect_download() as download:
        press(gallery.get_by_role("dialog").get_by_text("Download"))
    assert download.value.path().stat().st_size == job["artifact"]["bytes"]
    press(gallery.get_by_role("button", name="Use these settings"))
    expect(gallery.get_by_role("textbox", name="Prompt", exact=True)).to_have_value(re.compile("A red fishing boat"))
    press(gallery.get_by_text("Details: steps"))
    expect(gallery.get_by_label("Seed", exact=True)).to_have_value(str(job["request"]["seed"]))


def test_a_picture_becomes_a_video_that_begins_with_it(live, open_tab, tmp_path, photo):
    tab = open_tab()
    press(tab.get_by_role("radio", name="Image to video"))
    tab.get_by_label("First frame").first.set_input_files(photo)
    expect(tab.get_by_text("The preview shows how it will be used.")).to_be_visible()
    set_length(tab, 40)
    before = live.jobs(limit=500)
    press(tab.get_by_role("button", name="Generate"))
    done = live.wait_for(live.wait_for_new(before)["id"])
    assert (done["artifact"]["frames"], done["request"]["mode"]) == (40, "image_to_video")
    assert plays(stage_video(tab, done["id"]))


def test_a_clip_is_continued(live, open_tab, clip):
    tab = open_tab()
    press(tab.get_by_role("radio", name="Extend a video"))
    tab.get_by_label("Video to extend").first.set_input_files(clip)
    expect(tab.get_by_text("The preview shows how it will be used.")).to_be_visible()
    set_length(tab, 50)
    before = live.jobs(limit=500)
    press(tab.get_by_role("button", name="Generate"))
    done = live.wait_for(live.wait_for_new(before)["id"])
    assert done["artifact"]["frames"] == 30 + 50
    assert plays(stage_video(tab, done["id"]))


def test_a_file_that_is_no_picture_is_refused_where_it_was_dropped(live, open_tab, tmp_path, clip):
    fake = tmp_path / "holiday.png"
    fake.write_text("not a picture")
    tab = open_tab()
    press(tab.get_by_role("radio", name="Image to video"))
    zone = tab.get_by_label("First frame").first
    zone.set_input_files(clip)
    expect(tab.locator(".refused .hint")).to_contain_text("is a video; drop a JPG, PNG or WebP.")
    zone.set_input_files(fake)
    expect(tab.locator(".refused .hint")).to_contain_text("holiday.png")
    expect(tab.get_by_text("is a video")).to_have_count(0)  # one fault, one error
    expect(tab.get_by_text("The plan appears here once you add a picture.")).to_be_visible()


def test_a_missing_prompt_is_said_and_nothing_is_queued(live, open_tab):
    before = len(live.jobs(limit=500))
    tab = open_tab()
    press(tab.get_by_role("button", name="Generate"))
    expect(tab.get_by_text("Write a prompt first.")).to_be_visible()
    assert len(live.jobs(limit=500)) == before


def test_a_double_click_makes_one_job_and_the_form_stays(live, open_tab):
    before = live.jobs(limit=500)
    tab = open_tab()
    write_prompt(tab, "a green bird circles")
    set_length(tab, 62)
    tab.get_by_role("button", name="Generate").dblclick()
    live.wait_for_new(before)
    tab.wait_for_timeout(1500)
    assert len(live.jobs(limit=500)) == len(before) + 1
    expect(tab.get_by_role("textbox", name="Prompt", exact=True)).to_have_value("a green bird circles")


def test_ctrl_enter_in_the_prompt_makes_one_job_with_what_was_typed(live, open_tab):
    before = live.jobs(limit=500)
    tab = open_tab()
    field = tab.get_by_role("textbox", name="Prompt", exact=True)
    field.fill("a white horse in the snow")
    field.press("Control+Enter")
    job = live.wait_for_new(before)
    tab.wait_for_timeout(1500)
    assert len(live.jobs(limit=500)) == len(before) + 1
    assert job["request"]["prompt"] == "a white horse in the snow"


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


def test_the_gallery_searches_stars_deletes_and_undoes(live, open_tab):
    for prompt in ("a purple balloon", "an orange fish"):
        live.wait_for(live.api.post("/jobs", json={"prompt": prompt, "num_frames": 16}).json()["id"])
    tab = open_tab("gallery?search=purple")
    expect(tab.get_by_text("1 video", exact=True)).to_be_visible()
    press(video_named(tab, "a purple balloon"))
    press(tab.get_by_role("dialog").get_by_role("button", name="Favourite"))
    expect(tab.get_by_role("button", name="Remove favourite")).to_be_visible()
    press(tab.get_by_role("button", name="Delete"))
    expect(tab.get_by_text("No matching videos")).to_be_visible()
    press(tab.get_by_role("button", name="Undo"))
    expect(tab.get_by_text("1 video", exact=True)).to_be_visible()
    press(video_named(tab, "a purple balloon"))
    press(tab.get_by_role("dialog").get_by_role("button", name="Delete"))
    press(tab.get_by_text("Trash", exact=True))
    expect(tab.get_by_text("kept for a week")).to_be_visible()
    press(tab.get_by_role("button", name="Empty the trash"))
    press(tab.get_by_role("button", name="Remove for good"))
    expect(tab.get_by_text("The trash is empty")).to_be_visible()
    assert [job["request"]["prompt"] for job in live.jobs(search="purple")] == []
    expect(tab.get_by_role("button", name="Undo")).to_have_count(0)


def test_an_export_ends_in_the_open_dialog_with_a_link(live, open_tab):
    """The page behind it is redrawn when jobs change, but not while the dialog is open: that would close it."""
    live.wait_for(live.api.post("/jobs", json={"prompt": "a silver spoon", "num_frames": 16}).json()["id"])
    tab = open_tab("gallery?search=spoon")
    press(video_named(tab, "a silver spoon"))
    dialog = tab.get_by_role("dialog").filter(has_text="a silver spoon")
    press(dialog.get_by_role("button", name="Export"))
    press(tab.locator('[class*="st-key-export_"] button', has_text="Export"))
    link = dialog.get_by_role("link", name=re.compile("Save GIF"))
    expect(link).to_be_visible(timeout=100_000)
    tab.keyboard.press("Escape")  # the popover
    with tab.expect_download() as download:
        press(link)
    assert download.value.path().read_bytes()[:6] == b"GIF89a"
    other = live.api.post("/jobs", json={"prompt": "a golden spoon", "num_frames": 16}).json()["id"]
    live.wait_for(other)
    press(dialog.get_by_role("button", name="Close"))
    expect(tab.get_by_text("2 videos", exact=True)).to_be_visible()  # what changed meanwhile


def test_a_prompt_is_text_and_nothing_else(live, open_tab):
    evil = '<img src=x onerror="window.pwned=1"> **bold** :material/star: $x$ [a](javascript:alert(1))'
    live.wait_for(live.api.post("/jobs", json={"prompt": evil, "num_frames": 16}).json()["id"])
    for page in ("", "gallery", "queue"):
        tab = open_tab(page)
        tab.wait_for_timeout(1500)
        assert tab.evaluate("window.pwned") is None
        assert tab.locator('a[href^="javascript"]').count() == 0
    tab = open_tab("gallery")
    expect(tab.get_by_text("<img src=x", exact=False).first).to_be_visible()


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
    for word in ("CPU", "Memory", "Disk free", "Success rate"):
        expect(tab.get_by_text(word, exact=True).first).to_be_visible()
    press(tab.get_by_role("button", name="Run the checks"))
    expect(tab.get_by_text("FFmpeg")).to_be_visible()


@pytest.mark.timeout(400)
def test_a_new_user_gets_a_video_of_the_tiny_model(browser, tmp_path):
    """No GPU and no weights but those that came with the code: as after the first start."""
    studio = LiveStudio(tmp_path / "data", STUDIO_MODELS=str(ROOT / "models"))
    try:
        tab = browser.new_page(viewport={"width": 1440, "height": 960})
        tab.goto(studio.url)
        expect(tab.get_by_text("You are using SkyReels V2 Tiny")).to_contain_text("download a full model")
        press(tab.get_by_role("radio", name="A red boat drifts left on a calm sea at sunset"))
        set_length(tab, 16)
        press(tab.get_by_role("button", name="Generate"))
        job = studio.wait_for_new([])
        stage_video(tab, job["id"]).wait_for(timeout=300_000)
        assert plays(stage_video(tab, job["id"]))
        video = studio.wait_for(job["id"])["artifact"]
        assert (video["model"], video["frames"], video["width"], video["height"]) == ("skyreels-v2-tiny", 16, 960, 540)
        tab.close()
    finally:
        studio.stop()
