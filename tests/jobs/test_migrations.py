"""Stored data survives change: older stores are migrated whole or not at all, newer ones are left as they are."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from backend.core.config import ROOT, Settings
from backend.core.delivery import check_delivery, plan_fitting
from backend.core.errors import NewerData
from backend.core.plan import Machine
from backend.core.planning import make_plan
from backend.core.registry import SYNTHETIC
from backend.core.schema import parse_request
from backend.jobs import migrations
from backend.jobs.filters import Filter
from backend.jobs.history import open_history
from backend.jobs.job import JobState
from backend.jobs.migrations import (
    FIRST_VERSION,
    MIGRATIONS,
    SCHEMA,
    SCHEMA_VERSION,
    Migration,
    create_tables,
    layout,
    migrate_recipe,
    migrate_tables,
    stored_version,
)
from backend.jobs.store import CRASH, Store

ARCHIVE = Path(__file__).parents[1] / "compat" / "data-0.1.tar.gz"
KILLS = 10


@pytest.fixture
def settings(tmp_path) -> Settings:
    settings = Settings(data=tmp_path / "data", shared_models=tmp_path / "none", disk_reserve_bytes=0)
    settings.outputs.mkdir(parents=True)
    return settings


@pytest.fixture
def older(tmp_path) -> Path:
    """A database of version 0.1."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extract("data/outputs/studio.db", tmp_path, filter="data")
    return Path(shutil.copy(tmp_path / "data" / "outputs" / "studio.db", tmp_path / "older.db"))


def fill(path: Path, jobs: int = 5) -> list[str]:
    store = Store(path)
    found = []
    for seed in range(jobs):
        request = parse_request({"prompt": f"boat number {seed}", "seed": seed})
        found.append(store.add(request, make_plan(request, SYNTHETIC, Machine("CPU", 2, 8))).id)
    store.close()
    return found


def waiting(settings: Settings) -> list[str]:
    store, notice = open_history(settings)
    assert notice is None
    found = [job_id for job_id, _ in store.queue()]
    store.close()
    return found


def test_versions_have_no_gap():
    assert [migration.version for migration in MIGRATIONS] == list(range(FIRST_VERSION + 1, SCHEMA_VERSION + 1))


def test_a_migrated_store_has_the_layout_of_a_new_one(older):
    with sqlite3.connect(":memory:", isolation_level=None) as new:
        create_tables(new)
        expected = layout(new)
    new.close()
    store = Store(older)
    assert layout(store._db) == expected
    store.close()


def test_five_queued_jobs_survive_a_column_that_this_version_does_not_know(settings):
    jobs = fill(settings.database)
    with sqlite3.connect(settings.database) as database:
        database.execute("ALTER TABLE jobs ADD COLUMN mood TEXT DEFAULT 'calm'")
    database.close()
    assert waiting(settings) == jobs
    with sqlite3.connect(settings.copies / "before-repair.db") as kept:  # what the column held is not lost either
        assert kept.execute("SELECT count(mood) FROM jobs").fetchone() == (5,)
    kept.close()


def test_five_queued_jobs_survive_a_column_that_the_next_version_adds(settings, monkeypatch):
    jobs = fill(settings.database)
    grown = tuple(
        line.replace("    parent TEXT,", "    parent TEXT,\n    mood TEXT DEFAULT 'calm',") for line in SCHEMA
    )
    following = Migration(SCHEMA_VERSION + 1, request=lambda request: {**request, "seed": request["seed"] + 100})
    monkeypatch.setattr(migrations, "SCHEMA", grown)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, following))
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", following.version)
    database = sqlite3.connect(settings.database, isolation_level=None)
    migrate_tables(database, SCHEMA_VERSION)
    rows = database.execute("SELECT id, state, mood, request FROM jobs ORDER BY position").fetchall()
    assert [(row[0], row[1], row[2]) for row in rows] == [(job_id, "queued", "calm") for job_id in jobs]
    assert [json.loads(row[3])["seed"] for row in rows] == [100, 101, 102, 103, 104]
    assert database.execute("PRAGMA user_version").fetchone() == (following.version,)
    database.close()


@pytest.mark.parametrize("in_the_wal", [False, True])
def test_a_store_of_a_newer_version_is_refused_and_left_bit_for_bit(settings, tmp_path, in_the_wal):
    fill(settings.database)
    database = sqlite3.connect(settings.database, isolation_level=None)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    if in_the_wal:  # as a killed process leaves it
        shutil.copytree(settings.outputs, tmp_path / "killed")
        database.close()
        shutil.rmtree(settings.outputs)
        shutil.copytree(tmp_path / "killed", settings.outputs, ignore=shutil.ignore_patterns("*-shm"))
    database.close()
    before = {path.name: path.read_bytes() for path in settings.outputs.iterdir()}
    assert ("studio.db-wal" in before) == in_the_wal
    newer = rf"newer version of the studio \(schema {SCHEMA_VERSION + 1}; this version reads up to {SCHEMA_VERSION}\)"
    with pytest.raises(NewerData, match=newer):
        open_history(settings)
    assert {path.name: path.read_bytes() for path in settings.outputs.iterdir()} == before


def test_a_row_with_a_field_of_another_version_is_kept_shown_and_comes_back(settings):
    jobs = fill(settings.database)
    with sqlite3.connect(settings.database) as database:
        database.execute("UPDATE jobs SET request = json_set(request, '$.mood', 'calm') WHERE id = ?", (jobs[2],))
    database.close()
    store, notice = open_history(settings)
    assert notice == "1 job in the history could not be read. It is kept and shown on the Queue page."
    kept = store.get(jobs[2])
    assert kept.state is JobState.UNREADABLE
    assert kept.title == "boat number 2"
    assert kept.error.message.startswith("This version cannot read the job (mood: unknown field). It is kept as it is;")
    assert kept.as_dict()["request"]["text"] == kept.request.text
    assert json.loads(kept.request.text)["mood"] == "calm"
    assert [job_id for job_id, _ in store.queue()] == [job_id for job_id in jobs if job_id != jobs[2]]
    assert [job.id for job in store.find(Filter(states=(JobState.UNREADABLE,)))] == [jobs[2]]
    store.close()

    store, notice = open_history(settings)  # again: nothing new to say, nothing lost
    assert notice is None
    store._run("UPDATE jobs SET request = json_remove(request, '$.mood') WHERE id = ?", jobs[2])
    store.close()
    assert waiting(settings) == jobs  # as after an update that knows the field


def test_a_state_that_this_version_does_not_know_is_kept_when_tables_are_rebuilt(settings):
    jobs = fill(settings.database)
    with sqlite3.connect(settings.database) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute("UPDATE jobs SET state = 'dreaming' WHERE id = ?", (jobs[2],))
        database.execute("ALTER TABLE jobs ADD COLUMN mood TEXT")
    database.close()
    store, _ = open_history(settings)
    assert store.get(jobs[2]).state is JobState.UNREADABLE
    assert [job_id for job_id, _ in store.queue()] == [job_id for job_id in jobs if job_id != jobs[2]]
    store.close()
    with sqlite3.connect(settings.database) as database:
        assert database.execute("SELECT state_before FROM jobs WHERE id = ?", (jobs[2],)).fetchone() == ("dreaming",)
    database.close()
    assert list(settings.damaged.glob("*")) == []


def test_a_kind_that_this_version_does_not_know_is_kept(settings):
    jobs = fill(settings.database)
    with sqlite3.connect(settings.database) as database:
        database.execute("UPDATE jobs SET kind = 'hologram' WHERE id = ?", (jobs[0],))
    database.close()
    store, _ = open_history(settings)
    assert "'hologram' is not a kind of job" in store.get(jobs[0]).error.message
    assert store.claim().id == jobs[1]
    store.close()


def test_uploads_of_a_request_that_cannot_be_read_stay_in_use(settings):
    jobs = fill(settings.database)
    upload_id = "0123456789abcdefghij"
    with sqlite3.connect(settings.database) as database:
        database.execute("UPDATE jobs SET request = ? WHERE id = ?", (f'{{"hat": "{upload_id}", broken', jobs[0]))
    database.close()
    store, _ = open_history(settings)
    assert store.uploads_in_use() == {upload_id}
    store.close()


MIGRATE = """
import sqlite3, sys
from backend.jobs.migrations import migrate_tables
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode=WAL")
lines = 0
def count(sql):
    global lines
    lines += 1
    if lines == int(sys.argv[2]):
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
database.set_trace_callback(count)
migrate_tables(database, 1)
print(lines)
"""


def test_a_kill_in_the_middle_of_a_migration_leaves_the_old_or_the_new_store(older, tmp_path):
    def migrate(path: Path, kill_at: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", MIGRATE, str(path), str(kill_at)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    whole = migrate(Path(shutil.copy(older, tmp_path / "whole.db")), 0)
    assert whole.returncode == 0, whole.stderr
    statements = int(whole.stdout)
    points = [2, statements, *random.Random(0).sample(range(3, statements), KILLS - 2)]
    for point in points:
        folder = tmp_path / f"at-{point}"
        settings = Settings(data=folder, shared_models=tmp_path / "none", disk_reserve_bytes=0)
        settings.outputs.mkdir(parents=True)
        shutil.copy(older, settings.database)
        assert migrate(settings.database, point).returncode == -signal.SIGKILL
        assert stored_version(settings.database) in (1, SCHEMA_VERSION)
        store, notice = open_history(settings)
        assert notice is None
        assert store.count() + store.count(Filter(trashed=True)) == 11
        assert store.count(Filter(states=(JobState.QUEUED,))) == 4
        store.close()


def test_a_migration_that_fails_changes_nothing(older):
    before = older.read_bytes()
    database = sqlite3.connect(older, isolation_level=None)
    database.execute("CREATE TABLE jobs_before (x)")
    database.execute("DROP TABLE settings")
    database.close()
    spoiled = older.read_bytes()
    assert spoiled != before
    database = sqlite3.connect(older, isolation_level=None)
    with pytest.raises(sqlite3.Error):
        migrate_tables(database, 1)
    database.close()
    assert older.read_bytes() == spoiled


@pytest.mark.parametrize("state", ["running", "paused"])
@pytest.mark.parametrize(("cancelled", "becomes"), [(2, JobState.CANCELLED), (1, None)])
def test_a_job_that_version_0_1_was_cancelling_has_ended_unless_an_earlier_attempt_was_meant(
    older, state, cancelled, becomes
):
    """Version 0.1 kept the id and the attempt in a setting."""
    database = sqlite3.connect(older, isolation_level=None)
    (job_id,) = database.execute("SELECT id FROM jobs WHERE state = 'queued'").fetchone()
    database.execute("UPDATE jobs SET state = ?, attempts = 2, started_at = 9.0 WHERE id = ?", (state, job_id))
    database.execute("INSERT OR REPLACE INTO settings VALUES ('cancelled', ?)", (f"{job_id} {cancelled}",))
    database.close()
    store = Store(older)
    store.recover()
    assert store.get(job_id).state is (becomes or {"running": JobState.QUEUED, "paused": JobState.PAUSED}[state])
    store.close()


def test_crashes_that_version_0_1_counted_still_count(older):
    database = sqlite3.connect(older, isolation_level=None)
    (job_id,) = database.execute("SELECT id FROM jobs WHERE state = 'queued'").fetchone()
    database.execute("UPDATE jobs SET state = 'running', deaths = ? WHERE id = ?", (2 * CRASH, job_id))
    database.close()
    store = Store(older)
    assert store.get(job_id).crash_count == 2 * CRASH
    store.recover()
    assert store.get(job_id).state is JobState.QUARANTINED
    store.close()


@pytest.mark.parametrize(
    ("placement", "today"),
    [("in_turns", "model_offload"), ("streamed", "group_offload"), ("resident", "resident")],
)
def test_a_waiting_job_of_version_0_1_keeps_its_placement(older, placement, today):
    database = sqlite3.connect(older, isolation_level=None)
    database.execute("UPDATE jobs SET plan = json_set(plan, '$.placement', ?) WHERE state = 'queued'", (placement,))
    database.close()
    store = Store(older)
    assert store.mark_unreadable() == []
    assert {store.get(job_id).plan.placement.value for job_id, _ in store.queue()} == {today}
    store.close()


def test_jobs_of_version_0_1_keep_their_favourites_and_get_no_other_marks(older):
    store = Store(older)
    jobs = store.find(limit=100)
    assert sum(job.favourite for job in jobs) == 1
    assert {(job.rating, job.note, job.approved, job.collections) for job in jobs} == {(None, None, False, ())}
    store.close()


@pytest.mark.parametrize("damaged", ["{", "[]", "null", '{"width": 1, "placement": []}', "[" * 100_000])
def test_a_damaged_row_of_version_0_1_is_kept_and_all_others_are_migrated(older, damaged):
    database = sqlite3.connect(older, isolation_level=None)
    (job_id,) = database.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY position").fetchone()
    database.execute("UPDATE jobs SET plan = ? WHERE id = ?", (damaged, job_id))
    database.close()
    store = Store(older)
    assert store.mark_unreadable() == [job_id]
    assert len(store.queue()) == 3
    store.close()


def test_names_of_a_recipe_are_migrated_and_what_is_damaged_stays():
    old = {"request": {"seed": 1}, "artifact": {"ran": {"device": "CPU"}, "frames": 3}}
    new = migrate_recipe(old)
    assert new["artifact"] == {"runtime": {"device": "CPU"}, "frames": 3}
    assert new["schema_version"] == SCHEMA_VERSION
    assert "ran" in old["artifact"]
    assert migrate_recipe(new) == new
    assert migrate_recipe({"artifact": "damaged"})["artifact"] == "damaged"


@pytest.mark.parametrize(
    ("rendered", "enlarged", "steps"),
    [
        ((960, 544), False, [{"step": "fit", "version": 1, "width": 960, "height": 540, "method": "crop"}]),
        ((480, 272), True, [{"step": "fit", "version": 1, "width": 960, "height": 540, "method": "enlarge"}]),
        ((960, 540), False, []),
    ],
)
def test_a_plan_of_version_0_1_gets_the_finishing_steps_that_it_did_not_name(rendered, enlarged, steps):
    sizes = {"width": 960, "height": 540, "render_width": rendered[0], "render_height": rendered[1]}
    old = {"plan": sizes | {"enlarged": enlarged, "eight_bits": True}}
    new = migrate_recipe(old)
    assert new["plan"] == sizes | {"enlarged": enlarged, "fp8": True, "finishing_steps": steps}
    assert migrate_recipe(new) == new


def test_a_damaged_plan_of_version_0_1_gets_its_names_and_no_finishing_steps():
    assert migrate_recipe({"plan": {"width": 960, "eight_bits": True}})["plan"] == {"width": 960, "fp8": True}


def test_the_finishing_steps_of_migrated_plans_are_those_that_are_planned_today(older):
    """Every stored plan of version 0.1 can be read, and its steps turn what is rendered into what is delivered."""
    store, methods = Store(older), set()
    for job in [*store.find(limit=100), *store.find(Filter(trashed=True))]:
        plan = job.plan
        wanted = replace(plan.delivered, frames=plan.num_frames)
        check_delivery(plan.rendered, plan.finishing_steps, wanted)
        assert plan.finishing_steps == plan_fitting(plan.rendered, wanted, plan.enlarged)
        methods |= {step.method for step in plan.finishing_steps}
    store.close()
    assert methods == {"enlarge"}
