"""The Queue page's component in a real browser, with a studio that is made up: order, states, what is undone."""

import copy
import re
import time

import pytest
from playwright.sync_api import expect

from tests.ui.component_page import ComponentPage

pytestmark = pytest.mark.browser

FORECAST = {"seconds": {}, "peak_gib": 0.9, "disk_bytes": 1, "guess": {}, "low_s": None, "high_s": None}
PROGRESS = {
    "stage": "denoising",
    "window": 2,
    "windows": 3,
    "step": 14,
    "steps": 30,
    "fraction": 0.49,
    "eta_s": 200.0,
    "eta_reason": "",
    "frames_ready": 96,
    "saved_at": None,
}
# Chromium's own sum of layout shifts, without those that follow a key or a click (web.dev/cls).
SHIFTS = """() => { window.shifted = 0; new PerformanceObserver(list => { for (const entry of list.getEntries())
    if (!entry.hadRecentInput) window.shifted += entry.value; }).observe({type: "layout-shift"}); }"""
PROMPTS = ["a whale", "a car", "a deer", "a rocket"]


def job(number: int, title: str = "", **fields):
    """A job as the studio tells of it; ids are one letter and the number."""
    plan = {
        "model": "m",
        "model_title": "Tiny",
        "width": 960,
        "height": 540,
        "fps": 24,
        "num_frames": 96,
        "total_frames": 96,
        "num_inference_steps": 30,
        "on_gpu": False,
        "forecast": FORECAST,
        "forecast_s": 300.0,
        "windows": [{"start": 0, "stop": 25}, {"start": 20, "stop": 45}, {"start": 40, "stop": 65}],
    }
    request = {"mode": "text_to_video", "prompt": title, "seed": 7, "preset": "exact", "image": None, "video": None}
    return {
        "id": f"j{number}",
        "kind": "render",
        "parent": None,
        "batch": None,
        "title": title,
        "state": "queued",
        "request": request,
        "plan": plan,
        "progress": None,
        "attempts": 0,
        "error": None,
        "artifact": None,
        "favourite": False,
        "trashed_at": None,
        "created_at": 1.0,
        "started_at": None,
        "finished_at": None,
    } | copy.deepcopy(fields)


class MadeUpStudio:
    """Jobs by their ids and their order; does what the component asks, and tells of it."""

    def __init__(self, jobs, ended, paused) -> None:
        self.jobs = {one["id"]: one for one in [*jobs, *ended]}
        self.order = [one["id"] for one in jobs]
        self.paused = paused
        self.refusal = None
        self.tells = True

    def answer(self, method, path, body):
        route, _, query = path.partition("?")
        if self.refusal and method != "GET":
            return 409, {"error": {"code": "conflict", "message": self.refusal, "field": None}}
        if method == "GET" and route == "/jobs":
            states = re.findall(r"state=(\w+)", query)
            batch = re.search(r"batch=(\w+)", query)
            found = [
                one
                for one in self.jobs.values()
                if one["trashed_at"] is None
                and (not states or one["state"] in states)
                and (not batch or one["batch"] == batch[1])
            ]
            return {"jobs": found, "next": None}
        if route == "/draft":
            return {"form": body and body["form"], "version": 1, "saved_at": 1.0}
        if route.startswith("/queue/"):
            self.paused = route == "/queue/pause"
        elif route == "/jobs/bulk":
            for job_id in body["ids"]:
                self.change(job_id, body["action"])
            self.tell()
            return {"done": body["ids"], "refused": []}
        elif method == "DELETE":
            self.change(route.split("/")[2], "delete")
        else:
            job_id, action = route.split("/")[2:4]
            if action == "move":
                self.order.remove(job_id)
                self.order.insert(self.order.index(body["before"]) if body["before"] else len(self.order), job_id)
            else:
                self.change(job_id, action)
        self.tell()
        return {}

    def change(self, job_id, action):
        one = self.jobs[job_id]
        states = {"cancel": "cancelled", "pause": "paused", "resume": "queued", "retry": "queued"}
        if action in states:
            one["state"] = states[action]
            if action == "cancel":
                self.order.remove(job_id)
                one["finished_at"] = time.time()
            if action == "retry":
                self.order.append(job_id)
        else:
            one["trashed_at"] = 1.0 if action == "delete" else None

    def tell(self, **fields):
        if self.tells:
            jobs = [one for one in self.jobs.values() if one["trashed_at"] is None]
            self.page.tell(**{"order": self.order, "paused": self.paused, "jobs": jobs, "videos": 1} | fields)


@pytest.fixture
def open_queue(browser):
    pages = []

    def open_queue(jobs, ended=(), *, paused=False, **context):
        studio = MadeUpStudio(jobs, ended, paused)
        data = {"gpu_gib": None, "memory_gib": 24}
        page = ComponentPage(browser, "queue", "board", data=data, answer=studio.answer, **context)
        pages.append(page)
        studio.page, studio.tab = page, page.page
        studio.tell(draft=0, preview=None)
        expect(studio.tab.get_by_role("heading", name="Queue", exact=True)).to_be_visible()
        return studio

    yield open_queue
    for page in pages:
        page.close()


def waiting():
    return [job(number, title) for number, title in enumerate(PROMPTS)]


def rows(studio):
    return studio.tab.get_by_role("list", name="Waiting jobs").locator("> li")


def row(studio, title):
    return rows(studio).filter(has_text=title)


def expect_order(studio, titles):
    expect(rows(studio).locator(".texts b")).to_have_text(titles)


def notice(studio):
    return studio.tab.get_by_role("status").last


def test_alt_and_an_arrow_move_a_job_keep_the_focus_and_are_undone(open_queue):
    studio = open_queue(waiting(), paused=True)
    row(studio, "a deer").focus()
    studio.tab.keyboard.press("Alt+ArrowUp")
    expect_order(studio, ["a whale", "a deer", "a car", "a rocket"])
    expect(row(studio, "a deer")).to_be_focused()
    expect(notice(studio)).to_contain_text("Moved “a deer” to place 2 of 4.")
    studio.tab.keyboard.press("Alt+ArrowDown")
    studio.tab.keyboard.press("Alt+ArrowDown")
    expect_order(studio, ["a whale", "a car", "a rocket", "a deer"])
    expect(row(studio, "a deer")).to_be_focused()
    studio.tab.keyboard.press("Alt+Shift+ArrowUp")
    expect_order(studio, ["a deer", "a whale", "a car", "a rocket"])
    notice(studio).get_by_role("button", name="Undo").click()
    expect_order(studio, ["a whale", "a car", "a rocket", "a deer"])
    expect(notice(studio)).to_contain_text("Moved “a deer” back.")
    studio.page.wait_for(lambda: len(studio.page.asked) == 5)
    moves = [("POST", "/jobs/j2/move", {"before": before}) for before in ("j1", "j3", None, "j0", None)]
    assert studio.page.asked == moves
    assert studio.order == ["j0", "j1", "j3", "j2"]


def test_the_order_stands_at_once_and_goes_back_where_the_move_is_refused(open_queue):
    studio = open_queue(waiting(), paused=True)
    studio.refusal = "Job j2 is not waiting; only waiting jobs can be moved."
    row(studio, "a deer").focus()
    studio.tab.keyboard.press("Alt+Shift+ArrowUp")
    expect(notice(studio)).to_contain_text("only waiting jobs can be moved")
    expect_order(studio, PROMPTS)


def handle(studio, title):
    return row(studio, title).get_by_role("button", name=re.compile("^Move "))


def grab(studio, title):
    box = handle(studio, title).bounding_box()
    studio.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    studio.tab.mouse.down()


def drag_to(studio, y, x=200):
    studio.tab.mouse.move(x, y - 8)
    studio.tab.mouse.move(x, y, steps=3)


def top_of(studio, title):
    return row(studio, title).bounding_box()["y"]


def test_a_drag_shows_where_the_job_lands_and_escape_drops_it_back(open_queue):
    studio = open_queue(waiting(), paused=True)
    line = studio.tab.locator(".landing")
    expect(line).to_be_hidden()
    target = top_of(studio, "a car")
    grab(studio, "a rocket")
    drag_to(studio, target + 4)
    expect(line).to_be_visible()
    assert abs(line.bounding_box()["y"] + 2 - target) < 4
    expect(row(studio, "a rocket")).to_have_class(re.compile("dragged"))
    studio.tab.keyboard.press("Escape")
    expect(line).to_be_hidden()
    studio.tab.mouse.up()
    expect_order(studio, PROMPTS)
    assert studio.page.asked == []
    grab(studio, "a rocket")
    drag_to(studio, target + 4)
    studio.tab.mouse.up()
    expect_order(studio, ["a whale", "a rocket", "a car", "a deer"])
    expect(notice(studio)).to_contain_text("Moved “a rocket” to place 2 of 4.")
    studio.page.wait_for_asked("POST", "/jobs/j3/move", {"before": "j1"})
    studio.tab.keyboard.press("Control+z")
    expect_order(studio, PROMPTS)


def test_a_press_on_the_handle_moves_nothing(open_queue):
    studio = open_queue(waiting(), paused=True)
    handle(studio, "a car").click()
    grab(studio, "a car")
    studio.tab.mouse.up()
    expect_order(studio, PROMPTS)
    assert studio.page.asked == []


def test_the_order_is_frozen_while_a_job_is_dragged(open_queue):
    studio = open_queue(waiting(), paused=True)
    target = top_of(studio, "a whale")
    grab(studio, "a rocket")
    drag_to(studio, target + 4)
    studio.order = ["j1", "j0", "j2", "j3"]  # somebody else moves
    studio.tell()
    expect(row(studio, "a rocket")).to_have_class(re.compile("dragged"))
    expect_order(studio, PROMPTS)
    studio.tab.mouse.up()
    expect_order(studio, ["a car", "a rocket", "a whale", "a deer"])  # before the whale, in the order of today


def test_a_dragged_job_that_starts_is_let_go(open_queue):
    studio = open_queue(waiting(), paused=True)
    target = top_of(studio, "a deer")
    grab(studio, "a whale")
    drag_to(studio, target + 60)
    expect(studio.tab.locator(".landing")).to_be_visible()
    studio.jobs["j0"] |= {"state": "running", "progress": PROGRESS, "started_at": 1.0}
    studio.tell()
    expect(studio.tab.get_by_role("article", name="Rendering: a whale")).to_be_visible()
    expect(studio.tab.locator(".landing")).to_be_hidden()
    studio.tab.mouse.up()
    assert studio.page.asked == []


def test_a_drag_to_the_edge_scrolls(open_queue):
    studio = open_queue([job(number, f"job {number:02}") for number in range(40)], height=500, paused=True)
    grab(studio, "job 00")
    drag_to(studio, 495)
    studio.tab.wait_for_function("document.scrollingElement.scrollTop > 300")
    studio.tab.mouse.up()
    expect(notice(studio)).to_contain_text("Moved “job 00”")
    studio.page.wait_for(lambda: studio.order.index("j0") > 8)


MENU = ["Move to the top", "Move up", "Move down", "Edit", "Pause", "Remove"]


def menu(studio):
    return studio.tab.get_by_role("menu")


@pytest.mark.parametrize("way", ["button", "right click", "menu key", "Shift+F10"])
def test_the_menu_opens_in_every_way_and_gives_the_focus_back(open_queue, way):
    studio = open_queue(waiting(), paused=True)
    of = row(studio, "a car")
    if way == "button":
        of.get_by_role("button", name="Actions for a car").click()
    elif way == "right click":
        of.click(button="right")
    else:
        of.focus()
        studio.tab.keyboard.press({"menu key": "ContextMenu"}.get(way, way))
    expect(menu(studio)).to_be_visible()
    items = menu(studio).get_by_role("menuitem")
    expect(items.locator("span:not(.icon)")).to_have_text(MENU)
    expect(items.nth(0)).to_be_focused()
    studio.tab.keyboard.press("ArrowUp")
    expect(items.nth(5)).to_be_focused()
    studio.tab.keyboard.press("Home")
    studio.tab.keyboard.press("p")
    expect(items.nth(4)).to_be_focused()
    studio.tab.keyboard.press("Escape")
    expect(menu(studio)).to_have_count(0)
    focused = of if way == "right click" else of.get_by_role("button", name="Actions for a car")
    expect(focused).to_be_focused()


def test_the_menu_stays_in_the_window_and_closes_by_a_press_outside(open_queue):
    studio = open_queue([job(number, f"job {number:02}") for number in range(9)], width=390, height=700, paused=True)
    row(studio, "job 08").get_by_role("button", name=re.compile("^Actions")).click()
    expect(menu(studio)).to_be_visible()
    studio.tab.wait_for_function(
        "(box => box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight)"
        "(document.querySelector('#host').shadowRoot.querySelector('.menu').getBoundingClientRect())"
    )
    studio.tab.mouse.click(5, 5)
    expect(menu(studio)).to_have_count(0)


def test_a_removed_job_comes_back_to_its_place(open_queue):
    studio = open_queue(waiting(), paused=True)
    row(studio, "a car").focus()
    studio.tab.keyboard.press("Delete")
    expect_order(studio, ["a whale", "a deer", "a rocket"])
    expect(row(studio, "a deer")).to_be_focused()
    expect(notice(studio)).to_contain_text("Removed “a car”.")
    expect(studio.tab.get_by_role("region", name="Cancelled today")).to_contain_text("a car")
    notice(studio).get_by_role("button", name="Undo").click()
    expect_order(studio, PROMPTS)
    assert studio.jobs["j1"]["state"] == "queued"


def test_several_jobs_are_chosen_by_keys_and_paused_moved_and_removed_together(open_queue):
    studio = open_queue(waiting(), paused=True)
    row(studio, "a car").focus()
    studio.tab.keyboard.press("Space")
    studio.tab.keyboard.press("Shift+ArrowDown")
    studio.tab.keyboard.press("Shift+ArrowDown")
    bar = studio.tab.get_by_role("toolbar", name="Selected items")
    expect(bar).to_contain_text("3 selected")
    bar.get_by_role("button", name="Move to the top").click()
    expect_order(studio, ["a car", "a deer", "a rocket", "a whale"])
    expect(notice(studio)).to_contain_text("Moved 3 items to place 1 of 4.")
    notice(studio).get_by_role("button", name="Undo").click()
    expect_order(studio, PROMPTS)
    bar.get_by_role("button", name="Pause all").click()
    expect(row(studio, "a rocket")).to_contain_text("Paused by you")
    studio.page.wait_for_asked("POST", "/jobs/bulk", {"action": "pause", "ids": ["j1", "j2", "j3"]})
    bar.get_by_role("button", name="Remove all").click()
    expect_order(studio, ["a whale"])
    expect(bar).to_have_count(0)
    row(studio, "a whale").focus()
    studio.tab.keyboard.press("Control+a")
    expect(bar).to_contain_text("1 selected")
    studio.tab.keyboard.press("Escape")
    expect(bar).to_have_count(0)


def test_check_boxes_choose_and_shift_takes_those_between(open_queue):
    studio = open_queue(waiting(), paused=True)
    studio.tab.get_by_role("button", name="Select", exact=True).click()
    studio.tab.get_by_role("checkbox", name="Select a whale").click()
    studio.tab.get_by_role("checkbox", name="Select a deer").click(modifiers=["Shift"])
    expect(studio.tab.get_by_role("toolbar")).to_contain_text("3 selected")
    expect(row(studio, "a car").get_by_role("checkbox")).to_be_checked()


def test_a_batch_is_one_row_that_unfolds_and_moves_as_one(open_queue):
    batch = [job(number, f"a mill {number}", batch="b") for number in (1, 2, 3)]
    done = job(9, "a mill 9", batch="b", state="succeeded", finished_at=time.time())
    studio = open_queue([job(0, "a whale"), *batch, job(4, "a car")], [done], paused=True)
    expect(rows(studio)).to_have_count(3)
    group = row(studio, "Batch: a mill 1 and others")
    expect(group).to_contain_text("4 jobs, 1 finished, 3 to go")
    group.focus()
    studio.tab.keyboard.press("Alt+ArrowUp")
    expect(rows(studio).first).to_contain_text("Batch")
    expect(notice(studio)).to_contain_text("place 1 of 3")
    studio.page.wait_for(lambda: studio.order == ["j1", "j2", "j3", "j0", "j4"])
    group.get_by_role("button", name="Batch: a mill 1").click()
    inside = group.get_by_role("list", name="Jobs of the batch").locator("> li")
    expect(inside).to_have_count(3)
    inside.nth(2).focus()
    studio.tab.keyboard.press("Alt+Shift+ArrowUp")
    expect(inside.first).to_contain_text("a mill 3")
    expect(notice(studio)).to_contain_text("Moved “a mill 3” to place 1 of 3.")
    inside.first.focus()
    studio.tab.keyboard.press("Delete")
    expect(group).to_contain_text("2 to go")


def test_each_job_says_why_it_waits_and_paused_ones_hold_up_no_other(open_queue):
    studio = open_queue([running(), job(0, "held", state="paused"), job(1, "next"), job(2, "later")])
    expect_order(studio, ["next", "later", "held"])
    expect(row(studio, "held")).to_contain_text("Paused by you")
    expect(row(studio, "next")).to_contain_text("Starts about")
    expect(row(studio, "later")).to_contain_text("Starts about")
    expect(studio.tab.get_by_text("All done about")).to_be_visible()
    expect(handle(studio, "held")).to_be_hidden()
    row(studio, "held").get_by_role("button", name="Actions for held").click()
    menu(studio).get_by_role("menuitem", name="Resume").click()
    expect(row(studio, "held")).to_contain_text("Starts")


def test_a_job_that_is_paused_in_its_middle_says_what_waits_for_it(open_queue):
    held = running() | {"state": "paused"}
    studio = open_queue([held, job(1, "next")])
    card = studio.tab.get_by_role("article", name="Paused: a balloon")
    expect(row(studio, "next")).to_contain_text("Waits for the paused job")
    expect(studio.tab.get_by_text("All done about")).to_have_count(0)
    card.get_by_role("button", name="Resume").click()
    studio.page.wait_for_asked("POST", "/jobs/j5/resume", None)


def test_nobody_knows_when_all_is_done_while_a_job_waits_for_something(open_queue):
    error = {"code": "not_enough_space", "message": "Waits for 3 GB of disk.", "hint": "", "log": []}
    studio = open_queue([job(0, "first", error=error), job(1, "second")])
    expect(row(studio, "first")).to_contain_text("Waits for 3 GB of disk.")
    expect(row(studio, "second")).to_contain_text("Waits for the jobs before it")
    expect(studio.tab.get_by_text("All done about")).to_have_count(0)


def test_a_paused_queue_says_so_and_is_resumed(open_queue):
    studio = open_queue([running(), *waiting()])
    studio.tab.get_by_role("button", name="Pause queue").click()
    expect(studio.tab.get_by_text("The queue is paused.")).to_be_visible()
    expect(row(studio, "a whale")).to_contain_text("Queue paused")
    expect(studio.tab.get_by_text("All done about")).to_have_count(0)
    studio.tab.get_by_role("button", name="Resume queue").click()
    expect(studio.tab.get_by_text("The queue is paused.")).to_have_count(0)


def running(**progress):
    return job(5, "a balloon", state="running", started_at=time.time() - 182, progress=PROGRESS | progress)


def test_the_running_job_says_how_far_it_is(open_queue):
    studio = open_queue([running(saved_at=time.time() - 70), job(1, "next")])
    studio.tell(preview={"id": "j5", "url": "api/v1/jobs/j5/live?v=1"})
    card = studio.tab.get_by_role("article", name="Rendering: a balloon")
    expect(card.get_by_role("img", name="Preview of a balloon")).to_be_visible()
    expect(card).to_contain_text("Denoising · window 2 of 3 · step 14 of 30")
    for text in ("4.0 s", "960x540", "Best", "seed 7", "49 %", "3 min 0", "about 3 min 20 s", "1 min ago", "0.9 of 24"):
        expect(card).to_contain_text(text)
    bar = card.get_by_role("progressbar", name="Progress")
    expect(bar).to_have_attribute("aria-valuenow", "49")
    widths = bar.locator("i i").evaluate_all("parts => parts.map(part => part.style.width)")
    assert widths == ["100%", "46.7%", "0%"]
    studio.tell(jobs=[running(eta_s=600.0, eta_reason="the machine is busy")])
    expect(card).to_contain_text("about 10 min")
    expect(card).to_contain_text("the machine is busy")
    card.get_by_role("button", name="Pause").click()
    studio.page.wait_for_asked("POST", "/jobs/j5/pause", None)
    expect(studio.tab.get_by_role("article", name="Paused: a balloon")).to_contain_text("progress is kept")


def test_a_running_job_is_cancelled(open_queue):
    studio = open_queue([running()])
    studio.tells = False
    studio.tab.get_by_role("button", name="Cancel").click()
    card = studio.tab.get_by_role("article", name="Cancelling: a balloon")
    expect(card.get_by_role("button", name="Cancel")).to_be_disabled()
    studio.tells = True
    studio.tell()
    expect(studio.tab.get_by_text("The queue is empty")).to_be_visible()


def failed(number, title, **fields):
    error = {
        "code": "memory",
        "message": "The GPU ran out of memory. Use a smaller size.",
        "hint": "",
        "log": ["the end"],
    }
    return job(number, title, **{"state": "failed", "finished_at": time.time(), "error": error, "attempts": 2} | fields)


def test_failed_jobs_say_why_and_are_retried_edited_or_cleared(open_queue):
    quarantined = failed(2, "a horse", state="quarantined")
    unreadable = failed(
        3, "a ghost", state="unreadable", request={"unreadable": "{}"}, plan={"forecast": FORECAST, "forecast_s": 0}
    )
    studio = open_queue([], [failed(1, "a train"), quarantined, unreadable], paused=True)
    panel = studio.tab.get_by_role("region", name="Needs attention")
    entry = panel.get_by_role("listitem").filter(has_text="a train")
    expect(entry).to_contain_text("The GPU ran out of memory. Use a smaller size.")
    entry.get_by_text("Details").click()
    expect(entry.locator("pre")).to_contain_text("attempts: 2")
    expect(entry.locator("pre")).to_contain_text("the end")
    ghost = panel.get_by_role("listitem").filter(has_text="a ghost")
    expect(ghost.get_by_role("button")).to_have_count(1)
    entry.get_by_role("button", name="Edit and retry").click()
    studio.tab.wait_for_function("window.triggers.length")
    assert studio.tab.evaluate("window.triggers") == [["create", "j1"]]
    kept = next(body["form"] for method, path, body in studio.page.asked if path == "/draft")
    assert (kept["prompt"], kept["seed"], kept["replaces"]) == ("a train", 7, "j1")
    assert studio.jobs["j1"]["state"] == "failed"  # held as it is until Generate is pressed
    panel.get_by_role("button", name="Clear all failed jobs").click()
    expect(panel).to_have_count(0)
    expect(notice(studio)).to_contain_text("Removed 3 jobs.")
    notice(studio).get_by_role("button", name="Undo").click()
    expect(panel.get_by_role("listitem")).to_have_count(3)
    panel.get_by_role("button", name="Retry a horse", exact=True).click()
    expect(rows(studio)).to_have_count(1)
    expect(panel.get_by_role("listitem")).to_have_count(2)
    panel.get_by_role("button", name="Remove a train").click()
    expect(panel.get_by_role("listitem")).to_have_count(1)
    notice(studio).get_by_role("button", name="Undo").click()
    expect(panel.get_by_role("listitem")).to_have_count(2)


def test_the_edit_of_a_waiting_job_holds_it_and_says_so(open_queue):
    studio = open_queue(waiting(), paused=True)
    row(studio, "a car").get_by_role("button", name="Actions for a car").click()
    menu(studio).get_by_role("menuitem", name="Edit").click()
    studio.tab.wait_for_function("window.triggers.length")
    expect(row(studio, "a car")).to_contain_text("Paused while you edit it")
    row(studio, "a car").get_by_role("button", name="Actions for a car").click()
    menu(studio).get_by_role("menuitem", name="Resume").click()
    expect(row(studio, "a car")).to_contain_text("Queue paused")


def test_what_ended_today_is_listed_with_its_picture_and_exports_with_their_file(open_queue):
    done = job(1, "a boat", state="succeeded", finished_at=time.time(), artifact={"render_s": 123.0})
    export = job(
        2,
        "Export as GIF",
        kind="export",
        state="succeeded",
        finished_at=time.time(),
        request={"job": "j1", "format": "gif", "width": None},
    )
    waits = job(
        3,
        "Export as WebM",
        kind="export",
        request={"job": "j1", "format": "webm", "width": 480},
        plan={"forecast": FORECAST, "forecast_s": 3.0, "windows": []},
    )
    studio = open_queue([waits], [done, export], paused=True)
    panel = studio.tab.get_by_role("region", name="Finished today")
    expect(panel).to_contain_text("took 2 min 03 s")
    expect(panel.get_by_role("link", name="Export as GIF")).to_have_attribute(
        "href", re.compile("/api/v1/jobs/j2/file$")
    )
    assert panel.locator("img").first.get_attribute("src").endswith("app/static/media/j1/thumbnail.jpg")
    expect(row(studio, "Export as WebM")).to_contain_text("WEBM · 480 px wide")
    row(studio, "Export as WebM").get_by_role("button", name=re.compile("^Actions")).click()
    expect(menu(studio).get_by_role("menuitem", name="Edit")).to_have_count(0)
    studio.tab.keyboard.press("Escape")
    panel.get_by_role("button", name="a boat").click()
    assert studio.tab.evaluate("window.triggers") == [["gallery", {"video": "j1"}]]


def test_a_first_frame_is_the_picture_of_its_job(open_queue):
    request = {"mode": "image_to_video", "image": "u1", "video": None, "preset": "exact", "seed": 1, "fit": "crop"}
    studio = open_queue([job(1, "a portrait", request=request), job(2, "no picture")], paused=True)
    assert "app/static/uploads/u1/preview.jpg" in row(studio, "a portrait").locator("img").get_attribute("src")
    expect(row(studio, "no picture").locator("img")).to_have_count(0)


def test_an_empty_queue_offers_the_first_step(open_queue):
    studio = open_queue([])
    studio.tab.get_by_role("button", name="Create a video").click()
    assert studio.tab.evaluate("window.triggers") == [["create", ""]]


BELL = """
class Notification {
  static permission = "default";
  static async requestPermission() { return (Notification.permission = "granted"); }
  constructor(words) { (window.told ??= []).push(words); } }
window.Notification = Notification;
window.notes = 0;
const start = OscillatorNode.prototype.start;
OscillatorNode.prototype.start = function (...at) { window.notes += 1; return start.apply(this, at); };
"""


def test_the_browser_tells_when_all_is_done_if_asked(open_queue):
    studio = open_queue([running()], script=BELL)
    notify, sound = (studio.tab.get_by_role("button", name=name) for name in ("Notify me", "Play a sound"))
    expect(notify).to_have_attribute("aria-pressed", "false")
    notify.click()
    sound.click()
    expect(notify).to_have_attribute("aria-pressed", "true")
    expect(sound).to_have_attribute("aria-pressed", "true")
    assert studio.tab.evaluate("window.notes") == 2  # a sample
    assert studio.tab.evaluate("window.told") is None
    studio.jobs["j5"] |= {"state": "succeeded", "finished_at": time.time(), "artifact": {"render_s": 1.0}}
    studio.order = []
    studio.tell()
    studio.tab.wait_for_function("window.told?.length === 1 && window.notes === 4")
    sound.click()
    expect(sound).to_have_attribute("aria-pressed", "false")


def test_nothing_moves_while_a_job_renders(open_queue):
    studio = open_queue([job(5, "a balloon"), *waiting()])
    studio.tab.evaluate(SHIFTS)
    for number in range(12):
        stage = ["loading", "encoding", *["denoising"] * 7, "decoding", "decoding", "saving"][number]
        now = {"stage": stage, "step": number if stage == "denoising" else 0, "fraction": number / 12}
        reason = "the machine is busy: steps take 3.0 times as long as before" if number == 5 else ""
        more = {
            "eta_s": None if number < 2 else 300.0 / number,
            "eta_reason": reason,
            "saved_at": time.time() if number > 4 else None,
        }
        preview = {"id": "j5", "url": f"api/v1/jobs/j5/live?v={number}"} if number > 3 else None
        studio.tell(jobs=[running(**now, **more)], preview=preview)
        expect(studio.tab.get_by_role("progressbar", name="Progress")).to_have_attribute(
            "aria-valuenow", str(int(100 * number / 12))
        )
    studio.jobs["j5"] |= {"state": "succeeded", "finished_at": time.time(), "artifact": {"render_s": 1.0}}
    studio.order.remove("j5")
    studio.tell()
    expect(studio.tab.get_by_role("article", name="Starting: a whale")).to_be_visible()
    expect(studio.tab.get_by_role("region", name="Finished today")).to_be_visible()
    assert studio.tab.evaluate("window.shifted") < 0.05


@pytest.mark.parametrize("width", [390, 1024])
def test_a_narrow_page_has_one_column_and_does_not_scroll_sideways(open_queue, width):
    studio = open_queue([running(), *waiting()], [failed(8, "a train " * 20)], width=width)
    expect(studio.tab.get_by_role("region", name="Needs attention")).to_be_visible()
    assert studio.tab.evaluate("document.documentElement.scrollWidth") <= width
    assert studio.tab.get_by_role("region", name="Needs attention").bounding_box()["y"] > top_of(studio, "a rocket")


def test_a_page_that_is_left_ends_what_it_began(open_queue):
    studio = open_queue(waiting(), paused=True)
    expect_order(studio, PROMPTS)
    studio.tab.evaluate("window.end()")
    studio.tell(order=["j1"])
    expect_order(studio, PROMPTS)
