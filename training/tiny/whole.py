"""The VAE of diffusers applied to a whole clip at once, for training.

The stock model processes a clip in pieces, with a cache for each layer. Here every layer gets all frames, which gives
the same numbers in fewer and larger operations, and is differentiable.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, patchify, unpatchify


def encode(vae: AutoencoderKLWan, video: torch.Tensor) -> torch.Tensor:
    """The mean of `vae.encode(video).latent_dist`: (batch, 3, 4k+1 frames, height, width) of -1 to 1 -> latents of
    (batch, channels, k+1, height, width), not normalised.
    """
    encoder = vae.encoder
    x = encoder.conv_in(patchify(video, patch_size=vae.config.patch_size))
    for layer in encoder.down_blocks:
        x = down(layer, x) if isinstance(layer, WanResample) else layer(x)
    x = encoder.conv_out(encoder.nonlinearity(encoder.norm_out(encoder.mid_block(x))))
    return vae.quant_conv(x).chunk(2, dim=1)[0]


def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """What `vae.decode(latents)` gives before it clamps to -1 to 1, where gradients would end."""
    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents)))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = resnet(x)
        for upsampler in block.upsamplers or ():
            x = _up(upsampler, x)
    x = decoder.conv_out(decoder.nonlinearity(decoder.norm_out(x)))
    return unpatchify(x, patch_size=vae.config.patch_size)


def down(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Half the size; after the first frame, half the frames."""
    x = _per_frame(layer.resample, x)
    return torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2) if x.shape[2] > 1 else x


def _up(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """After the first frame, twice the frames; then twice the size."""
    if x.shape[2] > 1:
        two = layer.time_conv(x[:, :, 1:]).unflatten(1, (2, -1))  # (batch, 2, channels, frames, height, width)
        x = torch.cat([x[:, :, :1], two.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], dim=2)
    return _per_frame(layer.resample, x)


def _per_frame(layer: Any, x: torch.Tensor) -> torch.Tensor:
    batch = x.shape[0]
    return layer(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, -1)).transpose(1, 2)
