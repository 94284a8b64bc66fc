"""A person on the Create page in a real Chromium: composer and stage."""

import re
import shutil

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import wait_for_page
from tests.e2e.test_browser import plays, press, prompt_of, set_length, stage_video, write_prompt
from tests.studio import ROOT, LiveStudio

pytestmark = pytest.mark.browser

# Chromium's own sum of layout shifts, without those that follow a key or a click (web.dev/cls).
SHIFTS = """() => { window.shifted = 0; new PerformanceObserver(list => { for (const entry of list.getEntries())
    if (!entry.hadRecentInput) window.shifted += entry.value; }).observe({type: "layout-shift"}); }"""
DROP = """async ([name, type, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, {type}));
    const event = kind => new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true, composed: true});
    const target = document.querySelector(".stMain");
    return [event("dragover"), event("drop")].map(one => { target.dispatchEvent(one); return one.defaultPrevented; });
}"""


def generate(tab):
    return tab.get_by_role("button", name=re.compile("^Generate"))


def slot(tab, name: str):
    return tab.locator(f'input[aria-label="{name}"]')


def mode(tab, name: str):
    return tab.get_by_role("radiogroup", name="Mode").get_by_role("radio", name=name)


def test_the_plan_follows_while_one_types(live, open_tab):
    tab = open_tab()
    expect(tab.get_by_text("The plan appears here once you write a prompt.")).to_be_visible()
    prompt_of(tab).press_sequentially("a red boat")  # the field keeps the focus
    expect(tab.get_by_text(re.compile(r"^info64 frames in one pass · \d+ steps"))).to_be_visible()
    expect(generate(tab)).to_contain_text(re.compile(r"Generate · .* s"))


def test_a_picture_becomes_a_video_that_begins_with_it(live, open_tab, photo):
    tab = open_tab()
    press(mode(tab, "Image"))
    slot(tab, "First frame").set_input_files(photo)
    expect(tab.get_by_role("img", name="First frame, as the model will see it")).to_be_visible()
    set_length(tab, 40)
    before = live.jobs(limit=500)
    press(generate(tab))
    done = live.wait_for(live.wait_for_new(before)["id"])
    assert (done["artifact"]["frames"], done["request"]["mode"]) == (40, "image_to_video")
    assert plays(stage_video(tab, done["id"]))


def test_a_clip_is_continued(live, open_tab, clip):
    tab = open_tab()
    press(mode(tab, "Extend"))
    slot(tab, "Video to extend").set_input_files(clip)
    expect(tab.get_by_role("img", name="Video to extend, as the model will see it")).to_be_visible()
    set_length(tab, 50)
    before = live.jobs(limit=500)
    press(generate(tab))
    done = live.wait_for(live.wait_for_new(before)["id"])
    assert done["artifact"]["frames"] == 30 + 50
    assert plays(stage_video(tab, done["id"]))


def test_a_file_that_is_no_picture_is_refused_at_its_slot(live, open_tab, tmp_path, clip):
    fake = tmp_path / "holiday.png"
    fake.write_text("not a picture")
    tab = open_tab()
    press(mode(tab, "Image"))
    first = slot(tab, "First frame")
    first.set_input_files(clip)
    expect(tab.get_by_role("alert")).to_contain_text("clip.mp4 is a video; drop a JPG, PNG or WebP.")
    first.set_input_files(fake)
    expect(tab.get_by_role("alert")).to_contain_text("holiday.png")
    expect(tab.get_by_role("alert")).to_have_count(1)  # one fault, one error
    expect(tab.get_by_text("The plan appears here once you add a first frame.")).to_be_visible()


def test_a_file_dropped_anywhere_goes_into_its_slot(live, open_tab, photo):
    tab = open_tab()
    prompt_of(tab).wait_for()
    assert tab.evaluate(DROP, ["photo.jpg", "image/jpeg", list(photo.read_bytes())]) == [True, True]
    expect(tab.get_by_role("img", name="First frame, as the model will see it")).to_be_visible()
    expect(mode(tab, "Image")).to_have_attribute("aria-checked", "true")
    assert tab.url.rstrip("/") == live.url


def test_a_missing_prompt_is_said_and_nothing_is_queued(live, open_tab):
    before = len(live.jobs(limit=500))
    tab = open_tab()
    press(generate(tab))
    expect(tab.get_by_text("Write a prompt first.")).to_be_visible()
    expect(prompt_of(tab)).to_be_focused()
    assert len(live.jobs(limit=500)) == before


@pytest.mark.parametrize("by", ["double click", "Ctrl+Enter"])
def test_one_press_makes_one_job_and_the_form_stays(live, open_tab, by):
    before = live.jobs(limit=500)
    tab = open_tab()
    prompt = f"a green bird circles, {by}"
    prompt_of(tab).fill(prompt)
    if by == "double click":
        generate(tab).dblclick()
    else:
        prompt_of(tab).press("Control+Enter")
        prompt_of(tab).press("Control+Enter")
    job = live.wait_for_new(before)
    live.wait_for(job["id"])
    assert len(live.jobs(limit=500)) == len(before) + 1
    assert job["request"]["prompt"] == prompt
    expect(prompt_of(tab)).to_have_value(prompt)


def test_what_was_typed_survives_reload_a_new_browser_and_a_restart(tmp_path, browser):
    studio = LiveStudio(tmp_path / "data")
    context = browser.new_context()
    try:
        tab = context.new_page()
        tab.goto(studio.url)
        wait_for_page(tab)
        prompt_of(tab).fill("a lighthouse in a storm")
        press(tab.get_by_role("radiogroup", name="Shape").get_by_role("radio", name="1:1"))
        tab.reload()
        expect(prompt_of(tab)).to_have_value("a lighthouse in a storm")
        saved = studio.wait_for_draft("a lighthouse in a storm")
        assert saved["orientation"] == "square"
        with browser.new_context() as other:
            elsewhere = other.new_page()
            elsewhere.goto(studio.url)
            expect(prompt_of(elsewhere)).to_have_value("a lighthouse in a storm")
        studio.stop()
        expect(tab.get_by_text("The studio is not running.").first).to_be_visible()
        prompt_of(tab).click()  # which nothing covers
        prompt_of(tab).fill("typed while the studio was away")
        studio = LiveStudio(tmp_path / "data", port=studio.port)
        expect(generate(tab)).to_be_enabled()
        studio.wait_for_draft("typed while the studio was away")
        tab.reload()
        expect(prompt_of(tab)).to_have_value("typed while the studio was away")
    finally:
        context.close()
        studio.stop()


def test_a_quick_tap_on_a_link_after_typing_changes_the_page(open_tab):
    tab = open_tab()
    prompt_of(tab).fill("a dragon over mountains")
    place = tab.get_by_role("link", name="Gallery").bounding_box()
    tab.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    tab.mouse.down()
    tab.mouse.up()
    tab.wait_for_url("**/gallery")
    tab.go_back()
    expect(prompt_of(tab)).to_have_value("a dragon over mountains")


def test_a_story_is_as_long_as_its_lines(live, open_tab):
    tab = open_tab()
    press(mode(tab, "Story"))
    write_prompt(tab, "A boat leaves the harbour\nA whale swims under it\nThe boat comes home at night")
    expect(tab.get_by_text(re.compile("^3 scenes, "))).to_be_visible()
    expect(tab.get_by_text(re.compile("in 3 windows"))).to_be_visible()
    before = live.jobs(limit=500)
    press(generate(tab))
    job = live.wait_for_new(before)
    assert job["request"]["prompt"] == "A boat leaves the harbour"
    assert job["request"]["skyreels"]["storyboard"] == ["A whale swims under it", "The boat comes home at night"]
    assert len(job["plan"]["windows"]) == 3
    live.api.post(f"/jobs/{job['id']}/cancel")


def test_the_best_of_three_drafts_are_finished_from_where_they_stopped(live, open_tab):
    tab = open_tab()
    prompt_of(tab).fill("a kite over the dunes")
    for _ in range(2):
        press(tab.get_by_role("button", name="More variations"))
    tab.get_by_label("Drafts first").check()
    press(generate(tab))
    expect(tab.get_by_role("heading", name="3 drafts")).to_be_visible()
    tiles = tab.locator(".tile button")
    expect(tiles).to_have_count(3)
    expect(tab.locator(".tile video")).to_have_count(3)
    drafts = sorted(live.jobs(limit=3), key=lambda job: job["id"])
    assert len({job["batch"] for job in drafts}) == 1
    assert [job["request"]["draft_steps"] for job in drafts] == [8, 8, 8]
    prompt_of(tab).blur()
    tab.keyboard.press("1")
    tab.keyboard.press("3")
    expect(tiles.nth(2)).to_have_attribute("aria-pressed", "true")
    press(tab.get_by_role("button", name=re.compile("^Finish 2 selected")))
    expect(tab.get_by_text("Finished", exact=True)).to_have_count(2)
    finished = [job for job in live.jobs(batch=drafts[0]["batch"]) if job["plan"]["done_steps"]]
    assert {job["parent"] for job in finished} == {drafts[0]["id"], drafts[2]["id"]}
    assert [job["artifact"]["frames"] for job in finished] == [64, 64]
    tab.keyboard.press("Escape")
    expect(tab.locator(".stage .area video")).to_be_visible()


def test_a_failed_render_is_said_on_the_stage_and_fixed_there(live, open_tab, photo):
    live.api.post("/queue/pause")
    upload = live.upload(photo)["id"]
    wish = {"mode": "image_to_video", "prompt": "snow falls", "image": upload, "num_frames": 16, "resolution": "128x96"}
    job = live.api.post("/jobs", json=wish).json()
    shutil.rmtree(live.data / "uploads" / upload)
    tab = open_tab()
    live.api.post("/queue/resume")
    card = tab.get_by_role("region", name="What happened")
    expect(card).to_contain_text("missing")
    press(card.get_by_role("button", name="Edit and retry"))
    expect(prompt_of(tab)).to_have_value("snow falls")
    slot(tab, "First frame").set_input_files(photo)
    before = live.jobs(limit=500)
    expect(tab.get_by_text("You are editing")).to_be_visible()
    press(generate(tab))
    new = live.wait_for_new(before)
    assert live.wait_for(new["id"])["state"] == "succeeded"
    assert new["parent"] == job["id"]
    assert plays(stage_video(tab, new["id"]))


def test_a_render_moves_nothing_and_the_page_asks_for_little(live, open_tab):
    tab = open_tab()
    frames = []
    tab.on("websocket", lambda socket: socket.on("framereceived", lambda _: frames.append(1)))
    tab.reload()
    wait_for_page(tab)
    tab.evaluate(SHIFTS)
    before, seen = live.jobs(limit=500), len(frames)
    write_prompt(tab, "a long quiet river")
    set_length(tab, 128)
    press(generate(tab))
    job = live.wait_for(live.wait_for_new(before)["id"])
    assert plays(stage_video(tab, job["id"]))
    took = job["finished_at"] - job["created_at"]
    assert tab.evaluate("window.shifted") < 0.05
    assert len(frames) - seen <= 2 * took + 12  # two a second; the first state and the last ones


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1280, 720), (390, 844)])
def test_generate_is_in_view_and_the_stage_is_half_of_the_screen(open_tab, width, height):
    tab = open_tab(width=width, height=height)
    expect(generate(tab)).to_be_in_viewport(ratio=1)
    box = tab.locator(".stage").bounding_box()
    if width > 1000:
        assert box["width"] * min(box["height"], height - box["y"]) > 0.5 * width * height
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keys_of_the_player_step_frames(live, open_tab):
    done = live.wait_for(live.api.post("/jobs", json={"prompt": "numbered", "num_frames": 32}).json()["id"])
    tab = open_tab()
    video = stage_video(tab, done["id"])
    assert plays(video)
    tab.keyboard.press("Home")
    expect(tab.get_by_role("slider", name="Position")).to_have_attribute("aria-valuenow", "1")
    tab.keyboard.press("ArrowRight")
    expect(tab.get_by_role("slider", name="Position")).to_have_attribute("aria-valuenow", "2")
    tab.keyboard.press("End")
    expect(tab.get_by_role("slider", name="Position")).to_have_attribute("aria-valuenow", "32")
    with tab.expect_download() as download:
        tab.keyboard.press("s")
    assert download.value.path().read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    tab.keyboard.press("?")
    expect(tab.get_by_role("dialog", name="Help and shortcuts")).to_be_visible()
    tab.keyboard.press("Escape")
    tab.keyboard.press("g")
    tab.keyboard.press("q")
    tab.wait_for_url("**/queue")


@pytest.mark.timeout(400)
def test_a_new_user_gets_a_video_of_the_tiny_model(browser, tmp_path):
    """No GPU and no weights but those that came with the code: as after the first start."""
    studio = LiveStudio(tmp_path / "data", STUDIO_MODELS=str(ROOT / "models"))
    try:
        tab = browser.new_page(viewport={"width": 1440, "height": 960})
        tab.goto(studio.url)
        prompt_of(tab).fill("A cat in the rain")
        said = tab.get_by_text("SkyReels V2 Tiny does not know: cat. It will draw something else.").first
        expect(said).to_be_visible()
        prompt_of(tab).fill("")
        press(tab.get_by_role("button", name="A red boat drifts left on a calm sea at sunset"))
        expect(said).to_be_hidden()
        set_length(tab, 16)
        press(generate(tab))
        job = studio.wait_for_new([])
        stage_video(tab, job["id"]).wait_for(timeout=300_000)
        assert plays(stage_video(tab, job["id"]))
        video = studio.wait_for(job["id"])["artifact"]
        assert (video["model"], video["frames"], video["width"], video["height"]) == ("skyreels-v2-tiny", 16, 960, 540)
        tab.close()
    finally:
        studio.stop()
