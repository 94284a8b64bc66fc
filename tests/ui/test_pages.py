"""Every page on every kind of history, in Streamlit's own test runner: no browser, no server."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from backend import video_generator
from backend.core.config import ROOT
from backend.core.errors import RenderFailed
from backend.core.registry import SYNTHETIC
from ui import words

PAGES = ["ui/create.py", "ui/queue.py", "ui/gallery.py", "ui/models.py", "ui/system.py"]


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


def data_of(app, component: str):
    """What Python gives a component of the page."""
    [shown] = [one.proto for one in app.get("bidi_component") if f"{component}_component" in one.proto.id]
    return json.loads(shown.mixed.json if shown.WhichOneof("data") == "mixed" else shown.json)


def test_the_gallery_names_the_models_that_have_made_a_video(app, history):
    visit(app, "ui/gallery.py")
    assert data_of(app, "gallery") == {"models": {SYNTHETIC.id: SYNTHETIC.title}}


def test_the_models_page_knows_the_memory_that_renders(app, generator):
    visit(app, "ui/models.py")
    machine = generator.machine
    assert data_of(app, "models") == {"gpu": machine.has_gpu, "memory_gib": machine.vram_gib or machine.ram_gib}


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
