"""Every row of the registry that has released weights, stood in for by a small checkpoint of the same shape: found by
its name, planned, and rendered by the engine in every mode that it claims.
"""

from __future__ import annotations

import numpy as np
import pytest

from backend.core.plan import Machine, Source
from backend.core.planning import make_plan
from backend.core.registry import MODELS, ModelSpec
from backend.core.schema import Mode, parse_request
from backend.engine import Inputs, Task
from backend.library.checkpoints import Checkpoint, find_checkpoints
from backend.skyreels_integration import SkyReelsEngine
from tests.tiny_checkpoints import RELEASED, build_checkpoint

UPLOAD = "0" * 20
PICTURE = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
CLIP = np.random.default_rng(2).integers(0, 256, (21, 64, 96, 3), dtype=np.uint8)
ROWS = [spec for spec in MODELS.values() if spec.repo_id]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def engine() -> SkyReelsEngine:
    return SkyReelsEngine()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`place(spec)`: the checkpoint of that row, in a folder named as the hub names it."""
    root = tmp_path_factory.mktemp("models")

    def find(spec: ModelSpec) -> Checkpoint:
        folder = root / str(spec.repo_id)
        if not folder.exists():
            kind, flags = RELEASED[spec.id]
            build_checkpoint(folder, kind, flags)
        (found,) = (checkpoint for checkpoint in find_checkpoints([root]) if checkpoint.folder == folder)
        return found

    return find


def ways(spec: ModelSpec) -> list[tuple[Mode, bool, dict]]:
    """Modes, with an end picture where the model can, and windows and waiting blocks where it was trained for them."""
    found: list[tuple[Mode, bool, dict]] = [(mode, False, {}) for mode in Mode if mode in spec.modes]
    if spec.end_image:
        found.append((Mode.IMAGE_TO_VIDEO, True, {}))
    if spec.diffusion_forcing:
        found.append((Mode.TEXT_TO_VIDEO, False, {"base_num_frames": 17, "overlap_history": 5}))
        found.append((Mode.TEXT_TO_VIDEO, False, {"ar_step": 2, "causal_block_size": 1}))
    return found


def test_every_released_model_is_stood_in_for():
    assert {spec.id for spec in ROWS} == set(RELEASED)


@pytest.mark.parametrize("spec", ROWS, ids=lambda spec: spec.id)
def test_every_row_makes_films_in_every_mode_that_it_claims(engine, place, spec):
    checkpoint = place(spec)
    assert checkpoint.spec is spec
    films = {}
    for mode, end, skyreels in ways(spec):
        extends = mode is Mode.VIDEO_EXTENSION
        wish = {"mode": mode, "prompt": "A boat", "seed": 7, "resolution": "96x64", "skyreels": skyreels}
        wish |= {"num_frames": 21, "num_inference_steps": 10, "model": spec.id}
        wish |= {"image": UPLOAD} if mode is Mode.IMAGE_TO_VIDEO else {"video": UPLOAD} if extends else {}
        wish |= {"end_image": UPLOAD} if end else {}
        request = parse_request(wish)
        plan = make_plan(request, spec, Machine("CPU", 2, 8.0), Source(96, 64, 21, 24.0) if extends else None)
        assert (plan.fps, plan.flow_shift) == (24 if extends else spec.fps, spec.flow_shift)
        inputs = Inputs(
            image=PICTURE if mode is Mode.IMAGE_TO_VIDEO else None,
            end_image=PICTURE[::-1] if end else None,
            prefix=CLIP[-plan.prefix_frames :] if extends else None,
        )
        reports = []
        film = np.concatenate(list(engine.render(Task(request, plan, inputs, checkpoint.folder), reports.append)))
        size = (plan.render_height, plan.render_width)
        assert film.shape == (plan.render_frames, *size, 3)
        assert reports[-1].stage.value == "decoding"
        films[mode, end, bool(skyreels)] = film.tobytes()
    assert len(set(films.values())) == len(films), "an input makes no difference"
