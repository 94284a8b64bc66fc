"""Latents to frames, one latent frame at a time: memory is flat in the length of the film."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify

from backend.diffusion.conditions import latent_statistics
from backend.media.fitting import Frames


def decode(vae: Any, latents: torch.Tensor) -> Iterator[Frames]:
    """Yield 1 frame, then 4 for every further latent frame.

    `latents` are normalised, of shape (1, channels, latent frames, height, width). The frames equal those of
    `vae.decode` on all of them: the decoder only looks back, and what it needs of the past it keeps in a cache.
    """
    mean, inverse_std = latent_statistics(vae)
    cache: list[Any] = [None] * sum(isinstance(module, WanCausalConv3d) for module in vae.decoder.modules())
    for number in range(latents.shape[2]):
        with torch.no_grad():
            latent = (latents[:, :, number : number + 1].to(vae.device) / inverse_std + mean).to(vae.dtype)
            latent = vae.post_quant_conv(latent)
            video = vae.decoder(latent, feat_cache=cache, feat_idx=[0], first_chunk=number == 0)
            if vae.config.patch_size is not None:
                video = unpatchify(video, patch_size=vae.config.patch_size)
            frames = _to_pixels(video)
        yield frames


def _to_pixels(video: torch.Tensor) -> Frames:
    """(1, 3, frames, height, width) of about -1 to 1 -> (frames, height, width, 3) of 0 to 255."""
    scaled = (video.float().clamp(-1.0, 1.0) * 0.5 + 0.5) * 255
    pixels: Frames = scaled.round().to(torch.uint8)[0].permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return pixels
