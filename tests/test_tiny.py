"""SkyReels V2 Tiny as it came with the studio: what is asked for is what the film shows. `benchmarks/tiny.py` measures
the same on two hundred films; here are so few that a suite stays short, and the bounds leave room for chance.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from backend.core.config import ROOT, Settings
from backend.core.model_choice import choose_model
from backend.core.plan import Machine, Source
from backend.core.registry import MODELS, SYNTHETIC, TINY
from backend.core.schema import parse_request
from backend.engine import Inputs
from backend.library.checkpoints import Checkpoint, find_checkpoints
from backend.skyreels_integration import SkyReelsEngine
from benchmarks.tiny import PREFIX, caption_of, psnr
from training.painter.scene import Time
from training.tiny.clips import HELD_OUT, SHORT, draw_clip, scene_of
from training.tiny.judge import load_judge, truth
from training.tiny.sample import generate
from training.tiny.world import FPS, HEIGHT, WIDTH

FOLDER = ROOT / "models" / TINY.id
pytestmark = [
    pytest.mark.skipif(not (FOLDER / "model_index.json").exists(), reason="it is still in training"),
    pytest.mark.timeout(400),  # beside other work on two cores a film may take half a minute
]
QUICK = {"num_frames": 17, "num_inference_steps": 10}
BOAT = "A red boat drifts left on the sea at noon"


@pytest.fixture(scope="module")
def engine():
    return SkyReelsEngine()


@pytest.fixture(scope="module")
def judge():
    return load_judge()


@pytest.fixture(scope="module")
def rendered(engine):
    """`rendered(prompt=..., seed=...)`: one film for each wish, however many tests ask for it."""
    films = {}

    def film(**wish):
        name = json.dumps(wish, sort_keys=True)
        if name not in films:
            films[name] = generate(engine, **wish)
        return films[name]

    return film


def difference(one, other):
    """Mean distance of two films, 0 to 255."""
    return float(np.abs(one.astype(np.float64) - other).mean())


# --- the checkpoint ---


def test_it_is_found_like_any_other_and_small():
    assert find_checkpoints([ROOT / "models"]) == [Checkpoint(TINY, FOLDER)]
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 40e6
    assert {file.suffix for file in files} == {".json", ".md", ".safetensors"}
    card = (FOLDER / "README.md").read_text()
    assert "license: " in card.split("---")[1]
    assert all("_name_or_path" not in json.loads(file.read_text()) for file in FOLDER.rglob("config.json"))


def test_it_is_what_automatic_takes_where_no_released_model_fits():
    models = [MODELS["skyreels-v2-df-14b-540p"], TINY, SYNTHETIC]
    request = parse_request({"prompt": BOAT})
    assert choose_model(request, models, Machine("CPU", 2, 16.0)) is TINY
    assert choose_model(request, models, Machine("small", 2, 16.0, vram_gib=8.0)) is TINY
    assert choose_model(request, models, Machine("H100", 16, 128.0, vram_gib=79.0)) is models[0]
    assert choose_model(request, [SYNTHETIC], Machine("CPU", 2, 16.0)) is SYNTHETIC


def test_a_data_folder_elsewhere_finds_it(tmp_path):
    assert find_checkpoints(Settings(data=tmp_path).model_folders) == [Checkpoint(TINY, FOLDER)]


def test_a_lora_finds_the_layers_that_the_large_models_have(engine, rendered):
    rendered(prompt=BOAT, guidance_scale=1, **QUICK)
    names = {name for name, _ in engine.renderer.models.components.transformer.named_modules()}
    targets = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "ffn.net.0.proj", "ffn.net.2"]
    assert {f"blocks.0.{target}" for target in targets} <= names


# --- what a sentence says ---


def as_long_as_the_judge_wants(film):
    """A film of `SHORT` frames: a shorter one with each of its frames twice."""
    return np.repeat(film, 2, axis=0)[:SHORT]


def test_a_film_shows_what_was_asked_for(engine, judge):
    right = dict.fromkeys(("colour", "time", "kind"), 0)
    wrong = 0
    for number in range(6):
        film = generate(engine, prompt=caption_of(number), seed=number, **QUICK)
        found = judge.answers(as_long_as_the_judge_wants(film))
        asked, other = truth(scene_of(HELD_OUT + number)), truth(scene_of(HELD_OUT + number + 50))
        for name in right:
            right[name] += found[name] == asked[name]
            wrong += found[name] == other[name]
    assert right["time"] >= 5
    assert sum(right.values()) >= 11
    assert wrong < sum(right.values()) / 2


def test_the_judge_knows_drawn_films(judge):
    answers = [(judge.answers(draw_clip(HELD_OUT + n, SHORT)), truth(scene_of(HELD_OUT + n))) for n in range(20)]
    for name in ("colour", "time", "kind", "motion"):
        assert sum(found[name] == asked[name] for found, asked in answers) >= 18, name


def test_another_seed_is_another_film_and_the_same_seed_the_same(engine, rendered):
    one, other = (rendered(prompt=BOAT, seed=seed, **QUICK) for seed in (1, 2))
    assert np.array_equal(one, generate(engine, prompt=BOAT, seed=1, **QUICK))
    assert difference(one, other) > 4


def test_guidance_pulls_towards_the_prompt(rendered):
    weak, strong = (rendered(prompt=BOAT, guidance_scale=scale, **QUICK) for scale in (1, 6))
    assert difference(weak, strong) > 2


def test_more_steps_refine_the_same_film(rendered):
    few, other = (rendered(prompt=BOAT, seed=seed, **QUICK) for seed in (1, 2))
    many = rendered(prompt=BOAT, seed=1, num_frames=17, num_inference_steps=30)
    assert 0.5 < difference(few, many) < difference(few, other)


def test_a_negative_prompt_drives_the_night_away(engine):
    open_hour = "A red boat on the sea"
    brightness = [
        np.mean([generate(engine, prompt=open_hour, negative_prompt=no, seed=seed, **QUICK).mean() for seed in (1, 2)])
        for no in ("at noon, in bright daylight", "at night, on a dark night")
    ]
    assert brightness[1] > brightness[0] + 10


def test_words_that_nobody_knows_do_no_harm(engine, judge):
    shown = judge.answers(generate(engine, prompt=f"{BOAT}, zyxgle quorb, masterpiece", num_inference_steps=10))
    assert shown["time"] is Time.NOON


# --- pictures and clips ---


def test_a_first_picture_comes_back(engine):
    picture = draw_clip(HELD_OUT, 33)[0]
    given = {"mode": "image_to_video", "image": "a" * 20} | QUICK
    made = generate(engine, Inputs(image=picture), prompt=caption_of(0), **given)
    assert psnr(made[0], picture) > 24
    assert difference(made[0], made[-1]) > 0.5


def test_a_last_picture_is_reached(engine):
    drawn = draw_clip(HELD_OUT, 33)
    given = {"mode": "image_to_video", "image": "a" * 20, "end_image": "b" * 20} | QUICK
    made = generate(engine, Inputs(image=drawn[0], end_image=drawn[-1]), prompt=caption_of(0), **given)
    assert difference(made[-1], drawn[-1]) < difference(made[0], drawn[-1]) or psnr(made[-1], drawn[-1]) > 22


def test_a_clip_goes_on(engine):
    given = draw_clip(HELD_OUT + 1, 33)
    wish = {"mode": "video_extension", "video": "a" * 20, "num_frames": 16, "num_inference_steps": 10}
    made = generate(
        engine, Inputs(prefix=given[-PREFIX:]), Source(WIDTH, HEIGHT, 33, FPS), prompt=caption_of(1), **wish
    )
    assert len(made) == PREFIX + 16
    join, usual = difference(made[PREFIX - 1], made[PREFIX]), difference(given[-2], given[-1])
    assert join < 4 * usual + 4


@pytest.mark.parametrize(
    "options",
    [
        {"base_num_frames": 17, "overlap_history": 5},
        {"ar_step": 2, "causal_block_size": 3},
        {"base_num_frames": 17, "overlap_history": 5, "storyboard": ["A red boat drifts left on the sea at night"]},
        {"addnoise_condition": 20, "base_num_frames": 17, "overlap_history": 5},
        {"fidelity": "diffusers"},
    ],
    ids=["windows", "blocks", "story", "noise", "diffusers"],
)
def test_every_way_of_skyreels_keeps_the_hour(engine, judge, options):
    made = generate(engine, prompt=BOAT, num_inference_steps=10, skyreels=options)
    assert len(made) == SHORT
    assert judge.answers(np.repeat(made[:9], 4, axis=0))["time"] is Time.NOON
