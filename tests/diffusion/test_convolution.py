from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

from backend.diffusion.convolution import PlaneConv, convolve_by_planes
from tests.tiny_checkpoints import new_vae


@pytest.mark.parametrize(("kernel", "stride", "padding"), [((3, 3, 3), 1, 1), ((3, 1, 1), 1, (1, 0, 0)), (1, 1, 0)])
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 4), (2, 3)])
def test_frame_by_frame_it_is_the_same_convolution(kernel, stride, padding, batch, frames):
    torch.manual_seed(0)
    layer = WanCausalConv3d(6, 10, kernel, stride, padding)
    video, past = torch.randn(batch, 6, frames, 9, 7), torch.randn(batch, 6, 2, 9, 7)
    with torch.no_grad():
        wanted = [layer(video), layer(video, past)]
        layer.__class__ = PlaneConv
        layer.by_planes = True
        found = [layer(video), layer(video, past)]
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_a_vae_works_either_way_and_back_in_the_same_bits():
    torch.manual_seed(0)
    vae = new_vae().eval()
    video = torch.rand(1, 3, 9, 32, 48) * 2 - 1

    def there_and_back():
        with torch.no_grad():
            return vae.decode(vae.encode(video).latent_dist.mode()).sample

    stock = there_and_back()
    convolve_by_planes(vae, True)
    planes = there_and_back()
    convolve_by_planes(vae, False)
    assert not torch.equal(planes, stock)  # or it was not switched on
    torch.testing.assert_close(planes, stock, rtol=1e-4, atol=1e-5)
    assert torch.equal(there_and_back(), stock)
