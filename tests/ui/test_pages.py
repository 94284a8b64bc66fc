"""Every page on every kind of history, in Streamlit's own test runner: no browser, no server."""

import pytest
from streamlit.testing.v1 import AppTest

from backend import video_generator
from backend.core.config import ROOT
from backend.core.errors import RenderFailed
from ui import words

PAGES = ["ui/create.py", "ui/queue.py", "ui/gallery.py", "ui/system.py"]
DF = "skyreels-v2-df-1.3b-540p"


@pytest.fixture
def app(generator, monkeypatch):
    monkeypatch.setattr(video_generator, "_shared", generator)
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
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
    done = generator.wait(generator.submit(a_request(prompt="a finished film")).id, timeout=30)
    starred = generator.wait(generator.submit(a_request(prompt="a starred film")).id, timeout=30)
    generator.store.set_favourite(starred.id, True)
    faults.raise_at = {1: RenderFailed("The pencil broke;", hint="sharpen it.")}
    failed = generator.wait(generator.submit(a_request(prompt="a failed film")).id, timeout=30)
    faults.raise_at = {}
    generator.pause_queue(True)
    cancelled = generator.cancel(generator.submit(a_request(prompt="a cancelled film")).id)
    waiting = generator.submit(a_request(prompt="a waiting film"))
    return {"done": done, "starred": starred, "failed": failed, "cancelled": cancelled, "waiting": waiting}


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_studio_offers_the_first_step(app, page):
    visit(app, page)
    offers = {
        "ui/create.py": "Write a prompt",
        "ui/queue.py": "Nothing waits",
        "ui/gallery.py": "No films yet",
        "ui/system.py": "No job has ended yet",
    }
    assert offers[page] in shown(app)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_every_kind_of_job(app, history, page):
    visit(app, page)
    text = shown(app)
    expected = {
        "ui/create.py": ["a waiting film", "1 in the queue"],
        "ui/queue.py": ["a waiting film", "a failed film", "The pencil broke; sharpen it", "a cancelled film", "Retry"],
        "ui/gallery.py": ["a finished film", "a starred film"],
        "ui/system.py": ["Done 2", "Failed 1", "Success rate 67%"],
    }
    for words_ in expected[page]:
        assert words.plain(words_) in text or words_ in text, words_


def test_the_plan_appears_with_the_prompt_and_follows_the_form(app):
    app.text_area(key="form_prompt").set_value("a red boat").run()
    assert "65 frames made, 64 kept" in shown(app)
    app.slider(key="form_num_frames").set_value(128).run()
    assert "2 windows" in shown(app)
    assert "129 frames made, 128 kept" in shown(app)
    assert "128 frames at 24 fps = 5.3 s" in shown(app)


def test_generate_queues_the_form_and_keeps_it(app, generator):
    generator.pause_queue(True)
    app.text_area(key="form_prompt").set_value("a red boat").run()
    app.number_input(key="form_seed").set_value(11).run()
    app.button(key="generate").click().run()
    [job] = generator.active()
    assert (job.request.prompt, job.request.seed, job.plan.num_frames) == ("a red boat", 11, 64)
    assert app.text_area(key="form_prompt").value == "a red boat"


def test_what_cannot_be_done_is_said_at_the_button_and_nothing_is_queued(app, generator):
    app.button(key="generate").click().run()
    assert "Write a prompt first" in app.error[0].value
    assert generator.active() == []


def test_a_number_out_of_bounds_is_refused_not_ignored(app, generator):
    app.text_area(key="form_prompt").set_value("a red boat").run()
    app.number_input(key="form_num_inference_steps").set_value(60).run()
    app.button(key="generate").click().run()
    assert "use 10 to 50" in app.error[0].value
    assert generator.active() == []


def test_editing_a_waiting_film_replaces_it_only_when_generate_is_pressed(app, history, generator):
    waiting = history["waiting"].id
    visit(app, "ui/queue.py")
    app.button(key=f"edit_{waiting}").click().run()
    assert generator.job(waiting).state.value == "paused"
    visit(app, "ui/create.py")
    assert app.text_area(key="form_prompt").value == "a waiting film"
    assert "replaces the waiting film" in shown(app)
    app.button(key="generate").click().run()
    assert generator.job(waiting).state.value == "cancelled"
    [new] = generator.active()
    assert new.request.prompt == "a waiting film"


def test_an_edit_can_be_left(app, history, generator):
    waiting = history["waiting"].id
    visit(app, "ui/queue.py")
    app.button(key=f"edit_{waiting}").click().run()
    visit(app, "ui/create.py")
    app.button(key="keep_original").click().run()
    assert generator.job(waiting).state.value == "queued"


def test_a_film_whose_folder_is_gone_is_said(app, history, settings):
    import shutil

    shutil.rmtree(settings.outputs / history["done"].id)
    for page in ("ui/create.py", "ui/gallery.py"):
        assert "files are gone" in shown(visit(app, page))


def test_the_form_survives_a_visit_to_another_page(app):
    app.text_area(key="form_prompt").set_value("a red boat").run()
    visit(app, "ui/gallery.py")
    visit(app, "ui/create.py")
    assert app.text_area(key="form_prompt").value == "a red boat"


def test_the_dice_rolls_a_seed(app):
    assert app.number_input(key="form_seed").value is None
    app.button(key="dice").click().run()
    assert app.number_input(key="form_seed").value >= 0


def test_the_gallery_filters(app, history):
    visit(app, "ui/gallery.py")
    app.text_input(key="search").set_value("starred").run()
    assert "1 film" in shown(app)
    assert "a finished film" not in shown(app)


def test_a_second_studio_is_explained_on_the_page(generator, settings, monkeypatch):
    from backend.core.errors import StudioBusy

    def refuse(*_):
        raise StudioBusy("Another studio already uses the data folder;", hint="use that one.")

    monkeypatch.setattr("ui.studio.shared_generator", refuse)
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30).run()
    assert "use that one" in app.error[0].value


def test_user_text_means_nothing_in_markdown():
    for evil in ("**bold**", "[a](javascript:alert(1))", ":material/star:", "$x$", "<b>", "# title", "`code`", "a_b_c"):
        escaped = words.plain(evil)
        assert all(f"\\{sign}" in escaped for sign in evil if sign in "*[]():$<>#`_")
