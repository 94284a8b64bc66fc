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
    and one behind its last. `channels` and `image_tokens` belong to the image-to-video classes: 4 mask channels and the
    pictures' latents, joined to every input, and what CLIP sees in the first, of shape (1, tokens, image_dim).
    `control` belongs to Wan-VACE: latents of what is given, latents of what is to be changed, and where, of shape
    (1, 2 channels + spatial_factor^2, latent frames, height, width).
    """

    prefix: torch.Tensor | None = None
    end: torch.Tensor | None = None
    channels: torch.Tensor | None = None
    image_tokens: torch.Tensor | None = None
    control: torch.Tensor | None = None


def encode_conditions(
    components: Components,
    num_frames: int,
    image: Picture | None = None,
    end_image: Picture | None = None,
    prefix: Frames | None = None,
    *,
    size: tuple[int, int] | None = None,
    kept: int | None = None,
) -> Conditions:
    """Pictures and frames, of the film's size, encoded for this model. `prefix` has 4k+1 frames.

    The other arguments matter to models without diffusion forcing: `num_frames` is the film's length, of which the
    first `kept` are for keeping, the last picture at their end; `size` is (width, height), where no picture tells it.
    """
    with torch.no_grad():
        first = image[None] if prefix is None and image is not None else prefix
        if not components.per_frame_timesteps:
            if image is None and not components.is_vace:
                return Conditions()
            film = _film(components, num_frames, size, kept or num_frames, first, end_image)
            if image is None or components.is_vace:
                return Conditions(control=_control(components, *film))
            return _for_image_to_video(components, image, *film)
        with components.on_device(components.vae):
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


def _film(
    components: Components,
    num_frames: int,
    size: tuple[int, int] | None,
    kept: int,
    first: Frames | None,
    end_image: Picture | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A film as far as it is given, of shape (1, 3, frames, height, width), mid-grey elsewhere as in training; and
    which of its frames are given, 1 or 0, of shape (frames,).
    """
    shown = [frames for frames in (first, None if end_image is None else end_image[None]) if frames is not None]
    width, height = (shown[0].shape[2], shown[0].shape[1]) if size is None else size
    video = torch.zeros(1, 3, num_frames, height, width, device=components.device)
    known = torch.zeros(num_frames, device=components.device)
    if first is not None:
        video[:, :, : len(first)] = _to_tensor(components, first)
        known[: len(first)] = 1
    if end_image is not None:
        video[:, :, kept - 1 :] = _to_tensor(components, end_image[None])
        known[kept - 1 :] = 1
    return video, known


def _for_image_to_video(components: Components, image: Picture, video: torch.Tensor, known: torch.Tensor) -> Conditions:
    with components.on_device(components.vae):
        latents = to_latents(components, video)
    # A latent frame has four pixel frames, which only the first one stands for alone.
    mask = torch.cat([known[:1].repeat(4), known[1:]]).view(-1, 4).T.view(1, 4, -1, 1, 1)
    channels = torch.cat([mask.expand(-1, -1, *latents.shape[2:]), latents], dim=1)
    encoder = components.image_encoder
    if encoder is None:
        return Conditions(channels=channels)
    with components.on_device(encoder):
        seen = components.image_processor(images=Image.fromarray(image), return_tensors="pt")
        pixels = seen.pixel_values.to(components.device, encoder.dtype)
        tokens = encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    return Conditions(channels=channels, image_tokens=tokens.to(components.transformer.dtype))


def _control(components: Components, video: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """What Wan-VACE is shown: the given frames, then those to be changed, of which there are none, and where."""
    with components.on_device(components.vae):
        given = to_latents(components, video)
        changed = to_latents(components, torch.zeros_like(video)) if known.any() else given
    frames, rows, columns = given.shape[2:]
    # Which of its pixel frames a latent frame asks is that of diffusers and the original: not always the first.
    wanted = torch.nn.functional.interpolate(
        (1 - known).view(1, 1, -1, 1, 1), size=(frames, 1, 1), mode="nearest-exact"
    ).expand(-1, components.spatial_factor**2, -1, rows, columns)
    return torch.cat([given, changed, wanted], dim=1).to(components.transformer.dtype)
