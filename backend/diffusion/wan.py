"""Wan's transformers of diffusers with the signature of the SkyReels V2 transformer: the arithmetic is the same.

They have no windows and no block-causal attention. Wan 2.2 TI2V takes a timestep per token, as diffusion forcing does
per latent frame, although only that of the first frame differs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

from backend.diffusion.attention import set_attention_backend


class _WanSignature:
    """The signature of `transformer.Transformer`, put before a transformer class of Wan."""

    def set_attention_backend(self, backend: str) -> None:
        """As in the stock class, but for this model alone."""
        set_attention_backend(self, backend)

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        *,
        enable_diffusion_forcing: bool = False,
        fps: list[int] | None = None,
        causal_block_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """The velocity. `timestep` is (batch, latent frames) or (batch,). `kwargs` go to the stock class; the other
        arguments are ignored.
        """
        del enable_diffusion_forcing, fps, causal_block_size
        if timestep.dim() == 2:
            _, high, wide = self.config.patch_size  # type: ignore[attr-defined]
            frame_tokens = hidden_states.shape[3] // high * (hidden_states.shape[4] // wide)
            timestep = timestep.repeat_interleave(frame_tokens, dim=1)
        return super().forward(hidden_states=hidden_states, timestep=timestep, **kwargs)  # type: ignore[misc]


class WanTransformer(_WanSignature, WanTransformer3DModel):  # type: ignore[misc]
    """Loads what the stock class loads, and is bit-equal to it."""

    # diffusers reads the configuration by the signature of the constructor.
    @functools.wraps(WanTransformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class WanControlTransformer(_WanSignature, WanVACETransformer3DModel):  # type: ignore[misc]
    """Wan-VACE, which also takes `control_hidden_states`: given frames and a mask."""

    @functools.wraps(WanVACETransformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
