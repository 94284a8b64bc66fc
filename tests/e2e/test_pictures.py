"""A picture of every state of the pages, in both themes and three widths, into tests/pictures/, which is not committed.

Whoever changes how a page looks sees the change there. The test checks what a picture can show: the state is on the
page, its main control is in view, nothing is wider than the window, and the console has no error.
"""

import itertools
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import ConsoleMessage, Locator, Page, expect

from tests.e2e.conftest import wait_for_page
from tests.e2e.test_browser import press, prompt_of, stage_video
from tests.studio import BROWSER_TIMEOUT_MS, ROOT, LiveStudio

pytestmark = pytest.mark.browser

FOLDER = ROOT / "tests" / "pictures"
HEIGHTS = {1440: 900, 1024: 768, 390: 844}  # by widths, in pixels
BACKGROUNDS = {"light": "rgb(251, 251, 254)", "dark": "rgb(14, 16, 32)"}
# The page and all its components have the theme, and the pictures in it are there.
DRAWN = """([theme, background]) => {
  const hosts = [...document.querySelectorAll("*")].filter(one => one.shadowRoot);
  const roots = hosts.flatMap(one => [...one.shadowRoot.querySelectorAll(".root")]);
  return getComputedStyle(document.querySelector(".stApp")).backgroundColor === background
    && roots.every(root => root.style.colorScheme === theme)
    && roots.every(root => [...root.querySelectorAll("img")].every(img => img.loading === "lazy" || img.complete));
}"""
# Whether something else lies over the middle of an element.
COVERED = """element => {
  const box = element.getBoundingClientRect();
  let top = null;
  for (let root = document; root; root = top?.shadowRoot) {
    const found = root.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    if (!found || found === top) break;
    top = found;
  }
  return !(element.contains(top) || top?.contains(element));
}"""
INTO_VIEW = """element => {
  const { top, bottom } = element.getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) element.scrollIntoView({ block: "center" });
}"""
NEXT_FRAME = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"

TAKE = {"model": "synthetic", "num_inference_steps": 10, "num_frames": 24, "resolution": "640x360"}
ENDLESS = {
    "model": "synthetic",
    "num_frames": 1457,
    "resolution": "1280x720",
    "prompt": "A steam train crosses a bridge",
}
PROMPTS = ("A red boat drifts left on a calm sea", "A white horse runs along a beach", "A castle on a hill at night")
STORY = "A boat leaves the harbour\nA whale swims under it\nThe boat comes home at night"


class Album:
    """Takes pictures of one tab, and notes what is wrong with them."""

    def __init__(self, tab: Page) -> None:
        self.tab = tab
        self.faults: list[str] = []
        self.names: list[str] = []
        self._errors: list[str] = []
        self._themes = itertools.cycle([("light", "dark"), ("dark", "light")])  # so that each state begins as it is
        tab.on("pageerror", lambda error: self._errors.append(str(error)))
        tab.on("console", self._hear)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._errors.append(f"{message.text} ({message.location['url']})")

    def visit(self, page: str) -> None:
        """Open a page by its link, as wide as the links need."""
        self.tab.set_viewport_size({"width": 1440, "height": 900})
        self.tab.get_by_role("link", name=page).first.click()
        self.tab.wait_for_url("**/" if page == "Create" else f"**/{page.lower()}")

    def take(self, name: str, shown: Locator, control: Locator, *, errors: bool = False) -> None:
        """Six pictures of the state that is there once `shown` is; `control` is what one would press next. With
        `errors` the console may have some.
        """
        expect(shown).to_be_visible()
        for theme in next(self._themes):
            self.tab.emulate_media(color_scheme=theme)
            for width, height in HEIGHTS.items():
                self.tab.set_viewport_size({"width": width, "height": height})
                self.tab.wait_for_function(DRAWN, arg=[theme, BACKGROUNDS[theme]])
                shown.evaluate(INTO_VIEW)
                self.tab.evaluate(NEXT_FRAME)
                self.tab.screenshot(path=FOLDER / f"{name}-{width}-{theme}.png", animations="disabled")
                self._check(f"{name} {width} {theme}", shown, control)
        if not errors:
            self.faults += [f"{name}: {error}" for error in self._errors]
        self._errors.clear()
        self.names.append(name)

    def _check(self, what: str, shown: Locator, control: Locator) -> None:
        size = self.tab.viewport_size
        if not shown.is_visible():
            self.faults.append(f"{what}: the state is not on the page")
        wide = self.tab.evaluate("document.documentElement.scrollWidth")
        if wide > size["width"]:
            self.faults.append(f"{what}: {wide} px wide")
        box = control.bounding_box() or dict.fromkeys(("x", "y", "width", "height"), -1.0)
        right, foot = box["x"] + box["width"], box["y"] + box["height"]
        if min(box["x"], box["y"]) < 0 or right > size["width"] or foot > size["height"]:
            self.faults.append(f"{what}: its control is not in view: {box}")
        elif control.evaluate(COVERED):
            self.faults.append(f"{what}: something covers its control")


@pytest.fixture
def studio(tmp_path) -> Iterator[LiveStudio]:
    """With the model that comes with the code, as after the first start; the videos are test patterns."""
    studio = LiveStudio(tmp_path / "data", STUDIO_MODELS=str(ROOT / "models"))
    yield studio
    studio.stop()


@pytest.fixture
def tab(browser) -> Iterator[Page]:
    context = browser.new_context(color_scheme="light", viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    tab.set_default_timeout(BROWSER_TIMEOUT_MS)
    yield tab
    context.close()


def generate(tab: Page) -> Locator:
    return tab.get_by_role("button", name="Generate").first


def submit(studio: LiveStudio, **wish) -> str:
    answer = studio.api.post("/jobs", json=TAKE | wish)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def write_draft(studio: LiveStudio, **form) -> None:
    studio.api.put("/draft", json={"form": form})


@pytest.mark.timeout(600)
def test_every_state_has_its_pictures(studio, tab, photo):
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    album = Album(tab)
    tab.goto(studio.url)
    wait_for_page(tab)
    of_an_empty_studio(album)
    takes = of_a_take(album, studio)
    of_the_gallery(album, takes)
    of_the_composer(album, studio, photo)
    of_variations(album, studio)
    of_a_failure(album, studio, photo)
    of_a_render(album, studio)
    of_a_studio_that_is_away(album, studio)
    if album.faults:
        pytest.fail("\n".join(album.faults))
    assert len(list(FOLDER.glob("*.png"))) == 6 * len(album.names)


def of_an_empty_studio(album: Album) -> None:
    tab = album.tab
    prompt_of(tab).wait_for()
    album.take("create-first-start", tab.get_by_text("Describe a video."), generate(tab))
    help_button = tab.get_by_role("button", name="Help and shortcuts")
    tab.set_viewport_size({"width": 1440, "height": 900})
    press(help_button)
    help_dialog = tab.get_by_role("dialog", name="Help and shortcuts")
    album.take("help", help_dialog, help_dialog.get_by_role("button", name="Close"))
    tab.keyboard.press("Escape")
    tab.set_viewport_size({"width": 1440, "height": 900})
    press(tab.get_by_role("button", name="Model:"))
    models = tab.get_by_role("listbox", name="Model")
    expect(models.get_by_text("about").first).to_be_visible()
    album.take("model-picker", models, models.get_by_role("option").first)
    tab.keyboard.press("Escape")
    album.visit("Queue")
    album.take("queue-empty", tab.get_by_text("The queue is empty"), tab.get_by_role("button", name="Create a video"))
    album.visit("Gallery")
    album.take("gallery-empty", tab.locator(".empty"), tab.get_by_role("button", name="Create the first video"))
    album.visit("Models")
    wait_for_page(tab)
    album.take(
        "models", tab.get_by_role("heading", name="Models"), tab.get_by_role("button", name="Create a video with it")
    )
    album.visit("System")
    album.take("system-new", tab.get_by_role("img", name="CPU"), tab.get_by_role("button", name="Run the checks"))


def of_a_take(album: Album, studio: LiveStudio) -> list[str]:
    """Create while a first job waits, and with what was made; System once jobs have ended. Returns the videos' ids."""
    tab = album.tab
    studio.api.post("/queue/pause")
    takes = [
        submit(studio, prompt=PROMPTS[1], resolution="360x640"),
        submit(studio, prompt=PROMPTS[2], resolution="480x480"),
    ]
    takes += [submit(studio, prompt=PROMPTS[0], seed=seed) for seed in (11, 12, 13)]
    album.visit("Create")
    album.take("create-waiting", tab.get_by_role("button", name="Resume the queue"), generate(tab))
    studio.api.post("/queue/resume")
    for job_id in takes:
        assert studio.wait_for(job_id)["state"] == "succeeded"
    write_draft(studio, mode="text_to_video", prompt=PROMPTS[0], model="synthetic")
    tab.reload()
    stage_video(tab, takes[-1]).wait_for()
    album.take("create-idle", stage_video(tab, takes[-1]), generate(tab))
    album.visit("System")
    tab.get_by_role("img", name="CPU").wait_for()
    press(tab.get_by_role("button", name="Run the checks"))
    expect(tab.get_by_text("FFmpeg")).to_be_visible()
    checks = tab.get_by_role("heading", name="Checks")
    album.take("system-checked", checks, checks)
    return takes


def of_the_gallery(album: Album, takes: list[str]) -> None:
    tab = album.tab
    album.visit("Gallery")
    cards = tab.get_by_role("gridcell")
    expect(cards).to_have_count(len(takes))
    album.take("gallery", cards.first, tab.get_by_role("searchbox", name="Search"))
    cards.first.focus()
    tab.keyboard.press("Space")
    tab.keyboard.press("Shift+ArrowRight")
    selection = tab.get_by_role("toolbar", name="Selected videos")
    album.take("gallery-selection", selection, selection.get_by_role("button", name="Compare"))
    press(selection.get_by_role("button", name="Compare"))
    compared = tab.get_by_role("heading", name="Compare two takes")
    album.take("compare", compared, tab.get_by_role("button", name="Back to the videos"))
    tab.keyboard.press("Escape")
    tab.keyboard.press("Escape")
    cards.first.focus()
    tab.keyboard.press("Enter")
    viewer = tab.get_by_role("dialog", name=PROMPTS[0])
    viewer.locator("video").wait_for()
    album.take("gallery-video", viewer, viewer.get_by_role("link", name="Download"))
    tab.keyboard.press("Escape")


def of_the_composer(album: Album, studio: LiveStudio, photo) -> None:
    tab = album.tab
    write_draft(studio, mode="text_to_video", story=True, prompt=STORY, model="synthetic")
    album.visit("Create")
    album.take("create-story", tab.get_by_text("3 scenes, "), generate(tab))
    upload = studio.upload(photo)["id"]
    write_draft(studio, mode="image_to_video", prompt="snow falls on the hills", image=upload, model="synthetic")
    album.take("create-image", tab.get_by_role("img", name="First frame, as the model will see it"), generate(tab))


def of_variations(album: Album, studio: LiveStudio) -> None:
    tab = album.tab
    drafts = {"variations": 4, "drafts": True, "draft_steps": 5}
    write_draft(studio, **TAKE, **drafts, mode="text_to_video", prompt="A kite over the dunes")
    tab.set_viewport_size({"width": 1440, "height": 900})
    expect(prompt_of(tab)).to_have_value("A kite over the dunes")
    press(tab.get_by_role("button", name="Generate 4"))
    expect(tab.get_by_role("heading", name="4 drafts")).to_be_visible()
    expect(tab.locator(".tile video")).to_have_count(4)
    prompt_of(tab).blur()
    tab.keyboard.press("1")
    tab.keyboard.press("3")
    finish = tab.get_by_role("button", name="Finish 2 selected")
    album.take("create-variations", tab.get_by_role("heading", name="4 drafts"), finish)
    tab.keyboard.press("Escape")


def of_a_failure(album: Album, studio: LiveStudio, photo) -> None:
    tab = album.tab
    album.visit("System")  # which shows no picture of the input, while that is not there
    studio.api.post("/queue/pause")
    upload = studio.upload(photo)["id"]
    job_id = submit(studio, mode="image_to_video", prompt="Snow falls", image=upload)
    folder, elsewhere = studio.data / "uploads" / upload, studio.data / "elsewhere"
    folder.rename(elsewhere)
    studio.api.post("/queue/resume")
    assert studio.wait_for(job_id)["state"] == "failed"
    elsewhere.rename(folder)
    album.visit("Create")
    card = tab.get_by_role("region", name="What happened")
    album.take("create-failed", card, card.get_by_role("button", name="Retry", exact=True))
    studio.wait_for(submit(studio, prompt=PROMPTS[1]))  # after which the stage shows what comes next again


def of_a_render(album: Album, studio: LiveStudio) -> None:
    tab = album.tab
    write_draft(studio, mode="text_to_video", prompt=PROMPTS[0], model="synthetic")
    running = submit(studio, **ENDLESS)
    request = TAKE | {"prompt": "A windmill turns in the wind"}
    studio.api.post("/variations", json={"request": request, "count": 3})
    for prompt in PROMPTS:
        submit(studio, prompt=prompt)
    album.visit("Create")
    tab.reload()
    preview = tab.get_by_role("img", name="Preview of A steam train")
    preview.wait_for()
    album.take("create-rendering", tab.get_by_text("Rendering", exact=True), generate(tab))
    album.visit("Queue")
    card = tab.get_by_role("article", name="Rendering: A steam train")
    expect(tab.get_by_role("list", name="Waiting jobs").locator("> li")).to_have_count(4)
    album.take("queue", card, tab.get_by_role("button", name="Pause queue"))
    studio.api.post("/queue/pause")  # or the next job would begin
    studio.api.post(f"/jobs/{running}/pause")
    album.visit("Create")
    album.take("create-paused", tab.locator(".stage").get_by_text("Paused", exact=True), generate(tab))
    album.visit("Queue")
    album.take("queue-paused", tab.get_by_text("The queue is paused."), tab.get_by_role("button", name="Resume queue"))
    album.visit("Create")
    studio.api.post(
        "/jobs/bulk", json={"action": "cancel", "ids": [job["id"] for job in studio.jobs(state=["paused", "queued"])]}
    )


def of_a_studio_that_is_away(album: Album, studio: LiveStudio) -> None:
    tab = album.tab
    expect(tab.get_by_role("button", name="Queue: Queue empty")).to_be_visible()
    studio.stop()
    away = tab.locator(".stage").get_by_text("The studio is not running.")
    album.take("create-away", away, generate(tab), errors=True)
