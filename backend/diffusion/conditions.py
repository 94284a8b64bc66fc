"""Conditions besides the prompt, as latents: a first picture, a last picture, or the end of a video to extend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from backend.core.plan import Plan
from backend.diffusion.components import Components
from backend.engine import Inputs
from backend.media.fitting import Frames, Picture


@dataclass(frozen=True, slots=True)
class Conditions:
    """Encoded conditions. Latents are normalised, float32, of shape (1, channels, latent frames, height, width).

    `prefix` and `end` are for diffusion forcing: context frames at the beginning, and one behind the last frame.
    `channels` and `image_tokens` are for image-to-video models: 4 mask channels and the latents of the pictures,
    concatenated to every input, and the CLIP embedding of the first picture, of shape (1, tokens, image_dim). `control`
    is for Wan-VACE: latents of the given frames, latents of the frames to change, and a mask, of shape
    (1, 2 channels + spatial_factor^2, latent frames, height, width).
    """

    prefix: torch.Tensor | None = None
    end: torch.Tensor | None = None
    channels: torch.Tensor | None = None
    image_tokens: torch.Tensor | None = None
    control: torch.Tensor | None = None


def encode_conditions(components: Components, plan: Plan, inputs: Inputs) -> Conditions:
    """Encode the inputs of a render for this model. A prefix has 4k+1 frames."""
    image = inputs.image
    with torch.no_grad():
        if not components.per_frame_timesteps:
            if image is None and not components.is_vace:
                return Conditions()
            given = _given_frames(components, plan, inputs)
            if image is None or components.is_vace:
                return Conditions(control=_control(components, *given))
            return _for_image_to_video(components, image, *given)
        with components.on_device(components.vae):
            first, last = (
                None if frames is None else to_latents(components, _to_tensor(components, frames))
                for frames in _first_and_last(inputs)
            )
            return Conditions(prefix=first, end=last)


def _first_and_last(inputs: Inputs) -> tuple[Frames | None, Frames | None]:
    """The frames that a render begins with, and the one that it ends with."""
    first = inputs.image[None] if inputs.prefix is None and inputs.image is not None else inputs.prefix
    return first, None if inputs.end_image is None else inputs.end_image[None]


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
    """Encode (1, 3, frames, height, width) of -1 to 1 into normalised latents, the mode of the distribution."""
    vae = components.vae
    mean, inverse_std = latent_statistics(vae)
    return (vae.encode(video.to(vae.dtype)).latent_dist.mode().float() - mean) * inverse_std


def _given_frames(components: Components, plan: Plan, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """A clip with the given frames, of shape (1, 3, frames, height, width), mid-grey elsewhere as in training; and a
    mask that is 1 for given frames, of shape (frames,). The last frame that is delivered, and those rendered after it,
    are the end picture.
    """
    first, last = _first_and_last(inputs)
    video = torch.zeros(1, 3, plan.render_frames, plan.render_height, plan.render_width, device=components.device)
    mask = torch.zeros(plan.render_frames, device=components.device)
    if first is not None:
        video[:, :, : len(first)] = _to_tensor(components, first)
        mask[: len(first)] = 1
    if last is not None:
        end = plan.prefix_frames + plan.num_frames - 1
        video[:, :, end:] = _to_tensor(components, last)
        mask[end:] = 1
    return video, mask


def _for_image_to_video(components: Components, image: Picture, video: torch.Tensor, mask: torch.Tensor) -> Conditions:
    with components.on_device(components.vae):
        latents = to_latents(components, video)
    # A latent frame is four pixel frames, except the first one: it is one frame, whose mask is repeated.
    mask_channels = torch.cat([mask[:1].repeat(4), mask[1:]]).view(-1, 4).T.view(1, 4, -1, 1, 1)
    channels = torch.cat([mask_channels.expand(-1, -1, *latents.shape[2:]), latents], dim=1)
    encoder = components.image_encoder
    if encoder is None:
        return Conditions(channels=channels)
    with components.on_device(encoder):
        processed = components.image_processor(images=Image.fromarray(image), return_tensors="pt")
        pixels = processed.pixel_values.to(components.device, encoder.dtype)
        tokens = encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    return Conditions(channels=channels, image_tokens=tokens.to(components.transformer.dtype))


def _control(components: Components, video: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The control input of Wan-VACE: given frames, frames to change, of which there are none, and a mask."""
    with components.on_device(components.vae):
        given = to_latents(components, video)
        changed = to_latents(components, torch.zeros_like(video)) if mask.any() else given
    frames, rows, columns = given.shape[2:]
    # The mask of a latent frame is that of one of its pixel frames, not always the first, as in diffusers.
    to_change = torch.nn.functional.interpolate(
        (1 - mask).view(1, 1, -1, 1, 1), size=(frames, 1, 1), mode="nearest-exact"
    ).expand(-1, components.spatial_factor**2, -1, rows, columns)
    return torch.cat([given, changed, to_change], dim=1).to(components.transformer.dtype)
