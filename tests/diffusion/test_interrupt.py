from __future__ import annotations

import pytest

from backend.core.errors import JobCancelled
from backend.diffusion.conditions import encode_conditions
from backend.diffusion.interrupt import interruptible
from backend.diffusion.sampler import Sampler
from backend.diffusion.text import encode_prompt
from backend.engine import Inputs
from tests.diffusion.conftest import REQUEST


class Check:
    """Raises at the call of that number; 0 never raises."""

    def __init__(self, at: int = 0) -> None:
        self.calls, self.at = 0, at

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise JobCancelled


def hooks(components):
    modules = [
        m for model in (components.transformer, components.text_encoder, components.vae) for m in model.modules()
    ]
    return sum(len(module._forward_pre_hooks) for module in modules)


def test_every_forward_can_be_left_before_any_block(components, plan_for, clip):
    parts, plan = components["df"], plan_for("df", source_frames=17)
    text, conditions = encode_prompt(parts, "A boat", ""), encode_conditions(parts, plan, Inputs(prefix=clip))
    actions = {
        "text": (lambda: encode_prompt(parts, "A boat", ""), 2 * 2),  # blocks x texts
        "conditions": (lambda: encode_conditions(parts, plan, Inputs(prefix=clip)), 5),  # latent frames
        "step": (
            Sampler(parts, plan, REQUEST, [text], conditions).step,
            2 * 2,
        ),  # blocks x guidance
    }
    for action, expected in actions.values():
        for at in range(1, expected + 1):
            check = Check(at)
            with pytest.raises(JobCancelled), interruptible(parts, check):
                action()
            assert check.calls == at
        with interruptible(parts, counter := Check()):
            action()
        assert counter.calls == expected


def test_nothing_is_left_behind(components, plan_for, clip):
    parts, plan = components["df"], plan_for("df", source_frames=17)
    with interruptible(parts, Check(at=3)):
        assert hooks(parts) == 2 + 2 + 1
        with pytest.raises(JobCancelled):
            encode_conditions(parts, plan, Inputs(prefix=clip))
    assert hooks(parts) == 0
    assert parts.vae._enc_feat_map == [None] * len(parts.vae._enc_feat_map)
