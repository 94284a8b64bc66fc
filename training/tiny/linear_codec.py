"""A linear VAE encoder: its weights are computed by principal component analysis (PCA) instead of trained.

The strided convolutions of the stock encoder merge 2 x 2 pixels, then two frames, and keep the strongest principal
components each time: spatial ones of the mean of two frames, temporal ones of their difference. Residual branches are
zero. The last normalisation and activation are not linear, so one channel is made so large that it alone determines
the norm, and a constant moves all others to where the activation is linear; the last convolution undoes both. The
codec is deterministic and needs no training, so the denoiser and the decoder are trained independently of each other.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanResidualBlock, patchify
from torch import Tensor, nn

from training.tiny import whole

SIDE = 8  # pixels that a latent pixel stands for, along one side
SPATIAL = (30, 50)  # spatial components that the two mergers keep; their other channels are temporal
LIFT = 100.0  # larger than any component
LOUD = 3e4  # so large that it determines the norm


@torch.no_grad()  # type: ignore[untyped-decorator]
def write_encoder(vae: AutoencoderKLWan, video: Tensor) -> None:
    """Set the encoder's weights to the PCA of the clips in `video`, (clips, 3, 4k+1 frames, height, width)."""
    encoder, width = vae.encoder, vae.config.base_dim
    for module in encoder.modules():
        if isinstance(module, WanResidualBlock):
            _zero(module.conv2)
            if not isinstance(module.conv_shortcut, nn.Identity):
                _embed(module.conv_shortcut)
    for attention in encoder.mid_block.attentions:
        _zero(attention.proj)
    _embed(encoder.conv_in)
    features = encoder.conv_in(patchify(video, patch_size=vae.config.patch_size))
    kept = width
    for layer, spatial in zip(_mergers(encoder), SPATIAL, strict=True):
        kept = _write_merger(layer, features[:, :kept], spatial)
        features = whole.down(layer, features)
        features = nn.functional.pad(features, (0, 0, 0, 0, 0, 0, 0, 2 * width - features.shape[1]))
    _write_head(vae, features, kept)


class LinearCodec:
    """The linear encoder of `vae` as two matrices over blocks of 8 x 8 pixels and 1 or 4 frames. One multiplication
    gives the latents of `vae.encode`, not normalised.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        def encode(block: Tensor) -> Tensor:
            return whole.encode(vae, block)[0, :, :, 0, 0].T  # (2 latent frames, channels)

        nothing = torch.zeros(1, 3, 5, SIDE, SIDE)
        slope = torch.func.jacrev(encode)(nothing)[:, :, 0]  # (2, channels, 3, 5, 16, 16)
        self.first, self.later = slope[0, :, :, 0].flatten(1).T, slope[1, :, :, 1:].flatten(1).T
        self.level = encode(nothing).detach()

    def to(self, device: torch.device) -> LinearCodec:
        """Move the matrices to `device`; returns the same object."""
        self.first, self.later, self.level = (x.to(device) for x in (self.first, self.later, self.level))
        return self

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def encode(self, video: Tensor) -> Tensor:
        """(batch, 3, 4k+1 frames, height, width) -> (batch, channels, k+1, height / 8, width / 8)."""
        first, later = _blocks(video[:, :, :1], 1) @ self.first, _blocks(video[:, :, 1:], 4) @ self.later
        return torch.cat([first + self.level[0], later + self.level[1]], dim=1).movedim(-1, 1)


def _blocks(video: Tensor, frames: int) -> Tensor:
    """(batch, 3, frames, height, width) -> (batch, groups of `frames`, height / 8, width / 8, values)."""
    split = video.unflatten(4, (-1, SIDE)).unflatten(3, (-1, SIDE)).unflatten(2, (-1, frames))
    return split.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def _mergers(encoder: nn.Module) -> list[WanResample]:
    return [layer for layer in encoder.down_blocks if isinstance(layer, WanResample)]


def _zero(layer: nn.Module) -> None:
    layer.weight.zero_()
    layer.bias.zero_()


def _embed(layer: nn.Conv3d) -> None:
    """Make the layer the identity; additional output channels are zero."""
    _zero(layer)
    shared = min(layer.weight.shape[:2])
    middle = layer.weight.shape[3] // 2
    layer.weight[range(shared), range(shared), -1, middle, middle] = 1.0


def _components(samples: Tensor, count: int) -> Tensor:
    """The `count` strongest principal components of `samples` (many, channels) without centring, as rows."""
    _, directions = torch.linalg.eigh((samples.T @ samples / len(samples)).double())
    return directions[:, -count:].flip(1).T.float()


def _samples(features: Tensor) -> Tensor:
    return features.movedim(1, -1).flatten(0, -2)


def _write_merger(layer: WanResample, features: Tensor, spatial: int) -> int:
    """Write the weights of a merging layer for its input `features`; returns the number of output channels in use."""
    space, time = layer.resample[1], layer.time_conv
    _zero(space)
    _zero(time)
    used, wide = features.shape[1], space.weight.shape[0]
    fours = torch.cat([features[..., y::2, x::2] for y in (0, 1) for x in (0, 1)], dim=1)
    directions = _components(_samples(fours), spatial)
    space.weight[:spatial, :used, :2, :2] = directions.unflatten(1, (2, 2, used)).permute(0, 3, 1, 2)
    merged = torch.einsum("oc,bcthw->bothw", directions, fours)
    one, other = merged[:, :, 1::2], merged[:, :, 2::2]
    change = _components(_samples(other - one), min(wide - spatial - 1, spatial))
    last = spatial + len(change)
    eye = torch.eye(spatial)
    # The three taps see the frame before the pair, and the pair.
    time.weight[:spatial, :spatial, 1:, 0, 0] = 0.5 * eye.unsqueeze(2)
    time.weight[spatial:last, :spatial, 1:, 0, 0] = torch.stack([-change, change], dim=2)
    return last


def _write_head(vae: AutoencoderKLWan, features: Tensor, kept: int) -> None:
    """Write the last layers, which turn `features` into latents; channel `kept` is the large one for the norm."""
    encoder, channels = vae.encoder, vae.config.z_dim
    wide = features.shape[1]
    found = _samples(features[:, :kept])
    mean = found.mean(0)
    directions = _components(found - mean, channels)
    deviation = ((found - mean) @ directions.T).std(0)
    # Scaled by the root of the deviation, half-way to whitening, so that strong components do not dominate.
    scaled = directions / deviation.sqrt().unsqueeze(1)
    scaled = scaled / ((found - mean) @ scaled.T).square().mean().sqrt()
    lift = encoder.mid_block.resnets[-1].conv2.bias
    lift[:kept], lift[kept] = LIFT, LOUD
    encoder.norm_out.gamma.fill_(LOUD / wide**0.5)  # undoes the norm
    head = encoder.conv_out
    _zero(head)
    head.weight[:channels, :kept, -1, 1, 1] = scaled
    head.bias[:channels] = -scaled @ (mean + LIFT)
    head.bias[channels:] = -10.0  # log-variance of the posterior, which is not used
    vae.quant_conv.weight.copy_(torch.eye(2 * channels).view_as(vae.quant_conv.weight))
    vae.quant_conv.bias.zero_()
