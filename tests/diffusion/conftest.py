"""Tiny random checkpoints, loaded as released ones are, and plans for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.core.planning import Machine, Plan, Source, make_plan
from backend.core.schema import parse_request
from backend.library.checkpoints import find_checkpoints
from tests.tiny_checkpoints import KINDS, build_checkpoint

MACHINE = Machine(device="CPU, 2 cores", cores=2, ram_gib=8.0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Threads of tiny tensors mostly wait for one another: on two busy cores two of them take twenty times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Folders by kind: df, t2v, i2v."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: build_checkpoint(root / f"random-{kind}", kind) for kind in KINDS}


@pytest.fixture(scope="session")
def components(checkpoints) -> dict[str, Any]:
    """The checkpoints' components by kind, on the CPU."""
    import torch

    from backend.diffusion.components import load_components

    return {
        kind: load_components(folder, torch.device("cpu"), lambda part: None) for kind, folder in checkpoints.items()
    }


@pytest.fixture(scope="session")
def plan_for(checkpoints) -> Callable[..., Plan]:
    """`plan_for("df", num_frames=29, skyreels={...}, source_frames=40)`: the studio's own plan, 64x64 and 10 steps."""
    specs = {c.folder.name: c.spec for c in find_checkpoints([next(iter(checkpoints.values())).parent])}

    def plan(kind: str, source_frames: int = 0, **wishes: Any) -> Plan:
        upload = "0" * 20
        if source_frames:
            wishes |= {"mode": "video_extension", "video": upload}
        elif wishes.get("mode") == "image_to_video":
            wishes["image"] = upload
        if wishes.pop("end", False):
            wishes["end_image"] = upload
        defaults = {"prompt": "A boat", "resolution": "64x64", "num_inference_steps": 10, "num_frames": 17, "seed": 7}
        request = parse_request(defaults | wishes)
        source = Source(64, 64, source_frames, 24.0) if source_frames else None
        return make_plan(request, specs[f"random-{kind}"], MACHINE, source)

    return plan


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture
def last_picture() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture
def clip() -> np.ndarray:
    """17 frames."""
    return np.random.default_rng(3).integers(0, 256, (17, 64, 64, 3), dtype=np.uint8)
