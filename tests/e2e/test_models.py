"""The Models page of a real studio in a real Chromium."""

import pytest
from playwright.sync_api import expect

from tests.e2e.test_browser import press
from tests.lora_files import write_lora

pytestmark = pytest.mark.browser


def test_a_model_is_used_from_the_page_that_recommends_it(live, open_tab):
    tab = open_tab("models")
    best = tab.get_by_role("region", name="Recommended for this machine")
    expect(best).to_contain_text("Test pattern (no AI)")  # there are no weights in the tests
    press(tab.get_by_role("button", name="Show all"))
    available = tab.get_by_role("region", name="Available")
    expect(available.get_by_role("listitem", name="SkyReels-V2 DF 14B 720P")).to_be_visible()
    press(best.get_by_role("button", name="Create a video with it"))
    expect(tab.get_by_role("textbox", name="Prompt", exact=True)).to_be_visible()


def test_a_lora_is_added_removed_and_undone(live, open_tab, tmp_path):
    tab = open_tab("models")
    tab.get_by_label("LoRA files").set_input_files(write_lora(tmp_path / "grain.safetensors"))
    card = tab.get_by_role("listitem", name="grain", exact=True)
    expect(card).to_contain_text("Fits no installed model")
    press(card.get_by_role("button", name="Remove grain"))
    expect(card).to_have_count(0)
    press(tab.get_by_role("button", name="Undo"))
    expect(card).to_be_visible()
    assert [one["name"] for one in live.api.get("/loras").json()["loras"]] == ["grain"]
