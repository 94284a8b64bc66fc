"""Every page on every kind of history, in Streamlit's own test runner: no browser, no server."""

import dataclasses
import json
import re

import pytest
from streamlit.testing.v1 import AppTest

from backend import video_generator
from backend.core.config import ROOT
from backend.core.errors import RenderFailed
from backend.core.registry import SYNTHETIC
from backend.library.downloads import Download, DownloadState
from ui import words

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


@pytest.mark.parametrize("page", PAGES[3:4])
def test_an_empty_studio_offers_the_first_step(app, page):
    visit(app, page)
    offers = {
        "ui/models.py": "Available",
    }
    assert offers[page] in shown(app)


@pytest.mark.parametrize("page", PAGES[3:4])
def test_every_page_shows_every_kind_of_job(app, history, page):
    visit(app, page)
    text = shown(app)
    expected = {
        "ui/models.py": [SYNTHETIC.title],
    }
    for words_ in expected[page]:
        assert words.escape_markdown(words_) in text or words_ in text, words_


def test_the_gallery_names_the_models_that_have_made_a_video(app, history):
    visit(app, "ui/gallery.py")
    [shown] = [one.proto for one in app.get("bidi_component") if "gallery_component" in one.proto.id]
    data = shown.mixed.json if shown.WhichOneof("data") == "mixed" else shown.json
    assert json.loads(data) == {"models": {SYNTHETIC.id: SYNTHETIC.title}}


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
