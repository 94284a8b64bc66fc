"""P17: a damaged history is set aside and explained; the films and all that a copy knew come back."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from backend.core.config import Settings
from backend.core.schema import parse_request
from backend.jobs.history import COPIES_KEPT, copy_history, open_history
from backend.jobs.job import JobState
from backend.jobs.store import Filter
from backend.synthetic import SyntheticEngine
from backend.video_generator import VideoGenerator
from tests.conftest import SMALL

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
    assert time.monotonic() - began < 10
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


@pytest.mark.parametrize("way", ["empty", "cut", "noise", "version", "text", "no tables"])
def test_what_cannot_be_used_is_set_aside_and_the_copy_taken(folder, way):
    file = settings_of(folder).database
    data = file.read_bytes()
    if way == "version":
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()
        data = file.read_bytes()
    elif way == "no tables":  # what is left where they were in a WAL that is lost
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
    assert "put together from an empty one and 2 films" in news
    assert [job.artifact.frames for job in store.find()] == [16, 16]
    store.close()


def test_a_history_that_was_moved_away_begins_with_the_films(folder):
    settings_of(folder).database.unlink()
    shutil.rmtree(settings_of(folder).copies)
    store, news = open_history(settings_of(folder))
    assert news == "There was no history; 2 films were found in outputs/ and added to it."
    store.close()


def test_a_file_that_another_program_locks_is_copied_and_nothing_is_missing(folder):
    holder = sqlite3.connect(settings_of(folder).database, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        assert "its own file" in check(folder)
    finally:
        holder.close()
    assert waiting(folder) == 22


def test_rows_that_cannot_be_read_come_back_from_the_copy(folder):
    with sqlite3.connect(settings_of(folder).database) as database:
        database.execute("UPDATE jobs SET plan = '{' WHERE prompt LIKE '%number 7'")
        database.execute("UPDATE jobs SET request = '{\"seed\": \"x\"}' WHERE prompt = 'after the copy'")
        database.execute("UPDATE jobs SET artifact = '[]' WHERE state = 'succeeded' AND trashed_at IS NULL")
    database.close()
    assert check(folder) == "Jobs in the history that could not be read: 4. Of these 3 were recovered."
    assert waiting(folder) == 22 - 1


def test_a_row_whose_id_is_no_text_any_more_is_taken_out_once(folder):
    with sqlite3.connect(settings_of(folder).database) as database:
        database.execute("UPDATE jobs SET id = CAST(x'ff' || substr(id, 2) AS TEXT) WHERE prompt LIKE '%number 7'")
    database.close()
    assert check(folder) == "Jobs in the history that could not be read: 1. Of these 0 were recovered."
    assert waiting(folder) == 22 - 1


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
    "no forecast": ('"calibration": 1.0', '"calibration": 0.0'),
}


@pytest.mark.parametrize("kind", BAD_RECIPES)
def test_a_bad_recipe_costs_at_most_its_own_film(folder, kind):
    settings = settings_of(folder)
    first, second = sorted(path for path in settings.outputs.iterdir() if (path / "metadata.json").exists())
    text = (first / "metadata.json").read_text()
    assert BAD_RECIPES[kind][0] in text
    (first / "metadata.json").write_text(text.replace(*BAD_RECIPES[kind], 1))
    shutil.rmtree(settings.copies)
    settings.database.write_bytes(b"nothing")
    store, news = open_history(settings)
    kept = {job.id for job in store.find()}
    assert second.name in kept
    assert (first.name in kept) == (kind in ("no forecast",))
    assert store.calibration("synthetic") > 0
    assert store.tallies()
    store.close()
    again, news = open_history(settings)
    assert {job.id for job in again.find()} == kept
    assert news is None
    again.close()


LAYOUT_FLIPS = {
    "a column of another name": (b"progress TEXT", b"prmgress TEXT"),
    "a column whose name is no text": (b"artifact TEXT", b"artifac\xf4 TEXT"),
    "a default that no row may have": (b"deaths INTEGER NOT NULL DEFAULT 0", b"deaths INTEGER NOT NULL DEFAULT p"),
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


def test_three_copies_are_kept_and_each_can_be_opened(folder, monkeypatch):
    settings = settings_of(folder)
    shutil.rmtree(settings.copies)
    store, _ = open_history(settings)
    stamps = iter(f"2026010{n}T000000" for n in range(1, 6))
    monkeypatch.setattr("backend.jobs.history.time.strftime", lambda *_: next(stamps))
    for _ in range(5):
        copy_history(store, settings.copies)
    store.close()
    copies = sorted(settings.copies.iterdir())
    assert [copy.stem for copy in copies] == [f"studio-2026010{n}T000000" for n in (3, 4, 5)]
    assert len(copies) == COPIES_KEPT
    with sqlite3.connect(copies[-1]) as database:
        assert database.execute("SELECT count(*) FROM jobs").fetchone() == (24,)
    database.close()


def test_a_started_studio_has_a_copy_at_once(generator):
    deadline = time.monotonic() + 10
    while not list(generator.settings.copies.glob("studio-*.db")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
