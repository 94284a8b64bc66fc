"""The Models page's component in a real browser, with a studio that is made up: what it shows and asks."""

import copy
import re

import pytest
from playwright.sync_api import expect

from tests.ui.component_page import ComponentPage

pytestmark = pytest.mark.browser

MODES = ["text_to_video", "image_to_video", "video_extension"]
FORECAST = {"total_s": 26.0, "low_s": None, "high_s": None, "peak_gib": 0.9}
FORECAST |= {"width": 960, "height": 540, "num_frames": 64, "fps": 24}
HUB = "https://huggingface.co"


def model(name: str, **fields):
    row = {
        "id": name.lower().replace(" ", "-"),
        "title": name,
        "about": "",
        "modes": MODES,
        "denoises": True,
        "licence": "Apache-2.0",
        "licence_url": "https://www.apache.org/licenses/LICENSE-2.0",
        "card_url": f"{HUB}/owner/{name.replace(' ', '-')}",
        "present": True,
        "removable": True,
        "trashed": False,
        "fits": True,
        "fit": "runs on the CPU",
        "forecast": FORECAST,
        "bytes": 38_000_000,
        "download_bytes": 41_000_000_000,
    }
    return row | fields


TINY = model("Tiny", removable=False, card_url=None, download_bytes=None)
SMALL = model("Small")
LARGE = model("Large", present=False, bytes=None, fits=False, fit="needs 39 GiB of memory; you have 8")
COMING = {
    "id": "large",
    "title": "Large",
    "state": "running",
    "bytes_done": 24_600_000_000,
    "bytes_total": 40_400_000_000,
    "bytes_per_s": 58_000_000.0,
    "fraction": 24.6 / 40.4,
    "eta_s": 272.0,
    "error": None,
}


def lora(name: str, **fields):
    row = {
        "name": name,
        "bytes": 142_000_000,
        "layers": 20,
        "ranks": [16],
        "notes": [],
        "base_model_hint": "",
        "trigger_words": [],
        "fits": {"tiny": None, "small": None},
        "removable": True,
    }
    return row | fields


class MadeUpStudio:
    """Models, LoRAs and a draft; does what the page asks."""

    def __init__(self, models, loras, **answer) -> None:
        self.models, self.loras = copy.deepcopy(models), copy.deepcopy(loras)
        self.trashed_models, self.trashed_loras = [], []
        self.answers = answer
        self.form, self.version = None, 1
        self.refusal = None

    def answer(self, method, path, body):
        route = path.partition("?")[0]
        if self.refusal and method != "GET":
            return 409, {"error": {"code": "conflict", "message": self.refusal, "field": None}}
        if route == "/draft":
            if body:
                self.form, self.version = body["form"], self.version + 1
            return {"form": self.form, "version": self.version, "saved_at": 1.0}
        if route == "/videos":
            made = "model=small" in path
            return {"videos": [{"id": "v1"}] if made else [], "next": "", "total": int(made)}
        kind, *name = route.strip("/").split("/")
        if method == "GET":
            return self.listed(kind)
        rows, trash = (self.models, self.trashed_models) if kind == "models" else (self.loras, self.trashed_loras)
        if method == "DELETE":
            trash.extend(row for row in rows if name[0] in row.values())
            rows[:] = [row for row in rows if name[0] not in row.values()]
        elif name[1:] == ["restore"]:
            rows.extend(trash)
            trash.clear()
        elif kind == "loras":
            rows.append(lora(re.search(r"filename=(\w+)", path)[1]))
            return 201, rows[-1]
        return {}

    def listed(self, kind):
        if kind == "loras":
            return {"loras": self.loras, "refused": {}, "trashed": [row["name"] for row in self.trashed_loras]}
        return {
            "models": self.models,
            "refused": {},
            "recommended": {"model": "tiny", "why": "No GPU was found. The others need a GPU."},
            "automatic": "tiny",
            "trashed": [{"id": row["id"], "title": row["title"]} for row in self.trashed_models],
            "offline": False,
            "disk_free_bytes": 412e9,
        } | self.answers

    def fill(self, **form):
        """Another page changes the draft."""
        self.form, self.version = form, self.version + 1
        self.page.tell(draft=self.version)

    def asked(self):
        """What was sent, without the draft."""
        return [(method, path) for method, path, _ in self.page.asked if path != "/draft"]


@pytest.fixture
def open_models(browser):
    pages = []

    def open_models(models=(TINY, SMALL, LARGE), loras=(), downloads=(), **answer):
        context = {name: answer.pop(name) for name in ("width", "theme", "permissions") if name in answer}
        studio = MadeUpStudio(list(models), list(loras), **answer)
        data = {"gpu": False, "memory_gib": 8.2}
        studio.page = ComponentPage(browser, "models", "loras", data=data, answer=studio.answer, **context)
        pages.append(studio.page)
        studio.tab = studio.page.page
        studio.page.tell(order=[], paused=False, draft=0, videos=1, preview=None, downloads=list(downloads))
        expect(studio.tab.get_by_role("heading", name="Installed")).to_be_visible()
        return studio

    yield open_models
    for page in pages:
        page.close()


def region(studio, name):
    return studio.tab.get_by_role("region", name=name, exact=True)


def saving(studio):
    """Until the draft was sent once more."""
    return studio.tab.expect_response(lambda one: one.request.method == "PUT" and one.url.endswith("/draft"))


def notice(studio):
    return studio.tab.get_by_role("status").last


def item(studio, name):
    return studio.tab.get_by_role("listitem", name=name, exact=True)


def test_the_model_in_use_is_recommended_where_nothing_else_runs(open_models):
    studio = open_models()
    best = region(studio, "Recommended for this machine")
    expect(best.get_by_role("heading", name="Tiny")).to_be_visible()
    expect(best).to_contain_text("The others need a GPU.")
    expect(best.locator("dl")).to_contain_text("about 26 s")
    expect(best.locator("dl")).to_contain_text("0.9 of 8 GiB")
    expect(best.get_by_text("In use")).to_be_visible()
    best.get_by_role("button", name="Create a video with it").click()
    assert studio.tab.evaluate("triggers") == [["create", "tiny"]]
    assert studio.asked() == []


def test_a_recommended_model_that_is_not_here_is_downloaded_with_size_and_time(open_models):
    wanted = model("Huge", present=False, bytes=None, fit="fits this GPU")
    studio = open_models([TINY, wanted], downloads=[COMING], recommended={"model": "huge", "why": "It fits."})
    best = region(studio, "Recommended for this machine")
    button = best.get_by_role("button", name="Download · 41.0 GB · about 12 min")  # at 58 MB a second
    expect(best.locator("dl")).to_contain_text("412.0 GB free")
    button.click()
    expect(notice(studio)).to_contain_text("Downloading Huge.")
    assert studio.page.asked == [("POST", "/downloads", {"model": "huge"})]


def test_use_writes_the_model_into_the_draft_and_goes_to_create(open_models):
    studio = open_models()
    expect(item(studio, "Small").get_by_role("img", name="The last video made with Small")).to_be_visible()
    expect(item(studio, "Tiny").get_by_role("img")).to_have_count(0)
    with saving(studio):
        item(studio, "Small").get_by_role("button", name="Use Small").click()
    assert studio.form["model"] == "small"
    assert studio.tab.evaluate("triggers") == [["create", "small"]]


def test_a_removed_model_is_not_used_any_more_and_comes_back_with_undo(open_models):
    studio = open_models()
    studio.fill(model="small")
    expect(item(studio, "Small").get_by_text("In use")).to_be_visible()
    item(studio, "Small").get_by_role("button", name="More for Small").click()
    with saving(studio):
        studio.tab.get_by_role("menuitem", name="Remove").click()
    assert "model" not in studio.form
    expect(item(studio, "Small")).to_have_count(0)
    expect(item(studio, "Tiny").get_by_text("In use")).to_be_visible()
    expect(region(studio, "In the trash")).to_contain_text("Small")
    notice(studio).get_by_role("button", name="Undo").click()
    expect(item(studio, "Small").get_by_text("In use")).to_be_visible()
    assert studio.asked() == [("DELETE", "/models/small"), ("POST", "/models/small/restore")]
    expect(item(studio, "Tiny").get_by_role("button", name="More for Tiny")).to_have_count(0)


def test_a_refusal_is_said_and_nothing_changes(open_models):
    studio = open_models()
    studio.refusal = "A job that waits or runs needs small; let it finish, or cancel it."
    item(studio, "Small").get_by_role("button", name="More for Small").click()
    studio.tab.get_by_role("menuitem", name="Remove").click()
    expect(notice(studio)).to_contain_text("A job that waits or runs needs small")
    expect(item(studio, "Small")).to_be_visible()


def test_others_are_listed_behind_show_all_and_found_by_a_search(open_models):
    studio = open_models(loras=[lora("Winter", trigger_words=["gouache snow"]), lora("Neon")])
    expect(item(studio, "Large")).to_have_count(0)
    studio.tab.get_by_role("button", name="Show all").click()
    expect(item(studio, "Large")).to_contain_text("Needs 39 GiB of memory; you have 8")
    card = item(studio, "Large").get_by_role("link", name=re.compile("Model card"))
    assert [card.get_attribute(name) for name in ("href", "rel", "target")] == [
        f"{HUB}/owner/Large",
        "noopener noreferrer",
        "_blank",
    ]
    studio.tab.get_by_role("button", name="Show fewer").click()
    expect(item(studio, "Large")).to_have_count(0)
    studio.tab.keyboard.press("/")
    studio.tab.keyboard.type("large")
    expect(item(studio, "Large")).to_be_visible()
    expect(item(studio, "Tiny")).to_have_count(0)
    studio.tab.get_by_role("searchbox").fill("gouache")
    expect(item(studio, "Winter")).to_be_visible()
    expect(item(studio, "Neon")).to_have_count(0)


def test_a_download_shows_its_progress_and_is_paused_resumed_and_cancelled(open_models):
    studio = open_models(downloads=[COMING])
    panel = studio.tab.get_by_role("complementary", name="Downloads")
    expect(panel).to_contain_text("24.6 GB of 40.4 GB · about 4 min 32 s left")
    expect(panel).to_contain_text("58 MB/s")
    expect(panel.get_by_role("progressbar", name="Large")).to_have_attribute("aria-valuenow", "60")
    expect(panel).to_contain_text("Downloads come from Hugging Face, which sees the request")
    panel.get_by_role("button", name="Pause Large").click()
    failed = COMING | {"state": "failed", "bytes_per_s": 0.0, "eta_s": None, "error": "The disk is full; make room."}
    studio.page.tell(downloads=[failed])
    expect(panel).to_contain_text("The disk is full; make room.")
    panel.get_by_role("button", name="Resume Large").click()
    panel.get_by_role("button", name="Cancel Large").click()
    panel.get_by_role("button", name="Keep").click()
    panel.get_by_role("button", name="Cancel Large").click()
    panel.get_by_role("group", name="Cancel Large").get_by_role("button", name="Delete").click()
    expect(panel).to_contain_text("Nothing is being downloaded.")
    assert studio.asked() == [("POST", f"/downloads/large/{action}") for action in ("pause", "resume", "cancel")]


def test_a_model_is_listed_once_its_download_has_ended(open_models):
    studio = open_models(downloads=[COMING])
    studio.models[2] |= {"present": True, "bytes": 40_400_000_000}
    studio.page.tell(downloads=[])
    expect(item(studio, "Large").get_by_role("button", name="Use Large")).to_be_visible()
    expect(notice(studio)).to_contain_text("Large is installed.")


def test_offline_is_said_and_nothing_can_be_downloaded(open_models):
    studio = open_models(offline=True, refused={"mine": "one of its JSON files is damaged; download it again"})
    expect(studio.tab.get_by_text("Downloads are switched off by HF_HUB_OFFLINE.")).to_be_visible()
    studio.tab.get_by_role("button", name="Show all").click()
    expect(item(studio, "Large").get_by_role("button", name=re.compile("Download Large"))).to_be_disabled()
    expect(studio.tab.get_by_text("mine cannot be used: one of its JSON files is damaged")).to_be_visible()
    expect(studio.tab.get_by_text("./launch.sh models import FOLDER")).to_be_visible()


def test_a_lora_is_switched_on_and_set_in_the_draft(open_models):
    other = {"tiny": "it was made for models of width 5120, Tiny has 288", "small": None}
    studio = open_models(loras=[lora("Winter"), lora("Wide", fits=other), lora("Lost", fits=other | {"small": "no"})])
    expect(studio.tab.get_by_role("slider", name="Strength of Winter")).to_be_disabled()
    with saving(studio):
        studio.tab.get_by_role("switch", name="Use Winter").click()
    assert studio.form["loras"] == [{"name": "Winter", "strength": [1]}]
    slider = studio.tab.get_by_role("slider", name="Strength of Winter")
    with saving(studio):
        slider.press("ArrowLeft")
    assert studio.form["loras"] == [{"name": "Winter", "strength": [0.95]}]
    with saving(studio):
        studio.tab.get_by_role("switch", name="Use Winter").click()
    assert "loras" not in studio.form
    expect(slider).to_have_value("0.95")
    expect(studio.tab.get_by_role("switch", name="Use Wide")).to_be_disabled()
    expect(item(studio, "Wide")).to_contain_text("Not for Tiny, which is in use: it was made for models of width 5120")
    expect(item(studio, "Wide")).to_contain_text("For Small · 20 layers, rank 16 · 142 MB")
    expect(item(studio, "Lost")).to_contain_text("Fits no installed model")


def test_a_lora_that_is_switched_off_and_on_again_keeps_its_strength(open_models):
    studio = open_models(loras=[lora("Winter")])
    studio.fill(loras=[{"name": "Winter", "strength": [0.6]}])
    switch = studio.tab.get_by_role("switch", name="Use Winter")
    expect(switch).to_have_attribute("aria-checked", "true")
    with saving(studio):
        switch.click()
    with saving(studio):
        switch.click()
    assert studio.form["loras"] == [{"name": "Winter", "strength": [0.6]}]


def test_a_removed_lora_leaves_the_draft_and_comes_back_as_it_was(open_models):
    studio = open_models(loras=[lora("Winter")])
    studio.fill(loras=[{"name": "Winter", "strength": [0.6, 0.2]}])
    expect(item(studio, "Winter")).to_contain_text("0.6, 0.2")
    with saving(studio):
        item(studio, "Winter").get_by_role("button", name="Remove Winter").click()
    assert "loras" not in studio.form
    expect(region(studio, "In the trash")).to_contain_text("Winter (LoRA)")
    with saving(studio):
        notice(studio).get_by_role("button", name="Undo").click()
    assert studio.form["loras"] == [{"name": "Winter", "strength": [0.6, 0.2]}]
    expect(item(studio, "Winter")).to_be_visible()


def test_trigger_words_are_copied_by_a_click(open_models):
    words = lora("Winter", trigger_words=["gouache snow"])
    studio = open_models(loras=[words], permissions=["clipboard-read", "clipboard-write"])
    studio.tab.get_by_role("button", name="Copy gouache snow").click()
    expect(notice(studio)).to_contain_text('Copied "gouache snow".')
    assert studio.tab.evaluate("navigator.clipboard.readText()") == "gouache snow"


DROP = """([name, text]) => { const data = new DataTransfer(); data.items.add(new File([text], name));
    for (const kind of ["dragover", "drop"])
        document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true})); }"""


def test_a_file_that_is_dropped_on_the_page_is_a_lora_or_is_refused_by_name(open_models):
    studio = open_models()
    expect(studio.tab.get_by_text("Drop a safetensors file anywhere on this page")).to_be_visible()
    studio.tab.evaluate(DROP, ["evil.ckpt", "1"])
    alert = studio.tab.get_by_role("alert")
    expect(alert).to_contain_text("evil.ckpt is not a safetensors file.")
    alert.get_by_role("button", name="Close").click()
    expect(alert).to_have_count(0)
    studio.tab.evaluate(DROP, ["paper.safetensors", "1"])
    expect(item(studio, "paper")).to_be_visible()
    expect(notice(studio)).to_contain_text("Added paper.")
    studio.refusal = "bad cannot be used: it is cut short; send another file."
    studio.tab.evaluate(DROP, ["bad.safetensors", "1"])
    expect(alert).to_contain_text("bad cannot be used: it is cut short")


@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_nothing_is_wider_than_the_window(open_models, width):
    studio = open_models(loras=[lora("a LoRA with a very long name " * 4, trigger_words=["long " * 20])], width=width)
    studio.tab.get_by_role("button", name="Show all").click()
    assert studio.tab.evaluate("document.documentElement.scrollWidth") <= width


def test_where_a_card_goes_the_next_one_has_the_focus(open_models):
    studio = open_models(loras=[lora("Winter"), lora("Neon")])
    item(studio, "Winter").get_by_role("button", name="Remove Winter").click()
    expect(item(studio, "Winter")).to_have_count(0)
    expect(studio.tab.get_by_role("button", name="Remove Neon")).to_be_focused()
