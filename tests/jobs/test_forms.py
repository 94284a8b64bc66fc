"""The draft of the form and presets of settings: kept on the disk, bounded, and never a reason not to start."""

import json
import math

import pytest

from backend.core.errors import Conflict, InvalidRequest, NotFound
from backend.core.ids import new_id
from backend.jobs import forms
from backend.jobs.forms import DRAFT_BYTES, PRESETS_MOST, Draft, Presets

FORM = {"prompt": "Ein rotes Boot \U0001f6a4", "skyreels": {"storyboard": ["a", "b"]}, "n": [[{"x": [1.5, None]}]]}
BAD_FORMS = [
    {"x": math.inf},
    {"x": [math.nan]},
    {"half": "\ud800"},
    {"\udfff": 1},
    {"x": "a" * DRAFT_BYTES},
    {"x": "\u20ac" * (DRAFT_BYTES // 3)},
]


def nested(levels):
    form = {}
    for _ in range(levels - 1):
        form = {"x": form}
    return form


def test_a_draft_is_there_again_after_a_restart(tmp_path):
    draft = Draft(tmp_path / "draft.json")
    assert draft.get() == {"form": None, "version": 0, "saved_at": None}
    kept = draft.put(FORM)
    assert (kept["form"], kept["version"]) == (FORM, 1)
    assert kept["saved_at"] > 1e9
    assert Draft(tmp_path / "draft.json").get() == kept == draft.get()
    assert Draft(tmp_path / "draft.json").put({})["version"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["draft.json"]


def test_a_draft_can_be_forgotten(tmp_path):
    draft = Draft(tmp_path / "draft.json")
    draft.put(FORM)
    assert draft.put(None)["version"] == 2
    assert Draft(tmp_path / "draft.json").get()["form"] is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"form": {}, "version": -1, "saved_at": 1}',
        b'{"form": {}, "version": true, "saved_at": 1}',
        b'{"form": [], "version": 1, "saved_at": 1}',
        b'{"form": {"x": NaN}, "version": 1, "saved_at": 1}',
        b'{"form": {}, "version": 1}',
        b'{"version": 1, "saved_at": 1}',
        b'{"form": {"x": 1' + b"0" * 5000 + b'}, "version": 1, "saved_at": 1}',
    ],
)
def test_a_damaged_file_counts_as_empty_and_can_be_replaced(tmp_path, content):
    path = tmp_path / "kept.json"
    path.write_bytes(content)
    assert Draft(path).get()["form"] is None
    assert Presets(path).all() == []
    assert Draft(path).put(FORM)["form"] == FORM
    assert Draft(path).get()["form"] == FORM


def test_a_folder_in_the_place_of_the_file_is_no_reason_not_to_start(tmp_path):
    (tmp_path / "draft.json").mkdir()
    assert Draft(tmp_path / "draft.json").get()["form"] is None


@pytest.mark.parametrize(
    "form", [*BAD_FORMS, nested(forms.DEPTH_MOST + 1), nested(400)], ids=lambda form: ascii(form)[:9]
)
def test_what_cannot_be_kept_is_refused_and_the_draft_before_stays(tmp_path, form):
    draft, presets = Draft(tmp_path / "draft.json"), Presets(tmp_path / "presets.json")
    kept = draft.put(FORM)
    with pytest.raises(InvalidRequest, match=r"^The form .*; send ") as refused:
        draft.put(form)
    assert refused.value.field == "form"
    with pytest.raises(InvalidRequest):
        presets.put("x", form)
    assert draft.get() == kept == Draft(tmp_path / "draft.json").get()
    assert presets.all() == []


def test_the_largest_form_and_the_deepest_are_kept(tmp_path):
    draft = Draft(tmp_path / "draft.json")
    draft.put({"x": "a" * (DRAFT_BYTES - len(json.dumps({"x": ""})))})
    draft.put(nested(forms.DEPTH_MOST))
    assert draft.version == 2


def test_uploads_in_a_draft_are_found_in_every_field(tmp_path):
    image, video, end, deep = (new_id() for _ in range(4))
    draft = Draft(tmp_path / "draft.json")
    draft.put({"image": image, "video": [video], "end_image": {"id": end}, "x": [{"y": {"z": deep}}], "prompt": "boat"})
    assert draft.uploads() == {image, video, end, deep}
    assert Draft(tmp_path / "draft.json").uploads() == {image, video, end, deep}
    draft.put(None)
    assert draft.uploads() == set()


def test_presets_are_kept_by_name(tmp_path):
    presets = Presets(tmp_path / "presets.json")
    presets.put("night", {"seed": 1}, True)
    presets.put("Day / 24 fps", {"seed": 2})
    presets.put("night", {"seed": 3})  # is still the default
    expected = [
        {"name": "Day / 24 fps", "form": {"seed": 2}, "is_default": False},
        {"name": "night", "form": {"seed": 3}, "is_default": True},
    ]
    assert presets.all() == expected == Presets(tmp_path / "presets.json").all()
    presets.put("Day / 24 fps", {"seed": 2}, True)
    assert [preset["is_default"] for preset in presets.all()] == [True, False]
    presets.put("Day / 24 fps", {"seed": 2}, False)
    assert [preset["is_default"] for preset in presets.all()] == [False, False]
    presets.remove("night")
    assert [preset["name"] for preset in Presets(tmp_path / "presets.json").all()] == ["Day / 24 fps"]
    with pytest.raises(NotFound, match="no preset 'night'"):
        presets.remove("night")


def test_one_preset_too_many_is_refused_and_one_of_those_there_can_be_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(forms, "PRESETS_MOST", 3)
    presets = Presets(tmp_path / "presets.json")
    for name in "abc":
        presets.put(name, {})
    with pytest.raises(Conflict, match="delete one first"):
        presets.put("d", {})
    assert presets.put("c", {"seed": 1})["form"] == {"seed": 1}
    assert PRESETS_MOST == 200


@pytest.mark.parametrize(
    "name", ["", "  ", "a" * 81, "a\nb", "a\x00", "\u202eabc", "\ud800", "..", ".", "a/../b", "\t"]
)
def test_what_is_no_name_is_refused(tmp_path, name):
    presets = Presets(tmp_path / "presets.json")
    with pytest.raises(InvalidRequest, match="is no name; use 1 to 80 printable characters"):
        presets.put(name, {})
    assert presets.all() == []


@pytest.mark.parametrize("name", ["a", "a" * 80, "\u00e9", "24 fps, 16:9?", "\u591c", "\U0001f319", "a.b", "-", "x/y"])
def test_names_of_all_scripts_are_kept(tmp_path, name):
    presets = Presets(tmp_path / "presets.json")
    presets.put(name, {})
    assert Presets(tmp_path / "presets.json").all()[0]["name"] == name


def test_a_damaged_preset_is_left_out_and_the_others_stay(tmp_path):
    good = {"name": "a", "form": {}, "is_default": False}
    changes = ({"name": 1}, {"form": []}, {"is_default": 1}, {"form": {"x": math.inf}})
    bad = [None, {}, *(good | change for change in changes)]
    (tmp_path / "presets.json").write_text(json.dumps({"presets": [*bad, good]}))
    assert Presets(tmp_path / "presets.json").all() == [good]
