"""The VAE's convolutions on a CPU: in time by adding, in space by the kernels of two dimensions, which are quick there.

Of the two, torch's convolution of three dimensions takes up to eight times as long for the few frames that a VAE sees
at once. The sums are the same, in another order.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch.nn import functional


class PlaneConv(WanCausalConv3d):  # type: ignore[misc]
    """The stock layer; one convolution a frame and tap in time where `by_planes` says so."""

    by_planes = False

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if not self.by_planes or self.stride != (1, 1, 1):
            whole: torch.Tensor = super()._conv_forward(x, weight, bias)
            return whole
        taps = weight.shape[2]
        frames = x.shape[2] - taps + 1
        planes = x.transpose(1, 2)  # (batch, frames, channels, height, width)
        total = functional.conv2d(planes[:, :frames].flatten(0, 1), weight[:, :, 0], bias)
        for tap in range(1, taps):
            total += functional.conv2d(planes[:, tap : tap + frames].flatten(0, 1), weight[:, :, tap])
        return total.unflatten(0, (-1, frames)).transpose(1, 2)


def convolve_by_planes(vae: Any, on: bool) -> None:
    """Have all convolutions of `vae` in time and space work frame by frame, or as the stock VAE does."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.__class__ = PlaneConv
            module.by_planes = on
