"""What a film must show besides its prompt: a first picture, a last one, or the end of another film, as latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from backend.diffusion.components import Components
from backend.media.fitting import Frames, Picture


@dataclass(frozen=True, slots=True)
class Conditions:
    """Normalised latents are float32 of shape (1, channels, latent frames, height, width).

    `prefix` and `end` belong to diffusion forcing: latent frames that are given and never change, the first of the film
    and one behind its last. `channels` and `image_tokens` belong to the image-to-video class: 4 mask channels and the
    picture's latents, joined to every input, and what CLIP sees in the picture, of shape (1, tokens, image_dim).
    """

    prefix: torch.Tensor | None = None
    end: torch.Tensor | None = None
    channels: torch.Tensor | None = None
    image_tokens: torch.Tensor | None = None


def encode_conditions(
    components: Components,
    num_frames: int,
    image: Picture | None = None,
    end_image: Picture | None = None,
    prefix: Frames | None = None,
) -> Conditions:
    """Pictures and frames, of the film's size, encoded for this model.

    `num_frames` is the film's length, which the image-to-video class wants to know. `prefix` has 4k+1 frames.
    """
    with torch.no_grad():
        if not components.diffusion_forcing:
            return _for_image_to_video(components, num_frames, image) if image is not None else Conditions()
        first = image[None] if prefix is None and image is not None else prefix
        with components.at_work(components.vae):
            return Conditions(
                prefix=None if first is None else to_latents(components, _to_tensor(components, first)),
                end=None if end_image is None else to_latents(components, _to_tensor(components, end_image[None])),
            )


def latent_statistics(vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and inverse standard deviation of the VAE's latents, each of shape (1, channels, 1, 1, 1)."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean, device=vae.device).view(shape)
    return mean, 1.0 / torch.tensor(vae.config.latents_std, device=vae.device).view(shape)


def _to_tensor(components: Components, frames: Frames) -> torch.Tensor:
    """(frames, height, width, 3) of 0 to 255 -> (1, 3, frames, height, width) of -1 to 1, float32."""
    scaled = torch.from_numpy(np.ascontiguousarray(frames)).to(components.device).float() / 255.0
    return 2.0 * scaled.permute(3, 0, 1, 2)[None] - 1.0


def to_latents(components: Components, video: torch.Tensor) -> torch.Tensor:
    vae = components.vae
    mean, inverse_std = latent_statistics(vae)
    return (vae.encode(video.to(vae.dtype)).latent_dist.mode().float() - mean) * inverse_std


def _for_image_to_video(components: Components, num_frames: int, image: Picture) -> Conditions:
    first = _to_tensor(components, image[None])
    # The model was trained on the picture followed by mid-grey frames, not on the picture alone.
    grey = first.new_zeros(1, 3, num_frames - 1, *first.shape[3:])
    with components.at_work(components.vae):
        latents = to_latents(components, torch.cat([first, grey], dim=2))
    mask = latents.new_zeros(1, 4, *latents.shape[2:])
    mask[:, :, 0] = 1
    with components.at_work(components.image_encoder):
        seen = components.image_processor(images=Image.fromarray(image), return_tensors="pt")
        pixels = seen.pixel_values.to(components.device, components.image_encoder.dtype)
        tokens = components.image_encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    return Conditions(channels=torch.cat([mask, latents], dim=1), image_tokens=tokens.to(components.transformer.dtype))
