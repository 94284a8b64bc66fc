"""Bodies that a client of version 0.1 sends to the REST API: taken as they are, and planned as that version did.

`bodies-0.1.json` has each body with the plan that version 0.1 made of it.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.core.plan import Machine, Source
from backend.core.planning import make_plan
from backend.core.registry import MODELS
from backend.core.schema import parse_request
from tests.media_files import write_film

BODIES = json.loads(Path(__file__).with_name("bodies-0.1.json").read_text())


@pytest.mark.parametrize("recorded", BODIES, ids=lambda recorded: recorded["body"]["prompt"])
def test_a_body_of_0_1_is_planned_as_0_1_did(recorded):
    body, expected = recorded["body"], recorded["plan"]
    source = Source(960, 540, 240, 24.0) if "video" in body else None
    model = MODELS[body.get("model", "skyreels-v2-df-1.3b-540p")]
    plan = make_plan(parse_request(body), model, Machine("H100", 16, 128, 79), source)
    windows = [[window.start, window.stop] for window in plan.windows]
    found = json.loads(json.dumps({name: getattr(plan, name) for name in expected if name != "windows"}))
    assert found | {"windows": windows} == expected


@pytest.mark.parametrize("recorded", BODIES, ids=lambda recorded: recorded["body"]["prompt"])
def test_a_body_of_0_1_is_queued_with_every_field(client, generator, upload_ids, recorded):
    generator.pause_queue(True)
    body = recorded["body"] | {"model": "synthetic"}
    body |= {name: upload_ids[name] for name in ("image", "end_image", "video") if name in body}
    answer = client.post("/api/v1/jobs", json=body, headers={"Idempotency-Key": body["prompt"]})
    assert answer.status_code == 202, answer.text
    request = answer.json()["request"]
    options = request.pop("skyreels")
    assert {name: request[name] for name in body if name != "skyreels"} == {
        name: value for name, value in body.items() if name != "skyreels"
    }
    assert body.get("skyreels", {}).items() <= options.items()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/prompts/expand", {"prompt": "a cat", "model": "auto", "take": 2, "by_rules": True}),
        ("/api/v1/plan", {"prompt": "a cat", "num_frames": 16, "resolution": "128x96", "model": "synthetic"}),
        ("/api/v1/queue/pause", None),
        ("/api/v1/queue/resume", None),
    ],
)
def test_other_calls_of_0_1_are_answered(client, path, body):
    assert client.post(path, json=body).status_code == 200


@pytest.fixture
def upload_ids(client, tmp_path):
    """Two pictures and a clip, uploaded."""
    picture, clip = tmp_path / "picture.png", tmp_path / "clip.mp4"
    Image.fromarray(np.full((96, 128, 3), 90, np.uint8)).save(picture)
    write_film(clip, [np.zeros((24, 96, 128, 3), np.uint8)], fps=24, width=128, height=96)

    def upload(file):
        answer = client.post(f"/api/v1/uploads?filename={file.name}", content=file.read_bytes())
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    return {"image": upload(picture), "end_image": upload(picture), "video": upload(clip)}
