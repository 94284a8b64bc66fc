"""The Create page's components in a real browser, with a studio that is made up: words, presets, LoRAs, failures."""

import json
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


def test_words_that_the_model_does_not_know_are_underlined_and_named_while_one_types(show):
    page = show("composer", MadeUpStudio(knows_no_cat)).page
    prompt = page.get_by_role("textbox", name="Prompt", exact=True)
    prompt.press_sequentially("two cats, a cat and a\ncatalogue, concat")
    said = page.get_by_text("SkyReels V2 Tiny does not know: cat, two. It will draw something else.").first
    expect(said).to_be_visible()
    marks = page.locator(".marks u")
    expect(marks).to_have_text(["two", "cat"])  # "cats", "catalogue" and "concat" are other words
    expect(prompt).to_have_accessible_description(re.compile("does not know: cat"))
    prompt.fill("a boat")
    expect(said).to_be_hidden()
    expect(marks).to_have_count(0)


@pytest.mark.parametrize("width", [336, 200])
def test_the_underlines_lie_under_their_words(show, width):
    """Both lay the same text out in the same width, and are scrolled alike."""
    page = show("composer", MadeUpStudio(knows_no_cat), width=width).page
    prompt = page.get_by_role("textbox", name="Prompt", exact=True)
    prompt.fill("a red boat drifts left on a calm sea, and with it there is another thing: a cat " * 12)
    expect(page.locator(".marks u")).to_have_count(12)
    sizes = page.evaluate("""() => {
        const root = document.querySelector("#host").shadowRoot;
        const [field, marks] = ["textarea", ".marks"].map(name => root.querySelector(name));
        field.style.borderRight = "11px solid transparent";  // as a scroll bar takes room, which this browser hides
        field.scrollTop = 1e6;
        field.dispatchEvent(new Event("scroll"));
        return [field, marks].map(one => [one.clientWidth, one.scrollHeight, one.scrollTop]);
    }""")
    assert sizes[0] == sizes[1]
    assert sizes[0][2] > 0


def open_presets(page):
    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Presets").click()
    return page.get_by_role("dialog", name="Presets")


def test_settings_are_saved_named_marked_renamed_and_deleted_in_a_dialog(show):
    studio = MadeUpStudio(
        form={"mode": "text_to_video", "prompt": "a boat", "seed": 4, "num_frames": 33, "preset": "turbo"}
    )
    page = show("composer", studio).page
    expect(page.get_by_role("radio", name="Fast")).to_be_checked()
    dialog = open_presets(page)
    expect(dialog.get_by_role("button", name="Save these settings")).to_be_disabled()
    dialog.get_by_role("textbox", name="Name of the preset").fill(" Night / 4 ")
    dialog.get_by_role("button", name="Save these settings").click()
    expect(dialog.get_by_text("“Night / 4” is saved.")).to_be_visible()
    form = studio.presets["Night / 4"]["form"]
    assert (form["num_frames"], form["preset"]) == (33, "turbo")
    assert not {"prompt", "seed"} & set(form)
    dialog.get_by_role("button", name="Make Night / 4 the default").click()
    expect(dialog.get_by_role("button", name="Night / 4 is the default")).to_have_attribute("aria-pressed", "true")
    dialog.get_by_role("button", name="Rename Night / 4").click()
    field = dialog.get_by_role("textbox", name="New name of Night / 4")
    expect(field).to_be_focused()
    field.fill("Evening")
    field.press("Enter")
    expect(dialog.get_by_role("button", name="Rename Evening")).to_be_visible()
    assert {name: one["is_default"] for name, one in studio.presets.items()} == {"Evening": True}
    dialog.get_by_role("button", name="Delete Evening").click()
    expect(dialog.get_by_text("Your presets appear here.")).to_be_visible()
    dialog.get_by_role("button", name="Undo").click()
    expect(dialog.get_by_role("button", name="Rename Evening")).to_be_visible()
    assert studio.presets["Evening"]["is_default"]
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_a_preset_leaves_the_prompt_the_inputs_and_the_seed(show):
    studio = MadeUpStudio(
        presets=[preset("Long", num_frames=120, fps=12)], form={"prompt": "a boat", "seed": 4, "fps": 30}
    )
    page = show("composer", studio).page
    open_presets(page).get_by_role("button", name=re.compile("^Long")).click()
    expect(page.get_by_role("slider", name="Length")).to_have_value("120")
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_have_value("a boat")
    expect(page.get_by_role("spinbutton", name="Seed")).to_have_value("4")


def test_a_name_that_is_taken_is_not_given_twice(show):
    studio = MadeUpStudio(presets=[preset("One", fps=10), preset("Two", fps=20)])
    dialog = open_presets(show("composer", studio).page)
    dialog.get_by_role("textbox", name="Name of the preset").fill("One")
    expect(dialog.get_by_role("button", name="Replace")).to_be_enabled()
    dialog.get_by_role("button", name="Rename Two").click()
    dialog.get_by_role("textbox", name="New name of Two").fill("One")
    dialog.get_by_role("button", name="Rename", exact=True).click()
    expect(dialog.get_by_role("status")).to_contain_text("There is a preset “One” already; choose another name.")
    assert [one["form"]["fps"] for one in studio.presets.values()] == [10, 20]


def test_presets_go_into_a_file_and_come_back(show):
    studio = MadeUpStudio(
        presets=[preset("One", fps=10, skyreels={"ar_step": 5, "fidelity": "diffusers"}), preset("Zwö/2", fps=20)]
    )
    page = show("composer", studio).page
    dialog = open_presets(page)
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Export").click()
    saved = json.loads(download.value.path().read_text())
    assert [one["name"] for one in saved["presets"]] == ["One", "Zwö/2"]
    studio.presets = {"One": preset("One", fps=11)}
    dialog.get_by_label("Import presets").set_input_files(download.value.path())
    expect(dialog.get_by_role("status")).to_have_text("2 presets imported.")
    assert {name: one["form"]["fps"] for name, one in studio.presets.items()} == {"One": 11, "One 2": 10, "Zwö/2": 20}
    dialog.get_by_label("Import presets").set_input_files(download.value.path())
    expect(dialog.get_by_role("status")).to_contain_text("already here")


def test_what_an_import_refuses_is_named_with_the_reason(show):
    def plan(body):
        if body.get("fps") == 99:
            return 422, {"error": {"code": "invalid_request", "message": "fps=99 is too much.", "field": "fps"}}
        return PLAN

    studio = MadeUpStudio(plan)
    dialog = open_presets(show("composer", studio).page)
    presets = [preset("Good", fps=12), preset("Fast", fps=99), preset("Odd", speed=3), preset("Many", variations=99)]
    presets += [{"name": "Mode", "form": {"mode": "magic"}}, {"name": 3}, None]
    content = json.dumps({"format": "studio-presets", "version": 1, "presets": presets}).encode()
    files = dialog.get_by_label("Import presets")
    files.set_input_files({"name": "p.json", "mimeType": "application/json", "buffer": content})
    said = dialog.get_by_role("status")
    expect(said).to_contain_text("1 preset imported.")
    expect(said).to_contain_text("“Fast”: fps=99 is too much.")
    expect(said).to_contain_text("“Odd”: it has “speed”, which is no setting of a preset.")
    expect(said).to_contain_text("A preset without a name: it has no name or no settings.")
    expect(said).to_contain_text("“Many”: it has 99 variations; 1 to 12 can be made.")
    expect(said).to_contain_text("“Mode”: its mode “magic” is not one of the studio's.")
    assert list(studio.presets) == ["Good"]
    for content in (b"no JSON", b"[]", b'{"presets": []}'):
        files.set_input_files({"name": "holiday.json", "mimeType": "application/json", "buffer": content})
        expect(said).to_have_text("holiday.json holds no presets; choose a file that Export has saved.")
    newer = json.dumps({"format": "studio-presets", "version": 2, "presets": []}).encode()
    files.set_input_files({"name": "new.json", "mimeType": "application/json", "buffer": newer})
    expect(said).to_contain_text("newer version of the studio")


def test_the_strength_of_a_lora_is_a_slider_and_a_number(show):
    studio = MadeUpStudio(
        form={"prompt": "a boat", "loras": [{"name": "grain", "strength": 0.5}, {"name": "ink", "strength": [1, 0.2]}]}
    )
    data = {"models": [MODEL], "automatic": "tiny", "settings": {}, "inputs": [], "prompt_length": 4000, "formats": {}}
    data["loras"] = [{"name": name, "fits": {"tiny": None}} for name in ("grain", "ink")]
    page = show("composer", studio, data).page
    page.get_by_text("More settings").click()
    number = page.get_by_role("spinbutton", name="Strength of grain as a number")
    expect(number).to_have_value("0.5")
    number.fill("-3.25")
    number.press("Tab")
    expect(number).to_have_value("-3.25")
    expect(page.get_by_text("1, 0.2, one for each window")).to_be_visible()
    number.fill("9")
    number.press("Tab")  # more than there is
    page.get_by_role("button", name="Use one").click()
    expect(page.get_by_role("slider", name="Strength of ink")).to_have_value("1")
    form = page.evaluate("JSON.parse(localStorage.getItem('studio.form')).form")
    assert form["loras"] == [{"name": "grain", "strength": [-3.25]}, {"name": "ink", "strength": [1]}]


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
    view.wait_for_asked("POST", "/jobs/j1/retry", None)


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
    view.wait_for_asked("POST", "/jobs/j1/edit", {"resolution": "480x270"})


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
