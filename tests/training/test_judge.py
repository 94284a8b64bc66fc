"""What the judge learns from: films that are moved and mirrored with their truth."""

from __future__ import annotations

import numpy as np
import pytest

from training.tiny.clips import A_SHARD, FRAMES, HELD_OUT, SHORT, draw_clip, scene_of
from training.tiny.judge import QUESTIONS, SEEN, Dataset, load_judge, shifted, truth
from training.tiny.world import HEIGHT, MOTIONS, WIDTH, mirrored


def test_a_film_is_moved_and_its_edges_fill_what_opens():
    film = np.zeros((2, 6, 8, 3), np.uint8)
    film[:, 2, 3] = 200
    film[:, :, 0] = 50
    found = shifted(film, 2, 1)
    assert found.shape == film.shape
    assert (found[:, 3, 5] == 200).all()
    assert (found[:, :, :3] == 50).all()
    assert np.array_equal(shifted(film, 0, 0), film)


@pytest.fixture
def dataset(tmp_path):
    """Films in which a white spot is where the truth says."""
    films = np.zeros((A_SHARD, FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    paths = np.zeros((1, A_SHARD, FRAMES, 2), np.float32)
    paths[..., 0], paths[..., 1] = 40 + np.arange(FRAMES), 50
    for frame in range(FRAMES):
        films[:, frame, 50, 40 + frame] = 255
    shard = tmp_path / "films-00000.npy"
    np.save(shard, films)
    return Dataset([shard], paths)


def test_places_follow_the_pictures(dataset):
    films, _, places = dataset.of(3)
    assert films.shape == (16, len(SEEN), HEIGHT, WIDTH, 3)
    for film, path in zip(films, places, strict=True):
        for picture, (x, y) in zip(film, path, strict=True):
            row, column = np.argwhere(picture[..., 0] == 255).mean(axis=0)
            assert abs(row - y) <= 0.5
            assert abs(column - x) <= 1  # a mirror turns the middle of a pixel about the edge of the picture


def test_a_film_in_a_mirror_has_the_answers_of_one(dataset):
    _, right, places = dataset.of(3)
    seen = [mirrored(scene_of(n)) for n in range(A_SHARD)] + [scene_of(n) for n in range(A_SHARD)]
    possible = {tuple(QUESTIONS[name].index(value) for name, value in truth(scene).items()) for scene in seen}
    told = set(zip(*right.values(), strict=True))
    assert told <= possible
    assert {places[n, 1, 0] > places[n, 0, 0] for n in range(16)} == {True, False}
    assert len(MOTIONS) > max(right["motion"])


@pytest.mark.parametrize("number", range(HELD_OUT, HELD_OUT + 4))
def test_a_film_in_a_mirror_is_judged_as_one(number):
    judge = load_judge()
    film = draw_clip(number, SHORT)
    answers = judge.answers(film)
    assert answers == truth(scene_of(number))
    assert judge.answers(film[:, :, ::-1]) == truth(mirrored(scene_of(number)))


def test_a_step_has_the_same_batch_every_time(dataset):
    again, other = dataset.of(3), dataset.of(4)
    films, right, places = dataset.of(3)
    assert np.array_equal(films, again[0])
    assert right == again[1]
    assert not np.array_equal(places, other[2])
    assert max(SEEN) < SHORT
