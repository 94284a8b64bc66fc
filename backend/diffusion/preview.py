"""Previews: latents shown as a small RGB clip without the VAE, one pixel per latent pixel.

A linear map turns the latent channels into RGB, as in the latent previews of other programs (`latent_rgb_factors`). It
is fitted to the loaded VAE by least squares: a few coloured clips are encoded, and the map must return their colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from backend.core.windows import latent_frames
from backend.diffusion.components import Components
from backend.diffusion.conditions import to_latents
from backend.media.fitting import Frames

PREVIEW_SIZE = 256  # pixels of the longer side
FIT_FRAMES = 5  # two latent frames: the first is one frame, the second is four


@dataclass(frozen=True, slots=True)
class LatentRgbFactors:
    """The linear map from latents to RGB. `factors` has the shape (channels + 1, 3), with the bias in the last row;
    `error` is the root mean square error on the clips that the map was fitted to, in levels of 255.
    """

    factors: torch.Tensor
    error: float

    def preview(self, latents: torch.Tensor) -> Frames:
        """Normalised (1, channels, latent frames, height, width) -> a frame for each, enlarged to PREVIEW_SIZE."""
        rgb = torch.einsum("cthw,cr->trhw", latents[0].float().cpu(), self.factors[:-1])
        rgb += self.factors[-1].view(1, 3, 1, 1)
        scale = PREVIEW_SIZE / max(rgb.shape[2:])
        large = torch.nn.functional.interpolate(rgb, scale_factor=scale, mode="bilinear") if scale > 1 else rgb
        pixels: Frames = large.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return pixels


def fit_latent_rgb(components: Components) -> LatentRgbFactors:
    """Fit the map from latents to RGB to the VAE of `components`."""
    factor = components.spatial_factor
    clips = [torch.from_numpy(clip) for clip in _coloured_clips(16 * factor)]
    with torch.no_grad(), components.on_device(components.vae):
        latents = [to_latents(components, (clip * 2 - 1)[None].to(components.device)).float().cpu() for clip in clips]
    inputs = torch.cat([latent[0].flatten(1).T for latent in latents]).double()
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    targets = torch.cat([_mean_colours(clip, factor).flatten(1).T for clip in clips]).double() * 255
    factors = torch.linalg.lstsq(inputs, targets, driver="gelsd").solution
    error = (inputs @ factors - targets).square().mean().sqrt().item()
    return LatentRgbFactors(factors.float(), error)


def _mean_colours(clip: torch.Tensor, factor: int) -> torch.Tensor:
    """(3, frames, height, width) -> the mean colour of the pixels of each latent pixel."""
    small = torch.nn.functional.avg_pool2d(clip.transpose(0, 1), factor).transpose(0, 1)
    groups = [small[:, :1], *small[:, 1:].split(4, dim=1)]
    assert len(groups) == latent_frames(FIT_FRAMES)
    return torch.stack([group.mean(dim=1) for group in groups], dim=1)


def _coloured_clips(side: int) -> list[np.ndarray]:
    """Clips of shape (3, frames, side, side), 0 to 1: gradients, and tiles of all colours, that move slowly. Always the
    same.
    """
    random = np.random.default_rng(0)
    down, across = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    clips = []
    for number in range(6):
        corners = random.uniform(0, 1, (3, 3))
        frames = []
        for frame in range(FIT_FRAMES):
            shift = 0.05 * frame
            if number % 2:
                frames.append(np.roll(_tiles(number, side), 2 * frame, axis=2))
            else:
                parts = corners[0] + np.multiply.outer(across + shift, corners[1] - 0.5)
                parts = parts + np.multiply.outer(down - shift, corners[2] - 0.5)
                frames.append(parts.clip(0, 1).transpose(2, 0, 1))
        clips.append(np.stack(frames, axis=1).astype(np.float32))
    return clips


def _tiles(seed: int, side: int) -> np.ndarray:
    """(3, side, side): 8 x 8 tiles, each of one colour."""
    colours = np.random.default_rng(seed).uniform(0, 1, (3, 8, 8))
    return colours.repeat(side // 8, axis=1).repeat(side // 8, axis=2)
