"""P17: a damaged history is set aside and explained; the films and all that a copy knew come back."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from backend.core.config import Settings
from backend.core.errors import NotEnoughSpace, StudioBusy, StudioError
from backend.core.schema import parse_request
from backend.jobs.database import StoreDamaged
from backend.jobs.filters import Filter
from backend.jobs.history import COPIES_KEPT, copies_in, copy_history, open_history
from backend.jobs.job import JobState
from backend.jobs.model_stats import calibration, model_stats
from backend.jobs.store import Store
from backend.synthetic import SyntheticEngine
from backend.video_generator import VideoGenerator
from tests.conftest import SMALL
from tests.pace import within

MUTANTS = 100


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory) -> Path:
    """A data folder with three films, one of them in the trash, twenty waiting jobs, a copy, and one job since then."""
    data = tmp_path_factory.mktemp("lived-in")
    generator = VideoGenerator(settings_of(data), {"synthetic": SyntheticEngine()})
    generator.start()
    films = [generator.submit(parse_request(SMALL | {"seed": seed})) for seed in range(3)]
    for job in films:
        generator.wait(job.id, 60)
    generator.delete(films[0].id)
    generator.pause_queue(True)
    for seed in range(20):
        generator.submit(parse_request(SMALL | {"seed": seed, "prompt": f"a waiting boat number {seed}"}))
    copy_history(generator.store, generator.settings.copies)
    generator.submit(parse_request(SMALL | {"prompt": "after the copy"}))
    generator.stop()
    copies_in(generator.settings.copies)[0].unlink()  # that of the stop, as if there had been none
    return data


def settings_of(data: Path) -> Settings:
    return Settings(data=data, shared_models=data / "none", disk_reserve_bytes=0)


@pytest.fixture
def folder(lived_in, tmp_path) -> Path:
    shutil.copytree(lived_in, tmp_path / "data")
    return tmp_path / "data"


def check(data: Path) -> str | None:
    """Open the history; every film must be there, and the store must work. What it says of itself."""
    began = time.monotonic()
    store, news = open_history(settings_of(data))
    assert time.monotonic() - began < within(10)
    try:
        films = store.find(Filter(states=(JobState.SUCCEEDED,)))
        trashed = store.find(Filter(states=(JobState.SUCCEEDED,), trashed=True))
        assert (len(films), len(trashed)) == (2, 1)
        assert all((data / film.artifact.video).exists() for film in films)
        job = store.add(films[0].request, films[0].plan)
        assert store.get(job.id).state is JobState.QUEUED
        assert store._one("PRAGMA integrity_check")[0] == "ok"
        return news
    finally:
        store.close()


def waiting(data: Path) -> int:
    store, news = open_history(settings_of(data))
    assert news is None
    found = store.count(Filter(states=(JobState.QUEUED,)))
    store.close()
    return found


def test_a_whole_history_is_opened_without_a_word(folder):
    assert check(folder) is None
    assert waiting(folder) == 22
    assert not settings_of(folder).damaged.exists()


@pytest.mark.parametrize("way", ["empty", "cut", "noise", "text", "no tables"])
def test_what_cannot_be_used_is_set_aside_and_the_copy_taken(folder, way):
    file = settings_of(folder).database
    data = file.read_bytes()
    if way == "no tables":  # what is left where they were in a WAL that is lost
        file.unlink()
        with sqlite3.connect(file) as database:
            database.executescript("PRAGMA journal_mode = WAL; CREATE TABLE x (y); DROP TABLE x;")
        database.close()
        data = file.read_bytes()
    else:
        ruin = {"empty": b"", "cut": data[: len(data) // 3], "noise": random.Random(0).randbytes(len(data))}
        data = ruin.get(way, b"this is no database")
        file.write_bytes(data)
    news = check(folder)
    assert "could not be used" in news
    assert "the copy studio-" in news
    (aside,) = settings_of(folder).damaged.glob("*/studio.db")
    assert aside.read_bytes() == data
    assert waiting(folder) == 21  # all but the one after the copy, and the one that `check` added


def test_without_a_copy_the_films_are_found_by_their_recipes(folder):
    settings = settings_of(folder)
    shutil.rmtree(settings.copies)
    shutil.move(settings.trash, settings.outputs / "kept-elsewhere")
    settings.database.write_bytes(b"nothing")
    store, news = open_history(settings)
    assert "put together from an empty one" in news
    assert "2 videos in outputs/ were added" in news
    assert [job.artifact.frames for job in store.find()] == [16, 16]
    store.close()


def test_a_history_that_was_moved_away_begins_with_the_films(folder):
    settings_of(folder).database.unlink()
    shutil.rmtree(settings_of(folder).copies)
    store, news = open_history(settings_of(folder))
    assert news == "There was no history; 3 videos in outputs/ were added to it."
    assert store.count(Filter(trashed=True)) == 1
    store.close()


def test_a_history_that_is_gone_comes_back_from_its_copy(folder):
    settings_of(folder).database.unlink()
    news = check(folder)
    assert news.startswith("The history could not be used (it was gone). It was put together from the copy studio-")
    assert waiting(folder) == 21
    assert not settings_of(folder).damaged.exists()


def test_what_was_set_aside_is_better_than_nothing(folder):
    settings = settings_of(folder)
    shutil.rmtree(settings.copies)
    (settings.damaged / "20260101T000000").mkdir(parents=True)
    settings.database.rename(settings.damaged / "20260101T000000" / "studio.db")
    assert "from the copy studio.db" in check(folder)
    assert waiting(folder) == 22


def test_what_was_set_aside_with_its_wal_is_read_with_it(folder):
    """As a killed process left both: the last change stands in the WAL alone."""
    settings = settings_of(folder)
    shutil.rmtree(settings.copies)
    aside = settings.damaged / "20260101T000000"
    aside.mkdir(parents=True)
    with sqlite3.connect(settings.database) as database:
        database.execute("UPDATE jobs SET favourite = 1 WHERE prompt LIKE '%number 7'")
        database.commit()
        for name in ("studio.db", "studio.db-wal"):
            shutil.copy(settings.outputs / name, aside)
    database.close()
    settings.database.unlink()
    assert "from the copy studio.db" in check(folder)
    store, _ = open_history(settings)
    assert [job.title for job in store.find(Filter(favourite=True))] == ["a waiting boat number 7"]
    store.close()


def test_the_wal_of_a_damaged_history_is_set_aside_with_it(folder):
    """Beside the copy that takes its place, SQLite would play it into that."""
    settings = settings_of(folder)
    files = [settings.database, settings.database.with_name("studio.db-wal")]
    with sqlite3.connect(settings.database) as database:
        database.execute("UPDATE jobs SET favourite = 1 WHERE prompt LIKE '%number 7'")
        database.commit()
        wal = files[1].read_bytes()
    database.close()
    for file, data in zip(files, (b"no database", wal), strict=True):
        file.write_bytes(data)
    assert "the copy studio-" in check(folder)
    (aside,) = settings.damaged.iterdir()
    assert [(aside / file.name).read_bytes() for file in files] == [b"no database", wal]
    store, _ = open_history(settings)
    assert store.find(Filter(favourite=True)) == []
    store.close()


def test_a_file_that_another_program_holds_is_no_damage(folder, monkeypatch):
    monkeypatch.setattr("backend.jobs.database.BUSY_S", 0.1)
    holder = sqlite3.connect(settings_of(folder).database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StudioBusy, match=r"Another program uses the history studio\.db; close it"):
            open_history(settings_of(folder))
    finally:
        holder.close()
    assert check(folder) is None
    assert waiting(folder) == 22


@pytest.mark.parametrize("companion", ["", "-wal"])
def test_a_folder_where_the_database_belongs_is_one_sentence(folder, companion):
    file = settings_of(folder).database
    spoiled = file.with_name(file.name + companion)
    spoiled.unlink(missing_ok=True)
    spoiled.mkdir()
    with pytest.raises(StudioError, match=r"The history studio\.db cannot be opened"):
        open_history(settings_of(folder))
    assert not settings_of(folder).damaged.exists()


def test_nothing_is_moved_where_the_disk_is_full(folder, monkeypatch):
    """Damaged and no room for a copy: as it was, until there is room."""
    settings = settings_of(folder)
    settings.database.write_bytes(b"nothing")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("backend.jobs.history.shutil.copyfile", full)
        with pytest.raises(NotEnoughSpace, match="No space left on device"):
            open_history(settings)
    assert settings.database.read_bytes() == b"nothing"
    assert not settings.damaged.exists()
    assert "the copy studio-" in check(folder)


@pytest.mark.parametrize("gone", [("",), ("-wal",), ("", "-wal"), ("", "-wal", "-shm")])
def test_files_that_are_removed_while_it_runs_are_written_anew(folder, gone):
    settings = settings_of(folder)
    store, _ = open_history(settings)
    one = store.find()[0]
    for companion in gone:
        settings.database.with_name(f"studio.db{companion}").unlink(missing_ok=True)
    added = store.add(one.request, one.plan)
    crashed = settings_of(folder.with_name("crashed"))
    shutil.copytree(folder, crashed.data)
    assert store.get(added.id) == added
    store.close()
    again, news = open_history(crashed)
    assert again.get(added.id) == added
    assert news is None
    again.close()


@pytest.mark.parametrize("companion", ["", "-wal"])
def test_files_that_are_cut_while_it_runs_are_noticed(folder, companion):
    settings = settings_of(folder)
    store, _ = open_history(settings)
    one = store.find()[0]
    store.add(one.request, one.plan)
    os.truncate(f"{settings.database}{companion}", 0)
    with contextlib.suppress(StoreDamaged):  # or what it held was still in memory, and is written anew
        store.keep_files()
    store.close()
    again, _ = open_history(settings)
    assert again.count(Filter(states=(JobState.SUCCEEDED,))) == 2
    assert again.count(Filter(states=(JobState.QUEUED,))) >= 20
    again.close()


def test_jobs_that_wait_in_the_copy_and_nowhere_else_come_back(folder):
    settings = settings_of(folder)
    with sqlite3.connect(settings.database) as database:
        database.execute("DELETE FROM jobs WHERE prompt LIKE '%number 7'")
    database.close()
    assert check(folder) == "The history had lost 1 waiting job; it was found and added."
    assert waiting(folder) == 22


def test_rows_that_cannot_be_read_come_back_from_the_copy(folder):
    with sqlite3.connect(settings_of(folder).database) as database:
        database.execute("UPDATE jobs SET plan = '{' WHERE prompt LIKE '%number 7'")
        database.execute("UPDATE jobs SET request = '{\"seed\": \"x\"}' WHERE prompt = 'after the copy'")
        database.execute("UPDATE jobs SET artifact = '[]' WHERE state = 'succeeded' AND trashed_at IS NULL")
    database.close()
    assert check(folder) == (
        "4 jobs in the history could not be read; 3 were recovered. The other one is kept and shown on the Queue page."
    )
    assert waiting(folder) == 22 - 1


def test_a_row_comes_back_from_an_older_copy_where_the_newest_has_the_damage_too(folder):
    settings = settings_of(folder)
    with sqlite3.connect(settings.database) as database:
        database.execute("UPDATE jobs SET plan = '{' WHERE prompt LIKE '%number 7'")
    database.close()
    store = Store(settings.database)
    copy_history(store, settings.copies)
    store.close()
    assert check(folder) == "1 job in the history could not be read and was recovered."
    assert waiting(folder) == 22


def test_a_row_whose_id_is_no_text_any_more_gets_a_new_one_and_is_not_doubled_from_the_copy(folder):
    with sqlite3.connect(settings_of(folder).database) as database:
        database.execute("UPDATE jobs SET id = CAST(x'ff' || substr(id, 2) AS TEXT) WHERE prompt LIKE '%number 7'")
    database.close()
    assert check(folder) is None
    assert waiting(folder) == 22


@pytest.mark.parametrize("way", ["lost", "first page", "cut"])
def test_what_a_damaged_wal_forgets_is_found_again(tmp_path, way):
    """SQLite leaves the damaged end of a WAL out without a word."""
    generator = VideoGenerator(settings_of(tmp_path / "live"), {"synthetic": SyntheticEngine()})
    generator.start()
    for seed in range(2):
        job = generator.submit(parse_request(SMALL | {"seed": seed}))
        assert generator.wait(job.id, 60).state is JobState.SUCCEEDED
    generator.pause_queue(True)
    waits = generator.submit(parse_request(SMALL))
    copy_history(generator.store, generator.settings.copies)
    shutil.copytree(generator.settings.data, tmp_path / "data")
    generator.stop()
    settings = settings_of(tmp_path / "data")
    wal = settings.database.with_name("studio.db-wal")
    data = wal.read_bytes()
    assert len(data) > 4096
    damaged = {"lost": b"", "first page": data[:200] + b"\xff" + data[201:], "cut": data[: len(data) // 2]}[way]
    wal.write_bytes(damaged)
    wal.with_name("studio.db-shm").unlink(missing_ok=True)
    store, news = open_history(settings)
    assert store.count(Filter(states=(JobState.SUCCEEDED,))) + store.count(Filter(states=(JobState.QUEUED,))) == 3
    assert store.get(waits.id).state is JobState.QUEUED
    assert news is not None
    store.close()
    again, news = open_history(settings)
    assert news is None
    again.close()


BAD_RECIPES = {
    "infinite": ('"render_s": ', '"render_s": 1e999, "x": '),
    "deep": ("{", '{"deep": ' + "[" * 100_000 + "]" * 100_000 + ", "),
    "half a letter": ('"model": "', '"model": "\\ud800'),
    "another age": ('"created_at": ', '"created_at": 1e300, "x": '),
    "no guess": ('"guess": {', '"guess": {}, "x": {'),
}


@pytest.mark.parametrize("kind", BAD_RECIPES)
def test_a_bad_sidecar_costs_no_film(folder, kind):
    """The recipe in the film itself says the same."""
    settings = settings_of(folder)
    first, second = sorted(path for path in settings.outputs.iterdir() if (path / "metadata.json").exists())
    text = (first / "metadata.json").read_text()
    assert BAD_RECIPES[kind][0] in text
    (first / "metadata.json").write_text(text.replace(*BAD_RECIPES[kind], 1))
    shutil.rmtree(settings.copies)
    settings.database.write_bytes(b"nothing")
    store, news = open_history(settings)
    kept = {job.id for job in store.find()}
    assert {first.name, second.name} <= kept
    assert all(cost.seconds(1.0) > 0 for cost in calibration(store, "synthetic").costs.values())
    assert model_stats(store)
    store.close()
    again, news = open_history(settings)
    assert {job.id for job in again.find()} == kept
    assert news is None
    again.close()


LAYOUT_FLIPS = {
    "a column of another name": (b"progress TEXT", b"prmgress TEXT"),
    "a column whose name is no text": (b"artifact TEXT", b"artifac\xf4 TEXT"),
    "a table of another name": (b"CREATE TABLE settings", b"CREATE TABLE sett\xe9ngs"),
    "a header that forbids to write": (b"SQLite format 3\0\x10\0\x02", b"SQLite format 3\0\x10\0\x0a"),
}


@pytest.mark.parametrize("flip", LAYOUT_FLIPS)
def test_one_bit_in_the_layout_of_the_tables_is_damage(folder, flip):
    file, (whole, damaged) = settings_of(folder).database, LAYOUT_FLIPS[flip]
    assert file.read_bytes().count(whole) == 1
    file.write_bytes(file.read_bytes().replace(whole, damaged))
    assert "the copy studio-" in check(folder)
    assert waiting(folder) == 21


CONSTRAINT_FLIPS = {
    "a default that no row may have": (b"attempts INTEGER NOT NULL DEFAULT 0", b"attempts INTEGER NOT NULL DEFAULT p"),
    "a state of another name": (b"'queued', 'running'", b"'quaued', 'running'"),
}


@pytest.mark.parametrize("flip", CONSTRAINT_FLIPS)
def test_one_bit_in_a_constraint_costs_no_job(folder, flip):
    """The rows move into tables that are made anew."""
    file, (whole, damaged) = settings_of(folder).database, CONSTRAINT_FLIPS[flip]
    assert file.read_bytes().count(whole) == 1
    file.write_bytes(file.read_bytes().replace(whole, damaged))
    assert check(folder) is None
    assert waiting(folder) == 22  # with the one that `check` added


@pytest.mark.parametrize("seed", range(MUTANTS))
def test_every_mutant_starts_with_every_film(folder, seed):
    chance = random.Random(seed)
    files = [path for path in sorted(settings_of(folder).outputs.glob("studio.db*")) if path.stat().st_size]
    for _ in range(chance.choice((1, 1, 3))):
        file = chance.choice(files)
        data = bytearray(file.read_bytes())
        if chance.random() < 0.3:
            data = data[: chance.randrange(len(data) + 1)]
        else:
            for _ in range(chance.choice((1, 8, 200)) if data else 0):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
    news = check(folder)
    assert waiting(folder) >= 20 or news is not None


def test_the_newest_three_copies_are_kept_and_one_a_day(folder):
    settings = settings_of(folder)
    store, _ = open_history(settings)
    first = int(copies_in(settings.copies)[0].stem[-6:]) + 1
    for day in range(10):
        for _ in range(4):
            copy_history(store, settings.copies)
            os.utime(copies_in(settings.copies)[0], (1.8e9 + day * 86400,) * 2)
    store.close()
    copies = copies_in(settings.copies)
    made = [int((copy.stat().st_mtime - 1.8e9) / 86400) for copy in copies]
    assert made == [9, 9, 9, 8, 7, 6, 5, 4]  # and the day of this test, on which each was made at first
    assert [int(copy.stem[-6:]) for copy in copies] == [first + n for n in (39, 38, 37, 35, 31, 27, 23, 19)]
    with sqlite3.connect(copies[0]) as database:
        assert database.execute("SELECT count(*) FROM jobs").fetchone() == (24,)
    database.close()


def test_a_clock_that_was_ahead_costs_no_copy(folder):
    settings = settings_of(folder)
    store, _ = open_history(settings)
    ahead = copies_in(settings.copies)[0]
    os.utime(ahead, (4e9, 4e9))
    for _ in range(5):
        copy_history(store, settings.copies)
    store.close()
    copies = copies_in(settings.copies)
    assert copies.index(ahead) == COPIES_KEPT == len(copies) - 1


def test_a_studio_that_starts_again_and_again_keeps_its_older_copies(settings):
    for _ in range(5):
        generator = VideoGenerator(settings, {"synthetic": SyntheticEngine()})
        generator.tidying.tidy()
        generator.stop()
    assert len(copies_in(settings.copies)) == 1


def test_a_started_studio_has_a_copy_at_once(generator):
    deadline = time.monotonic() + 60
    while not list(generator.settings.copies.glob("studio-*.db")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
