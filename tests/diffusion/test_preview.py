"""LatentRgbFactors straight from latents."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from backend.diffusion.preview import LatentRgbFactors, fit_latent_rgb


class Averages(torch.nn.Module):
    """A VAE whose 16 channels are mixtures of the mean colour of 8x8 pixels, so that the map can be exact."""

    config = SimpleNamespace(
        z_dim=16, dim_mult=[1, 1, 1, 1], patch_size=None, latents_mean=[0.1] * 16, latents_std=[2.0] * 16
    )
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.mixture = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))

    def encode(self, video: torch.Tensor) -> Any:
        groups = [video[:, :, :1], *(group for group in video[:, :, 1:].split(4, dim=2) if group.shape[2])]
        small = torch.cat([torch.nn.functional.avg_pool3d(g, (g.shape[2], 8, 8)) for g in groups], dim=2)
        latents = torch.einsum("nc,bcthw->bnthw", self.mixture, small) + 0.3
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))


@pytest.fixture
def exact(components):
    return replace(components["df"], vae=Averages())


def test_the_fit_finds_the_colours_of_a_vae_that_mixes_them(exact):
    colours = fit_latent_rgb(exact)
    assert colours.error < 0.01
    wanted = torch.tensor([[255, 0, 0], [0, 200, 40], [10, 20, 250], [90, 90, 90]])
    picture = (wanted / 127.5 - 1).T.reshape(1, 3, 1, 1, 4).repeat_interleave(8, 4).repeat_interleave(32, 3)
    vae = exact.vae
    latents = (vae.encode(picture).latent_dist.mode() - 0.1) / 2.0
    frames = colours.preview(latents)
    assert frames.shape == (1, 256, 256, 3)
    assert np.abs(frames[0, 128, 32::64].astype(int) - wanted.numpy()).max() <= 3


def test_the_fit_is_the_same_every_time(components):
    colours = fit_latent_rgb(components["df"])
    again = fit_latent_rgb(components["df"])
    assert torch.equal(colours.factors, again.factors)
    assert colours.factors.shape == (17, 3)
    assert 0 < colours.error < 128
    assert components["df"].vae._feat_map == [None] * len(components["df"].vae._feat_map)


@pytest.mark.parametrize(
    ("latent", "shown"), [((25, 68, 120), (25, 145, 256)), ((5, 8, 8), (5, 256, 256)), ((2, 300, 400), (2, 300, 400))]
)
def test_a_frame_for_each_latent_frame(latent, shown):
    frames = LatentRgbFactors(torch.full((17, 3), 1e-3), 0.0).preview(torch.randn(1, 16, *latent))
    assert frames.dtype == np.uint8
    assert frames.shape == (*shown, 3)
