"""A person in Firefox and in WebKit: what Chromium is driven through in the files beside this one, in fewer cases."""

from collections.abc import Iterator

import pytest

from tests.e2e.webdriver import BROWSERS, Tab, opened, wait_for
from tests.studio import LiveStudio
from ui.components import VERSION

pytestmark = pytest.mark.browsers

SMALL = {"resolution": "128x96", "num_frames": 16}
LONG = {"resolution": "1280x720", "num_frames": 512}  # nobody waits for its end
READY = """() => Boolean(document.querySelector(".st-key-frame")
    && document.querySelector('[data-testid="stApp"][data-test-script-state="notRunning"]'))"""
PLAYS = """id => all(document).some(e => e.tagName === "VIDEO" && e.src.includes(`${id}/video`) && isShown(e)
    && e.videoWidth > 0 && e.currentTime > 0 && !e.error)"""
VALUE = "(name, value) => find('textbox', name)[0]?.value === value"
PROMPT = "^Prompt$"


@pytest.fixture(scope="module", params=BROWSERS)
def tab(request, live, tmp_path_factory) -> Iterator[Tab]:
    if missing := BROWSERS[request.param].missing():
        pytest.skip(missing)
    with opened(request.param, tmp_path_factory.mktemp(request.param)) as tab:
        tab.origin = live.url
        yield tab


@pytest.fixture(autouse=True)
def no_faults(tab) -> Iterator[None]:
    """No error in the console, no promise that nobody caught, no request that failed or left the studio."""
    tab.faults()
    yield
    assert tab.faults() == []


def show(tab: Tab, studio: LiveStudio, path: str = "", **form) -> None:
    """Open a page anew; what the form holds is put there before, and what it held is forgotten."""
    tab.go(f"{studio.url}/app/static/components/{VERSION}/words.js")  # of the same origin, and no page
    tab.run("() => localStorage.clear()")
    form = {"prompt": ""} | form
    studio.api.put("/draft", json={"form": form})
    tab.go(f"{studio.url}/{path}")
    tab.until(READY)
    if not path:
        tab.until(VALUE, PROMPT, form["prompt"])


def press_generate(tab: Tab, studio: LiveStudio) -> dict:
    before = studio.jobs(limit=500)
    tab.press("button", "^Generate")
    return studio.wait_for_new(before)


def test_faults_of_a_page_are_noticed(tab, live):
    show(tab, live)
    tab.run("""() => {
        console.error("said on purpose");
        Promise.reject(new Error("caught by nobody"));
        fetch("api/v1/jobs/none");
        fetch("http://127.0.0.1:9/elsewhere").catch(() => {});
    }""")
    faults: list[str] = []

    def all_are_there() -> bool:
        faults.extend(tab.faults())
        wanted = ("said on purpose", "caught by nobody", "jobs/none", "127.0.0.1:9")
        return all(any(words in fault for fault in faults) for words in wanted)

    wait_for(all_are_there, "not all four faults are noticed")


def test_a_text_becomes_a_video_that_plays(tab, live):
    show(tab, live, **SMALL)
    tab.press("textbox", PROMPT)
    tab.type("a red boat, slowly")
    tab.until("() => find('button', '^Generate · .* s').length")  # the plan is there
    job = press_generate(tab, live)
    assert job["request"]["prompt"] == "a red boat, slowly"
    tab.until(PLAYS, job["id"])


def test_a_picture_becomes_the_first_frame(tab, live, photo):
    show(tab, live, **SMALL)
    tab.press("radio", "Image$")
    tab.give("First frame", photo)
    tab.see("img", "^First frame, as the model will see it$")
    job = press_generate(tab, live)
    assert (job["request"]["mode"], bool(job["request"]["image"])) == ("image_to_video", True)
    tab.until(PLAYS, job["id"])


def test_a_video_is_extended(tab, live, clip):
    show(tab, live, **SMALL)
    tab.press("radio", "Extend$")
    tab.give("Video to extend", clip)
    tab.see("img", "^Video to extend, as the model will see it$")
    job = press_generate(tab, live)
    tab.until(PLAYS, job["id"])
    assert live.wait_for(job["id"])["artifact"]["frames"] == 30 + 16


def test_a_story_has_a_scene_for_each_line(tab, live):
    show(tab, live, resolution="128x96")
    tab.press("radio", "Story$")
    tab.press("textbox", PROMPT)
    tab.type("a boat leaves")
    tab.keys("Enter")
    tab.type("a whale comes")
    job = press_generate(tab, live)
    assert job["request"]["skyreels"]["storyboard"] == ["a whale comes"]
    tab.until(PLAYS, job["id"])


def test_the_better_draft_is_finished(tab, live):
    show(tab, live, prompt="a kite over the dunes", variations=2, drafts=True, draft_steps=3, **SMALL)
    tab.press("button", "^Generate 2")
    tab.see("heading", "^2 drafts$")
    tab.until("() => all(document).filter(e => e.tagName === 'VIDEO' && e.currentTime > 0 && isShown(e)).length === 2")
    tab.press("button", "^2: seed")
    tab.press("button", "Finish 1 selected")
    tab.read("Finished")
    newest, *drafts = live.jobs(limit=3)
    assert newest["parent"] == max(draft["id"] for draft in drafts)
    assert newest["plan"]["done_steps"] == 3
    tab.until(PLAYS, newest["id"])  # in the place of its draft


def test_a_failed_render_is_said_and_tried_again(tab, live, photo):
    upload = live.upload(photo)["id"]
    live.api.post("/queue/pause")
    wish = {"mode": "image_to_video", "prompt": "snow falls", "image": upload}
    job = live.api.post("/jobs", json=wish | SMALL).json()
    show(tab, live)
    tab.see("region", "^Next in the queue$")
    folder = live.data / "uploads" / upload
    aside = folder.rename(live.data / "aside")
    live.api.post("/queue/resume")
    tab.see("region", "^What happened$")
    aside.rename(folder)
    tab.press("button", "Retry$")
    tab.until(PLAYS, job["id"])
    assert live.api.get(f"/jobs/{job['id']}").json()["attempts"] == 2
    assert [fault for fault in tab.faults() if upload not in fault] == []  # the picture was not there for a while


def test_a_reload_during_a_render_keeps_everything(tab, live):
    show(tab, live, prompt="a long quiet river", **LONG)
    job = press_generate(tab, live)
    tab.read("Rendering")
    tab.press("textbox", PROMPT)
    tab.keys("End")
    tab.type(" at dawn")
    live.wait_for_draft("a long quiet river at dawn")
    tab.reload()
    tab.until(VALUE, PROMPT, "a long quiet river at dawn")
    tab.read("Rendering")
    assert live.api.get(f"/jobs/{job['id']}").json()["attempts"] == 1
    tab.press("button", "Cancel$")
    assert live.wait_for(job["id"])["state"] == "cancelled"


def walk(tab: Tab, key: str, role: str, name: str) -> None:
    """Press a key until that has the focus."""
    for _ in range(80):
        found, words = tab.focused()
        if found == role and words.startswith(name):
            return
        tab.keys(key)
    raise AssertionError(f"{key} does not lead to {role} {name}")


def test_the_keyboard_alone_is_enough(tab, live):
    show(tab, live, **SMALL)
    walk(tab, "Tab", "textbox", "Prompt")
    tab.type("a green bird")
    tab.until("() => find('button', '^Generate · .* s').length")
    before = live.jobs(limit=500)
    walk(tab, "Tab", "button", "Generate")
    tab.keys("Enter")
    first = live.wait_for_new(before)
    walk(tab, "Shift+Tab", "textbox", "Prompt")
    tab.keys("End")
    tab.type(" circles")
    tab.keys("Control+Enter")
    second = live.wait_for_new([first, *before])
    assert [job["request"]["prompt"] for job in (first, second)] == ["a green bird", "a green bird circles"]
    walk(tab, "Shift+Tab", "radio", "")
    tab.keys("ArrowRight")
    tab.until("() => active().getAttribute('aria-checked') === 'true'")
    assert [live.wait_for(job["id"])["state"] for job in (first, second)] == ["succeeded"] * 2


def test_the_gallery_opens_a_video_and_back_closes_it(tab, live, request):
    title = f"an orange fish in {request.node.callspec.params['tab']}"
    job = live.wait_for(live.api.post("/jobs", json={"prompt": title} | SMALL).json()["id"])
    show(tab, live, "gallery")
    tab.press("gridcell", f"^{title}")
    tab.see("dialog", f"^{title}")
    tab.until(PLAYS, job["id"])
    assert tab.run("() => location.search") == f"?video={job['id']}"
    tab.back()
    tab.miss("dialog", f"^{title}")
    tab.see("gridcell", f"^{title}")
    assert tab.run("() => location.search") == ""


def test_the_prompt_is_as_high_as_its_text(tab, live):
    inside = "() => { const field = find('textbox', '^Prompt$')[0]; return [field.scrollHeight, field.clientHeight]; }"
    show(tab, live, prompt="one line")
    low = tab.run(inside)[1]
    show(tab, live, prompt="\n".join(f"line {number}" for number in range(8)))
    text, high = tab.run(inside)
    assert low < high == text


def test_the_primary_button_is_painted(tab, live):
    """A value that a browser does not know would leave white words on nothing."""
    show(tab, live, prompt="x")
    painted = "() => getComputedStyle(find('button', '^Generate')[0]).backgroundImage"
    assert "linear-gradient" in tab.run(painted)
