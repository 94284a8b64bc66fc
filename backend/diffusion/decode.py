"""Streaming VAE decoding: latents become frames one latent frame at a time, so memory does not grow with the length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify

from backend.core.errors import SnapshotRefused
from backend.core.schema import Fidelity
from backend.core.windows import latent_frames, pixel_frames
from backend.diffusion.conditions import latent_statistics, to_latents
from backend.diffusion.sampler import Sampler, State
from backend.media.fitting import Frames


class CausalDecoder:
    """A VAE's decoder that takes latents piece by piece.

    The frames equal those of `vae.decode` on all pieces at once: the decoder is causal, and a cache holds what it needs
    of earlier frames.
    """

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self._first_chunk = True
        self._cache: list[Any] = [None] * sum(isinstance(module, WanCausalConv3d) for module in vae.decoder.modules())

    def decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield 1 frame for the very first latent frame and 4 for every further one.

        `latents` are normalised, of shape (1, channels, latent frames, height, width), on any device; frames are
        float32 from -1 to 1, of shape (1, 3, frames, height, width).
        """
        vae = self._vae
        mean, inverse_std = latent_statistics(vae)
        for latent in latents.split(1, dim=2):
            with torch.no_grad():
                latent = vae.post_quant_conv((latent.to(vae.device) / inverse_std + mean).to(vae.dtype))
                video = vae.decoder(latent, feat_cache=self._cache, feat_idx=[0], first_chunk=self._first_chunk)
                if vae.config.patch_size is not None:
                    video = unpatchify(video, patch_size=vae.config.patch_size)
                video = video.float().clamp(-1.0, 1.0)
            self._first_chunk = False
            yield video


class StreamingDecoder:
    """Decodes the latents of a sampler as they become final, and yields frames from the rendered frame `first` on.

    With `original` fidelity every window is decoded on its own, and the last frames of its clip are encoded again as
    the context of the next one, as in training: the first latent frame of a window stands for one frame. The stock
    pipelines use the last latents of a window as the context of the next and decode all windows as one.
    """

    def __init__(self, sampler: Sampler, first: int = 0) -> None:
        self.sampler = sampler
        self._first = first
        self._original = sampler.plan.fidelity is Fidelity.ORIGINAL
        self._overlap = latent_frames(sampler.plan.overlap_history)
        self._past: torch.Tensor | None = None  # latents of earlier windows, where all are decoded as one
        self._reset_decoder()

    def _reset_decoder(self) -> None:
        """Start with the first frame of the window, or of the render where windows are decoded as one."""
        self._decoder = CausalDecoder(self.sampler.components.decoder)
        self._num_decoded = 0  # latent frames
        self._last_frames: deque[torch.Tensor] = deque(maxlen=self._overlap)  # of each of the last latent frames

    @property
    def has_undecoded(self) -> bool:
        """Whether latents have become final that are not decoded yet. Context frames are decoded with later ones."""
        sampler = self.sampler
        context = sampler.num_context_frames if self._past is None else self._past.shape[2]
        return context + sampler.num_final - sampler.num_context_frames > max(context, self._num_decoded)

    @property
    def fraction(self) -> float:
        """The fraction of all latent frames that is decoded."""
        done = self._start + max(self._num_decoded, self.sampler.num_context_frames)
        return done / latent_frames(self.sampler.plan.decoded_frames)

    @property
    def _start(self) -> int:
        """The first latent frame of the render that this decoder is given."""
        return self.sampler.plan.windows[self.sampler.window].start if self._original else 0

    @property
    def _final(self) -> torch.Tensor:
        sampler = self.sampler
        if self._past is None:
            return sampler.final
        window = sampler.latents[:, :, sampler.num_context_frames : sampler.num_final]
        return torch.cat([self._past, window.cpu()], dim=2)

    def frames(self) -> Iterator[Frames]:
        """Decode the final latents that are not decoded yet, and yield new frames as chunks, which may be empty."""
        # The clip of a window begins with frames that the window before has yielded already.
        context = pixel_frames(self._start + self.sampler.num_context_frames) if self._start else 0
        for video in self._decoder.decode(self._final[:, :, self._num_decoded :]):
            position = 4 * self._start + (pixel_frames(self._num_decoded) if self._num_decoded else 0)
            new = video[:, :, max(0, self._first - position, context - position) :]
            self._num_decoded += 1
            self._last_frames.append(video.cpu())
            yield _to_pixels(new)

    def next_window(self) -> None:
        """Open the sampler's next window with the end of the one that is denoised and decoded as its context."""
        sampler = self.sampler
        if self._original:
            end = torch.cat(list(self._last_frames), dim=2)[:, :, -pixel_frames(self._overlap) :]
            with torch.no_grad():
                context = to_latents(sampler.components, end.to(sampler.components.device))
            sampler.open_window(context)
            self._reset_decoder()
        else:
            self._past = self._final
            sampler.open_window(sampler.latents[:, :, sampler.num_frames - self._overlap : sampler.num_frames])

    def state(self) -> State:
        """See `Sampler.state`."""
        tensors, metadata = self.sampler.state()
        return State(tensors if self._past is None else tensors | {"past": self._past}, metadata)

    def restore(self, state: State) -> None:
        """See `Sampler.restore`. Raises SnapshotRefused too if `first` lies before the window of the state."""
        self.sampler.restore(state)
        self._past = state.tensors.get("past")
        self._reset_decoder()
        if self._start and self._first < pixel_frames(self._start + self.sampler.num_context_frames):
            raise SnapshotRefused(f"It gives no frame {self._first};", hint="render from the beginning.")


def _to_pixels(video: torch.Tensor) -> Frames:
    """(1, 3, frames, height, width) of -1 to 1 -> (frames, height, width, 3) of 0 to 255."""
    scaled = (video * 0.5 + 0.5) * 255
    pixels: Frames = scaled.round().to(torch.uint8)[0].permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return pixels
