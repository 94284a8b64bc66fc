"""The Create page's components in a real browser, with a studio that is made up: words, presets, LoRAs, failures."""

import re
from urllib.parse import unquote

import pytest
from playwright.sync_api import expect

from backend.core.schema import SETTINGS
from tests.ui.component_page import ComponentPage
from tests.ui.test_queue import FORECAST, PROGRESS, job

pytestmark = pytest.mark.browser

MODEL = {
    "id": "tiny",
    "title": "SkyReels V2 Tiny",
    "about": "",
    "modes": ["text_to_video", "image_to_video", "video_extension"],
    "fps": 24,
    "num_inference_steps": 20,
    "guidance_scale": 5.0,
    "flow_shift": 5.0,
    "base_num_frames": 65,
    "overlap_history": 17,
    "diffusion_forcing": True,
    "denoises": True,
    "many_windows": True,
    "end_image": True,
    "family": "skyreels-v2",
    "prompts": ["A red boat"],
    "fits": True,
    "fit": "runs on the CPU",
    "picture": None,
}
PLAN = {
    "model": "tiny",
    "model_title": "SkyReels V2 Tiny",
    "width": 960,
    "height": 540,
    "render_width": 160,
    "render_height": 96,
    "enlarged": True,
    "num_frames": 64,
    "total_frames": 64,
    "render_frames": 65,
    "source_frames": 0,
    "fps": 24,
    "window_steps": [20],
    "windows": [{"start": 0, "stop": 17}],
    "notes": [],
    "unknown_words": [],
    "forecast": FORECAST | {"total_s": 20.0},
    "forecast_s": 20.0,
}


class MadeUpStudio:
    """A draft, presets, and plans; `plan` is asked with the body of a request."""

    def __init__(self, plan=lambda body: PLAN, presets=(), form=None) -> None:
        self.plan, self.form = plan, form
        self.presets = {one["name"]: one for one in presets}

    def answer(self, method, path, body):
        route, _, _ = path.partition("?")
        if route == "/draft":
            self.form = body["form"] if body else self.form
            return {"form": self.form, "version": 1, "saved_at": 1.0}
        if route == "/plan":
            return self.plan(body)
        if route == "/presets":
            return {"presets": sorted(self.presets.values(), key=lambda one: one["name"])}
        if route.startswith("/presets/"):
            name = unquote(route.removeprefix("/presets/"))
            if method == "DELETE":
                del self.presets[name]
                return {"removed": name}
            usual = body.get("is_default", self.presets.get(name, {}).get("is_default", False))
            self.presets[name] = {"name": name, "form": body["form"], "is_default": usual}
            return self.presets[name]
        return {"jobs": [], "next": None}


def preset(name, **form):
    return {"name": name, "form": {"mode": "text_to_video"} | form, "is_default": False}


@pytest.fixture
def show(browser):
    """Show a component over a made-up studio; None for what it draws is the composer's usual data."""
    shown = []

    def open_page(name, studio, data=None, parts=(), **more):
        settings = {field: {"title": one.title, "help": one.help_with_bounds} for field, one in SETTINGS.items()}
        usual = {"models": [MODEL], "automatic": "tiny", "settings": settings, "inputs": [], "loras": []}
        usual |= {"prompt_length": 4000, "formats": {"image": "a JPG", "video": "an MP4"}}
        shown.append(ComponentPage(browser, name, *parts, data=data or usual, answer=studio.answer, **more))
        shown[-1].tell(order=[])
        return shown[-1]

    yield open_page
    for one in shown:
        one.close()


def knows_no_cat(body):
    words = [word for word in ("cat", "two") if word in body["prompt"]]
    said = f"SkyReels V2 Tiny does not know: {', '.join(words)}. It will draw something else."
    return PLAN | {"unknown_words": words, "notes": [said] if words else []}


# --- composer ---


def open_presets(page):
    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Presets").click()
    return page.get_by_role("dialog", name="Presets")


def test_a_refusal_calls_settings_as_the_page_does(show):
    error = {
        "code": "invalid_request",
        "message": "skyreels.flow_shift=99 is too much.",
        "field": "skyreels.flow_shift",
    }
    error["parts"] = [
        {"field": "skyreels.flow_shift", "value": "99"},
        " is too much; lower ",
        {"field": "fps", "value": None},
        ".",
    ]
    page = show("composer", MadeUpStudio(lambda body: (422, {"error": error}), form={"prompt": "a boat"})).page
    expect(page.get_by_role("alert")).to_have_text('"Flow shift" 99 is too much; lower "Frames per second".')


# --- stage ---

LESS = "try again, which keeps fewer models on the GPU; if that fails, lower resolution."


def failed(code="not_enough_memory", hint="lower resolution.", **progress):
    error = {
        "code": code,
        "message": f"Denoising 97 frames needs about 53.0 GiB, more than is free; {hint}",
        "hint": hint,
    }
    one = job(1, "a train", state="failed", error=error | {"log": ["the end of the log"]}, attempts=2, finished_at=9.0)
    one["progress"] = PROGRESS | progress
    one["plan"]["forecast"] = FORECAST | {"peak_gib": 53.0, "total_s": 600.0}
    return one


def show_failure(show, one, plan=lambda body: (422, {"error": {"code": "x", "message": "x"}})):
    studio = MadeUpStudio(plan)
    view = show(
        "stage",
        studio,
        {"first": "Describe a video."},
        parts=("player", "sheet"),
        permissions=["clipboard-write", "clipboard-read"],
    )
    view.tell(order=[], jobs=[one])
    return view, view.page.get_by_role("region", name="What happened")


def test_a_failure_offers_its_ways_out_with_times_and_one_primary_button(show):
    view, card = show_failure(show, failed(hint=LESS, fraction=0.5, saved_at=5.0))
    ways = card.get_by_role("radio")
    expect(ways).to_have_count(2)
    expect(card.get_by_role("radio", name=re.compile("Continue with less memory.*at least 5 min"))).to_be_checked()
    expect(card.locator(".primary")).to_have_count(1)
    card.get_by_role("radio", name=re.compile("Keep the first 4.0 s as a file.*ready now")).check()
    with view.page.expect_download() as download:
        card.get_by_role("button", name="Save 4.0 s").click()
    assert download.value.suggested_filename == "a-train-first-96-frames.mp4"
    ways.first.check()
    card.get_by_role("button", name="Continue", exact=True).click()
    assert ("POST", "/jobs/j1/retry", None) in view.asked


def test_less_memory_is_promised_only_where_the_next_attempt_takes_less(show):
    _, card = show_failure(show, failed(frames_ready=0, saved_at=None))
    expect(card.get_by_role("radio")).to_have_count(1)
    expect(card.get_by_role("radio", name=re.compile("^Try again Begins anew"))).to_be_checked()
    expect(card.get_by_role("button", name="Retry", exact=True)).to_be_visible()


def test_a_smaller_size_is_offered_where_its_plan_takes_less_memory(show):
    def plan(body):
        peak = {"640x360": 60.0, "480x270": 21.5}[body["resolution"]]
        return PLAN | {"width": 480, "height": 270, "forecast": FORECAST | {"peak_gib": peak, "total_s": 90.0}}

    view, card = show_failure(show, failed(), plan)
    smaller = card.get_by_role("radio", name=re.compile("Render it at 480x270"))
    expect(card).to_contain_text("Needs 21.5 GiB instead of 53.0.")
    smaller.check()
    card.get_by_role("button", name="Render smaller").click()
    expect(card).to_be_hidden()
    assert ("POST", "/jobs/j1/edit", {"resolution": "480x270"}) in view.asked


def test_the_details_of_a_failure_are_folded_and_can_be_copied(show):
    view, card = show_failure(show, failed(code="render_failed"))
    expect(card.get_by_text("the end of the log")).to_be_hidden()
    card.get_by_text("Details").click()
    for words in ("code: render_failed", "window 2 of 3 · step 14 of 30", "attempts: 2", "the end of the log"):
        expect(card.locator("pre")).to_contain_text(words)
    card.get_by_role("button", name="Copy").click()
    expect(view.page.get_by_text("The details are copied.")).to_be_visible()
    assert "code: render_failed" in view.page.evaluate("navigator.clipboard.readText()")


def test_a_failure_is_reached_while_the_queue_goes_on_and_says_with_what(show):
    view, card = show_failure(show, failed())
    expect(card).to_be_visible()
    view.tell(order=["j2"], jobs=[job(2, "a lion", state="running", progress=PROGRESS)])
    expect(card).to_be_hidden()
    line = view.page.get_by_text("Stopped: a train")
    expect(line).to_be_visible()
    line.locator("xpath=..").get_by_role("button", name="Show").click()
    expect(card).to_be_visible()
    went_on = view.page.get_by_text("The queue went on with “a lion”.")
    went_on.locator("xpath=..").get_by_role("button", name="Show").click()
    expect(card).to_be_hidden()
    expect(view.page.get_by_text("Rendering").first).to_be_visible()


# --- frame ---

BELL = """
localStorage.setItem("studio.bell", '["notify"]');
window.told = [];
class Notification {
  static permission = "granted";
  constructor(words) { window.told.push(words); }
}
window.Notification = Notification;
"""


def show_frame(show, **more):
    data = {"page": "models", "device": "CPU", "models": [MODEL], "automatic": "tiny"}
    return show("frame", MadeUpStudio(), data, **more)


@pytest.mark.parametrize("width", [1440, 390])
def test_the_name_of_the_queue_button_contains_what_is_seen_of_it(show, width):
    """WCAG 2.5.3, label in name."""
    view = show_frame(show, width=width)
    view.tell(order=["j1", "j2"], jobs=[job(1, "a", state="running", progress=PROGRESS), job(2, "b")])
    button = view.page.get_by_role("button", name=re.compile("^Queue: "))
    seen = {1440: "49 % · 1 waiting", 390: "2"}[width]
    expect(button.get_by_text(seen, exact=width == 1440).first).to_be_visible()
    expect(button).to_have_accessible_name(re.compile(f"^Queue: .*{seen}"))
    if width == 390:
        expect(button).to_have_accessible_name("Queue: 2 jobs, 49 %")


def test_the_end_of_the_last_job_is_told_on_every_page(show):
    view = show_frame(show, script=BELL)
    view.tell(order=["j1"], jobs=[job(1, "a", state="running", progress=PROGRESS)])
    expect(view.page.get_by_text("49 %").first).to_be_visible()
    view.tell(order=[], jobs=[job(1, "a", state="succeeded")])
    expect(view.page.get_by_text("Queue empty").first).to_be_visible()
    assert view.page.evaluate("window.told.filter(words => words.includes('All'))") == ["All videos are done"]
