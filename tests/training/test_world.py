"""The world of the tiny model: what a caption says is what the picture shows, and a seed decides both."""

from __future__ import annotations

import numpy as np
import pytest

from training.painter.scene import Motion, Setting, Time, Weather
from training.painter.words import parse
from training.tiny.clips import HELD_OUT, SHORT, draw_clip, scene_of
from training.tiny.world import FPS, HEIGHT, ROLES, WIDTH, animation_of, caption, draw_scene, mirrored, pictures


@pytest.fixture
def random():
    return np.random.default_rng(5)


def test_a_number_decides_the_scene_and_every_pixel():
    assert scene_of(7) == scene_of(7) != scene_of(8)
    assert np.array_equal(draw_clip(7, 5), draw_clip(7, 5))
    assert not np.array_equal(draw_clip(7, 5), draw_clip(8, 5))


def test_held_out_films_are_others():
    assert not {scene_of(number) for number in range(300)} & {scene_of(HELD_OUT + number) for number in range(300)}


def test_every_role_is_drawn(random):
    scenes = [draw_scene(random) for _ in range(2000)]
    seen = {(s.actors[0].kind, s.actors[0].motion, s.setting) for s in scenes}
    assert seen == {(k, m, s) for k, role in ROLES.items() for m in role.motions for s in role.settings}
    assert {s.time for s in scenes} == set(Time)
    assert all(s.weather is Weather.CLEAR for s in scenes if s.setting is Setting.UNDERWATER)


def test_a_full_caption_is_read_by_the_painter_as_it_was_meant(random):
    """The painter's own reader, which was written before the captions, finds the scene again."""
    right = total = 0
    for _ in range(400):
        scene = draw_scene(random)
        (actor,) = scene.actors
        read = parse(caption(scene, random, full=True))
        found = read.actors[0] if read.actors else actor.__class__("", "")
        for said, meant in ((found.kind, actor.kind), (found.colour, actor.colour), (read.time, scene.time)):
            right += said == meant
            total += 1
    assert right / total > 0.9


def test_captions_are_many_and_sometimes_short(random):
    scene = scene_of(3)
    told = {caption(scene, random) for _ in range(300)}
    assert len(told) > 200
    assert min(map(len, told)) < 25 < 80 < max(map(len, told))


def test_a_mirror_swaps_left_and_right():
    for number in range(200):
        scene = scene_of(number)
        assert mirrored(mirrored(scene)) == scene
        swapped = {Motion.LEFT: Motion.RIGHT, Motion.RIGHT: Motion.LEFT}
        motion = scene.actors[0].motion
        assert mirrored(scene).actors[0].motion is swapped.get(motion, motion)


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [(Motion.LEFT, "x", -1), (Motion.RIGHT, "x", 1), (Motion.RISE, "y", -1), (Motion.SINK, "y", 1)],
)
def test_the_truth_of_a_film_moves_as_the_scene_says(motion, axis, sign):
    numbers = [n for n in range(400) if scene_of(n).actors[0].motion is motion and scene_of(n).camera.value == "still"]
    assert numbers
    for number in numbers[:10]:
        animation = animation_of(scene_of(number), 3.0)
        before, after = (getattr(animation.truth(t)[0], axis) for t in (0.0, 1.4))
        assert sign * (after - before) > 5


def test_pictures_are_the_films_frames():
    animation = animation_of(scene_of(1), 3.0)
    shown = pictures(animation, 3, first=10)
    assert shown.shape == (3, HEIGHT, WIDTH, 3)
    assert shown.dtype == np.uint8
    assert np.array_equal(shown[2], animation.frame(12 / FPS))
    assert SHORT == 33
