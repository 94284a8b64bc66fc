"""Quicker kernels for models that work on a CPU in float32. The sums are the same, in another order.

torch's matrix product is MKL's, which on other makers' processors leaves half of the machine unused; oneDNN does not,
and it takes the activation with it, which by itself is a quarter of a small model's time. Most of the rest goes through
memory a few numbers at a time: norms, modulation and position embedding take fewer passes here.
Its convolution of three dimensions takes up to eight times as long as those of two for the few frames that a VAE sees
at once. (`benchmarks/kernels.py` measures both.)
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GELU
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
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

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        taps = weight.shape[2]
        frames = x.shape[2] - taps + 1
        planes = x.transpose(1, 2)  # (batch, frames, channels, height, width)
        total = functional.conv2d(planes[:, :frames].flatten(0, 1), weight[:, :, 0], bias)
        for tap in range(1, taps):
            total += functional.conv2d(planes[:, tap : tap + frames].flatten(0, 1), weight[:, :, tap])
        return total.unflatten(0, (-1, frames)).transpose(1, 2)


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
