"""Training's shortcuts give what the stock classes give: the whole clip at once, and the code as one multiplication."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from training.tiny import linear_codec, whole
from training.tiny.clips import draw_clip
from training.tiny.vae import CHANNELS, new_vae, psnr, to_video


@pytest.fixture(scope="module")
def films():
    return to_video(np.stack([draw_clip(number, 9) for number in range(12)]))


@pytest.fixture(scope="module")
def written(films):
    torch.manual_seed(0)
    vae = new_vae().eval()
    linear_codec.write_encoder(vae, films)
    return vae


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_a_clip_at_once_equals_the_stock_walk(frames):
    torch.manual_seed(0)
    small = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 4], "temperal_downsample": [True, True], "num_res_blocks": 1}
    vae = AutoencoderKLWan(**small, patch_size=2, in_channels=12, out_channels=12).eval()
    video = torch.rand(1, 3, frames, 32, 48) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()
        torch.testing.assert_close(whole.encode(vae, video), latents, atol=1e-5, rtol=0)
        shown = vae.decode(latents).sample
        torch.testing.assert_close(whole.decode(vae, latents).clamp(-1, 1), shown, atol=1e-5, rtol=0)


def test_the_code_is_what_the_stock_encoder_gives(written, films):
    with torch.no_grad():
        stock = written.encode(films[:2]).latent_dist.mode()
    torch.testing.assert_close(linear_codec.LinearCodec(written).encode(films[:2]), stock, atol=2e-3, rtol=0)
    assert stock.shape == (2, CHANNELS, 3, 12, 20)
    assert 0.8 < stock.std() < 1.2


def test_the_code_holds_the_picture(written, films):
    """A linear decoder, by least squares, gives back films that the code was not made from."""
    linear = linear_codec.LinearCodec(written)
    other = to_video(np.stack([draw_clip(number, 9) for number in range(100, 106)]))

    def pairs(video):
        latents = linear.encode(video)[:, :, 1:].movedim(1, -1).flatten(0, 3)
        return torch.cat([latents, torch.ones(len(latents), 1)], dim=1), linear_codec._blocks(
            video[:, :, 1:], 4
        ).flatten(0, 3)

    known, wanted = pairs(films)
    weights = torch.linalg.lstsq(known, wanted).solution
    known, wanted = pairs(other)
    assert psnr((known @ weights)[None], wanted[None]).item() > 22
