"""A small moving picture straight from latents, without the VAE: each latent pixel becomes one of a colour.

The colours come from a linear map that is fitted to the VAE in use, once: a few coloured pictures are encoded, and
least squares tell which mixture of the latent channels gives back the red, green and blue of the pixels behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from backend.core.windows import latent_frames
from backend.diffusion.components import Components
from backend.diffusion.conditions import to_latents
from backend.media.fitting import Frames

SIDE = 256  # pixels of the longer side, as shown
FITTED_FRAMES = 5  # two latent frames: the first stands for one frame, the second for four


@dataclass(frozen=True, slots=True)
class Colours:
    """`mixture` has the shape (channels + 1, 3), the last row for a constant; `error` is the root mean square of what
    the map gets wrong on the pictures that it was fitted to, in grey levels of 255.
    """

    mixture: torch.Tensor
    error: float

    def frames(self, latents: torch.Tensor) -> Frames:
        """Normalised (1, channels, latent frames, height, width) -> a frame for each, enlarged to 256 pixels."""
        mixed = torch.einsum("cthw,cr->trhw", latents[0].float().cpu(), self.mixture[:-1])
        mixed += self.mixture[-1].view(1, 3, 1, 1)
        scale = SIDE / max(mixed.shape[2:])
        large = torch.nn.functional.interpolate(mixed, scale_factor=scale, mode="bilinear") if scale > 1 else mixed
        pixels: Frames = large.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return pixels


def fit_colours(components: Components) -> Colours:
    """Encode some coloured pictures with the VAE of `components`, and fit the map to them."""
    factor = components.spatial_factor
    clips = [torch.from_numpy(clip) for clip in _coloured_clips(16 * factor)]
    with torch.no_grad(), components.on_device(components.vae):
        latents = [to_latents(components, (clip * 2 - 1)[None].to(components.device)).float().cpu() for clip in clips]
    known = torch.cat([latent[0].flatten(1).T for latent in latents]).double()
    known = torch.cat([known, known.new_ones(len(known), 1)], dim=1)
    wanted = torch.cat([_averages(clip, factor).flatten(1).T for clip in clips]).double() * 255
    mixture = torch.linalg.lstsq(known, wanted, driver="gelsd").solution
    error = (known @ mixture - wanted).square().mean().sqrt().item()
    return Colours(mixture.float(), error)


def _averages(clip: torch.Tensor, factor: int) -> torch.Tensor:
    """(3, frames, height, width) -> the mean colour of what each latent pixel stands for."""
    small = torch.nn.functional.avg_pool2d(clip.transpose(0, 1), factor).transpose(0, 1)
    groups = [small[:, :1], *small[:, 1:].split(4, dim=1)]
    assert len(groups) == latent_frames(FITTED_FRAMES)
    return torch.stack([group.mean(dim=1) for group in groups], dim=1)


def _coloured_clips(side: int) -> list[np.ndarray]:
    """Clips of shape (3, frames, side, side), 0 to 1: soft gradients, and patches of all colours with hard edges, that
    drift a little. The same every time.
    """
    random = np.random.default_rng(0)
    down, across = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    clips = []
    for number in range(6):
        corners = random.uniform(0, 1, (3, 3))
        frames = []
        for frame in range(FITTED_FRAMES):
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
