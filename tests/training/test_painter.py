"""The painter means what the sentence says: checked on the scene that was read, and on the pixels that were drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.media.fitting import Picture
from training.painter.animation import Animation, draw
from training.painter.cast import CAST, Realm
from training.painter.palette import COLOURS
from training.painter.scene import Actor, Camera, Extra, Motion, Scene, Setting, Size, Time, Weather
from training.painter.words import parse, parse_for_picture

SECONDS = 2.625


def difference(one: Picture, other: Picture) -> float:
    """Mean absolute difference of two pictures, in levels."""
    return float(np.abs(one.astype(int) - other).mean())


def is_red(picture: Picture) -> np.ndarray:
    red, green, blue = (picture[..., i].astype(int) for i in range(3))
    return (red > 120) & (red > 2 * green) & (red > 2 * blue)


def at(picture: Picture, x: float, y: float) -> np.ndarray:
    """The mean colour of a few pixels around a point."""
    return picture[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].reshape(-1, 3).mean(axis=0)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "A red boat drifts left on a calm sea at sunset",
            {"time": Time.SUNSET, "setting": Setting.SEA, "kind": "boat", "colour": "red", "motion": Motion.LEFT},
        ),
        (
            "A yellow balloon rises over green hills at dawn",
            {"time": Time.DAWN, "setting": Setting.HILLS, "kind": "balloon", "colour": "yellow", "motion": Motion.RISE},
        ),
        (
            "A white bird circles under the moon",
            {"time": Time.NIGHT, "kind": "bird", "colour": "white", "motion": Motion.CIRCLE},
        ),
        (
            "A blue car drives through the city at noon in the rain",
            {"time": Time.NOON, "setting": Setting.CITY, "weather": Weather.RAIN, "kind": "car", "colour": "blue"},
        ),
        (
            "a foggy forest, a wolf",
            {"weather": Weather.FOG, "setting": Setting.FOREST, "kind": "dog", "colour": "gray"},
        ),
        ("a fox in the snow", {"weather": Weather.SNOW, "setting": Setting.SNOWFIELD, "kind": "fox"}),
        ("It is a stormy night", {"weather": Weather.STORM, "time": Time.NIGHT}),
        ("the boat, painted green", {"kind": "boat", "colour": "green"}),
        ("a woman in a red dress, blue sky", {"kind": "person", "colour": "red"}),
        ("three tiny pink balloons", {"kind": "balloon", "count": 3, "size": Size.SMALL, "colour": "pink"}),
        ("a huge bouncing ball", {"kind": "ball", "size": Size.LARGE, "motion": Motion.BOUNCE}),
        ("horses running from left to right", {"kind": "horse", "count": 3, "motion": Motion.RIGHT}),
        ("a fishing boat", {"kind": "boat"}),
        ("camera pans left over a lake, a boat sails", {"camera": Camera.PAN_LEFT, "setting": Setting.LAKE}),
        ("a house, slow zoom out", {"camera": Camera.PULL_OUT, "motion": Motion.STILL}),
        ("the sun sets behind the mountains", {"time": Time.SUNSET, "setting": Setting.MOUNTAINS}),
        ("🚀 🌊", {"kind": "rocket", "setting": Setting.SEA}),
        ("a car by the sea", {"kind": "car", "setting": Setting.BEACH}),
        ("a goldfish in the sea", {"kind": "fish", "colour": "orange", "setting": Setting.UNDERWATER}),
    ],
)
def test_a_sentence_is_understood(prompt: str, expected: dict[str, object]) -> None:
    scene = parse(prompt)
    actor = scene.actors[0] if scene.actors else Actor("", "")
    found = {name: getattr(scene, name, None) or getattr(actor, name, None) for name in expected}
    assert found == expected


def test_the_subject_of_the_second_clause_joins_the_first() -> None:
    scene = parse("A red fishing boat drifts on a calm sea at sunset, gulls circle above it")
    assert [(a.kind, a.colour, a.motion, a.count) for a in scene.actors][1] == ("bird", "white", Motion.CIRCLE, 3)
    assert scene.actors[0].colour == "red"


@pytest.mark.parametrize("word", ["left", "right"])
def test_the_camera_s_direction_moves_no_subject(word: str) -> None:
    scene = parse(f"a tree, the camera pans {word}")
    assert scene.actors[0].motion is Motion.STILL


def test_any_text_in_any_shape_makes_a_picture() -> None:
    texts = (
        "",
        "   ",
        "?!",
        "ein Hund läuft durch den Wald",
        "一只红色的小船",
        "🎈" * 50,
        "x" * 4000,
        "no not without",
        "\x00\n\t",
    )
    sizes = ((64, 64), (1920, 64), (64, 1920), (98, 54))
    for i, text in enumerate(texts):
        width, height = sizes[i % len(sizes)]
        picture = draw(parse(text, seed=i), width, height, 1.0)
        assert picture.shape == (height, width, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 3


def test_prompts_without_a_known_word_differ_clearly() -> None:
    texts = ("quantum entanglement", "perpetual sorrow", "blorp", "zyx", "ennui", "recursion")
    pictures = [draw(parse(text), 160, 90, 1.0) for text in texts]
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            assert difference(one, other) > 8


def test_an_unknown_word_more_changes_the_picture() -> None:
    one, other = (draw(parse(f"a red boat on a {word} sea at sunset"), 160, 90, 1.0) for word in ("calm", "glorgish"))
    assert difference(one, other) > 3


def test_the_seed_changes_the_composition_and_not_the_content() -> None:
    prompt = "a small dog and sorrow"
    one, other = parse(prompt, seed=1), parse(prompt, seed=2)
    assert replace(one, seed=0) == replace(other, seed=0)
    assert difference(draw(one, 160, 90, 1.0), draw(other, 160, 90, 1.0)) > 3


def test_the_same_scene_gives_the_same_bytes() -> None:
    scene = parse("a dragon over a stormy lake with a rainbow, northern lights and fireworks", seed=5)
    assert (draw(scene, 320, 180, 1.3) == draw(scene, 320, 180, 1.3)).all()


@pytest.mark.parametrize(
    ("prompt", "negative", "gone"),
    [
        ("a boat and a bird at sea", "birds", lambda scene: [a.kind for a in scene.actors] == ["boat"]),
        ("a rainy city", "rain", lambda scene: scene.weather is not Weather.RAIN),
        ("a red car", "red", lambda scene: scene.actors[0].colour != "red"),
        ("a meadow", "clouds, trees", lambda scene: {Extra.CLOUDS, Extra.TREES} <= scene.without),
        ("a night sky", "stars", lambda scene: scene.time is Time.NIGHT and Extra.STARS in scene.without),
        ("a house without clouds", "", lambda scene: Extra.CLOUDS in scene.without and scene.actors[0].kind == "house"),
        ("a city at night", "night", lambda scene: scene.time is not Time.NIGHT),
    ],
)
def test_the_negative_prompt_removes_what_it_names(prompt: str, negative: str, gone) -> None:
    assert not gone(parse(prompt)) or "without" in prompt
    assert gone(parse(prompt, negative_prompt=negative))


def test_a_negative_prompt_about_faults_changes_nothing() -> None:
    usual = (
        "Bright tones, overexposed, static, blurred details, overall gray, worst quality, still picture, "
        "many people in the background, walking backwards"
    )
    assert parse("a man in a park", 3, usual) == parse("a man in a park", 3)


def test_clouds_are_gone_from_the_pixels() -> None:
    scene = Scene(time=Time.NOON, weather=Weather.CLOUDS, seed=4)
    sky = slice(0, 40)
    white = [
        (draw(replace(scene, without=without), 320, 180, 1.0)[sky].min(axis=2) > 235).mean()
        for without in (frozenset[Extra](), frozenset({Extra.CLOUDS, Extra.SUN}))
    ]
    assert white[0] > 0.05 > white[1]


def test_times_of_day_have_their_light() -> None:
    for setting in Setting:
        if setting is not Setting.SPACE:
            light = {time: draw(Scene(time=time, setting=setting, seed=3), 160, 90, 1.0).mean() for time in Time}
            assert light[Time.NIGHT] < 0.75 * light[Time.NOON], setting
            assert light[Time.NIGHT] < light[Time.SUNSET], setting
    sunset, noon = (
        draw(Scene(time=time, seed=3), 160, 90, 1.0)[30:50].reshape(-1, 3).mean(axis=0)
        for time in (Time.SUNSET, Time.NOON)
    )
    assert sunset[0] > sunset[2]
    assert noon[2] > noon[0]


def test_every_setting_and_every_weather_looks_different() -> None:
    settings = [draw(Scene(setting=setting, seed=1), 160, 90, 1.0) for setting in Setting]
    weathers = [draw(Scene(weather=weather, seed=1), 160, 90, 1.0) for weather in Weather]
    for pictures in (settings, weathers):
        for i, one in enumerate(pictures):
            for other in pictures[:i]:
                assert difference(one, other) > 2


def test_every_extra_shows() -> None:
    for extra in (Extra.RAINBOW, Extra.AURORA, Extra.FIREWORKS, Extra.AUTUMN, Extra.BLOSSOM):
        scene = Scene(time=Time.NIGHT, setting=Setting.FOREST, seed=2)
        plain, rich = (
            draw(replace(scene, extras=extras), 320, 180, 1.0) for extras in (frozenset(), frozenset({extra}))
        )
        assert difference(plain, rich) > 0.2, extra


def home_of(kind: str) -> Setting:
    return {
        Realm.GROUND: Setting.HILLS,
        Realm.WATER: Setting.SEA,
        Realm.AIR: Setting.HILLS,
        Realm.DEEP: Setting.UNDERWATER,
    }[CAST[kind].realm]


@pytest.mark.parametrize("kind", CAST)
def test_a_subject_shows_its_colour_where_the_truth_says(kind: str) -> None:
    for colour, time in (("red", Time.NOON), ("blue", Time.NOON), ("yellow", Time.SUNSET), ("red", Time.NIGHT)):
        scene = Scene(time=time, setting=home_of(kind), actors=(Actor(kind, colour, motion=Motion.RIGHT),), seed=7)
        film = Animation(scene, 480, 270, SECONDS)
        for t in (0.9, 1.7):
            truth = film.truth(t)[0]
            seen = at(film.frame(t), truth.x, truth.y)
            nearest = min(COLOURS, key=lambda name: float(np.abs(film.shown(name) - seen).sum()))
            assert nearest == colour, (time, t, seen)


@pytest.mark.parametrize("size", [(480, 270), (270, 480), (360, 360)])
@pytest.mark.parametrize("motion", Motion)
def test_every_subject_stays_in_the_picture(motion: Motion, size: tuple[int, int]) -> None:
    for kind in CAST:
        scene = Scene(setting=home_of(kind), actors=(Actor(kind, "red", Size.LARGE, motion),), seed=11)
        film = Animation(scene, *size, SECONDS)
        for t in (0.0, SECONDS / 2, SECONDS):
            truth = film.truth(t)[0]
            assert 0 <= truth.x < size[0], (kind, t)
            assert 0 <= truth.y < size[1], (kind, t)


def test_motions_move_as_they_are_called() -> None:
    def way(motion: Motion, kind: str = "balloon") -> tuple[float, float, float]:
        film = Animation(Scene(actors=(Actor(kind, "red", motion=motion),), seed=2), 480, 270, SECONDS)
        first, last = film.truth(0.0)[0], film.truth(SECONDS)[0]
        return last.x - first.x, last.y - first.y, last.height / first.height

    assert way(Motion.LEFT)[0] < -150
    assert way(Motion.RIGHT)[0] > 150
    assert way(Motion.RISE)[1] < -60
    assert way(Motion.SINK)[1] > 60
    assert way(Motion.GROW)[2] > 1.8
    assert max(map(abs, way(Motion.STILL)[:2])) < 15
    heights = [
        Animation(Scene(actors=(Actor("ball", "red", motion=Motion.BOUNCE),)), 480, 270, 3.0).truth(t)[0].y
        for t in np.arange(0, 3, 0.1)
    ]
    turns = np.diff(np.sign(np.diff(heights)))
    assert (turns != 0).sum() >= 4


def test_the_pixels_move_with_the_truth() -> None:
    film = Animation(parse("A red boat drifts left on a calm sea at noon", seed=1), 480, 270, SECONDS)
    middles = []
    for t in (0.2, 1.2, 2.2):
        rows, columns = np.nonzero(is_red(film.frame(t)))
        assert len(rows) > 300
        middles.append(columns.mean())
        assert abs(columns.mean() - film.truth(t)[0].x) < 12
    assert middles[0] > middles[1] + 40 > middles[2] + 80


def test_the_camera_moves_the_land() -> None:
    scene = Scene(setting=Setting.HILLS, weather=Weather.FOG, actors=(Actor("house", "red"),), seed=6)
    places = {}
    for camera in Camera:
        film = Animation(replace(scene, camera=camera), 480, 270, SECONDS)
        first, last = film.truth(0.0)[0], film.truth(SECONDS)[0]
        places[camera] = (last.x - first.x, last.height / first.height)
    assert places[Camera.PAN_RIGHT][0] < -100 < 100 < places[Camera.PAN_LEFT][0]
    assert places[Camera.PUSH_IN][1] > 1.15
    assert places[Camera.PULL_OUT][1] < 0.87
    assert places[Camera.STILL] == (0, 1)


def test_the_world_moves_even_where_nothing_goes_anywhere() -> None:
    for setting in (Setting.SEA, Setting.UNDERWATER, Setting.HILLS):
        film = Animation(Scene(setting=setting, seed=1), 320, 180, SECONDS)
        assert difference(film.frame(0.5), film.frame(1.5)) > 0.3, setting


def test_a_picture_gets_the_weather_and_camera_that_were_said_and_no_others() -> None:
    assert parse_for_picture("it snows, zoom in").camera is Camera.PUSH_IN
    assert parse_for_picture("snow falls").weather is Weather.SNOW
    assert parse_for_picture("a cat").weather is Weather.CLEAR
    assert parse_for_picture("snow", negative_prompt="snow").weather is Weather.CLEAR
