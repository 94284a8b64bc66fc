"""The gallery in a real Chromium: shelf, one video large, two side by side, collections and trash."""

import json
import re
import time
import zipfile
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from backend.core.config import Settings
from backend.core.plan import Machine
from backend.core.planning import make_plan
from backend.core.registry import SYNTHETIC
from backend.core.schema import parse_request
from backend.jobs.job import Artifact, Job, JobState
from backend.jobs.store import Store
from tests.e2e.test_browser import plays, press
from tests.studio import BROWSER_TIMEOUT_MS, LiveStudio

pytestmark = pytest.mark.browser

SMALL = {"num_frames": 16, "num_inference_steps": 10, "model": "synthetic"}
SHAPES = ("128x96", "96x128", "96x96")


@pytest.fixture
def videos(live):
    """Three videos of different shapes, the newest last; nothing else is there."""
    everything = [job["id"] for trashed in (False, True) for job in live.jobs(limit=500, trashed=trashed)]
    if everything:
        live.api.post("/jobs/bulk", json={"ids": everything, "action": "unapprove"})
        live.api.post("/jobs/bulk", json={"ids": everything, "action": "delete"})
        live.api.delete("/trash")
    for one in live.api.get("/collections").json()["collections"]:
        live.api.delete(f"/collections/{one['name']}")
    found = []
    for number, prompt in enumerate(("a purple balloon", "an orange fish", "a silver spoon")):
        request = {"prompt": prompt, "resolution": SHAPES[number], "seed": number} | SMALL
        found.append(live.wait_for(live.api.post("/jobs", json=request).json()["id"]))
    return found


def card(tab, title: str):
    return tab.get_by_role("gridcell", name=title)


def cards(tab) -> list[str]:
    return [one.get_attribute("aria-label").split(",")[0] for one in tab.get_by_role("gridcell").all()]


def shown(tab) -> dict[str, list[str]]:
    return parse_qs(urlsplit(tab.url).query)


def test_it_searches_stars_deletes_and_undoes(live, videos, open_tab):
    tab = open_tab("gallery?search=purple")
    expect(tab.get_by_role("gridcell")).to_have_count(1)
    press(card(tab, "a purple balloon"))
    viewer = tab.get_by_role("dialog", name="a purple balloon")
    press(viewer.get_by_role("button", name="Favourite"))
    expect(viewer.get_by_role("button", name="Remove favourite")).to_be_visible()
    press(viewer.get_by_role("button", name="Delete"))
    expect(tab.get_by_text("No matching videos")).to_be_visible()
    press(tab.get_by_role("button", name="Undo"))
    expect(card(tab, "a purple balloon, 0.7 seconds, favourite")).to_be_visible()
    press(card(tab, "a purple balloon"))
    press(viewer.get_by_role("button", name="Delete"))
    expect(tab.get_by_text("No matching videos")).to_be_visible()
    press(tab.get_by_role("button", name="Trash"))
    expect(tab.get_by_text("kept for a week")).to_be_visible()
    press(tab.get_by_role("button", name="Empty the trash"))
    press(tab.get_by_role("button", name="Remove for good"))
    expect(tab.get_by_text("The trash is empty")).to_be_visible()
    assert [job["request"]["prompt"] for job in live.jobs(search="purple")] == []
    expect(tab.get_by_role("button", name="Undo")).to_have_count(0)


def test_an_export_ends_in_the_open_video_with_a_link(live, videos, open_tab):
    tab = open_tab(f"gallery?video={videos[2]['id']}")
    viewer = tab.get_by_role("dialog", name="a silver spoon")
    press(viewer.get_by_role("button", name="Export"))
    link = viewer.get_by_role("link", name=re.compile("Save GIF"))
    expect(link).to_be_visible()
    with tab.expect_download() as download:
        press(link)
    assert download.value.path().read_bytes()[:6] == b"GIF89a"
    live.wait_for(live.api.post("/jobs", json={"prompt": "a golden spoon"} | SMALL).json()["id"])
    expect(viewer.locator(".count")).to_have_text("2 of 4")  # what changed meanwhile, and it stays open
    assert len(live.jobs(kind="export")) == 1


def test_back_forward_and_a_copied_address_show_the_same(live, videos, open_tab):
    tab = open_tab("gallery")
    expect(tab.get_by_role("gridcell")).to_have_count(3)
    tab.locator(".root.gallery").evaluate("e => { e.dataset.same = 'yes'; }")
    press(tab.get_by_role("button", name="All shapes"))
    press(tab.get_by_role("menuitem", name="Square"))
    expect(tab.get_by_role("gridcell")).to_have_count(1)
    expect(tab.get_by_role("button", name="Shape: Square")).to_be_visible()
    press(card(tab, "a silver spoon"))
    expect(tab.get_by_role("dialog", name="a silver spoon")).to_be_visible()
    assert shown(tab) == {"shape": ["square"], "video": [videos[2]["id"]]}
    other = open_tab(tab.url.removeprefix(f"{live.url}/"))
    expect(other.get_by_role("dialog", name="a silver spoon")).to_be_visible()
    expect(other.locator(".viewer .count")).to_have_text("1 of 1")
    tab.go_back()
    expect(tab.get_by_role("dialog")).to_have_count(0)
    expect(tab.get_by_role("gridcell")).to_have_count(1)
    tab.go_back()
    expect(tab.get_by_role("gridcell")).to_have_count(3)
    assert shown(tab) == {}
    tab.go_forward()
    tab.go_forward()
    expect(tab.get_by_role("dialog", name="a silver spoon")).to_be_visible()
    tab.keyboard.press("Escape")  # as Back
    expect(tab.get_by_role("dialog")).to_have_count(0)
    expect(card(tab, "a silver spoon")).to_be_focused()
    expect(tab.locator(".root.gallery")).to_have_attribute("data-same", "yes")  # never made anew
    press(tab.get_by_role("link", name="Queue"))
    tab.wait_for_url("**/queue")
    tab.go_back()
    expect(tab.get_by_role("button", name="Shape: Square")).to_be_visible()
    expect(tab.get_by_role("gridcell")).to_have_count(1)


def test_keys_select_compare_and_lead_to_the_neighbours(live, videos, open_tab):
    tab = open_tab("gallery")
    expect(tab.get_by_role("gridcell")).to_have_count(3)
    assert cards(tab) == ["a silver spoon", "an orange fish", "a purple balloon"]  # the newest first
    tab.get_by_role("gridcell").first.focus()
    tab.keyboard.press("Space")
    tab.keyboard.press("Shift+ArrowRight")
    bar = tab.get_by_role("toolbar", name="Selected videos")
    expect(bar).to_contain_text("2 selected")
    with tab.expect_download() as download:
        press(bar.get_by_role("link", name="Download zip"))
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == ["1-a-silver-spoon.mp4", "2-an-orange-fish.mp4"]
    press(bar.get_by_role("button", name="Compare"))
    expect(tab.get_by_role("heading", name="Compare two takes")).to_be_visible()
    assert shown(tab)["compare"] == [f"{videos[2]['id']},{videos[1]['id']}"]
    tab.keyboard.press("Escape")
    expect(card(tab, "a silver spoon")).to_be_focused()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("dialog", name="a silver spoon")).to_be_visible()
    assert plays(tab.get_by_role("dialog").locator("video"))
    assert tab.get_by_role("dialog").locator("video").evaluate("v => v.muted")
    tab.keyboard.press("j")
    expect(tab.get_by_role("dialog", name="an orange fish")).to_be_visible()
    tab.keyboard.press("End")  # of the video; beyond it is the next one
    tab.keyboard.press("ArrowRight")
    expect(tab.get_by_role("dialog", name="a purple balloon")).to_be_visible()
    tab.keyboard.press("k")
    expect(tab.get_by_role("dialog", name="an orange fish")).to_be_visible()
    tab.get_by_role("textbox", name="Note").fill("jjj")  # no key acts while one types
    expect(tab.get_by_role("dialog", name="an orange fish")).to_be_visible()


def test_two_are_compared_in_step_and_the_better_one_is_approved(live, videos, open_tab):
    a, b = (job["id"] for job in videos[:2])
    tab = open_tab(f"gallery?compare={a},{b}")
    page = tab.get_by_role("dialog", name="Compare two takes")
    expect(page.locator("video")).to_have_count(2)
    for frame in (1, 2):
        press(page.get_by_role("button", name="One frame on")) if frame > 1 else tab.keyboard.press("Home")
        tab.wait_for_function(
            "time => { const all = [...document.querySelectorAll('*')].flatMap(e => e.shadowRoot ? "
            "[...e.shadowRoot.querySelectorAll('.compare video')] : []); return all.length === 2 && "
            "all.every(v => v.paused && Math.abs(v.currentTime - time) < 0.001); }",
            arg=(frame - 0.5) / 24,
        )
    wipe = page.get_by_role("slider", name="Where B begins")
    wipe.press("ArrowLeft")
    expect(wipe).to_have_attribute("aria-valuenow", "48")
    expect(page.get_by_text("frame 2 of 16")).to_be_visible()  # the same key elsewhere is a frame
    page.get_by_role("button", name="Difference").click()
    assert page.locator(".side.B").evaluate("e => getComputedStyle(e).mixBlendMode") == "difference"
    expect(page.get_by_role("row", name="Seed 0 1")).to_be_visible()
    expect(page.get_by_role("row", name="Model Test pattern")).to_have_count(0)  # equal, so not said
    tab.keyboard.press("4")
    press(page.get_by_role("button", name="Approve B"))
    expect(page.get_by_role("button", name="Approved B")).to_be_visible()
    expect(page.get_by_role("group", name="Rating of B").get_by_role("button", name="4 stars")).to_have_attribute(
        "aria-pressed", "true"
    )
    press(page.get_by_role("button", name="B with A's prompt"))
    tab.wait_for_url(lambda url: "gallery" not in url)
    form = live.api.get("/draft").json()["form"]
    assert (form["prompt"], form["seed"], form["parent"]) == ("a purple balloon", 1, b)
    assert live.api.get(f"/jobs/{b}").json()["rating"] == 4
    tab = open_tab("gallery")
    card(tab, "an orange fish").focus()
    tab.keyboard.press("Delete")  # approved: it is there again, with the reason
    expect(tab.get_by_text("is approved")).to_be_visible()
    expect(tab.get_by_role("gridcell")).to_have_count(3)


def test_a_collection_is_made_filled_renamed_and_deleted(live, videos, open_tab):
    tab = open_tab("gallery")
    press(tab.get_by_role("button", name="New collection"))
    field = tab.get_by_role("textbox", name="Name of the new collection")
    field.fill("Under water")
    field.press("Enter")
    target = tab.get_by_role("button", name=re.compile("^Under water"))
    expect(target).to_be_visible()
    card(tab, "an orange fish").drag_to(target)
    expect(target).to_contain_text("1")
    press(target)
    expect(tab.get_by_role("gridcell")).to_have_count(1)
    assert shown(tab) == {"collection": ["Under water"]}
    press(tab.get_by_role("button", name="Actions for Under water"))
    press(tab.get_by_role("menuitem", name="Rename"))
    field = tab.get_by_role("textbox", name="New name of Under water")
    field.fill("Sea")
    field.press("Enter")
    expect(tab.get_by_role("button", name=re.compile("^Sea"))).to_be_visible()
    expect(tab.get_by_role("gridcell")).to_have_count(1)
    assert live.api.get(f"/jobs/{videos[1]['id']}").json()["collections"] == ["Sea"]
    press(tab.get_by_role("button", name="Actions for Sea"))
    press(tab.get_by_role("menuitem", name="Delete collection"))
    expect(tab.get_by_role("gridcell")).to_have_count(3)
    assert live.api.get("/collections").json()["collections"] == []


def test_a_heart_that_is_refused_goes_back_and_says_why(videos, open_tab):
    tab = open_tab("gallery")
    refusal = {"error": {"code": "not_enough_space", "message": "The disk is full; empty the trash.", "field": None}}
    held = []
    tab.route("**/api/v1/jobs/bulk", lambda route: held.append(route))
    fish = card(tab, "an orange fish")
    fish.focus()
    tab.keyboard.press("h")
    expect(card(tab, re.compile("an orange fish.*favourite"))).to_be_visible()  # before the studio has answered
    held[0].fulfill(status=507, content_type="application/json", body=json.dumps(refusal))
    expect(tab.get_by_text("The disk is full; empty the trash.")).to_be_visible()
    expect(card(tab, re.compile("an orange fish.*favourite"))).to_have_count(0)
    expect(fish).to_be_focused()


def test_a_video_whose_folder_was_deleted_says_so(live, videos, open_tab):
    folder = live.data / "outputs" / videos[0]["id"]
    for file in folder.iterdir():
        file.unlink()
    tab = open_tab("gallery")
    expect(card(tab, "a purple balloon")).to_contain_text("Files missing")
    press(card(tab, "a purple balloon"))
    expect(tab.get_by_text("This video's folder was deleted outside the studio.")).to_be_visible()


def test_an_empty_gallery_offers_the_first_step(live, videos, open_tab):
    live.api.post("/jobs/bulk", json={"ids": [job["id"] for job in videos], "action": "delete"})
    tab = open_tab("gallery")
    press(tab.get_by_role("button", name="Create the first video"))
    tab.wait_for_url(lambda url: "gallery" not in url)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A studio whose history has 800 videos of three shapes, on several days; their files are not there."""
    data, now = tmp_path_factory.mktemp("crowded") / "data", time.time()
    fill(data, 800, now)
    studio = LiveStudio(data)
    yield studio
    studio.stop()


def fill(data, count: int, now: float) -> None:
    """Write finished videos into a history, one an hour; the newest is the first."""
    store = Store(Settings(data=data).database)
    for number in range(count):
        request = parse_request(
            {"prompt": f"one of many, {number}", "resolution": SHAPES[number % 3], "seed": number} | SMALL
        )
        plan = make_plan(request, SYNTHETIC, Machine("CPU", 2, 8))
        job_id, made = f"h{number:019d}", now - 3600 * number
        times = {"created_at": made, "started_at": made, "finished_at": made, "position": float(number)}
        artifact = Artifact.of(job_id, plan, 50_000)
        assert store.import_job(Job(job_id, JobState.SUCCEEDED, request, plan, attempts=1, artifact=artifact, **times))
    store.close()


def test_of_many_videos_only_those_in_view_are_in_the_document(crowded, browser):
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    tab.goto(f"{crowded.url}/gallery")
    expect(tab.get_by_role("status").filter(has_text="800 videos")).to_have_count(1)
    assert 10 < tab.get_by_role("gridcell").count() < 120
    heights = {
        round(one.bounding_box()["height"]) for one in tab.get_by_role("row").nth(1).get_by_role("gridcell").all()
    }
    assert len(heights) == 1
    for one in tab.get_by_role("gridcell").all()[:8]:
        box = one.bounding_box()
        assert min(abs(box["width"] / box["height"] - ratio) for ratio in (4 / 3, 3 / 4, 1)) < 0.02  # uncropped
    tab.get_by_role("gridcell").first.focus()
    tab.keyboard.press("End")
    expect(card(tab, "one of many, 799")).to_be_focused()
    scrolled = tab.locator(".shelf").evaluate("e => e.scrollTop")
    press(tab.get_by_role("link", name="System"))
    tab.wait_for_url("**/system")
    tab.go_back()
    tab.wait_for_function(
        "top => [...document.querySelectorAll('*')].some(e => Math.abs((e.shadowRoot?.querySelector('.shelf')"
        "?.scrollTop ?? -1000) - top) < 2)",
        arg=scrolled,
        timeout=BROWSER_TIMEOUT_MS,
    )
    tab.close()
