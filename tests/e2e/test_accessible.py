"""axe-core finds nothing on any page; it comes with the npm packages that check the components (`.ci/run`)."""

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import wait_for_page
from tests.e2e.test_browser import prompt_of
from tests.studio import BROWSER_TIMEOUT_MS, ROOT

AXE = ROOT / "ui" / "components" / "js" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not AXE.exists(), reason="no axe-core here: npm --prefix ui/components/js ci"),
]


@pytest.fixture(scope="module", autouse=True)
def history(live):
    for wish in ({}, {"draft_steps": 5}):
        wish = {"prompt": "a red kite", "num_frames": 16, "resolution": "128x96"} | wish
        assert live.wait_for(live.api.post("/jobs", json=wish).json()["id"])["state"] == "succeeded"


@pytest.fixture(scope="module", params=["light", "dark"])
def tab(request, browser, live):
    context = browser.new_context(color_scheme=request.param, bypass_csp=True)
    tab = context.new_page()
    tab.set_default_timeout(BROWSER_TIMEOUT_MS)
    yield tab
    context.close()


@pytest.mark.parametrize(
    "page",
    ["", "queue", "gallery", "gallery?view=trash", "gallery?video={}", "gallery?compare={},{}", "models", "system"],
)
def test_axe_finds_nothing(tab, live, page):
    page = page.format(*(card["id"] for card in live.api.get("/videos").json()["videos"]))
    tab.goto(f"{live.url}/{page}")
    wait_for_page(tab)
    if not page:
        expect(prompt_of(tab)).to_be_visible()
        tab.locator(".stage .area video").wait_for()
    elif page == "models":
        tab.locator(".models .model").first.wait_for()
    elif page == "system":
        tab.get_by_role("img", name="CPU").wait_for()
    elif "compare" in page:
        tab.get_by_role("dialog", name="Compare two takes").locator("table").wait_for()
    elif page.startswith("gallery"):
        tab.locator(".tile img, .empty, .panel .recipe, .panel table").first.wait_for(state="attached")
    tab.evaluate(AXE.read_text())
    found = tab.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    assert {problem["id"]: [node["failureSummary"] for node in problem["nodes"]] for problem in found} == {}
