import json
import random
import threading
import time
from dataclasses import replace

import pytest

from backend.core.errors import Conflict, NotFound, QueueFull
from backend.core.inputs import INPUTS, Input, MediaKind, Mode
from backend.core.plan import Machine, Progress, Stage
from backend.core.planning import make_plan, plan_promotion
from backend.core.registry import SYNTHETIC
from backend.core.schema import parse_request
from backend.jobs.database import StoreDamaged
from backend.jobs.filters import Filter
from backend.jobs.job import Artifact, JobError, JobState
from backend.jobs.model_stats import calibration, model_stats
from backend.jobs.store import KILLED_WITH_STUDIO, Store
from tests.pace import within

CPU = Machine("CPU", cores=2, ram_gib=8)


@pytest.fixture
def clock(monkeypatch):
    clock = [1_000_000.0]
    monkeypatch.setattr("backend.jobs.store.time.time", lambda: clock[0])
    return clock


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "studio.db")
    yield store
    store.close()


def add(store, prompt="a boat", key=None, limit=1000, **wish):
    request = parse_request({"prompt": prompt} | wish)
    return store.add(request, make_plan(request, SYNTHETIC, CPU), key=key, limit=limit)


def artifact(render_s=2.0):
    return Artifact(
        "outputs/x/video.mp4", "outputs/x/thumbnail.jpg", 960, 540, 64, 24, 1000, "synthetic", "synthetic", render_s
    )


def test_a_job_comes_back_as_it_went_in(store):
    job = add(store, "a red boat", seed=7, skyreels={"base_num_frames": 49})
    assert store.get(job.id) == job
    assert job.state is JobState.QUEUED
    assert job.request.seed == 7
    assert job.plan.forecast.seconds[Stage.SAVING] > 0


def test_it_is_still_there_after_reopening(tmp_path):
    store = Store(tmp_path / "studio.db")
    job = add(store)
    store.close()
    again = Store(tmp_path / "studio.db")
    assert again.get(job.id) == job
    again.close()


def test_claims_follow_the_queue_and_count_attempts(store):
    first, second = add(store), add(store)
    assert store.claim().id == first.id
    claimed = store.claim()
    assert (claimed.id, claimed.state, claimed.attempts) == (second.id, JobState.RUNNING, 1)
    assert store.claim() is None


def test_two_workers_never_claim_the_same_job(store):
    for _ in range(40):
        add(store)
    claimed = []
    workers = [threading.Thread(target=lambda: claimed.extend(iter(store.claim, None))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(claimed) == len({job.id for job in claimed}) == 40


def test_a_paused_queue_gives_nothing_and_remembers_it(tmp_path):
    store = Store(tmp_path / "studio.db")
    add(store)
    store.set_queue_paused(True)
    store.close()
    again = Store(tmp_path / "studio.db")
    assert again.queue_paused
    assert again.claim() is None
    again.set_queue_paused(False)
    assert again.claim() is not None
    again.close()


def test_a_late_worker_of_an_old_attempt_writes_nothing(store):
    add(store)
    old = store.claim()
    store.recover()
    new = store.claim()
    assert new.attempts == 2
    assert not store.finish(old, JobState.SUCCEEDED, artifact=artifact())
    store.set_progress(old, Progress(Stage.DENOISING, fraction=0.9))
    store.request_cancel(old)
    assert (store.get(new.id).progress, store.get(new.id).cancel_requested_at) == (None, None)
    assert store.finish(new, JobState.SUCCEEDED, artifact=artifact())
    assert store.get(new.id).artifact == artifact()
    assert not store.finish(new, JobState.FAILED)


def test_recovery_queues_again_and_the_third_death_quarantines(store):
    job = add(store)
    for _ in range(2):
        store.claim()
        assert store.recover()[0].state is JobState.QUEUED
    store.claim()
    assert store.recover()[0].state is JobState.QUARANTINED
    assert "died several times before this job had saved any further" in store.get(job.id).error.message
    assert store.get(job.id).error.message.endswith(store.get(job.id).error.hint)
    assert store.move_to_state(job.id, JobState.QUEUED).crash_count == 0


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.PAUSED])
def test_an_attempt_that_was_being_cancelled_is_so_after_a_death_and_a_later_one_is_not(store, state):
    job = add(store)
    first = store.claim()
    if state is JobState.PAUSED:
        store.move_to_state(job.id, state)
    store.request_cancel(first)
    assert store.recover() == []
    assert store.get(job.id).state is JobState.CANCELLED
    assert store.get(job.id).finished_at is not None
    store.move_to_state(job.id, JobState.QUEUED)
    store.claim()
    assert store.recover()[0].state is JobState.QUEUED


def test_deaths_between_which_work_was_saved_set_no_job_aside(store):
    add(store)
    for _ in range(6):
        job = store.claim()
        store.set_progress(job, Progress(Stage.DENOISING, fraction=0.5, saved_at=1.0))
        assert store.recover()[0].state is JobState.QUEUED
    for expected in (JobState.QUEUED, JobState.QUARANTINED):  # the last of those six was the first of these
        store.set_progress(store.claim(), Progress(Stage.DENOISING, fraction=0.5))
        assert store.recover()[0].state is expected


def test_deaths_of_the_whole_studio_count_a_quarter(store):
    """As by a power cut: the job need not be the reason, but one that takes the machine with it is set aside, too."""
    add(store)
    for _ in range(11):
        store.claim()
        assert store.recover(crash=KILLED_WITH_STUDIO)[0].state is JobState.QUEUED
    store.claim()
    assert store.recover(crash=KILLED_WITH_STUDIO)[0].state is JobState.QUARANTINED


@pytest.mark.parametrize("again", ["recover", "requeue"])
def test_a_job_that_waits_again_is_as_far_as_was_saved(store, again):
    add(store)
    for saved_at, kept in ((None, None), (9.0, 0.5)):
        job = store.claim()
        store.set_progress(job, Progress(Stage.DENOISING, fraction=0.5, saved_at=saved_at))
        store.recover() if again == "recover" else store.requeue(job)
        waiting = store.get(job.id)
        assert waiting.state is JobState.QUEUED
        assert (waiting.progress and waiting.progress.fraction) == kept
        assert waiting.progress is None or waiting.progress.saved_at is None
    assert store.claim().progress.fraction == 0.5


def test_giving_back_is_no_death(store):
    add(store)
    job = store.claim()
    assert store.requeue(job)
    assert (store.get(job.id).state, store.get(job.id).crash_count) == (JobState.QUEUED, 0)
    assert store.recover() == []


@pytest.mark.parametrize(
    ("path", "last", "allowed"),
    [
        ((), JobState.CANCELLED, True),
        ((), JobState.PAUSED, True),
        ((), JobState.SUCCEEDED, False),
        ((JobState.CANCELLED,), JobState.QUEUED, True),
        ((JobState.CANCELLED,), JobState.PAUSED, False),
        ((JobState.PAUSED,), JobState.QUEUED, True),
        ((JobState.PAUSED,), JobState.FAILED, False),
    ],
)
def test_only_legal_moves_by_hand(store, path, last, allowed):
    job = add(store)
    for state in path:
        store.move_to_state(job.id, state)
    if allowed:
        assert store.move_to_state(job.id, last).state is last
    else:
        with pytest.raises(Conflict):
            store.move_to_state(job.id, last)


def test_a_retry_goes_to_the_end_and_forgets_the_error(store):
    failed = add(store)
    job = store.claim()
    store.finish(job, JobState.FAILED, error=JobError("x", "it broke", "mend it"))
    other = add(store)
    assert store.get(failed.id).error.message == "it broke"
    retried = store.move_to_state(failed.id, JobState.QUEUED)
    assert retried.error is None
    assert store.claim().id == other.id


def test_one_key_one_job(store, clock):
    job = add(store, key="k", seed=1)
    assert add(store, key="k", seed=1).id == job.id
    with pytest.raises(Conflict, match="used for another request"):
        add(store, "another film", key="k")
    clock[0] += 366 * 86400
    assert add(store, key="k", seed=1).id == job.id
    store.move_to_state(job.id, JobState.CANCELLED)
    store.set_trashed(job.id, True)
    store.purge(before=clock[0] + 1)
    assert add(store, "another film", key="k").id != job.id


def test_new_jobs_are_on_top_though_the_clock_was_set_back(store, monkeypatch):
    monkeypatch.setattr("backend.core.ids.time.time_ns", lambda: 10**18)
    first = add(store)
    monkeypatch.setattr("backend.core.ids.time.time_ns", lambda: 9 * 10**17)
    later = [add(store).id for _ in range(3)]
    assert [job.id for job in store.find()] == [*reversed(later), first.id]


def test_a_key_with_another_explicit_seed_is_another_request(store):
    job = add(store, key="k", seed=1)
    with pytest.raises(Conflict):
        add(store, key="k", seed=2)
    assert add(store, key="k2").id == add(store, key="k2").id  # drawn seeds do not count
    assert add(store, key="").id != add(store, key="").id  # an empty key is none
    assert job.request.seed == 1


def test_what_lies_in_the_trash_is_not_retried(store):
    job = add(store)
    store.move_to_state(job.id, JobState.CANCELLED)
    store.set_trashed(job.id, True)
    with pytest.raises(Conflict, match="restore it first"):
        store.move_to_state(job.id, JobState.QUEUED)


def test_a_file_that_is_no_database_is_explained_and_left_alone(tmp_path):
    path = tmp_path / "studio.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreDamaged, match="not a database"):
        Store(path)
    assert path.read_bytes() == b"no database" * 1000


def test_running_comes_before_held_before_waiting(store):
    held, running, waiting = (add(store).id for _ in range(3))
    store.move_to_state(held, JobState.PAUSED)
    store.claim()
    assert [job_id for job_id, _ in store.queue()] == [running, held, waiting]


def test_one_key_from_many_threads(store):
    ids = []
    threads = [threading.Thread(target=lambda: ids.append(add(store, key="same", seed=1).id)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 20
    assert len(set(ids)) == store.count() == 1


def test_a_full_queue_refuses_and_stores_nothing(store):
    add(store, limit=2)
    add(store, limit=2)
    with pytest.raises(QueueFull, match="2 jobs are waiting"):
        add(store, limit=2)
    assert store.count() == 2


def test_moving_in_the_queue(store):
    a, b, c = (add(store).id for _ in range(3))

    def order():
        return [job_id for job_id, _ in store.queue()]

    assert order() == [a, b, c]
    store.move(c, None)
    assert order() == [c, a, b]
    store.move(c, 1)
    assert order() == [a, c, b]
    store.move(a, -5)
    assert order() == [a, c, b]
    store.claim()
    with pytest.raises(Conflict, match="not waiting"):
        store.move(a, 1)


def test_moving_in_front_of_another_job(store):
    a, b, c, d = (add(store).id for _ in range(4))

    def order():
        return [job_id for job_id, _ in store.queue()]

    store.move(d, 0, before=b)
    assert order() == [a, d, b, c]
    store.move(a, 0, before=c)
    assert order() == [d, b, a, c]
    store.move(b, 0, before=b)
    assert order() == [d, b, a, c]
    store.move(d, 10**9)
    assert order() == [b, a, c, d]
    store.move_to_state(a, JobState.PAUSED)
    with pytest.raises(Conflict, match=f"Job {a} is not waiting"):
        store.move(d, 0, before=a)
    with pytest.raises(NotFound):
        store.move(d, 0, before="nope")


def test_thousands_of_moves_keep_positions_apart_and_among_those_there_were(store):
    store._db.execute("PRAGMA synchronous = OFF")
    expected = [add(store).id for _ in range(12)]
    positions = sorted(row["position"] for row in store.select("SELECT position FROM jobs"))
    chance = random.Random(0)
    for _ in range(3000):
        moved, before = chance.sample(expected, 2)
        store.move(moved, 0, before=before)
        expected.remove(moved)
        expected.insert(expected.index(before), moved)
    assert [job_id for job_id, _ in store.queue()] == expected
    assert sorted(row["position"] for row in store.select("SELECT position FROM jobs")) == positions


def test_search_finds_words_in_any_order_and_takes_signs_as_they_are(store):
    boat = add(store, "A red boat at 100% sail")
    add(store, "A blue car")
    assert [job.id for job in store.find(Filter(search="boat red"))] == [boat.id]
    assert [job.id for job in store.find(Filter(search="100%"))] == [boat.id]
    assert store.find(Filter(search="1_0%")) == []
    assert store.count(Filter(search="a")) == 2


def test_pages_follow_each_other(store):
    ids = [add(store).id for _ in range(5)]
    newest = sorted(ids, reverse=True)
    first = store.find(limit=2)
    rest = store.find(Filter(before=first[-1].id), limit=10)
    assert [job.id for job in first + rest] == newest


def test_trash_and_purge(store, clock):
    job = add(store)
    with pytest.raises(Conflict, match="cancel it first"):
        store.set_trashed(job.id, True)
    store.move_to_state(job.id, JobState.CANCELLED)
    store.set_trashed(job.id, True)
    assert store.find() == []
    assert [j.id for j in store.find(Filter(trashed=True))] == [job.id]
    clock[0] += 100
    assert store.purge(before=clock[0] - 200) == []
    clock[0] += 200
    assert store.purge(before=clock[0] - 200) == [job.id]
    with pytest.raises(NotFound):
        store.get(job.id)


def test_uploads_in_use_are_those_of_every_job_in_the_history(store):
    a, b = "a" * 20, "b" * 20
    add(store, mode="image_to_video", image=a, end_image=b)
    add(store)
    assert store.uploads_in_use() == {a, b}


def test_an_input_that_is_new_in_the_table_keeps_its_uploads(store, monkeypatch):
    """One id, and a list of them where a mode takes several."""
    image, sound, *references = ("a" * 20, "b" * 20, "c" * 20, "d" * 20)
    job = add(store, mode="image_to_video", image=image)
    store._run("UPDATE jobs SET request = json_set(request, '$.sound', ?) WHERE id = ?", sound, job.id)
    given = json.dumps(references)
    store._run("UPDATE jobs SET request = json_set(request, '$.references', json(?)) WHERE id = ?", given, job.id)
    assert store.uploads_in_use() == {image}
    for name, most in (("sound", 1), ("references", 4)):
        row = Input(name, MediaKind.IMAGE, frozenset(Mode), label=name, help="", most=most)
        monkeypatch.setitem(INPUTS, name, row)
    assert store.uploads_in_use() == {image, sound, *references}


def test_calibration_is_the_median_of_what_was_measured(store):
    assert calibration(store, "synthetic").costs == {}
    for factor in (2.0, 3.0, 10.0):
        add(store)
        job = store.claim()
        taken = {
            Stage.DENOISING: factor * job.plan.forecast.guess[Stage.DENOISING],
            Stage.SAVING: 0.6,
            Stage.LOADING: 1.0,
        }
        store.finish(job, JobState.SUCCEEDED, artifact=replace(artifact(1.0), stage_s=taken))
    # A stage that was guessed to take no time at all has no ratio.
    guess = {Stage.LOADING: 1.0, Stage.DENOISING: 2.0, Stage.SAVING: 0.3}
    expected = {Stage.LOADING: 1.0, Stage.DENOISING: pytest.approx(6.0), Stage.SAVING: pytest.approx(0.6)}
    assert calibration(store, "synthetic").seconds(guess) == expected
    assert calibration(store, "synthetic").renders == 3
    store._run("UPDATE jobs SET plan = json_remove(plan, '$.forecast.guess')")
    assert calibration(store, "synthetic").renders == 0  # a plan without a guess says nothing


def test_a_batch_is_queued_in_its_order_or_not_at_all(store, monkeypatch):
    requests = [parse_request({"prompt": prompt}) for prompt in ("a boat", "a ship", "a raft")]
    planned = [(request, make_plan(request, SYNTHETIC, CPU)) for request in requests]
    with pytest.raises(QueueFull, match="0 jobs are waiting, which is the limit of 2, and there are 3 more"):
        store.add_batch(planned, "b", limit=2)
    insert, calls = store._insert, iter([False, False, True])

    def fail_at_the_third(*row):
        if next(calls):
            raise ValueError("no third")
        return insert(*row)

    monkeypatch.setattr(store, "_insert", fail_at_the_third)
    with pytest.raises(ValueError, match="no third"):
        store.add_batch(planned, "b")
    assert store.count() == 0
    monkeypatch.undo()
    version = store.version
    jobs = store.add_batch(planned, "b", parent="p", limit=3)
    assert store.version > version
    assert [(job.request, job.batch, job.parent) for job in jobs] == [(request, "b", "p") for request in requests]
    assert sorted(job.id for job in jobs) == [job.id for job in jobs]
    assert [store.claim().id for _ in jobs] == [job.id for job in jobs]


def test_drafts_and_their_rest_are_learned_from_by_their_own_steps(store):
    """One that was to go on from a draft and did not is left out: it took more than was guessed for it."""
    request = parse_request({"prompt": "a boat", "draft_steps": 5})
    draft = make_plan(request, SYNTHETIC, CPU)
    rest = plan_promotion(draft, 5, SYNTHETIC, CPU)
    for plan, factor, runtime in ((draft, 2.0, {}), (rest, 2.0, {"resumed": "window 1, step 6"}), (rest, 50.0, {})):
        store.add(request, plan)
        taken = {stage: factor * seconds for stage, seconds in plan.forecast.guess.items()}
        made = replace(artifact(), stage_s=taken, runtime=runtime)
        store.finish(store.claim(), JobState.SUCCEEDED, artifact=made)
    found = calibration(store, "synthetic")
    assert found.renders == 2
    assert found.seconds({Stage.DENOISING: 1.0}) == {Stage.DENOISING: pytest.approx(2.0)}


def test_tallies_count_what_ended(store):
    add(store)
    store.finish(store.claim(), JobState.SUCCEEDED, artifact=artifact(4.0))
    add(store)
    store.finish(store.claim(), JobState.FAILED, error=JobError("x", "y"))
    for _ in range(2):
        add(store)
        store.finish(store.claim(), JobState.CANCELLED)
    add(store)
    [tally] = model_stats(store)
    assert (tally.model, tally.succeeded, tally.failed, tally.cancelled) == ("synthetic", 1, 1, 2)
    assert tally.median_s == 4.0


def test_a_search_of_ten_thousand_words_is_no_error(store):
    boat = add(store, "a boat")
    add(store, "a bird")
    assert store.find(Filter(search="boat " * 10_000)) == [boat]


def test_five_thousand_films_are_searched_and_paged_quickly(store):
    request = parse_request({"prompt": "a red boat", "seed": 1})
    plan = make_plan(request, SYNTHETIC, CPU)
    for n in range(5000):
        job = store.add(request.model_copy(update={"prompt": f"film {n}"}), plan, limit=10_000)
    store._run("UPDATE jobs SET state = 'succeeded'")
    done = Filter(states=(JobState.SUCCEEDED,))
    start = time.process_time()
    assert store.count(done) == 5000
    assert store.find(done, limit=24)[0].id == job.id
    assert len(store.find(done, limit=24, offset=4900)) == 24
    assert store.find(Filter(search="film 4321"), limit=24)[0].title == "film 4321"
    assert store.queue() == []
    assert time.process_time() - start < within(0.3)


def test_the_version_grows_with_every_change(store):
    seen = [store.version]
    job = add(store)
    seen.append(store.version)
    store.set_favourite(job.id, True)
    seen.append(store.version)
    store.claim()
    seen.append(store.version)
    assert seen == sorted(set(seen))
