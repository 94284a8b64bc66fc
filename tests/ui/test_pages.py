"""Every page on every kind of history, in Streamlit's own test runner: no browser, no server."""

import dataclasses
import re

import pytest
from streamlit.testing.v1 import AppTest

from backend import video_generator
from backend.core.config import ROOT
from backend.core.errors import InvalidRequest, RenderFailed
from backend.core.registry import SYNTHETIC
from backend.core.schema import parse_request
from backend.jobs.job import JobError, JobState
from backend.jobs.store import Filter
from backend.library.downloads import Download, DownloadState
from ui import cards, form, words
from ui.export import export_row

PAGES = ["ui/create.py", "ui/queue.py", "ui/gallery.py", "ui/models.py", "ui/system.py"]
DF, T2V = "skyreels-v2-df-1.3b-540p", "skyreels-v2-t2v-14b-540p"


@pytest.fixture
def app(generator, monkeypatch):
    monkeypatch.setattr(video_generator, "_shared", generator)
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=100)
    app.run()
    return app


def shown(app) -> str:
    """All the words on the page."""
    kinds = ("markdown", "caption", "header", "error", "html", "metric", "button")
    return "\n".join(f"{getattr(element, 'label', '')} {element.value}" for kind in kinds for element in app.get(kind))


def visit(app, page: str):
    app.switch_page(page).run()
    assert not app.exception, app.exception
    return app


@pytest.fixture
def history(generator, faults, a_request):
    """One job of every kind: done, favourite, failed, cancelled, waiting."""
    done = generator.wait(generator.submit(a_request(prompt="a finished video")).id, timeout=100)
    starred = generator.wait(generator.submit(a_request(prompt="a starred video")).id, timeout=100)
    generator.store.set_favourite(starred.id, True)
    faults.raise_at = {1: RenderFailed("The pencil broke;", hint="sharpen it.")}
    failed = generator.wait(generator.submit(a_request(prompt="a failed video")).id, timeout=100)
    faults.raise_at = {}
    generator.pause_queue(True)
    cancelled = generator.cancel(generator.submit(a_request(prompt="a cancelled video")).id)
    waiting = generator.submit(a_request(prompt="a waiting video"))
    return {"done": done, "starred": starred, "failed": failed, "cancelled": cancelled, "waiting": waiting}


@pytest.mark.parametrize("page", PAGES[2:])
def test_an_empty_studio_offers_the_first_step(app, page):
    visit(app, page)
    offers = {
        "ui/gallery.py": "No videos yet",
        "ui/models.py": "Available",
        "ui/system.py": "No job has ended yet",
    }
    assert offers[page] in shown(app)


@pytest.mark.parametrize("page", PAGES[2:])
def test_every_page_shows_every_kind_of_job(app, history, page):
    visit(app, page)
    text = shown(app)
    expected = {
        "ui/gallery.py": ["a finished video", "a starred video"],
        "ui/models.py": [SYNTHETIC.title],
        "ui/system.py": ["Done 2", "Failed 1", "Success rate 67%"],
    }
    for words_ in expected[page]:
        assert words.escape_markdown(words_) in text or words_ in text, words_


def test_a_video_whose_folder_was_deleted_is_shown_as_missing(app, history, settings):
    import shutil

    shutil.rmtree(settings.outputs / history["done"].id)
    assert "Files missing" in shown(visit(app, "ui/gallery.py"))


def test_the_gallery_filters(app, history):
    visit(app, "ui/gallery.py")
    app.text_input(key="search").set_value("starred").run()
    assert "1 video" in shown(app)
    assert "a finished video" not in shown(app)
    assert app.selectbox(key="model").options == ["All models", SYNTHETIC.title]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_inference_steps": 500}, '"Steps" 500 is above the most that is possible; use 10 to 50.'),
        ({"skyreels": {"overlap_history": 18}}, '"Shared frames" 18 is not 4k+1'),
        ({"skyreels": {"flow_shift": 99}}, '"Flow shift" 99 is above the most that is possible; use 1 to 20.'),
        ({"seconds": 100, "fps": 30}, "at 30 fps"),
    ],
)
def test_an_error_calls_settings_as_the_page_does(generator, fields, message):
    with pytest.raises(InvalidRequest) as caught:
        generator.plan(parse_request({"prompt": "-"} | fields))
    worded = form.worded(caught.value)
    assert message in worded
    assert "skyreels." not in worded


def test_a_second_studio_is_explained_on_the_page(generator, settings, monkeypatch):
    from backend.core.errors import StudioBusy

    def refuse(*_):
        raise StudioBusy("The data folder is in use by another studio;", hint="use that one.")

    monkeypatch.setattr("ui.studio.shared_generator", refuse)
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=100).run()
    assert "use that one" in app.error[0].value


def test_user_text_means_nothing_in_markdown():
    for evil in ("**bold**", "[a](javascript:alert(1))", ":material/star:", "$x$", "<b>", "# title", "`code`", "a_b_c"):
        escaped = words.escape_markdown(evil)
        assert all(f"\\{sign}" in escaped for sign in evil if sign in "*[]():$<>#`_")


@pytest.mark.parametrize("page", PAGES)
def test_the_startup_notice_is_on_every_page_until_it_is_dismissed(app, generator, page):
    generator.startup_notice = "The history could not be used (it is *empty*)."
    visit(app, page)
    assert [warning.value for warning in app.warning] == [words.escape_markdown(generator.startup_notice)]
    app.button(key="notice_seen").click().run()
    assert generator.startup_notice is None
    assert not app.warning


def test_the_models_page_shows_what_is_installed_what_fits_and_downloads(app, generator, monkeypatch):
    requested = []
    monkeypatch.setattr(generator.downloads, "add", requested.append)
    visit(app, "ui/models.py")
    words = shown(app)
    assert "Test pattern" in words
    assert "a placeholder, not an AI model" in words
    assert re.search(r"needs \d+ GiB of memory; you have \d+.*Skywork Community License", words)
    app.button(key=f"get_{DF}").click().run()
    assert requested == [DF]
    app.button(key="use_synthetic").click().run()
    assert generator.forms.draft.get()["form"] == {"model": "synthetic"}


def test_a_download_shows_its_progress_and_can_be_paused(app, generator, monkeypatch):
    at = Download(DF, "SkyReels-V2 DF 1.3B 540P", "x/y", DownloadState.RUNNING, 5_000_000, 20_000_000, 1_000_000.0)
    paused = []
    monkeypatch.setattr(generator.downloads, "current", lambda: [at])
    monkeypatch.setattr(generator.downloads, "pause", paused.append)
    visit(app, "ui/models.py")
    words = shown(app).replace("\\", "")
    assert "25%" in words
    assert "5.0 MB of 20.0 MB · 1.0 MB a second · 15 s left" in words
    app.button(key=f"pause_{DF}").click().run()
    assert paused == [DF]
    at = dataclasses.replace(at, state=DownloadState.FAILED, error="The disk is full; make room.")
    app.run()
    assert "The disk is full; make room." in shown(app).replace("\\", "")
    assert app.button(key=f"resume_{DF}")


def test_the_gallery_is_opened_as_its_address_says(app, history):
    app.query_params["search"] = "starred"
    app.query_params["mode"] = "nonsense"
    visit(app, "ui/gallery.py")
    assert app.text_input(key="search").value == "starred"
    assert app.selectbox(key="mode").value == ""
    app.text_input(key="search").set_value("").run()
    assert "search" not in app.query_params


def panel(job_id: str) -> None:
    from ui.export import export_button, exports_of
    from ui.studio import studio

    export_button(studio().job(job_id))
    exports_of(studio().job(job_id))


def test_a_video_is_exported_from_its_panel(app, generator, a_request):
    video = generator.submit(a_request())
    generator.wait(video.id, 100)
    page = AppTest.from_function(panel, kwargs={"job_id": video.id}, default_timeout=60).run()
    page.selectbox(key=f"export_format_{video.id}").set_value("still").run()
    page.number_input(key=f"export_width_{video.id}").set_value(64)
    page.button_group(key=f"frame_{video.id}").set_value(-1)
    page.button(key=f"export_{video.id}").click().run()
    assert not page.exception
    [export] = generator.jobs(Filter(kind="export", parent=video.id))
    assert (export.request.format.value, export.request.width, export.request.frame) == ("still", 64, -1)
    generator.wait(export.id, 100)
    assert f'href="./api/v1/jobs/{export.id}/file" download>Save Still (PNG), 64x48' in shown(page.run())
    visit(app, "ui/gallery.py")
    keys = {button.key for button in app.button}
    assert f"open_gallery_{video.id}" in keys
    assert f"open_gallery_{export.id}" not in keys  # an export is no video


def test_an_export_that_failed_says_why_and_shows_no_markup(generator, a_request):
    generator.pause_queue(True)
    video = generator.submit(a_request())
    failed = dataclasses.replace(video, state=JobState.FAILED, error=JobError("x", "the <b>disk</b>", ""))
    assert export_row(failed).endswith("the &lt;b&gt;disk&lt;/b&gt;</p>")
    assert export_row(video).endswith(": queued</p>")


def test_a_video_again_and_extended_name_it_as_their_parent(app, generator, a_request, monkeypatch):
    video = generator.submit(a_request())
    video = generator.wait(video.id, 100)
    generator.pause_queue(True)
    monkeypatch.setattr(cards.st, "switch_page", lambda page: None)
    cards.again(video)
    [again] = generator.jobs(Filter(states=(JobState.QUEUED,)))
    assert (again.parent, again.request.seed == video.request.seed) == (video.id, False)
    cards.extend(video)
    form = generator.forms.draft.get()["form"]
    assert (form["mode"], form["parent"], form.get("seed")) == ("video_extension", video.id, None)
    assert generator.uploads.get(form["video"]).kind == "video"
