"""The System page's component in a real browser, with a machine that is made up: load, jobs, checks."""

import re

import pytest
from playwright.sync_api import expect

from tests.ui.component_page import ComponentPage

pytestmark = pytest.mark.browser

NOW = 1_700_000_000.0  # of the browser's clock, in seconds since 1970
# Timers tick when the test says so, and the test says what time it is and whether the page is hidden.
SCRIPT = f"""
window.now = {NOW};
Date.now = () => 1000 * window.now;
window.ticks = [];
window.setInterval = act => window.ticks.push(act);
window.away = false;
Object.defineProperty(document, "hidden", {{ get: () => window.away }});
"""
TICK = "window.ticks.forEach(act => act())"
GO = "away => { window.away = away; document.dispatchEvent(new Event('visibilitychange')); }"
NO_GPU = {"vram_used_gib": None, "vram_others_gib": None, "vram_total_gib": None, "gpu_percent": None}
GPU = {"vram_used_gib": 20.0, "vram_others_gib": 0.0, "vram_total_gib": 80.0, "gpu_percent": 75.0}
STATS = [
    {"model": "a", "succeeded": 1200, "failed": 2, "cancelled": 3, "median_s": 123.0},
    {"model": "gone", "succeeded": 0, "failed": 1, "cancelled": 0, "median_s": None},
]
CHECKS = [
    {"name": "Python", "status": "ok", "detail": "3.11.2 in .venv", "way_out": ""},
    {"name": "GPU", "status": "warning", "detail": "no NVIDIA GPU", "way_out": ""},
    {"name": "Packages", "status": "failed", "detail": "av is missing", "way_out": "run `python3 setup.py`"},
]


def sample(seconds_ago: float = 0.0, **figures):
    """The load of the machine at a time before the last sample: half of its memory, a quarter of its disk."""
    return {
        "time": NOW - seconds_ago,
        "cpu_percent": 10.0,
        "ram_used_gib": 16.0,
        "ram_total_gib": 32.0,
        "disk_free_gib": 300.0,
        "disk_total_gib": 400.0,
        **NO_GPU,
        **figures,
    }


class MadeUpMachine:
    def __init__(self, now, history=(), stats=()) -> None:
        self.now, self.history, self.stats = now, list(history), list(stats)
        self.checks: object = {"checks": CHECKS}
        self.reads: list[str] = []

    def answer(self, method, path, body):
        if path == "/doctor":
            return self.checks
        self.reads.append(path)
        if path.startswith("/system/history"):
            return {"history_s": 1800, "samples": self.history}
        machine = {"device": "NVIDIA H200", "cores": 16}
        return {"machine": machine, "now": self.now, "models": self.stats}


@pytest.fixture
def open_system(browser):
    pages = []

    def open_system(now=None, history=(), stats=(), **context):
        machine = MadeUpMachine(now or sample(), history, stats)
        titles = {"a": "Model A", "b": "Model B"}
        page = ComponentPage(
            browser, "system", data={"models": titles}, answer=machine.answer, script=SCRIPT, **context
        )
        pages.append(page)
        machine.page, machine.tab = page, page.page
        page.tell(order=[], paused=False, draft=0, preview=None, videos=1)
        expect(machine.tab.get_by_role("img", name="CPU")).to_be_visible()
        return machine

    yield open_system
    for page in pages:
        page.close()


def chart(machine, name: str):
    return machine.tab.get_by_role("img", name=re.compile(f"^{name} over the last"))


def test_a_machine_without_a_gpu_says_so_in_one_line(open_system):
    machine = open_system()
    expect(machine.tab.get_by_text("No NVIDIA GPU found. Videos render on the CPU.")).to_be_visible()
    expect(machine.tab.get_by_role("img", name=re.compile("over the last"))).to_have_count(3)


def test_a_gpu_has_its_load_and_its_memory(open_system):
    machine = open_system(sample(**GPU), [sample(5, **GPU)])
    expect(chart(machine, "GPU")).to_have_attribute("aria-label", re.compile("now 75 %"))
    expect(chart(machine, "VRAM")).to_have_attribute("aria-label", re.compile(r"now 20\.0 GiB.* of 80\.0 GiB"))
    expect(machine.tab.get_by_text("No NVIDIA GPU found")).to_have_count(0)


def test_a_gpu_whose_driver_reports_no_load_shows_none(open_system):
    machine = open_system(sample(**GPU | {"gpu_percent": None}))
    expect(machine.tab.get_by_role("region", name="GPU")).to_contain_text("not reported")
    expect(chart(machine, "GPU")).to_have_attribute("aria-label", re.compile("not reported"))


def test_a_chart_has_fixed_axes_and_says_its_values_in_words(open_system):
    history = [sample(1790, cpu_percent=0.0), *(sample(ago, cpu_percent=50.0) for ago in (910, 900, 890))]
    machine = open_system(sample(cpu_percent=100.0), history)
    told = "CPU over the last half hour: now 100 %, least 0 %, most 100 % of 100 %"
    expect(chart(machine, "CPU")).to_have_attribute("aria-label", told)
    [drawn] = chart(machine, "CPU").locator("polyline").all()[-1:]
    assert drawn.get_attribute("points") == "600.0,0.0"  # now, at the top
    before = chart(machine, "CPU").locator("polyline").nth(1).get_attribute("points")
    assert before.split()[1] == "300.0,50.0"  # the middle of both axes
    memory = chart(machine, "Memory").locator("polyline").last.get_attribute("points")
    assert memory == "600.0,50.0"  # 16 of 32 GiB, though it never changed
    disk = chart(machine, "Disk").locator("polyline").last.get_attribute("points")
    assert disk == "600.0,75.0"  # 100 of 400 GiB in use
    cpu = machine.tab.get_by_role("region", name="CPU")
    for label in ("100 %", "0", "30 min ago", "now"):
        expect(cpu.get_by_text(label, exact=True).first).to_be_visible()
    expect(machine.tab.get_by_role("region", name="Memory").get_by_text("32.0 GiB", exact=True)).to_be_visible()


def test_where_nobody_measured_the_line_is_broken(open_system):
    history = [sample(ago) for ago in (1000, 995, 990, 500, 495)]
    machine = open_system(sample(), history)
    expect(chart(machine, "CPU").locator("polyline")).to_have_count(3)


def test_it_asks_at_every_tick_and_never_while_it_is_hidden(open_system):
    machine = open_system(sample(), [sample(5)])
    assert machine.reads == ["/system/history?since=0", "/system"]
    machine.now = sample(-3, cpu_percent=42.0)
    machine.tab.evaluate(TICK)
    expect(machine.tab.get_by_role("region", name="CPU").get_by_text("42 %", exact=True)).to_be_visible()
    machine.tab.evaluate(GO, True)
    for _ in range(3):
        machine.tab.evaluate(TICK)
    asked = machine.reads.count("/system")
    machine.tab.evaluate("window.now += 60")
    machine.now = sample(-60, cpu_percent=43.0)
    machine.history = [sample(-30, cpu_percent=99.0)]
    machine.tab.evaluate(GO, False)
    expect(machine.tab.get_by_role("region", name="CPU").get_by_text("43 %", exact=True)).to_be_visible()
    assert asked == 2
    assert machine.reads[-2:] == [f"/system/history?since={NOW + 3:.0f}", "/system"]
    assert machine.reads.count("/system") == 3
    machine.tab.evaluate("window.end()")
    machine.tab.evaluate(GO, False)
    assert machine.reads.count("/system") == 3


def test_jobs_are_counted_by_how_they_ended_with_the_time_of_each_model(open_system):
    machine = open_system(stats=STATS)
    jobs = machine.tab.get_by_role("region", name="Jobs")
    expect(jobs.locator("dl")).to_have_text(re.compile("Done1,200Failed3Cancelled3"))
    expect(jobs.get_by_role("row", name="Model A 1,200 2 3 2 min 03 s")).to_be_visible()
    expect(jobs.get_by_role("row", name="gone 0 1 0")).to_be_visible()


def test_before_the_first_job_it_says_what_belongs_there(open_system):
    machine = open_system()
    expect(machine.tab.get_by_text("No job has ended yet.")).to_be_visible()


def test_the_checks_name_what_failed_first_and_what_to_do(open_system):
    machine = open_system()
    machine.tab.get_by_role("button", name="Run the checks").click()
    checks = machine.tab.get_by_role("region", name="Checks")
    expect(checks.get_by_role("status")).to_have_text("3 checks: 1 failed, 1 warning, 1 ok.")
    found = checks.get_by_role("listitem")
    expect(found.locator("> div > b")).to_have_text(["Packages", "GPU", "Python"])
    expect(found.first).to_contain_text("What to do: run python3 setup.py")
    expect(found.first.get_by_role("img", name="failed")).to_be_visible()
    expect(checks).to_be_in_viewport()
    expect(machine.tab.get_by_role("button", name="Run the checks again")).to_be_visible()


def test_checks_that_are_refused_say_why(open_system):
    machine = open_system()
    machine.checks = 409, {"error": {"code": "conflict", "message": "The checks are running already;", "field": None}}
    machine.tab.get_by_role("button", name="Run the checks").click()
    expect(machine.tab.get_by_role("status")).to_have_text("The checks are running already;")


def test_a_primary_button_stays_readable_under_the_pointer(open_system):
    machine = open_system()
    button = machine.tab.get_by_role("button", name="Run the checks")
    button.hover()
    assert "gradient" in button.evaluate("e => getComputedStyle(e).backgroundImage")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_it_fits_every_width(open_system, width, theme):
    machine = open_system(sample(**GPU), [sample(5, **GPU)], STATS, width=width, theme=theme)
    machine.tab.get_by_role("button", name="Run the checks").click()
    expect(machine.tab.get_by_role("listitem")).to_have_count(3)
    assert machine.tab.evaluate("document.documentElement.scrollWidth") <= width
