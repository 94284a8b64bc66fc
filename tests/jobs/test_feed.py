"""What open pages are told of the queue: all of it once, then what has changed."""

import os

import pytest

from backend.core.plan import Machine, Progress, Stage
from backend.core.planning import make_plan
from backend.core.registry import SYNTHETIC
from backend.core.schema import parse_request
from backend.jobs.feed import ACTIVE_MOST, ENDED_MOST, Feed
from backend.jobs.forms import Draft
from backend.jobs.job import JobState
from backend.jobs.store import Store
from backend.library.downloads import Downloads

PROGRESS = Progress(Stage.DENOISING, 1, 1, 3, 10, 0.3, 7.0)


@pytest.fixture
def store(settings):
    store = Store(settings.database)
    yield store
    store.close()


@pytest.fixture
def draft(settings, store) -> Draft:
    return Draft(settings.draft)


@pytest.fixture
def feed(settings, store, draft) -> Feed:
    return Feed(settings, store, draft)


def add(store, seed=1):
    request = parse_request({"prompt": f"boat {seed}", "seed": seed})
    return store.add(request, make_plan(request, SYNTHETIC, Machine("CPU", 2, 8))).id


def run(store, state=JobState.SUCCEEDED):
    job = store.claim()
    store.finish(job, state)
    return job.id


def news(feed, since):
    """The message after a poll, without its version and what it leaves out."""
    feed.poll()
    told = feed.message(since)
    assert told.pop("version") == feed.version
    return told if told["jobs"] else {name: value for name, value in told.items() if name != "jobs"}


def ids(jobs):
    return [job["id"] for job in jobs]


def test_the_first_message_has_everything(feed, store, draft):
    ended = [add(store, seed) for seed in (1, 2)]
    run(store)
    run(store, JobState.FAILED)
    waiting = [add(store, seed) for seed in (3, 4)]
    draft.put({"prompt": "a boat"})
    assert feed.poll()
    message = feed.message(0)
    assert message == {
        "version": feed.version,
        "order": waiting,
        "paused": False,
        "draft": 1,
        "preview": None,
        "videos": store.videos_version,
        "downloads": [],
        "jobs": [store.get(job_id).as_dict() for job_id in [*waiting, ended[1], ended[0]]],
    }


def test_nothing_is_new_where_nothing_has_changed(feed, store):
    add(store)
    assert feed.poll()
    version = feed.version
    assert not feed.poll()
    store.set_queue_paused(False)  # which it was already
    store.version += 1  # and a change that nobody sees
    assert not feed.poll()
    assert feed.version == version


def test_only_what_has_changed_is_told(feed, store, draft):
    first, second = add(store, 1), add(store, 2)
    feed.poll()
    seen = feed.version
    store.claim()
    [job] = news(feed, seen)["jobs"]
    assert (job["id"], job["state"]) == (first, "running")
    seen = feed.version
    store.set_progress(store.get(first), PROGRESS)
    assert news(feed, seen) == {"jobs": [store.get(first).as_dict()]}
    seen = feed.version
    draft.put({})
    assert news(feed, seen) == {"draft": 1}
    seen = feed.version
    store.set_queue_paused(True)
    assert news(feed, seen) == {"paused": True}
    seen = feed.version
    store.finish(store.get(first), JobState.SUCCEEDED)
    told = news(feed, seen)
    assert (told["order"], ids(told["jobs"])) == ([second], [first])
    assert told["videos"] > 0


def test_who_missed_some_changes_is_told_the_last_of_each(feed, store):
    job_id = add(store)
    feed.poll()
    seen = feed.version
    job = store.claim()
    feed.poll()
    for step in range(3):
        store.set_progress(job, PROGRESS)
        feed.poll()
        assert ids(feed.message(seen)["jobs"]) == [job_id], step


def test_a_job_that_came_and_ended_between_two_polls_is_told(feed, store):
    feed.poll()
    seen = feed.version
    job_id = add(store)
    run(store, JobState.FAILED)
    [job] = news(feed, seen)["jobs"]
    assert (job["id"], job["state"]) == (job_id, "failed")


def test_of_many_jobs_the_first_are_told_and_of_all_the_order(feed, store):
    waiting = [add(store, seed) for seed in range(ACTIVE_MOST + 5)]
    feed.poll()
    message = feed.message(0)
    assert message["order"] == waiting
    assert ids(message["jobs"]) == waiting[:ACTIVE_MOST]
    seen = feed.version
    store.move(waiting[-1], None)
    assert ids(news(feed, seen)["jobs"])[0] == waiting[-1]


def test_all_that_end_at_once_are_told_however_many(feed, store):
    many = [add(store, seed) for seed in range(ENDED_MOST + 15)]
    feed.poll()
    seen = feed.version
    for job_id in many:
        store.move_to_state(job_id, JobState.CANCELLED)
    told = news(feed, seen)
    assert told["order"] == []
    assert {job["id"]: job["state"] for job in told["jobs"]} == dict.fromkeys(many, "cancelled")


def test_who_was_away_for_too_long_is_told_everything(feed, store):
    many = [add(store, seed) for seed in range(ENDED_MOST + 15)]
    feed.poll()
    away_since = feed.version
    for job_id in many:
        store.move_to_state(job_id, JobState.CANCELLED)
    feed.poll()
    add(store)
    feed.poll()  # forgets the oldest of those that ended
    assert feed.message(away_since) == feed.message(0)
    assert {"order", "paused", "draft", "preview", "videos"} < set(feed.message(away_since))


def test_a_job_in_the_trash_or_gone_for_good_is_in_no_message(feed, store):
    job_id = add(store)
    run(store)
    feed.poll()
    seen, videos = feed.version, store.videos_version
    store.set_trashed(job_id, True)
    assert news(feed, seen) == {"videos": videos + 1}
    store.purge(1e12)
    feed.poll()
    assert feed.message(0)["jobs"] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda store, job_id: store.set_favourite(job_id, True),
        lambda store, job_id: store.set_trashed(job_id, True),
        lambda store, job_id: (store.set_trashed(job_id, True), store.purge(1e12)),
        lambda store, job_id: (add(store), run(store)),
    ],
)
def test_the_number_of_the_videos_changes_with_the_list(store, change):
    job_id = add(store)
    run(store)
    before = store.videos_version
    change(store, job_id)
    assert store.videos_version > before


def test_the_number_of_the_videos_stays_while_others_wait_and_render(store):
    before = store.videos_version
    add(store)
    store.set_progress(store.claim(), PROGRESS)
    store.set_queue_paused(True)
    assert store.videos_version == before


def test_the_numbers_grow_over_a_restart(settings, store, draft, feed):
    add(store)
    run(store)
    feed.poll()
    again = Feed(settings, store, draft)
    assert again.version >= feed.version - 1
    assert again.version > 1e12  # milliseconds since 1970: no process makes as many versions as they pass
    assert store.videos_version > 1e12


def test_a_preview_has_an_address_that_changes_with_it(feed, store, settings):
    job_id = add(store)
    store.claim()
    feed.poll()
    assert feed.message(0)["preview"] is None
    seen, addresses = feed.version, set()
    file = settings.temp / job_id / "preview.webp"
    file.parent.mkdir(parents=True)
    for second in (1, 2):
        file.write_bytes(b"x")
        os.utime(file, (second, second))
        told = news(feed, seen)
        assert list(told) == ["preview"]
        assert told["preview"]["id"] == job_id
        addresses.add(told["preview"]["url"])
        seen = feed.version
    assert len(addresses) == 2
    assert all(url.startswith(f"api/v1/jobs/{job_id}/live?") for url in addresses)
    file.unlink()
    assert news(feed, seen) == {"preview": None}


def test_downloads_are_told_when_they_change_and_not_otherwise(settings, store, draft, monkeypatch):
    monkeypatch.setattr(Downloads, "start", lambda downloads: None)  # nobody goes to the hub
    downloads = Downloads(settings)
    feed = Feed(settings, store, draft, downloads)
    feed.poll()
    seen = feed.version
    model = downloads.add("skyreels-v2-df-1.3b-540p").id
    assert [(one["id"], one["state"]) for one in news(feed, seen)["downloads"]] == [(model, "queued")]
    seen = feed.version
    assert not feed.poll()
    downloads.pause(model)
    assert news(feed, seen) == {"downloads": [downloads.current()[0].as_dict()]}
    seen = feed.version
    downloads.cancel(model)
    assert news(feed, seen) == {"downloads": []}
