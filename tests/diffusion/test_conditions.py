from __future__ import annotations

import pytest
import torch

from backend.diffusion.conditions import encode_conditions, latent_statistics
from backend.engine import Inputs


def test_nothing_given_is_nothing_encoded(components, plan_for):
    for kind in ("df", "t2v"):
        conditions = encode_conditions(components[kind], plan_for(kind), Inputs())
        assert (conditions.prefix, conditions.end, conditions.channels, conditions.image_tokens) == (None,) * 4


def test_forcing_takes_pictures_and_films_as_latents(components, plan_for, picture, last_picture, clip):
    parts = components["df"]
    one = encode_conditions(parts, plan_for("df"), Inputs(picture, last_picture))
    assert one.prefix.shape == one.end.shape == (1, 16, 1, 8, 8)
    assert not torch.equal(one.prefix, one.end)
    conditions = encode_conditions(parts, plan_for("df", 17), Inputs(prefix=clip))
    assert conditions.prefix.shape == (1, 16, 5, 8, 8)
    still = encode_conditions(parts, plan_for("df"), Inputs(clip[0])).prefix
    assert torch.equal(conditions.prefix[:, :, :1], still)


def test_latents_are_normalised(components, plan_for, picture):
    parts = components["df"]
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    with torch.no_grad():
        raw = parts.vae.encode(pixels).latent_dist.mode()
    mean, inverse_std = latent_statistics(parts.vae)
    normalised = encode_conditions(parts, plan_for("df"), Inputs(picture)).prefix
    torch.testing.assert_close(normalised / inverse_std + mean, raw, atol=1e-5, rtol=1e-5)
    assert mean.flatten()[0] == pytest.approx(-0.7571)
    assert 1 / inverse_std.flatten()[0] == pytest.approx(2.8184)


def test_image_to_video_takes_mask_channels_and_clip_tokens(components, plan_for, picture, last_picture):
    plan = plan_for("i2v", mode="image_to_video")
    ours = encode_conditions(components["i2v"], plan, Inputs(picture))
    assert ours.channels.shape == (1, 20, 5, 8, 8)
    mask = ours.channels[:, :4]
    assert mask[:, :, 0].eq(1).all()
    assert mask[:, :, 1:].eq(0).all()
    assert ours.image_tokens.shape == (1, 5, 32)
    other = encode_conditions(components["i2v"], plan, Inputs(last_picture))
    assert not torch.equal(ours.image_tokens, other.image_tokens)
