"""Quicker kernels for models that work on a CPU in float32. The sums are the same, in another order.

torch's matrix product is MKL's, which on other makers' processors leaves half of the machine unused; oneDNN does not,
and it takes the activation with it, which by itself is a quarter of a small model's time. Most of the rest goes through
memory a few numbers at a time: norms, modulation and position embedding take fewer passes here.

Its convolution of three dimensions takes up to eight times as long as those of two for the few frames that a VAE sees
at once, and these are quickest where the channels of a pixel lie together, which all layers between them keep.
(`benchmarks/kernels.py` measures both.)
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GELU
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm, WanUpsample
from torch.nn import functional

from backend.diffusion.transformer import Block, Processor


class QuickLinear(torch.nn.Linear):  # type: ignore[misc]
    """The stock layer, by oneDNN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return found


class QuickGELU(GELU):  # type: ignore[misc]
    """The stock projection and its activation, in one go by oneDNN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if type(self.proj) is not QuickLinear:  # a LoRA adds to what it gives
            return super().forward(x)
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.proj.weight, self.proj.bias, "gelu", [], self.approximate
        )
        return found


class PlaneConv(WanCausalConv3d):  # type: ignore[misc]
    """The stock layer, by one convolution of two dimensions for each of its frames in time."""

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        across, _, down, _, missing, _ = self._padding
        if cache_x is not None and missing:
            x = torch.cat([cache_x, x], dim=2)
            missing -= cache_x.shape[2]
        if missing:
            x = functional.pad(x, (0, 0, 0, 0, missing, 0))
        taps = self.weight.shape[2]
        frames = x.shape[2] - taps + 1
        planes = x.transpose(1, 2)  # (batch, frames, channels, height, width)

        def convolved(tap: int, bias: torch.Tensor | None = None) -> torch.Tensor:
            seen = planes[:, tap : tap + frames].flatten(0, 1).contiguous(memory_format=torch.channels_last)
            return functional.conv2d(seen, self.weight[:, :, tap], bias, padding=(down, across))

        total = convolved(0, self.bias)
        for tap in range(1, taps):
            total += convolved(tap)
        return total.unflatten(0, (-1, frames)).transpose(1, 2)


class QuickChannelNorm(WanRMS_norm):  # type: ignore[misc]
    """The stock layer, whose lengths are sums of squares: torch's norm along channels goes number by number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not torch.float32:
            return super().forward(x)
        squares = x.square().sum(1 if self.channel_first else -1, keepdim=True)
        normed = x * (squares.clamp_(min=1e-24).rsqrt_() * self.scale) * self.gamma
        return normed + self.bias if isinstance(self.bias, torch.Tensor) else normed


class QuickUpsample(WanUpsample):  # type: ignore[misc]
    """The stock layer, which leaves the channels of a pixel together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale_factor != (2.0, 2.0):
            return super().forward(x)
        batch, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1)[:, :, None, :, None]
        larger = pixels.expand(batch, height, 2, width, 2, channels).reshape(batch, 2 * height, 2 * width, channels)
        return larger.permute(0, 3, 1, 2)


class QuickRMSNorm(torch.nn.RMSNorm):  # type: ignore[misc]
    """The stock layer, in three passes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        normed = x * torch.rsqrt(size.square() / x.shape[-1] + eps)
        return normed if self.weight is None else normed.mul_(self.weight)


class QuickProcessor(Processor):
    """The attention of ours, which turns pairs of channels as complex numbers."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | int | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        if attention_mask is None and rotary_emb is not None:
            attention_mask = hidden_states.shape[1]  # all are one block
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)

    @staticmethod
    def rotated(tokens: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        turn = torch.complex(cos[..., 0::2].contiguous(), sin[..., 1::2].contiguous())
        return torch.view_as_real(torch.view_as_complex(tokens.unflatten(-1, (-1, 2))) * turn).flatten(-2)


class QuickBlock(Block):
    """The block of ours, whose modulation takes one pass."""

    modulated = staticmethod(lambda tokens, scale, shift: torch.addcmul(shift, tokens, 1 + scale))
    added = staticmethod(torch.addcmul)


QUICK: dict[type, type] = {
    WanCausalConv3d: PlaneConv,
    WanRMS_norm: QuickChannelNorm,
    WanUpsample: QuickUpsample,
    torch.nn.RMSNorm: QuickRMSNorm,
    Block: QuickBlock,
    Processor: QuickProcessor,
}
if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    QUICK |= {torch.nn.Linear: QuickLinear, GELU: QuickGELU}
STOCK = {quick: stock for stock, quick in QUICK.items()}


def hasten(model: torch.nn.Module, on: bool) -> None:
    """Have the layers of `model` work by the quicker kernels, or as the libraries do."""
    classes = QUICK if on else STOCK
    for module in model.modules():
        stride = getattr(module, "stride", (1, 1, 1))
        for part in (module, getattr(module, "processor", None)):
            if type(part) in classes and stride == (1, 1, 1):
                part.__class__ = classes[type(part)]
