"""CPU kernels for float32 models, faster than those of the libraries. They sum the same terms in another order.

Linear layers use oneDNN, because MKL, which torch uses, leaves half of other makers' processors unused; oneDNN also
fuses the activation, a quarter of a small model's time. Norms, modulation and rotary embedding are limited by memory
bandwidth and take fewer passes here.

torch's 3D convolution takes up to eight times as long as 2D convolutions for the few frames that a VAE processes at
once. 2D convolutions are fastest in the channels-last memory format, which the layers between them keep.
(`benchmarks/kernels.py` measures both.)
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GELU
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm, WanUpsample
from torch.nn import functional

from backend.diffusion.transformer import Block, Processor


class OptimizedLinear(torch.nn.Linear):  # type: ignore[misc]
    """The stock layer, computed by oneDNN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return found


class OptimizedGELU(GELU):  # type: ignore[misc]
    """The stock projection and its activation, fused by oneDNN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if type(self.proj) is not OptimizedLinear:  # a LoRA adds to its output
            return super().forward(x)
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.proj.weight, self.proj.bias, "gelu", [], self.approximate
        )
        return found


class OptimizedCausalConv3d(WanCausalConv3d):  # type: ignore[misc]
    """The stock layer as a sum of 2D convolutions, one for each frame of the kernel."""

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        width, _, height, _, missing, _ = self._padding
        if cache_x is not None and missing:
            x = torch.cat([cache_x, x], dim=2)
            missing -= cache_x.shape[2]
        if missing:
            x = functional.pad(x, (0, 0, 0, 0, missing, 0))
        kernel_frames = self.weight.shape[2]
        frames = x.shape[2] - kernel_frames + 1
        planes = x.transpose(1, 2)  # (batch, frames, channels, height, width)

        def convolve(offset: int, bias: torch.Tensor | None = None) -> torch.Tensor:
            plane = planes[:, offset : offset + frames].flatten(0, 1).contiguous(memory_format=torch.channels_last)
            return functional.conv2d(plane, self.weight[:, :, offset], bias, padding=(height, width))

        total = convolve(0, self.bias)
        for offset in range(1, kernel_frames):
            total += convolve(offset)
        return total.unflatten(0, (-1, frames)).transpose(1, 2)


class OptimizedChannelNorm(WanRMS_norm):  # type: ignore[misc]
    """The stock layer with the norm as a sum of squares: torch's norm along channels is not vectorised."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not torch.float32:
            return super().forward(x)
        squares = x.square().sum(1 if self.channel_first else -1, keepdim=True)
        normed = x * (squares.clamp_(min=1e-24).rsqrt_() * self.scale) * self.gamma
        return normed + self.bias if isinstance(self.bias, torch.Tensor) else normed


class OptimizedUpsample(WanUpsample):  # type: ignore[misc]
    """The stock layer, which keeps the channels-last memory format."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale_factor != (2.0, 2.0):
            return super().forward(x)
        batch, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1)[:, :, None, :, None]
        larger = pixels.expand(batch, height, 2, width, 2, channels).reshape(batch, 2 * height, 2 * width, channels)
        return larger.permute(0, 3, 1, 2)


class OptimizedRMSNorm(torch.nn.RMSNorm):  # type: ignore[misc]
    """The stock layer, in three passes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        normed = x * torch.rsqrt(size.square() / x.shape[-1] + eps)
        return normed if self.weight is None else normed.mul_(self.weight)


class OptimizedProcessor(Processor):
    """Our attention with the rotary embedding computed in complex numbers."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | int | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        if attention_mask is None and rotary_emb is not None:
            attention_mask = hidden_states.shape[1]  # all tokens are one block
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)

    @staticmethod
    def rotated(tokens: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        rotation = torch.complex(cos[..., 0::2].contiguous(), sin[..., 1::2].contiguous())
        return torch.view_as_real(torch.view_as_complex(tokens.unflatten(-1, (-1, 2))) * rotation).flatten(-2)


class OptimizedBlock(Block):
    """Our block with the modulation in one pass."""

    modulated = staticmethod(lambda tokens, scale, shift: torch.addcmul(shift, tokens, 1 + scale))
    added = staticmethod(torch.addcmul)


OPTIMIZED: dict[type, type] = {
    WanCausalConv3d: OptimizedCausalConv3d,
    WanRMS_norm: OptimizedChannelNorm,
    WanUpsample: OptimizedUpsample,
    torch.nn.RMSNorm: OptimizedRMSNorm,
    Block: OptimizedBlock,
    Processor: OptimizedProcessor,
}
if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    OPTIMIZED |= {torch.nn.Linear: OptimizedLinear, GELU: OptimizedGELU}
STOCK = {optimized: stock for stock, optimized in OPTIMIZED.items()}


def use_cpu_kernels(model: torch.nn.Module, on: bool) -> None:
    """Switch the layers of `model` to the optimized kernels, or back to those of the libraries."""
    classes = OPTIMIZED if on else STOCK
    for module in model.modules():
        stride = getattr(module, "stride", (1, 1, 1))
        for part in (module, getattr(module, "processor", None)):
            if type(part) in classes and stride == (1, 1, 1):
                part.__class__ = classes[type(part)]
