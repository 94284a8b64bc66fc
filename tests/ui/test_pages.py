"""Every page on every kind of history, in Streamlit's own test runner: no browser, no server."""

import dataclasses
import json
import os
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from streamlit.testing.v1 import AppTest

from backend import video_generator
from backend.core.config import ROOT
from backend.core.errors import InvalidRequest, NotEnoughSpace, RenderFailed
from backend.core.inputs import INPUTS
from backend.core.plan import Progress, Stage
from backend.core.prompts import Expansion
from backend.core.registry import MODELS, SYNTHETIC, TINY
from backend.core.schema import SETTINGS, parse_request
from backend.jobs.job import JobError, JobState
from backend.jobs.store import Filter
from backend.library import catalog
from backend.library.downloads import Download, DownloadState
from backend.media.writer import write_preview
from tests.lora_files import write_lora
from tests.tiny_checkpoints import build_checkpoint
from ui import cards, form, words
from ui import studio as seen
from ui.export import export_row
from ui.studio import partial_video

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


def plan_text(app) -> str:
    return next(element.value for element in app.markdown if "**Plan**" in element.value)


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


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_studio_offers_the_first_step(app, page):
    visit(app, page)
    offers = {
        "ui/create.py": "once you write a prompt",
        "ui/gallery.py": "No videos yet",
        "ui/models.py": "Available",
        "ui/system.py": "No job has ended yet",
    }
    if page != "ui/queue.py":  # a component: see test_queue.py
        assert offers[page] in shown(app)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_every_kind_of_job(app, history, page):
    visit(app, page)
    text = shown(app)
    expected = {
        "ui/create.py": ["a waiting video", "1 in the queue"],
        "ui/queue.py": [],  # a component: see test_queue.py
        "ui/gallery.py": ["a finished video", "a starred video"],
        "ui/models.py": [SYNTHETIC.title, "1 in the queue"],
        "ui/system.py": ["Done 2", "Failed 1", "Success rate 67%"],
    }
    for words_ in expected[page]:
        assert words.escape_markdown(words_) in text or words_ in text, words_


def test_the_plan_appears_with_the_prompt_and_follows_the_form(app):
    app.text_area(key="form_prompt").set_value("a red boat").run()
    assert words.escape_markdown("64 frames (65 rendered)") in shown(app)
    app.slider(key="form_num_frames").set_value(128).run()
    assert "2 windows" in shown(app)
    assert words.escape_markdown("128 frames (129 rendered)") in shown(app)
    assert "128 frames at 24 fps = 5.3 s" in shown(app)


def test_generate_queues_the_form_and_keeps_it(app, generator):
    generator.pause_queue(True)
    app.text_area(key="form_prompt").set_value("a red boat").run()
    app.number_input(key="form_seed").set_value(11).run()
    app.button(key="generate").click().run()
    [job] = generator.active()
    assert (job.request.prompt, job.request.seed, job.plan.num_frames) == ("a red boat", 11, 64)
    assert app.text_area(key="form_prompt").value == "a red boat"


@pytest.fixture
def running(generator, engine, a_request, settings):
    """A job of 48 frames at 24 fps, held in its middle, whose progress the test sets."""
    engine.hold_at(step=5)
    job = generator.submit(a_request(prompt="a running job", num_frames=48))
    assert engine.reached.wait(timeout=60)
    job = generator.job(job.id)

    def progress(**changes):
        at = Progress(Stage.DENOISING, 1, 1, 5, 10, 0.4, 61.0)
        generator.store.set_progress(job, dataclasses.replace(at, **changes))

    progress()
    work = settings.temp / job.id
    (work / "preview.webp").unlink(missing_ok=True)  # the engine has written its first preview already
    return job, progress, work


def pictures(app) -> list[tuple[str, str]]:
    """Address and alternative text of the pictures on the page."""
    return [(img.url, img.alt) for element in app.get("image") for img in element.proto.imgs]


def videos(app) -> list[str]:
    return [element.proto.url for element in app.get("video")]


def test_the_preview_of_a_running_job_is_in_its_card(app, running):
    job, progress, work = running
    text = shown(visit(app, "ui/create.py"))
    assert "Preview starts in a few seconds" in text
    assert not re.search(r"checkpoint \d", text)
    write_preview(work / "preview.webp", np.zeros((3, 72, 128, 3), np.uint8), fps=8)
    progress(saved_at=time.time() - 12)
    text = shown(app.run())
    assert "Preview starts in a few seconds" not in text
    assert re.search(r"checkpoint 1\d s ago", text)
    [(first, alternative)] = pictures(app)
    assert re.fullmatch(rf"/app/static/media/{job.id}/preview\.webp\?v=\d+", first)
    assert alternative == "Preview: a running job"
    os.utime(work / "preview.webp", (time.time() + 60, time.time() + 60))
    [(later, _)] = pictures(app.run())
    assert later != first


def test_a_waiting_job_has_no_preview(app, generator, a_request):
    generator.pause_queue(True)
    generator.pause(generator.submit(a_request(prompt="held before it starts")).id)
    text = shown(visit(app, "ui/create.py"))
    assert "Paused" in text
    assert "Preview" not in text


def test_the_stage_plays_the_partial_video(app, running):
    job, progress, work = running
    assert videos(visit(app, "ui/create.py")) == []
    (work / "partial.mp4").write_bytes(b"the first seconds")
    progress(frames_ready=24)
    assert videos(app.run()) == [f"/app/static/media/{job.id}/partial.mp4?v=24"]
    assert "The first 1.0 s of 2.0 s · a running job" in shown(app)
    progress(frames_ready=36)
    assert videos(app.run()) == [f"/app/static/media/{job.id}/partial.mp4?v=36"]
    assert "The first 1.5 s of 2.0 s" in shown(app)


def test_the_latest_video_moves_below_while_another_one_plays(history, app, generator, engine, a_request, settings):
    generator.cancel(history["waiting"].id)
    engine.hold_at(step=5)
    running = generator.submit(a_request(prompt="a running job"))
    generator.pause_queue(False)
    assert engine.reached.wait(timeout=60)
    text = shown(visit(app, "ui/create.py"))
    assert (text.count("a starred video"), text.count("a finished video")) == (1, 1)
    (settings.temp / running.id / "partial.mp4").write_bytes(b"the first second")
    progress = Progress(Stage.DENOISING, frames_ready=8)
    generator.store.set_progress(generator.job(running.id), progress)
    text = shown(app.run())
    assert "The first 0.3 s of 0.7 s" in text
    assert [button.key for button in app.button if button.key.startswith("open_latest")] == [
        f"open_latest_{history[name].id}" for name in ("starred", "done")
    ]


def test_the_notes_of_a_plan_are_grey_lines_under_it(app):
    app.text_area(key="form_prompt").set_value("a boat (red:1.3)").run()
    app.number_input(key="form_seed").set_value(-1).run()
    notes = [element.value for element in app.caption if ":material/info:" in element.value]
    assert any("gives no weight" in note for note in notes)
    assert any("means random" in note for note in notes)


def test_the_shape_is_that_of_the_picture_until_one_is_chosen(app, generator, tmp_path):
    Image.fromarray(np.zeros((128, 96, 3), np.uint8)).save(tmp_path / "picture.png")
    upload = generator.uploads.add(tmp_path / "picture.png")
    app.session_state["form_to_restore"] = {"mode": "image_to_video", "image": upload.id}
    app.run()
    assert widget(app, "orientation").value == "portrait"
    assert "540x960" in plan_text(app)
    widget(app, "orientation").set_value("square").run()
    assert "720x720" in plan_text(app)
    app.session_state["form_to_restore"] = {"mode": "text_to_video", "prompt": "a boat", "orientation_chosen": False}
    app.run()
    assert widget(app, "orientation").value == "landscape"
    assert "960x540" in plan_text(app)


def test_the_time_left_has_the_reason_why_it_grows(app, running):
    _, progress, _ = running
    progress(eta_s=90.0)
    assert "about 1 min 30 s left ·" in shown(visit(app, "ui/create.py"))
    progress(eta_s=300.0, eta_reason="the machine is busy: steps take 3.0 times as long as before")
    assert "about 5 min left (the machine is busy\\: steps take 3\\.0 times" in shown(app.run())


def test_the_plan_shows_a_range_until_five_renders_are_known(app, generator, a_request):
    app.text_area(key="form_prompt").set_value("a red boat").run()
    [line] = [element.value for element in app.markdown if "**about" in element.value]
    assert re.search(r"\*\*about [^*]+\*\* \(.+ to .+\) · uses", line)
    for seed in range(5):
        generator.wait(generator.submit(a_request(seed=seed, model=generator.models()[0].id)).id, timeout=100)
    assert generator.plan(a_request(model=generator.models()[0].id)).forecast.low_s is None


def test_a_partial_video_that_is_missing_is_not_played(app, running):
    _, progress, _ = running
    progress(frames_ready=24)
    assert videos(visit(app, "ui/create.py")) == []
    assert "Your video appears here" in shown(app)


def test_the_length_of_the_partial_video_does_not_change_with_the_steps(app, running):
    job, progress, work = running
    (work / "partial.mp4").write_bytes(b"the first seconds")
    assert partial_video() == (None, 0)
    for ready, step in ((24, 6), (24, 7), (36, 8)):
        progress(frames_ready=ready, step=step)
        found, frames = partial_video()
        assert (found.id, frames) == (job.id, ready)


def test_a_refused_request_shows_the_reason_and_queues_nothing(app, generator):
    app.button(key="generate").click().run()
    assert "Write a prompt first" in app.error[0].value
    assert generator.active() == []


def test_a_number_out_of_bounds_is_refused_not_ignored(app, generator):
    app.text_area(key="form_prompt").set_value("a red boat").run()
    app.number_input(key="form_num_inference_steps").set_value(60).run()
    app.button(key="generate").click().run()
    assert "use 10 to 50" in app.error[0].value
    assert shown(app).count("use 10 to 50") == 1  # in the plan's place, not there and at the button
    assert generator.active() == []


@pytest.fixture
def edit(generator, monkeypatch):
    """Open a waiting job in the form as the Queue page does, whose component holds it first."""

    def edit(app, job_id):
        job = generator.pause(job_id)
        with monkeypatch.context() as patch:
            patch.setattr(form.st, "session_state", app.session_state)
            form.edit(job.id, job.request, job.plan)

    return edit


def test_editing_a_waiting_job_replaces_it_only_when_generate_is_pressed(app, history, generator, edit):
    waiting = history["waiting"].id
    edit(app, waiting)
    assert generator.job(waiting).state.value == "paused"
    visit(app, "ui/create.py")
    assert app.text_area(key="form_prompt").value == "a waiting video"
    assert "You are editing a queued video" in shown(app)
    app.button(key="generate").click().run()
    assert generator.job(waiting).state.value == "cancelled"
    [new] = generator.active()
    assert new.request.prompt == "a waiting video"


def test_a_job_that_ended_while_it_was_edited_is_the_parent_of_the_edit(app, history, generator, edit):
    waiting = history["waiting"].id
    edit(app, waiting)
    visit(app, "ui/create.py")
    generator.cancel(waiting)  # in another tab
    app.button(key="generate").click().run()
    [new] = generator.active()
    assert new.parent == waiting


def test_the_input_that_a_mode_needs_comes_first(app):
    app.segmented_control(key="form_mode").set_value("video_extension").run()
    zones = [
        zone.proto.mixed.json if zone.proto.WhichOneof("data") == "mixed" else zone.proto.json
        for zone in app.get("bidi_component")
    ]
    assert [json.loads(data)["label"].split(" (")[0] for data in zones] == ["Video to extend", "Last frame"]


def test_an_edit_can_be_left(app, history, generator, edit):
    waiting = history["waiting"].id
    edit(app, waiting)
    visit(app, "ui/create.py")
    app.button(key="keep_original").click().run()
    assert generator.job(waiting).state.value == "queued"


@pytest.fixture
def forcing(generator, app, monkeypatch):
    """The Create page with a diffusion-forcing model and a video of two windows; the queue is paused."""
    monkeypatch.setattr(generator.catalog, "models", lambda: [MODELS[DF], MODELS[T2V], SYNTHETIC])
    generator.pause_queue(True)
    app.run()
    app.selectbox(key="form_model").set_value(DF).run()
    app.text_area(key="form_prompt").set_value("dawn").run()
    app.slider(key="form_num_frames").set_value(128).run()
    return app


def widget(app, field):
    """The widget of a form's field, of whatever kind."""
    kinds = ("text_area", "number_input", "selectbox", "toggle", "segmented_control")
    [found] = [element for kind in kinds for element in app.get(kind) if element.key == f"form_{field}"]
    return found


FROM_THE_PAGE = {
    "storyboard": "noon\n\n dusk ",
    "base_num_frames": 49,
    "overlap_history": 17,
    "addnoise_condition": 20,
    "flow_shift": 6.0,
    "ar_step": 3,
    "causal_block_size": 1,
    "causal_attention": True,
    "batch_guidance": True,
}


@pytest.mark.parametrize("options", [FROM_THE_PAGE, {"fidelity": "diffusers"}], ids=["original", "diffusers"])
def test_every_skyreels_setting_goes_into_the_request_and_comes_back(forcing, generator, edit, options):
    for field, value in options.items():
        widget(forcing, field).set_value(value).run()
    forcing.button(key="generate").click().run()
    [job] = generator.active()
    prompts = {"storyboard": ("noon", "dusk")} if "storyboard" in options else {}
    assert job.request.skyreels.model_dump(exclude_defaults=True) == options | prompts
    elsewhere = visit(AppTest.from_file(str(ROOT / "app.py"), default_timeout=100).run(), "ui/queue.py")
    edit(elsewhere, job.id)
    visit(elsewhere, "ui/create.py").button(key="generate").click().run()
    [again] = generator.active()
    assert again.id != job.id
    assert again.request.skyreels == job.request.skyreels


def test_a_window_that_the_page_does_not_offer_comes_back(forcing, generator, edit):
    fields = {
        "prompt": "dawn",
        "model": DF,
        "num_frames": 128,
        "skyreels": {"base_num_frames": 65, "overlap_history": 21},
    }
    job = generator.submit(parse_request(fields))
    edit(visit(forcing, "ui/queue.py"), job.id)
    visit(forcing, "ui/create.py")
    assert (widget(forcing, "base_num_frames").value, widget(forcing, "overlap_history").value) == (65, 21)


def test_a_setting_counts_only_where_it_is_shown(forcing, generator):
    for field, value in FROM_THE_PAGE.items():
        widget(forcing, field).set_value(value).run()
    widget(forcing, "storyboard").set_value("noon").run()
    for model, counts in {
        SYNTHETIC.id: {"storyboard": ("noon",), "base_num_frames": 49, "overlap_history": 17},
        T2V: {"flow_shift": 6.0, "batch_guidance": True},
    }.items():
        forcing.slider(key="form_num_frames").set_value(90).run()
        forcing.selectbox(key="form_model").set_value(model).run()
        forcing.button(key="generate").click().run()
        [job] = generator.active()
        assert (job.request.model, job.request.skyreels.model_dump(exclude_defaults=True)) == (model, counts)
        generator.cancel(job.id)


def test_the_storyboard_says_how_many_windows_there_are(forcing, generator):
    assert "The video has 2 windows: the prompt and up to 1 line here." in shown(forcing)
    widget(forcing, "storyboard").set_value("noon\ndusk").run()
    assert "The video has 2 windows" in shown(forcing)
    assert words.escape_markdown(
        '"Storyboard" has 2 prompts for the windows after the first, of which the video has 1'
    ) in shown(forcing)
    widget(forcing, "base_num_frames").set_value(49).run()
    assert "The video has 4 windows: the prompt and up to 3 lines here." in shown(forcing)
    assert "4 windows · 30 steps" in shown(forcing)
    forcing.slider(key="form_num_frames").set_value(40).run()
    assert "The video has one window" in shown(forcing)


def test_blocks_show_their_steps_and_offer_windows_that_they_fill(forcing):
    widget(forcing, "ar_step").set_value(5).run()
    assert "2 windows · 50, 35 steps" in shown(forcing)
    for field in ("base_num_frames", "overlap_history"):
        for frames in widget(forcing, field).options:
            widget(forcing, field).set_value(int(frames)).run()
            assert "128 frames" in plan_text(forcing), (field, frames)
        widget(forcing, field).set_value(None).run()


def test_the_window_that_the_plan_names_can_be_chosen(forcing):
    forcing.slider(key="form_num_frames").set_value(40).run()
    widget(forcing, "storyboard").set_value("noon\ndusk").run()
    assert words.escape_markdown('"Frames per window" 25') in shown(forcing)
    widget(forcing, "base_num_frames").set_value(25).run()
    assert "3 windows · 30 steps" in shown(forcing)
    overlaps, windows = (widget(forcing, field).options for field in ("overlap_history", "base_num_frames"))
    assert overlaps == ["5", "9", "13", "17", "21"]
    assert windows == [str(frames) for frames in range(21, 98, 4)]
    widget(forcing, "overlap_history").set_value(5).run()
    assert widget(forcing, "base_num_frames").options[0] == "17"


def test_the_length_that_an_error_suggests_for_a_storyboard_can_be_chosen(forcing):
    def length():
        return forcing.slider(key="form_num_frames")

    assert length().max == 128
    widget(forcing, "storyboard").set_value("noon\n\ndusk\nnight").run()
    assert words.escape_markdown('take "Length" 258 or more') in shown(forcing)
    assert length().max == 512
    length().set_value(258).run()
    assert "The video has 4 windows" in shown(forcing)
    widget(forcing, "storyboard").set_value("").run()
    assert (length().value, length().max) == (258, 258)
    length().set_value(200).run()
    assert (length().value, length().max) == (200, 258)  # the same slider, while it is dragged or moved by a key
    widget(forcing, "storyboard").set_value("noon").run()
    widget(forcing, "storyboard").set_value("").run()
    assert (length().value, length().max) == (200, 200)


def test_restored_settings_bring_their_length_and_show_their_storyboard(forcing):
    def drawer():
        return next(one for one in forcing.expander if one.label.startswith("SkyReels controls"))

    def restore(**fields):
        forcing.session_state["form_to_restore"] = {"storyboard": ""} | fields
        return forcing.run().slider(key="form_num_frames")

    assert not drawer().proto.expanded
    length = restore(num_frames=300, storyboard="noon")
    assert (length.value, length.max) == (300, 300)
    assert drawer().proto.expanded
    length = restore(num_frames=290)
    assert (length.value, length.max) == (290, 290)
    assert not drawer().proto.expanded
    length = restore(num_frames=100)
    assert (length.value, length.max) == (100, 128)


def test_an_extension_has_no_storyboard(generator, a_request, monkeypatch):
    import streamlit as st

    from ui import cards

    monkeypatch.setattr(video_generator, "_shared", generator)
    monkeypatch.setattr(st, "switch_page", lambda page: None)
    monkeypatch.setattr(st, "session_state", {})
    story = {"base_num_frames": 17, "overlap_history": 5, "storyboard": ["dusk"]}
    job = generator.wait(generator.submit(a_request(num_frames=24, skyreels=story)).id, timeout=100)
    cards.extend(job)
    restored = st.session_state["form_to_restore"]
    assert (restored["mode"], restored["storyboard"], restored["base_num_frames"]) == ("video_extension", "", 17)


def test_a_video_whose_folder_was_deleted_is_shown_as_missing(app, history, settings):
    import shutil

    shutil.rmtree(settings.outputs / history["done"].id)
    for page in ("ui/create.py", "ui/gallery.py"):
        assert "iles missing" in shown(visit(app, page)).replace("files are", "files")


def test_the_form_survives_a_visit_to_another_page(app):
    app.text_area(key="form_prompt").set_value("a red boat").run()
    visit(app, "ui/gallery.py")
    visit(app, "ui/create.py")
    assert app.text_area(key="form_prompt").value == "a red boat"


def test_a_random_seed_can_be_drawn(app):
    assert app.number_input(key="form_seed").value is None
    app.button(key="dice").click().run()
    assert app.number_input(key="form_seed").value >= 0


def test_the_gallery_filters(app, history):
    visit(app, "ui/gallery.py")
    app.text_input(key="search").set_value("starred").run()
    assert "1 video" in shown(app)
    assert "a finished video" not in shown(app)
    assert app.selectbox(key="model").options == ["All models", SYNTHETIC.title]


def test_a_button_that_is_refused_says_why(app, running, generator, monkeypatch):
    def full(*_):
        raise NotEnoughSpace("The disk is full;", hint="empty the trash.")

    monkeypatch.setattr(generator, "pause", full)
    job, _, _ = running
    visit(app, "ui/create.py")
    app.button(key=f"Pause_{job.id}").click().run()
    assert not app.exception
    assert "The disk is full; empty the trash" in app.toast[0].value


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


def test_every_field_of_the_form_is_a_setting_of_a_request():
    assert set(form.DEFAULTS | form.SKYREELS) - set(SETTINGS) == {"lora_windows"}
    assert set(SETTINGS) - set(form.DEFAULTS | form.SKYREELS) == {*INPUTS, "seconds"}


def test_a_widget_has_the_label_and_the_help_of_its_setting(forcing):
    for name in ("num_inference_steps", "guidance_scale", "fps", "seed", "flow_shift", "ar_step", "causal_block_size"):
        found = widget(forcing, name)
        assert (found.label, found.help) == (SETTINGS[name].title, SETTINGS[name].help_with_bounds)
    for name in ("base_num_frames", "overlap_history", "causal_attention", "batch_guidance"):
        found = widget(forcing, name)
        assert (found.label, found.help) == (SETTINGS[name].title, SETTINGS[name].help)


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


@pytest.mark.parametrize(
    ("bundled", "message"),
    [([SYNTHETIC], "no AI model is used"), ([TINY, SYNTHETIC], "You are using SkyReels V2 Tiny")],
)
def test_the_page_says_which_bundled_model_is_used_and_why(app, generator, monkeypatch, bundled, message):
    monkeypatch.setattr(generator.catalog, "models", lambda: bundled)
    visit(app, "ui/create.py")
    assert message in shown(app)
    assert "download a full model on the Models page" in shown(app)
    monkeypatch.setattr(generator.catalog, "models", lambda: [MODELS[DF], *bundled])
    app.run()
    assert message in shown(app)
    assert "download a full model" not in shown(app)
    assert "Pick one under Details" in shown(app)
    app.selectbox(key="form_model").set_value(bundled[0].id).run()
    assert "as chosen under Details" in shown(app)


def test_the_page_says_that_torch_is_missing(app, generator, monkeypatch):
    monkeypatch.setattr(generator, "models", lambda: [MODELS[DF], TINY, SYNTHETIC])
    generator._machine = dataclasses.replace(generator.machine, has_torch=False)
    visit(app, "ui/create.py")
    assert "no AI model is used" in shown(app)
    assert "AI models need torch, which cannot be loaded here" in shown(app)


@pytest.mark.parametrize("page", PAGES)
def test_the_startup_notice_is_on_every_page_until_it_is_dismissed(app, generator, page):
    generator.startup_notice = "The history could not be used (it is *empty*)."
    visit(app, page)
    assert [warning.value for warning in app.warning] == [words.escape_markdown(generator.startup_notice)]
    app.button(key="notice_seen").click().run()
    assert generator.startup_notice is None
    assert not app.warning


def test_a_job_that_waits_for_disk_space_says_so(app, generator, a_request, monkeypatch):
    generator.pause_queue(True)
    job = generator.submit(a_request())
    generator.store._run("UPDATE jobs SET state = 'running', attempts = 1 WHERE id = ?", job.id)
    generator.store.requeue(generator.job(job.id), JobError("not_enough_space", "Waits for room on the disk;"))
    monkeypatch.setattr(generator._disk, "has_space", lambda: False)
    generator.pause_queue(False)
    assert "Waits for room on the disk;" in shown(visit(app, "ui/create.py"))


@pytest.mark.parametrize(("pages", "every_s"), [(1, 1), (4, 1), (5, 2), (25, 8), (50, 16), (1000, 30)])
def test_many_pages_poll_less_often(app, generator, history, monkeypatch, pages, every_s):
    now = time.monotonic()
    open_ones = {f"page {number}": now for number in range(1, pages)}
    monkeypatch.setattr(seen, "_last_polls", open_ones | {"closed": now - 2 * seen.OPEN_S})
    assert seen.queue_version()[-1] == every_s
    generator.cancel(history["waiting"].id)
    assert seen.poll_s() == max(every_s, seen.IDLE_POLL_S)


def test_a_prompt_is_expanded_for_editing_and_undo_restores_it(app):
    visit(app, "ui/create.py")
    assert app.button(key="expand_prompt").disabled
    prompt = app.text_area(key="form_prompt")
    prompt.input("A red boat").run()
    app.button(key="expand_prompt").click().run()
    first = app.text_area(key="form_prompt").value
    assert first.startswith("A red boat, ")
    assert "Expanded without a language model" in shown(app)
    app.button(key="expand_prompt").click().run()
    second = app.text_area(key="form_prompt").value
    assert second.startswith("A red boat, ")
    assert second != first
    app.button(key="my_prompt").click().run()
    assert app.text_area(key="form_prompt").value == "A red boat"
    assert "Expanded" not in shown(app)
    assert not app.exception


def test_where_the_language_model_fails_the_rules_expand(app, generator, monkeypatch):
    def expand(prompt, model, *, variation, by_rules=False):
        if not by_rules:
            raise InvalidRequest("The language model Parrot answered nothing;", hint="try again.")
        return Expansion(f"{prompt} at sea", ("at sea",))

    monkeypatch.setattr(generator, "expand", expand)
    visit(app, "ui/create.py")
    app.text_area(key="form_prompt").input("A fox").run()
    app.button(key="expand_prompt").click().run()
    assert app.text_area(key="form_prompt").value == "A fox at sea"
    assert any("Parrot answered nothing" in toast.value for toast in app.toast)


def test_loras_that_do_not_fit_are_grey_with_the_reason(app, generator, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "KEEP_S", 0)
    build_checkpoint(generator.settings.models / "random-df", "df")
    generator.loras.add(write_lora(tmp_path / "grain.safetensors"))
    more = {"patch_embedding.diff": torch.zeros(24, 36, 1, 2, 2), "text_encoder.a.diff": torch.zeros(2, 2)}
    save_file(load_file(tmp_path / "grain.safetensors") | more, tmp_path / "image (1).safetensors")
    generator.loras.add(tmp_path / "image (1).safetensors")
    reason = "made for models with 36 input channels, random-df has 16"
    visit(app, "ui/models.py")
    page = shown(app).replace("\\", "")
    assert ":gray[:material/block: **image (1)**]" in page
    assert ":gray[:material/block: **grain**]" not in page
    assert f"Not for random-df: it was {reason}." in page
    assert "1 tensor for a text encoder is left out." in page
    app.session_state["form_to_restore"] = {"model": "random-df"}
    visit(app, "ui/create.py")
    assert app.multiselect(key="form_loras").options == ["grain"]
    assert f":gray[:material/block: image (1) does not fit: it was {reason}.]" in shown(app).replace("\\", "")
    assert not app.exception


def test_loras_that_fit_are_chosen_each_with_a_strength(app, generator, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "KEEP_S", 0)
    build_checkpoint(generator.settings.models / "random-df", "df")
    for name in ("grain", "noir"):
        generator.loras.add(write_lora(tmp_path / f"{name}.safetensors"))
    (generator.settings.models / "loras/old.pt").write_bytes(b"x")
    visit(app, "ui/models.py")
    assert "fits random-df" in shown(app).replace("\\", "")
    assert "old.pt cannot be used" in "".join(one.value for one in app.warning).replace("\\", "")
    visit(app, "ui/create.py")
    assert "form_loras" not in [box.key for box in app.multiselect]  # the test pattern has no layers
    app.session_state["form_to_restore"] = {"model": "random-df", "num_frames": 128, "prompt": "A boat"}
    app.run()
    assert app.multiselect(key="form_loras").options == ["grain", "noir"]
    app.multiselect(key="form_loras").set_value(["grain"]).run()
    app.slider(key="form_strength_0_grain").set_value(0.5).run()
    generator.pause_queue(True)
    app.button(key="generate").click().run()
    app.toggle(key="form_lora_windows").set_value(True).run()
    app.slider(key="form_strength_1_grain").set_value(-0.25).run()
    time.sleep(1.6)  # not the second click of a double one
    app.button(key="generate").click().run()
    jobs = generator.active()
    assert [job.request.loras[0].strength for job in jobs] == [(0.5,), (0.5, -0.25)]
    for job in jobs:
        generator.cancel(job.id)
    visit(app, "ui/models.py")
    app.button(key="remove_lora_grain").click().run()
    assert [lora.name for lora in generator.loras.all()[0]] == ["noir"]
    app.button(key="restore_grain").click().run()
    assert [lora.name for lora in generator.loras.all()[0]] == ["grain", "noir"]
    visit(app, "ui/create.py")
    assert not app.exception


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
    assert app.session_state["form_model"] == "synthetic"


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
    request = generator.submission.extension_of(video.id)
    visit(app, "ui/create.py")
    app.session_state["form_to_restore"] = {"mode": "video_extension", "video": request.video, "prompt": "on it goes"}
    app.session_state["extended"] = {"video": request.video, "parent": video.id}
    app.run()
    app.button(key="generate").click().run()
    [extended] = generator.jobs(Filter(states=(JobState.QUEUED,), mode="video_extension"))
    assert (extended.parent, extended.request.video) == (video.id, request.video)
