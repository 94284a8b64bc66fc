"""Cards of finished videos, marks, collections and used prompts, out of the store alone."""

import dataclasses
import itertools
import json
import re

import pytest

from backend.core.errors import Conflict, InvalidRequest, NotFound
from backend.core.ids import new_id
from backend.core.plan import Machine
from backend.core.planning import make_plan
from backend.core.registry import MODELS, SYNTHETIC
from backend.core.schema import parse_request
from backend.jobs import gallery as gallery_module
from backend.jobs.filters import Filter
from backend.jobs.gallery import Gallery, VideoFilter
from backend.jobs.job import Artifact, Job, JobState
from backend.jobs.store import Store

BEGAN = 1_700_000_000.0


@pytest.fixture
def store(settings):
    store = Store(settings.database)
    store._db.execute("PRAGMA synchronous = OFF")
    yield store
    store.close()


@pytest.fixture
def gallery(store) -> Gallery:
    return Gallery(store)


@pytest.fixture
def make(store):
    """Add a finished video; fields of its job, request and artifact may be given. Each ends a second after the last."""
    times = itertools.count(BEGAN)

    def one(prompt="a boat", width=960, height=540, frames=97, size=1000, model="synthetic", seed=1, **fields):
        ended, job_id = next(times), new_id()
        request = parse_request({"prompt": prompt, "seed": seed})
        plan = make_plan(request, SYNTHETIC, Machine("CPU", 2, 8))
        files = (f"outputs/{job_id}/video.mp4", f"outputs/{job_id}/thumbnail.jpg")
        artifact = Artifact(*files, width, height, frames, 24, size, model, "synthetic", 1.0)
        job = Job(job_id, JobState.SUCCEEDED, request, dataclasses.replace(plan, model=model), ended, 0.0)
        job = dataclasses.replace(job, **{"finished_at": ended, "artifact": artifact} | fields)
        assert store.import_job(job)
        return job_id

    return one


def listed(gallery, sort="newest", **wanted):
    return [card["id"] for card in gallery.page(VideoFilter(**wanted), sort).cards]


def test_a_card_says_what_a_gallery_shows(gallery, make):
    parent = new_id()
    job_id = make("a red boat", seed=7, parent=parent, batch="b", favourite=True, rating=4, collections=("sea",))
    [card] = gallery.page(VideoFilter()).cards
    assert card == {
        "id": job_id,
        "title": "a red boat",
        "width": 960,
        "height": 540,
        "frames": 97,
        "fps": 24,
        "seconds": 4.042,
        "bytes": 1000,
        "seed": 7,
        "draft": None,
        "model": "synthetic",
        "model_title": MODELS["synthetic"].title,
        "mode": "text_to_video",
        "parent": parent,
        "batch": "b",
        "finished_at": BEGAN,
        "favourite": True,
        "approved": False,
        "rating": 4,
        "collections": ["sea"],
    }


def test_the_card_of_a_draft_says_of_how_many_steps(gallery, make, store):
    make()
    store._run("UPDATE jobs SET request = json_set(request, '$.draft_steps', 8)")
    assert gallery.page(VideoFilter()).cards[0]["draft"] == 8


def test_only_finished_videos_are_listed(gallery, make, store):
    job_id = make()
    for state in JobState:
        other = make(trashed_at=None)
        store._run("UPDATE jobs SET state = ?, kind = 'render' WHERE id = ?", state.value, other)
    export = make()
    store._run("UPDATE jobs SET kind = 'export' WHERE id = ?", export)
    page = gallery.page(VideoFilter())
    assert len(page.cards) == page.total == 2
    assert job_id in [card["id"] for card in page.cards]


def test_filters_narrow(gallery, make):
    wide = make("a red boat", favourite=True, approved=True, collections=("sea", "\u00e9t\u00e9"))
    tall = make("a red balloon", width=540, height=960, batch="b", model="other")
    square = make("100 % of a_b", width=512, height=512, parent=wide)
    gone = make("a red kite", trashed_at=BEGAN)
    assert listed(gallery) == [square, tall, wide]
    for wanted, expected in (
        ({"search": "red"}, [tall, wide]),
        ({"search": "RED boat"}, [wide]),
        ({"search": "%"}, [square]),
        ({"search": "a_b"}, [square]),
        ({"mode": "text_to_video"}, [square, tall, wide]),
        ({"mode": "video_extension"}, []),
        ({"model": "other"}, [tall]),
        ({"favourite": True}, [wide]),
        ({"approved": True}, [wide]),
        ({"approved": False}, [square, tall]),
        ({"collection": "sea"}, [wide]),
        ({"collection": "\u00e9t\u00e9"}, [wide]),
        ({"collection": "se"}, []),
        ({"shape": "landscape"}, [wide]),
        ({"shape": "portrait"}, [tall]),
        ({"shape": "square"}, [square]),
        ({"since": BEGAN + 1}, [square, tall]),
        ({"until": BEGAN + 1}, [wide]),
        ({"since": BEGAN + 1, "until": BEGAN + 2}, [tall]),
        ({"parent": wide}, [square]),
        ({"batch": "b"}, [tall]),
        ({"trashed": True}, [gone]),
        ({"search": "red", "shape": "portrait"}, [tall]),
    ):
        assert listed(gallery, **wanted) == expected, wanted
        assert gallery.page(VideoFilter(**wanted)).total == len(expected), wanted


def test_sorts(gallery, make):
    a = make(frames=97, size=3000, rating=2)
    b = make(frames=33, size=9000)
    c = make(frames=257, size=1000, rating=5)
    for sort, expected in (
        ("newest", [c, b, a]),
        ("oldest", [a, b, c]),
        ("longest", [c, a, b]),
        ("rating", [c, a, b]),
        ("largest", [b, a, c]),
    ):
        assert listed(gallery, sort) == expected, sort


@pytest.mark.parametrize("sort", gallery_module.SORTS)
def test_pages_have_every_video_once_whatever_is_equal_and_whatever_comes_meanwhile(gallery, make, sort):
    videos = [make(frames=33 + 4 * (n % 3), rating=1 + n % 2, finished_at=BEGAN + n % 4) for n in range(23)]
    whole = listed(gallery, sort)
    assert sorted(whole) == sorted(videos)
    found, cursor = [], None
    while True:
        page = gallery.page(VideoFilter(), sort, 5, cursor)
        found += [card["id"] for card in page.cards if card["id"] in whole]
        cursor = page.next
        if cursor is None:
            break
        make(frames=1000, rating=5, size=10**6, finished_at=BEGAN + 1000)
        assert page.total >= 23
    assert found == whole


def test_a_last_page_that_is_full_has_no_next(gallery, make):
    for _ in range(4):
        make()
    assert gallery.page(VideoFilter(), limit=4).next is None
    assert gallery.page(VideoFilter(), limit=3).next is not None


@pytest.mark.parametrize(
    "cursor", ["", "x", "~", "1.0~", "1.0~nope", "nan~" + "0" * 20, "inf~" + "0" * 20, "~" + "0" * 20]
)
def test_what_is_no_cursor_is_refused(gallery, cursor):
    with pytest.raises(InvalidRequest, match="is no cursor; use the `next` of the page before"):
        gallery.page(VideoFilter(), cursor=cursor)


def test_a_damaged_row_does_not_hide_the_others(gallery, make, store):
    good, bad = make(rating=3), make()
    for text in ("{", "[]", "null", '{"width": "x"}', "[" * 2000):
        store._run("UPDATE jobs SET artifact = ?, request = ?, collections = ? WHERE id = ?", text, text, text, bad)
        for sort in gallery_module.SORTS:
            assert good in listed(gallery, sort)
        assert listed(gallery, shape="landscape") == [good]
        assert gallery.collections() == []
        assert store.get(bad).id == bad


# --- prompts ---


def test_prompts_are_listed_once_the_last_used_first(gallery, make):
    for prompt in ("a boat", "a kite", "a boat", "A boat"):
        make(prompt)
    make("in the trash", trashed_at=BEGAN)
    make("a kite", trashed_at=BEGAN)
    assert gallery.prompts() == ["A boat", "a boat", "a kite"]
    assert gallery.prompts(limit=2) == ["A boat", "a boat"]
    assert gallery.prompts(search="KITE") == ["a kite"]
    assert gallery.prompts(search="%") == []


def test_prompts_of_jobs_in_every_state_count(gallery, store):
    request = parse_request({"prompt": "waits", "seed": 1})
    store.add(request, make_plan(request, SYNTHETIC, Machine("CPU", 2, 8)))
    assert gallery.prompts() == ["waits"]


@pytest.mark.parametrize(
    ("call", "index"),
    [
        (lambda gallery: gallery.prompts(), "COVERING INDEX jobs_by_prompt"),
        (lambda gallery: gallery.prompts("boat"), "COVERING INDEX jobs_by_prompt"),
        (lambda gallery: gallery.page(VideoFilter()), "INDEX jobs_as_videos"),
        (lambda gallery: gallery._store.last_ended(20), "INDEX jobs_by_end"),
    ],
)
def test_what_pages_ask_for_often_is_found_by_an_index(gallery, store, call, index):
    statements = []
    store._db.set_trace_callback(statements.append)
    call(gallery)
    store._db.set_trace_callback(None)
    plan = " ".join(row["detail"] for row in store.select(f"EXPLAIN QUERY PLAN {statements[-1]}"))
    assert index in plan
    assert re.search(r"SCAN jobs(?! USING)", plan) is None


# --- marks ---


def test_marks_are_kept_and_those_not_given_stay(gallery, make, store, settings):
    job_id = make()
    gallery.mark(job_id, {"rating": 5, "note": "the best one", "approved": True, "collections": ["b", " a ", "b"]})
    job = gallery.mark(job_id, {"favourite": True})
    marks = {"favourite": True, "rating": 5, "note": "the best one", "approved": True, "collections": ["b", "a"]}
    assert {name: value for name, value in job.as_dict().items() if name in marks} == marks
    cleared = gallery.mark(job_id, {"rating": None, "note": None, "approved": False, "collections": []})
    assert (cleared.rating, cleared.note, cleared.approved, cleared.collections) == (None, None, False, ())
    assert gallery.mark(job_id, {}) == cleared
    with pytest.raises(NotFound):
        gallery.mark("nope", {"rating": 1})


def test_marks_survive_a_restart_and_come_back_from_a_copy(gallery, make, store, settings, tmp_path):
    job_id = make()
    job = gallery.mark(job_id, {"rating": 5, "note": "x", "approved": True, "collections": ["a"]})
    store.copy_to(tmp_path / "copy.db")
    store._run("DELETE FROM jobs")
    assert store.restore_from(tmp_path / "copy.db", [job_id]) == 1
    assert store.get(job_id) == job
    store.close()
    again = Store(settings.database)
    assert again.get(job_id) == job
    again.close()


@pytest.mark.parametrize(
    "state", [state for state in JobState if state not in (JobState.SUCCEEDED, JobState.UNREADABLE)]
)
def test_only_a_finished_video_can_be_approved(gallery, make, store, state):
    job_id = make()
    store._run("UPDATE jobs SET state = ? WHERE id = ?", state.value, job_id)
    with pytest.raises(Conflict, match=f"is {state.value}; only a finished video can be approved"):
        gallery.mark(job_id, {"approved": True, "rating": 1})
    assert gallery.mark(job_id, {"approved": False}).rating is None


def test_what_is_in_the_trash_cannot_be_approved(gallery, make):
    job_id = make(trashed_at=BEGAN)
    with pytest.raises(Conflict, match="in the trash"):
        gallery.mark(job_id, {"approved": True})


@pytest.mark.parametrize("name", ["", " ", "a" * 81, "a\nb", ".."])
def test_what_is_no_name_makes_no_collection(gallery, make, name):
    job_id = make()
    for call in (
        lambda: gallery.mark(job_id, {"collections": ["good", name]}),
        lambda: gallery.collect(name, [job_id]),
    ):
        with pytest.raises(InvalidRequest, match="is no name"):
            call()
    assert gallery.collections() == []


# --- collections ---


def test_a_collection_is_made_filled_renamed_and_removed(gallery, make, store):
    a, b, c = make(), make(), make()
    assert gallery.collect("sea") == {"name": "sea", "count": 0, "cover": None}
    assert gallery.collect("sea", [a, b]) == {"name": "sea", "count": 2, "cover": b}
    assert gallery.collect("sea", [c, a], [b]) == {"name": "sea", "count": 2, "cover": c}
    gallery.collect("Air", [a])
    assert [one["name"] for one in gallery.collections()] == ["Air", "sea"]
    assert store.get(a).collections == ("sea", "Air")
    assert gallery.rename("sea", "the sea / 2") == {"name": "the sea / 2", "count": 2, "cover": c}
    assert store.get(a).collections == ("Air", "the sea / 2")
    with pytest.raises(Conflict, match="already"):
        gallery.rename("Air", "the sea / 2")
    assert gallery.rename("Air", "Air")["count"] == 1
    gallery.remove("the sea / 2")
    assert gallery.collections() == [{"name": "Air", "count": 1, "cover": a}]
    assert listed(gallery) == [c, b, a]
    for call in (lambda: gallery.remove("sea"), lambda: gallery.rename("sea", "x"), lambda: gallery.collection("sea")):
        with pytest.raises(NotFound, match="no collection 'sea'"):
            call()


def test_an_empty_collection_stays_and_one_that_a_mark_made_is_there(gallery, make):
    job_id = make()
    gallery.mark(job_id, {"collections": ["sea"]})
    gallery.collect("sea", [], [job_id])
    assert gallery.collections() == [{"name": "sea", "count": 0, "cover": None}]


def test_videos_in_the_trash_do_not_count_and_come_back(gallery, make, store):
    a, b = make(), make()
    gallery.collect("sea", [a, b])
    store.set_trashed(b, True)
    assert gallery.collection("sea") == {"name": "sea", "count": 1, "cover": a}
    store.set_trashed(b, False)
    assert gallery.collection("sea")["count"] == 2


def test_an_unknown_video_is_refused_before_anything_changes(gallery, make, store):
    a, b = make(), make()
    gallery.collect("sea", [b])
    with pytest.raises(NotFound, match="no job"):
        gallery.collect("sea", [a, "nope"], [b])
    with pytest.raises(NotFound):
        gallery.collect("new", ["nope"])
    assert gallery.collections() == [{"name": "sea", "count": 1, "cover": b}]
    assert gallery.collect("sea", [], ["nope"])["count"] == 1


def test_there_are_only_so_many_collections(gallery, make, monkeypatch):
    monkeypatch.setattr(gallery_module, "COLLECTIONS_MOST", 3)
    monkeypatch.setattr(gallery_module, "COLLECTIONS_OF_ONE", 2)
    job_id = make()
    gallery.collect("a", [job_id])
    gallery.collect("b", [job_id])
    with pytest.raises(InvalidRequest, match="at most 2"):
        gallery.collect("c", [job_id])
    with pytest.raises(InvalidRequest, match="at most 2"):
        gallery.mark(job_id, {"collections": ["a", "b", "c"]})
    gallery.collect("c")
    with pytest.raises(Conflict, match="3 collections, which is the limit"):
        gallery.collect("d")
    assert gallery.collect("c", [], [job_id])["count"] == 0


def test_damaged_names_of_collections_count_as_none(gallery, make, store):
    job_id = make()
    for text in ("{", "3", '[1, "a"]', "[" * 2000):
        store.set_setting(gallery_module.NAMES, text)
        assert [one["name"] for one in gallery.collections()] == (["a"] if '"a"' in text else [])
    assert gallery.collect("b", [job_id])["count"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda gallery, job_id: gallery.mark(job_id, {"rating": 3}),
        lambda gallery, job_id: gallery.collect("sea", [job_id]),
        lambda gallery, job_id: gallery.collect("empty"),
        lambda gallery, job_id: gallery.rename("there", "here"),
        lambda gallery, job_id: gallery.remove("there"),
    ],
)
def test_pages_are_told_of_marks_and_collections(gallery, make, store, change):
    job_id = make()
    gallery.collect("there", [job_id])
    before = (store.version, store.videos_version)
    change(gallery, job_id)
    assert store.version > before[0]
    assert store.videos_version > before[1]


def test_lists_of_jobs_show_marks_too(gallery, make, store):
    job_id = make()
    gallery.mark(job_id, {"rating": 2, "collections": ["a"]})
    [job] = store.find(Filter())
    assert (job.rating, job.collections) == (2, ("a",))
    assert json.loads(json.dumps(job.as_dict()))["collections"] == ["a"]
