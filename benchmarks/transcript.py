"""What a screen reader says in one whole session, made by the studio itself: `python -m benchmarks.transcript`.

Starts a studio with SkyReels V2 Tiny in a temporary folder, works in it by keys alone and writes docs/screen-reader.md:
the stops of the Tab key, the accessibility tree of each page as Chromium gives it, and the messages of live regions.
"""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Locator, Page

from backend.core.config import ROOT
from benchmarks.browser import studio_in_a_browser
from tests.studio import BROWSER_TIMEOUT_MS, LiveStudio

PAGE = ROOT / "docs" / "screen-reader.md"
PROMPT = "A red boat drifts left on a calm sea at sunset"
MOST_STOPS = 60
HEAD = """# What a screen reader says

One whole session by keyboard, as the accessibility tree of Chromium has it: Create, render, result, Queue, Gallery, one
video, System, Help. Made by `python -m benchmarks.transcript` with SkyReels V2 Tiny; times and sizes differ with the
machine, so no test compares this page. A *stop* is what is read out when Tab reaches a control; a *message* is what a
live region says by itself; a *tree* is what there is to read, one line an element: its role, its name, its state.
"""
# Tells what live regions say, those in shadow roots too. One that comes with its words is silent, if it is no alert.
LISTEN = """
(() => {
  const REGIONS = "[aria-live]:not([aria-live=off]), [role=status], [role=alert], [role=log]";
  const said = new WeakMap();
  const wordsOf = region => region.innerText.replaceAll(/\\s+/g, " ").trim();
  const changed = region => {
    const words = wordsOf(region);
    if (words && said.get(region) !== words) window.heard(words);
    said.set(region, words);
  };
  const added = region => {
    if (said.has(region)) return;
    said.set(region, region.matches("[role=alert]") ? "" : wordsOf(region));
    changed(region);
  };
  const watch = root => new MutationObserver(changes => {
    for (const { target, addedNodes } of changes) {
      for (const node of addedNodes) {
        if (node.nodeType !== Node.ELEMENT_NODE) continue;
        if (node.matches(REGIONS)) added(node);
        node.querySelectorAll(REGIONS).forEach(added);
      }
      const element = target.nodeType === Node.ELEMENT_NODE ? target : target.parentElement;
      const region = element?.closest(REGIONS);
      if (region) changed(region);
    }
  }).observe(root, { childList: true, characterData: true, subtree: true });
  const attach = Element.prototype.attachShadow;
  Element.prototype.attachShadow = function (init) {
    const root = attach.call(this, init);
    watch(root);
    return root;
  };
  watch(document);
})();
"""


class Transcript:
    """What was done and what was heard, as Markdown."""

    def __init__(self, tab: Page) -> None:
        self.tab = tab
        self.lines = [HEAD]
        self._heard: list[str] = []
        tab.expose_function("heard", lambda words: self._heard.append(words))
        tab.add_init_script(LISTEN)

    def section(self, title: str) -> None:
        self.lines += [f"## {title}", ""]

    def messages(self) -> None:
        """Those since the last time, in their order."""
        self.lines += [f"- message: {' '.join(words.split())}" for words in self._heard]
        self.lines.append("")
        self._heard.clear()

    def key(self, key: str, what: str) -> None:
        self.lines += [f"`{key}`: {what}", ""]
        self.tab.keyboard.press(key)

    def tab_to(self, name: str) -> None:
        """Press Tab until the control of that name has the focus, and write each stop down."""
        for _ in range(MOST_STOPS):
            self.tab.keyboard.press("Tab")
            stop = self.stop()
            self.lines.append(f"- stop: {stop}")
            if f'"{name}' in stop:
                self.lines.append("")
                return
        raise RuntimeError(f"{MOST_STOPS} presses of Tab do not reach {name!r}")

    def stop(self) -> str:
        """Role, name and state of what has the focus."""
        snapshot = self.tab.locator(":focus").last.aria_snapshot()
        return snapshot.splitlines()[0].removeprefix("- ").rstrip(":") if snapshot else "(nothing)"

    def tree(self, of: Locator) -> None:
        lines = [line for line in of.aria_snapshot().splitlines() if "/url: http" not in line]  # of this run's port
        self.lines += ["```yaml", *lines, "```", ""]

    def write(self, file: Path) -> None:
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(self.lines)).rstrip() + "\n"
        file.write_text(text)
        print(f"{file.relative_to(ROOT)}: {len(text.splitlines())} lines")


def main() -> None:
    with studio_in_a_browser(BROWSER_TIMEOUT_MS) as (studio, page):
        session(page, studio)


def session(tab: Page, studio: LiveStudio) -> None:
    script = Transcript(tab)
    tab.goto(studio.url)
    tab.get_by_role("textbox", name="Prompt", exact=True).wait_for()

    script.section("Create")
    script.tree(tab.locator("body"))
    script.tab_to("Prompt")
    script.lines += [f"Typed: {PROMPT}", ""]
    tab.keyboard.type(PROMPT)
    tab.get_by_text(re.compile("frames in one pass")).wait_for()
    script.messages()

    script.section("The render")
    script.key("Control+Enter", "Generate")
    job = studio.wait_for_new([])
    tab.get_by_role("progressbar", name="Render").wait_for()
    script.tree(tab.locator(".st-key-stage"))
    studio.wait_for(job["id"], timeout_s=600)
    tab.locator(f'.stage .area video[src*="{job["id"]}/video.mp4"]').wait_for()
    script.messages()

    script.section("The result")
    script.tree(tab.locator(".st-key-stage"))

    tab.get_by_role("textbox", name="Prompt", exact=True).blur()
    script.section("Queue")
    tab.keyboard.press("g")
    script.key("q", "after G: the page Queue")
    tab.get_by_text("The queue is empty").wait_for()
    script.tree(tab.locator(".st-key-queue"))
    script.messages()

    script.section("Gallery")
    tab.keyboard.press("g")
    script.key("g", "after G: the page Gallery")
    card = tab.get_by_role("gridcell", name=PROMPT)
    card.wait_for()
    script.tree(tab.locator(".st-key-gallery"))
    script.tab_to(PROMPT)
    script.key("Enter", "open the video")
    tab.get_by_role("dialog", name=PROMPT).locator("video").wait_for()
    script.lines += [f"- stop: {script.stop()}", ""]
    script.tree(tab.get_by_role("dialog", name=PROMPT))
    script.key("Escape", "back to the shelf")
    tab.get_by_role("dialog").wait_for(state="detached")
    script.lines += [f"- stop: {script.stop()}", ""]
    script.messages()

    script.section("System")
    tab.keyboard.press("g")
    script.key("s", "after G: the page System")
    tab.get_by_role("img", name="Disk").wait_for()
    script.tree(tab.locator(".st-key-system"))
    script.messages()

    script.section("Help")
    script.key("?", "the shortcuts")
    tab.get_by_role("dialog", name="Help and shortcuts").wait_for()
    script.lines += [f"- stop: {script.stop()}", ""]
    script.tree(tab.get_by_role("dialog", name="Help and shortcuts"))
    script.key("Escape", "close it")
    script.lines += [f"- stop: {script.stop()}", ""]
    script.messages()
    script.write(PAGE)


if __name__ == "__main__":
    main()
