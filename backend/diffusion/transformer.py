"""The SkyReels V2 transformer of diffusers, without work that changes no bit of the result.

With diffusion forcing the stock model repeats the modulation of a latent frame for each of its tokens, six vectors a
token, and for block-causal attention it makes a mask of tokens times tokens. Here there is one modulation per frame,
and block-causal attention is one unmasked call per block of frames, which any attention kernel can compute.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import SkyReelsV2Transformer3DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_skyreels_v2 import (
    SkyReelsV2AttnProcessor,
    SkyReelsV2TransformerBlock,
)
from diffusers.utils import apply_lora_scale

from backend.diffusion.attention import set_attention_backend


def rotate(tokens: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (batch, tokens, heads, head_dim): pairs of channels are rotated by their angles."""
    x, y = tokens.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1).flatten(-2).type_as(tokens)


class Processor(SkyReelsV2AttnProcessor):  # type: ignore[misc]
    """The stock attention, or block-causal attention: if `attention_mask` is a number, it is the tokens of a block, and
    each block attends to itself and to earlier ones.
    """

    rotated = staticmethod(rotate)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | int | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        if not isinstance(attention_mask, int):
            attended: torch.Tensor = super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb
            )
            return attended
        assert rotary_emb is not None  # only self-attention is causal
        query, key, value = (
            tensor.unflatten(2, (attn.heads, -1))
            for tensor in (
                attn.norm_q(attn.to_q(hidden_states)),
                attn.norm_k(attn.to_k(hidden_states)),
                attn.to_v(hidden_states),
            )
        )
        query, key = self.rotated(query, *rotary_emb), self.rotated(key, *rotary_emb)
        blocks = [
            dispatch_attention_fn(
                query[:, end - attention_mask : end],
                key[:, :end],
                value[:, :end],
                backend=self._attention_backend,
                parallel_config=self._parallel_config,
            )
            for end in range(attention_mask, query.shape[1] + attention_mask, attention_mask)
        ]
        mixed: torch.Tensor = attn.to_out[0](torch.cat(blocks, dim=1).flatten(2, 3).type_as(query))
        return mixed


class Block(SkyReelsV2TransformerBlock):  # type: ignore[misc]
    """The stock block, which also takes a `temb` of shape (batch, 6, frames, dim): one modulation per latent frame."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        rotary_emb: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | int | None,
    ) -> torch.Tensor:
        if temb.dim() == 3 or temb.shape[2] == hidden_states.shape[1]:
            after: torch.Tensor = super().forward(
                hidden_states, encoder_hidden_states, temb, rotary_emb, attention_mask
            )
            return after
        frames = temb.shape[2]
        modulation = (self.scale_shift_table.unsqueeze(2) + temb.float()).unsqueeze(3)
        shift, scale, gate, c_shift, c_scale, c_gate = modulation.unbind(1)  # (batch, frames, 1, dim)

        def per_frame(tokens: torch.Tensor) -> torch.Tensor:
            return tokens.unflatten(1, (frames, -1))

        normed = self.modulated(per_frame(self.norm1(hidden_states.float())), scale, shift)
        attended = self.attn1(normed.flatten(1, 2).type_as(hidden_states), None, attention_mask, rotary_emb)
        hidden_states = self.added(per_frame(hidden_states.float()), per_frame(attended), gate)
        hidden_states = hidden_states.flatten(1, 2).type_as(attended)

        normed = self.norm2(hidden_states.float()).type_as(hidden_states)
        hidden_states = hidden_states + self.attn2(normed, encoder_hidden_states, None, None)

        normed = self.modulated(per_frame(self.norm3(hidden_states.float())), c_scale, c_shift)
        fed = self.ffn(normed.flatten(1, 2).type_as(hidden_states))
        changed = self.added(per_frame(hidden_states.float()), per_frame(fed.float()), c_gate)
        return changed.flatten(1, 2).type_as(hidden_states)

    @staticmethod
    def modulated(tokens: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return tokens * (1 + scale) + shift

    @staticmethod
    def added(tokens: torch.Tensor, change: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return tokens + change * gate


class Transformer(SkyReelsV2Transformer3DModel):  # type: ignore[misc]
    """Loads what the stock class loads. Bit-equal to it without block-causal attention, equal to about 1e-6 with it."""

    _repeated_blocks = ("Block",)
    _no_split_modules = ("Block",)

    # diffusers reads the configuration by the signature of the constructor.
    @functools.wraps(SkyReelsV2Transformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for block in self.blocks:
            block.__class__ = Block
            block.attn1.set_processor(Processor())

    def set_attention_backend(self, backend: str) -> None:
        """As in the stock class, but for this model alone."""
        set_attention_backend(self, backend)

    @apply_lora_scale("attention_kwargs")  # type: ignore[untyped-decorator]
    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor | None = None,
        enable_diffusion_forcing: bool = False,
        fps: list[int] | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        causal_block_size: int | None = None,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """The velocity at `hidden_states` of shape (batch, channels, latent frames, height, width), of the same shape.

        `timestep` is (batch, latent frames) with diffusion forcing, else (batch,). With `causal_block_size` the frames
        of a block do not attend to later blocks. `fps`, one for all or one each, is 0 for 16 frames a second, else 1.

        Raises ValueError for `causal_block_size` without diffusion forcing: there all frames are one block.
        """
        if causal_block_size and not enable_diffusion_forcing:
            raise ValueError(f"causal_block_size={causal_block_size} needs enable_diffusion_forcing; leave it out.")
        if not enable_diffusion_forcing or self.config.num_frame_per_block > 1:
            # One modulation for all frames anyway, or the mask of the stock pipelines is wanted.
            return super().forward(
                hidden_states,
                timestep,
                encoder_hidden_states,
                encoder_hidden_states_image,
                enable_diffusion_forcing,
                fps,
                return_dict,
            )
        batch, _, frames, height, width = hidden_states.shape
        rows, columns = height // self.config.patch_size[1], width // self.config.patch_size[2]
        rotary_emb = self.rope(hidden_states)
        tokens = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2)
        temb, modulation, text, image = self.condition_embedder(
            timestep, encoder_hidden_states, encoder_hidden_states_image
        )
        if image is not None:
            text = torch.concat([image, text], dim=1)
        modulation = modulation.unflatten(-1, (6, -1))  # (batch, frames, 6, dim)
        if self.config.inject_sample_info:
            rate = self.fps_embedding(torch.tensor(fps, dtype=torch.long, device=tokens.device))
            modulation = modulation + self.fps_projection(rate).unflatten(1, (6, -1)).unsqueeze(1)
        modulation = modulation.transpose(1, 2)
        mask = causal_block_size * rows * columns if causal_block_size else None
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = self._gradient_checkpointing_func(block, tokens, text, modulation, rotary_emb, mask)
            else:
                tokens = block(tokens, text, modulation, rotary_emb, mask)
        shift, scale = (self.scale_shift_table.unsqueeze(1) + temb.unsqueeze(2)).chunk(2, dim=2)
        normed = self.norm_out(tokens.float()).unflatten(1, (frames, -1)) * (1 + scale) + shift
        patches = self.proj_out(normed.flatten(1, 2).type_as(tokens))
        _, high, wide = self.config.patch_size
        patches = patches.reshape(batch, frames, rows, columns, high, wide, -1)
        video = patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
        return Transformer2DModelOutput(sample=video) if return_dict else (video,)
