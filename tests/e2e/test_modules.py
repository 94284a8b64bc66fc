"""The JavaScript modules of the components that are arithmetic, run in a real Chromium."""

import json

import pytest

from backend.core.inputs import INPUTS
from backend.core.schema import SETTINGS
from ui.components import VERSION

pytestmark = pytest.mark.browser

MODEL = {
    "id": "m",
    "title": "M",
    "fps": 24,
    "base_num_frames": 97,
    "overlap_history": 17,
    "diffusion_forcing": True,
    "many_windows": True,
    "denoises": True,
}
PLAIN = {"diffusion_forcing": False, "many_windows": False}
EVERY_OPTION = {
    "base_num_frames": 57,
    "overlap_history": 9,
    "addnoise_condition": 20,
    "flow_shift": 5.5,
    "ar_step": 5,
    "causal_block_size": 5,
    "causal_attention": True,
    "batch_guidance": True,
    "fidelity": "diffusers",
}
EVERY_FIELD = {
    "mode": "text_to_video",
    "prompt": "a boat",
    "negative_prompt": "night",
    "orientation": "portrait",
    "resolution": "720p",
    "num_frames": 100,
    "fps": 16,
    "num_inference_steps": 30,
    "guidance_scale": 4.5,
    "seed": 0,
    "preset": "balanced",
    "fit": "letterbox",
    "crop_position": 0.25,
    "model": "m",
    "loras": [{"name": "grain", "strength": [0.5]}],
    "skyreels": EVERY_OPTION,
}


@pytest.fixture(scope="module")
def run(browser, live):
    """`run("request", "m.requestOf(a, b)", a=..., b=...)`: the value of an expression over a module `m`."""
    tab = browser.new_page()
    tab.goto(f"{live.url}/healthz")

    def run(module: str, expression: str, **values):
        names, given = ", ".join(values), json.dumps(list(values.values()))
        address = f"/app/static/components/{VERSION}/{module}.js"
        return tab.evaluate(
            f"async () => {{ const m = await import({address!r}); const [{names}] = {given}; return {expression}; }}"
        )

    yield run
    tab.close()


def test_every_setting_goes_into_the_request_and_comes_back(run):
    request = run("request", "m.requestOf(form, model)", form=EVERY_FIELD | {"variations": 3}, model=MODEL)
    assert request == EVERY_FIELD
    job = {"request": request | {"kind": "render", "image": None, "seconds": None, "draft_steps": None}, "plan": {}}
    form = run("draft", "m.formOf(job)", job=job)
    assert run("request", "m.requestOf(form, model)", form=form, model=MODEL) == EVERY_FIELD


def test_every_setting_of_a_request_is_one_of_the_form():
    known = {*EVERY_FIELD, *EVERY_OPTION, *INPUTS, "seconds", "storyboard", "draft_steps"}
    assert set(SETTINGS) <= known


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        (MODEL, set(EVERY_OPTION)),
        (MODEL | PLAIN, {"flow_shift", "batch_guidance", "fidelity"}),
        (MODEL | PLAIN | {"many_windows": True, "denoises": False}, {"base_num_frames", "overlap_history"}),
        (MODEL | PLAIN | {"denoises": False}, set()),
    ],
    ids=["diffusion forcing", "plain", "test pattern", "nothing"],
)
def test_a_setting_counts_only_where_the_model_has_it(run, model, kept):
    assert {*run("request", "m.requestOf(form, model)", form=EVERY_FIELD, model=model).get("skyreels", {})} == kept


@pytest.mark.parametrize(("status", "code"), [(200, "away"), (502, "http_502")])
def test_an_answer_that_is_no_json_is_no_result(run, status, code):
    """It was cut off, or is the page of a proxy."""
    cut = "(globalThis.fetch = async () => new Response('{\"presets\": [', { status: status }))"
    asked = "m.get('/presets').then(() => 'a result', (error) => error.code)"
    put_back = "(globalThis.fetch = kept)"
    expression = f"await (async (kept) => {{ {cut}; const found = await {asked}; {put_back}; return found; }})(fetch)"
    assert run("api", expression, status=status) == code


def test_defaults_stay_defaults(run):
    assert run("request", "m.requestOf(form, model)", form={"mode": "text_to_video", "prompt": "x"}, model=MODEL) == {
        "mode": "text_to_video",
        "prompt": "x",
        "num_frames": 64,
    }


def test_inputs_count_only_in_the_mode_that_takes_them(run):
    form = {"prompt": "x", "image": "a" * 20, "end_image": "b" * 20, "video": "c" * 20}
    used = {
        mode: {*run("request", "m.requestOf(form, model)", form=form | {"mode": mode}, model=MODEL)} & {*INPUTS}
        for mode in ("text_to_video", "image_to_video", "video_extension")
    }
    assert used == {
        "text_to_video": set(),
        "image_to_video": {"image", "end_image"},
        "video_extension": {"video", "end_image"},
    }


@pytest.mark.parametrize(("lines", "frames"), [("one", 97), ("one\n\n two ", 177), ("a\nb\nc", 257), ("", 97)])
def test_a_story_is_as_long_as_its_lines(run, lines, frames):
    form = {"mode": "text_to_video", "story": True, "prompt": lines}
    assert run("request", "m.storyFrames(form, model)", form=form, model=MODEL) == frames


def test_what_is_missing_is_named(run):
    forms = [
        {"mode": "text_to_video", "prompt": " "},
        {"mode": "image_to_video", "prompt": ""},
        {"mode": "video_extension", "prompt": "x"},
        {"mode": "text_to_video", "prompt": "x"},
    ]
    assert [run("request", "m.missing(form)?.words ?? null", form=form) for form in forms] == [
        "write a prompt",
        "add a first frame",
        "add a video to extend",
        None,
    ]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("m.duration(0.4)", "0.4 s"),
        ("m.duration(9.97)", "10 s"),
        ("m.duration(200)", "3 min 20 s"),
        ("m.duration(3600)", "1 h"),
        ("m.duration(3900)", "1 h 5 min"),
        ("m.estimate(0.2)", "1 s"),
        ("m.estimate(3.4)", "3 s"),
        ("m.about({total_s: 30})", "about 30 s"),
        ("m.about({total_s: 30, low_s: 20, high_s: 40})", "20 to 40 s"),
        ("m.about({total_s: 60, low_s: 50, high_s: 80})", "50 s to 1 min 20 s"),
        ("m.size(999)", "1 kB"),
        ("m.size(41300000)", "41 MB"),
        ("m.size(1250000000)", "1.3 GB"),
        ("m.counted(1, 'video')", "1 video"),
        ("m.counted(1284, 'video')", "1,284 videos"),
        ("m.ago(100, 110)", "just now"),
        ("m.ago(0, 600)", "10 min ago"),
        ("m.position(61.5)", "1:01.50"),
    ],
)
def test_numbers_in_words(run, expression, words):
    assert run("words", expression) == words


PATCHED = """(() => {
    const place = document.createElement("div");
    const list = names => m.patch(place, names.map(name => m.h("i", {key: name}, name)));
    list(["a", "b", "c"]);
    const [a, b, c] = place.children;
    list(["c", "a", "d"]);
    return [place.textContent, place.children[0] === c, place.children[1] === a, place.contains(b)];
})()"""
TYPED = """(() => {
    const place = document.createElement("div");
    const field = (value, extra) => m.h("input", {value, class: extra});
    const draw = (value, extra) => m.patch(place, [extra && m.h("p", null, "new"), field(value, extra)]);
    draw("one", null);
    const shown = place.querySelector("input");
    shown.value = "typed";
    draw("typed", "wide");
    return [place.contains(shown), shown.value, shown.className];
})()"""


def test_elements_are_kept_by_their_keys(run):
    assert run("dom", PATCHED) == ["cad", True, True, False]


def test_a_field_is_kept_while_elements_come_before_it(run):
    assert run("dom", TYPED) == [True, "typed", "wide"]


def test_text_is_text(run):
    markup = "<img src=x onerror='window.pwned = 1'>"
    draw = "(p => { m.patch(p, [text]); return [p.children.length, p.textContent]; })(document.createElement('p'))"
    assert run("dom", draw, text=markup) == [0, markup]


def test_what_a_handler_of_blur_draws_comes_after_what_removed_the_focus(run):
    drawn = """(() => {
        let open = true;
        const root = document.body.appendChild(document.createElement("div"));
        const menu = () => m.h("div", {key: "menu", onfocusout: draw}, m.h("button", null, "one"));
        const draw = () => m.patch(root, [open && menu(), m.h("p", {key: "words"}, open ? "open" : "closed")]);
        draw();
        root.querySelector("button").focus();
        open = false;
        draw();
        return root.innerHTML;
    })()"""
    assert run("dom", drawn) == "<p>closed</p>"
