"""Wan's transformers of diffusers, called as that of SkyReels V2 is: the mathematics of a step is the same.

They know no windows and no causal blocks. Wan 2.2 TI2V gives the tokens of every latent frame a noise level, as
diffusion forcing does, though only the first frame's ever differs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

from backend.diffusion.attention import set_attention_backend


class _Called:
    """The signature of `transformer.Transformer` before a class of Wan; see there."""

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
        **further: Any,
    ) -> Any:
        """The velocity; `timestep` is (batch, latent frames) or (batch,). `further` goes to the stock class, for which
        the other arguments make no difference.
        """
        del enable_diffusion_forcing, fps, causal_block_size
        if timestep.dim() == 2:
            _, high, wide = self.config.patch_size  # type: ignore[attr-defined]
            a_frame = hidden_states.shape[3] // high * (hidden_states.shape[4] // wide)
            timestep = timestep.repeat_interleave(a_frame, dim=1)
        return super().forward(hidden_states=hidden_states, timestep=timestep, **further)  # type: ignore[misc]


class WanTransformer(_Called, WanTransformer3DModel):  # type: ignore[misc]
    """Loads what the stock class loads, and gives the same bits."""

    # A configuration is read by the signature of the constructor.
    @functools.wraps(WanTransformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class WanControlTransformer(_Called, WanVACETransformer3DModel):  # type: ignore[misc]
    """Wan-VACE, which is also shown `control_hidden_states`: what is given of the film, and where."""

    @functools.wraps(WanVACETransformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
