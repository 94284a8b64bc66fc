"""What a plan does without being told to is said in plain sentences."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backend.core.notes import Cut, notes_of
from backend.core.plan import Machine, Source
from backend.core.planning import make_plan
from backend.core.registry import MODELS, PAINTED_PROMPTS, SYNTHETIC, TINY, ModelSpec
from backend.core.schema import parse_request

MODEL = MODELS["skyreels-v2-df-1.3b-540p"]
ID = "0" * 20


def notes(
    source: Source | None = None,
    cut_of: Callable[[str], Cut | None] = lambda text: None,
    spec: ModelSpec = MODEL,
    **fields,
) -> tuple[str, ...]:
    request = parse_request({"prompt": "a boat", "seed": 1} | fields)
    plan = make_plan(request, spec, Machine("CPU", 2, 64), source)
    return notes_of(request, plan, spec, source, cut_of)


def extension(source_fps: float, **fields) -> tuple[str, ...]:
    wish = {"mode": "video_extension", "video": ID, "orientation": "landscape"}
    return notes(Source(960, 540, 100, source_fps), **wish | fields)


def wide(text: str) -> str:
    """`text` with the signs and digits of keyboards of East Asia."""
    return "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in text)


def test_a_plain_request_has_no_notes():
    assert notes() == notes(negative_prompt="blur", guidance_scale=6) == notes(negative_prompt=" ") == ()
    assert notes(guidance_scale=1) == ()


def test_words_that_a_small_model_does_not_know_are_named():
    said = "SkyReels V2 Tiny does not know: cat, giraffe. It will draw something else."
    story = {"skyreels": {"storyboard": ["a red boat", "a GIRAFFE and a Cat"]}, "num_frames": 200}
    assert notes(spec=TINY, prompt="A red cat and a giraffe at noon, the cat's boat") == (said,)
    assert notes(spec=TINY, prompt="A cat", **story) == (said.replace("cat, giraffe", "cat, GIRAFFE"),)
    assert all(notes(spec=TINY, prompt=prompt) == () for prompt in PAINTED_PROMPTS)
    assert notes(spec=TINY, mode="image_to_video", image=ID, prompt="", orientation="landscape") == ()
    for other in (MODEL, SYNTHETIC):
        assert notes(spec=other, prompt="A cat") == ()


def test_the_note_names_the_first_unknown_words_and_counts_the_others():
    letters = [f"{letter}qx" for letter in "abcdefghij"]
    [note] = notes(spec=TINY, prompt=" ".join(letters))
    assert (
        note
        == f"SkyReels V2 Tiny does not know: {', '.join(letters[:8])} and 2 more words. It will draw something else."
    )
    [note] = notes(spec=TINY, prompt="b" * 300)
    assert len(note) < 200


def test_a_lora_may_know_words_of_its_own():
    request = parse_request({"prompt": "a cat", "seed": 1, "loras": [{"name": "cats", "strength": 1}]})
    plan = make_plan(request, TINY, Machine("CPU", 2, 64), loras={"cats": 1})
    assert plan.unknown_words == ()


def test_a_negative_prompt_without_guidance_has_no_effect():
    [note] = notes(negative_prompt="blur", guidance_scale=1)
    assert note == "The negative prompt has no effect at guidance 1; it needs a guidance above 1."
    [note] = notes(negative_prompt="blur", spec=SYNTHETIC)
    assert note.startswith("The negative prompt has no effect")


def cut(text: str) -> Cut | None:
    return Cut(512, "the words that are read") if "too long" in text else None


def test_a_prompt_that_is_cut_is_named_with_the_place():
    said = 'is cut after "the words that are read": the model reads 512 tokens, and the rest is left out.'
    assert notes(cut_of=cut, prompt="too long") == (f"The prompt {said}",)
    assert notes(cut_of=cut, negative_prompt="too long") == (f"The negative prompt {said}",)
    assert "cut" not in " ".join(notes(cut_of=cut, negative_prompt="too long", guidance_scale=1))  # nobody reads it
    story = {"num_frames": 200, "skyreels": {"storyboard": ["short", "too long"]}}
    assert notes(cut_of=cut, **story) == (f"Prompt 2 of the storyboard {said}",)
    assert notes(cut_of=lambda text: Cut(512), prompt="x")[0].startswith("The prompt is cut: the model reads 512")
    assert notes(cut_of=cut, prompt="too long", spec=SYNTHETIC) == ()


@pytest.mark.parametrize(
    ("source_fps", "fps", "how"),
    [
        (60, None, "The source has 60 frames per second and the video 30: some of its frames are left out."),
        (60, 24, "The source has 60 frames per second and the video 24: some of its frames are left out."),
        (15, 24, "The source has 15 frames per second and the video 24: some of its frames are repeated."),
        (4.5, None, "The source has 4.5 frames per second and the video 8: some of its frames are repeated."),
        (23.5, None, "The source has 23.5 frames per second and the video 24: some of its frames are repeated."),
        (30000 / 1001, None, None),
        (24000 / 1001, 24, None),
        (25, None, None),
    ],
)
def test_another_rate_than_that_of_the_source_is_said(source_fps, fps, how):
    found = extension(source_fps, **({"fps": fps} if fps else {}))
    assert found == ((how,) if how else ())


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("<lora:film noir v2:0.8>", "adds no LoRA"),
        ("<LoRA:x>", "adds no LoRA"),
        ("<lyco:x:1>", "adds no LoRA"),
        ("<hypernet:x:1>", "adds no hypernetwork"),
        (wide("<lora:x:1>"), "adds no LoRA"),
        ("(boat:1,3)", "gives no weight"),
        (wide("(红:1.3)"), "gives no weight"),
        (wide("(ボート:1.3)"), "gives no weight"),
        ("((boat:1,25))", "gives no weight"),
        (wide("{a|b}"), "makes no choice"),
        ("[cat:dog:0,5]", "changes nothing on the way"),
        ("(x:1.3)", "gives no weight"),
        ("(red boat, sea:1)", "gives no weight"),
        ("(scene 2:1.5)", "gives no weight"),
        ("((boat))", "gives no weight"),
        ("[[blurry]]", "gives no weight"),
        ("{{boat}}", "gives no weight"),
        ("{a|b}", "makes no choice"),
        ("{red|blue|green}", "makes no choice"),
        ("[cat:dog:0.5]", "changes nothing on the way"),
        ("[cat|dog]", "changes nothing on the way"),
        ("embedding:hands", "adds no embedding"),
        ("(red boat)++", "gives no weight"),
        ("boat++", "gives no weight"),
        ("x+++", "gives no weight"),
        ("__colour__", "makes no choice"),
        ("__places/harbour-2__", "makes no choice"),
        ("[boat:0.5]", "changes nothing on the way"),
        ("[boat:10]", "changes nothing on the way"),
        ("[a red boat 2:.25]", "changes nothing on the way"),
        ("[fog::0.3]", "changes nothing on the way"),
        ("BREAK", "begins no new part"),
        ("--ar 16:9", "sets nothing"),
        ("--seed 4", "sets nothing"),
        ("--no people", "sets nothing"),
        ("--v 6.1", "sets nothing"),
        ("--tile", "sets nothing"),
    ],
)
def test_commands_of_other_programs_are_read_as_words(words, what):
    for fields, name in (
        ({"prompt": f"a boat {words} at sea"}, "The prompt"),
        ({"negative_prompt": words}, "The negative prompt"),
        ({"num_frames": 200, "skyreels": {"storyboard": [words]}}, "Prompt 1 of the storyboard"),
    ):
        [note] = notes(**fields)
        assert note.startswith(f"{name} has {words}, which is read as plain words and {what}")


@pytest.mark.parametrize("prompt", ["a boat AND a bird", "a boat\nAND a bird :1.2", "a boat at dawn, AND a bird"])
def test_and_in_capitals_blends_nothing(prompt):
    [note] = notes(prompt=prompt)
    assert note.startswith("The prompt has AND, which is read as plain words and begins no new part: the model reads")


def test_each_kind_of_command_is_said_once():
    found = notes(prompt="<lora:a:1> <lora:b:1> (x:1.2) (y:1.3)")
    assert [note.split(",")[0] for note in found] == ["The prompt has <lora:a:1>", "The prompt has (x:1.2)"]
    [note] = notes(prompt=f"<lora:{'a' * 300}:1>")
    assert len(note) < 250


@pytest.mark.parametrize(
    "prompt",
    [
        "a clock (at 10:30)",
        "a wide frame (16:9)",
        "a boat (red) at sea",
        "a < b > c",
        "<b>bold</b>",
        "a jar {calm} [sic]",
        "he says (hello: world)",
        "(Psalm 23:4)",
        "(a 1:20 model) a:b|c",
        "I <3 boats :)",
        "a screen with C++ and Notepad++, 18+ and A+",
        "a + b ++ c",
        "[at 10:30] [Psalm 23:4] [16:9] [1:30.5] [note: a boat]",
        "a neon sign reading COFFEE BREAK, the word BREAK, PRISON BREAK",
        "IN CASE OF FIRE BREAK GLASS",
        'waves break; a "BREAK" button',
        "SALT AND PEPPER on a sign that says BED AND BREAKFAST",
        "a logic AND gate, the word AND on a wall, a boat and a bird",
        wide("(红色)的船,[注:船],10:30"),
        "snake_case and a__b, ____ and __",
        "a boat --red and old-- drifts -- slowly",
        "",
    ],
)
def test_ordinary_words_and_signs_are_no_commands(prompt):
    assert notes(prompt=prompt or "x") == ()


def test_a_shape_that_follows_the_material_is_said():
    wish = {"mode": "image_to_video", "image": ID, "prompt": ""}
    assert notes(**wish) == ("The shape follows the picture: landscape, 960x540.",)
    for named in ({"orientation": "landscape"}, {"resolution": "640x360"}):
        assert notes(**wish, **named) == ()


def test_seed_minus_one_is_said_to_be_random():
    assert notes(seed=-1) == ("Seed -1 means random: a seed is drawn when the video is queued, and stored with it.",)
    assert notes(seed=None) == ()
