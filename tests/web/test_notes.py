"""Notes through the doors, and what is chosen where a request names nothing: the shape and the seed."""

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from backend.core.config import ROOT
from backend.core.registry import TINY
from tests.lora_files import write_lora
from tests.media_files import write_film
from tests.tiny_checkpoints import build_checkpoint


@pytest.fixture
def upload(client, tmp_path):
    def send(width, height, fps=0):
        file = tmp_path / ("clip.mp4" if fps else "picture.png")
        if fps:
            write_film(file, [np.zeros((24, height, width, 3), np.uint8)], fps=fps, width=width, height=height)
        else:
            Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(file)
        answer = client.post(f"/api/v1/uploads?filename={file.name}", content=file.read_bytes())
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    return send


SMALL = {"prompt": "a boat", "num_frames": 16, "num_inference_steps": 10, "model": "synthetic"}


def plan(client, **fields):
    answer = client.post("/api/v1/plan", json=SMALL | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_plan_and_its_job_have_the_notes(client, generator):
    generator.pause_queue(True)
    assert plan(client)["notes"] == []
    fields = SMALL | {"prompt": "a boat <lora:x:1>", "negative_prompt": "blur"}
    notes = plan(client, **fields)["notes"]
    assert len(notes) == 2
    job = client.post("/api/v1/jobs", json=fields).json()
    assert client.get(f"/api/v1/jobs/{job['id']}").json()["plan"]["notes"] == notes


@pytest.mark.parametrize(
    ("size", "expected"), [((96, 128), (540, 960)), ((128, 96), (960, 540)), ((128, 128), (720, 720))]
)
def test_the_shape_follows_a_picture_where_none_is_named(client, generator, upload, size, expected):
    generator.pause_queue(True)
    fields = {"mode": "image_to_video", "image": upload(*size)}
    found = plan(client, **fields)
    assert (found["width"], found["height"]) == expected
    assert found["notes"][0].startswith("The shape follows the picture")
    job = client.post("/api/v1/jobs", json=SMALL | fields).json()
    assert (job["plan"]["width"], job["plan"]["height"]) == expected
    again = client.post(f"/api/v1/jobs/{job['id']}/again").json()
    assert (again["plan"]["width"], again["plan"]["height"]) == expected
    assert again["request"]["orientation"] == job["request"]["orientation"]
    for named, size in (({"orientation": "landscape"}, (960, 540)), ({"resolution": "128x96"}, (128, 96))):
        found = plan(client, **fields, **named)
        assert (found["width"], found["height"], found["notes"]) == (*size, [])


def test_words_that_a_small_model_does_not_know_are_in_its_plan(client, generator):
    generator.settings.models.mkdir(parents=True, exist_ok=True)
    (generator.settings.models / TINY.id).symlink_to(ROOT / "models" / TINY.id)
    found = plan(client, model=TINY.id, prompt="A cat in a red boat")
    assert found["unknown_words"] == ["cat"]
    assert found["notes"] == ["SkyReels V2 Tiny does not know: cat. It will draw something else."]
    assert plan(client, prompt="A cat in a red boat")["unknown_words"] == []  # of the test pattern


def test_the_shape_and_rate_of_a_video_are_said(client, upload):
    found = plan(client, mode="video_extension", video=upload(96, 128, fps=60), fps=24)
    assert (found["width"], found["height"]) == (540, 960)
    assert [note.split()[1] for note in found["notes"]] == ["shape", "source"]


def test_seed_minus_one_is_drawn_and_stored(client, generator):
    generator.pause_queue(True)
    assert plan(client, seed=-1)["notes"][0].startswith("Seed -1 means random")
    answers = [client.post("/api/v1/jobs", json=SMALL | {"seed": -1}).json() for _ in range(2)]
    seeds = [answer["request"]["seed"] for answer in answers]
    assert seeds[0] != seeds[1]
    assert min(seeds) >= 0
    again = client.post(f"/api/v1/jobs/{answers[0]['id']}/again", json={"seed": -1})
    assert again.json()["request"]["seed"] >= 0


def test_the_same_key_with_seed_minus_one_is_the_same_job(client, generator):
    generator.pause_queue(True)
    send = {"json": SMALL | {"seed": -1}, "headers": {"Idempotency-Key": "k"}}
    first, second = (client.post("/api/v1/jobs", **send).json() for _ in range(2))
    assert first["id"] == second["id"]


def test_layers_of_a_lora_for_the_second_expert_of_two_are_said(client, generator, tmp_path):
    build_checkpoint(generator.settings.models / "Mine", "wan-t2v")
    file = write_lora(tmp_path / "low.safetensors")
    second = {key.replace("transformer.", "transformer_2."): value for key, value in load_file(file).items()}
    folder = generator.settings.models / "loras"
    folder.mkdir()
    save_file(second, folder / "low.safetensors")
    found = plan(client, model="mine", loras=[{"name": "low"}])
    note = "The LoRA low was made for the second expert of Wan 2.2, and Mine has one transformer."
    assert [words for words in found["notes"] if "LoRA" in words] == [note]
