"""Latents to frames, one latent frame at a time: memory is flat in the length of the film."""

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


class Decoder:
    """A VAE's decoder that is given a film piece by piece.

    The frames equal those of `vae.decode` on all pieces at once: the decoder only looks back, and what it needs of the
    past it keeps in a cache.
    """

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self._begun = False
        self._cache: list[Any] = [None] * sum(isinstance(module, WanCausalConv3d) for module in vae.decoder.modules())

    def decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield 1 frame for the film's first latent frame and 4 for every further one.

        `latents` are normalised, of shape (1, channels, latent frames, height, width), on any device; frames are
        float32 from -1 to 1, of shape (1, 3, frames, height, width).
        """
        vae = self._vae
        mean, inverse_std = latent_statistics(vae)
        for latent in latents.split(1, dim=2):
            with torch.no_grad():
                latent = vae.post_quant_conv((latent.to(vae.device) / inverse_std + mean).to(vae.dtype))
                video = vae.decoder(latent, feat_cache=self._cache, feat_idx=[0], first_chunk=not self._begun)
                if vae.config.patch_size is not None:
                    video = unpatchify(video, patch_size=vae.config.patch_size)
                video = video.float().clamp(-1.0, 1.0)
            self._begun = True
            yield video


class Film:
    """The frames of a film, from the rendered frame `first` on, as its sampler's latent frames become final.

    With `original` fidelity every window is decoded on its own and the next one begins with the last frames of its
    picture, encoded again: so the model was trained, the first latent frame of a window standing for one frame. The
    stock pipelines hand latents on and decode all windows as one.
    """

    def __init__(self, sampler: Sampler, first: int = 0) -> None:
        self.sampler = sampler
        self._first = first
        self._original = sampler.plan.fidelity is Fidelity.ORIGINAL
        self._overlap = latent_frames(sampler.plan.overlap_history)
        self._past: torch.Tensor | None = None  # latents of earlier windows, where all are decoded as one
        self._rewind()

    def _rewind(self) -> None:
        """Stand before the first frame of the window, or of the film where windows are decoded as one."""
        self._decoder = Decoder(self.sampler.components.decoder)
        self._decoded = 0  # latent frames
        self._end: deque[torch.Tensor] = deque(maxlen=self._overlap)  # of the picture

    @property
    def waiting(self) -> bool:
        """Whether latents have become final that were not decoded yet. Those that were given can wait for others."""
        sampler = self.sampler
        known = sampler.known if self._past is None else self._past.shape[2]
        return known + sampler.final - sampler.known > max(known, self._decoded)

    @property
    def part(self) -> float:
        """How much of the film is decoded, 0 to 1."""
        done = self._start + max(self._decoded, self.sampler.known)
        return done / latent_frames(self.sampler.plan.render_frames)

    @property
    def _start(self) -> int:
        """The film's latent frame that the decoder is given first."""
        return self.sampler.plan.windows[self.sampler.window].start if self._original else 0

    @property
    def _final(self) -> torch.Tensor:
        sampler = self.sampler
        if self._past is None:
            return sampler.latents[:, :, : sampler.final]
        return torch.cat([self._past, sampler.latents[:, :, sampler.known : sampler.final].cpu()], dim=2)

    def frames(self) -> Iterator[Frames]:
        """Decode the final latents that wait, and yield those frames that were not there before; now and then none."""
        # A window's picture begins with frames that the one before has given already.
        given = pixel_frames(self._start + self.sampler.known) if self._start else 0
        for video in self._decoder.decode(self._final[:, :, self._decoded :]):
            at = 4 * self._start + (pixel_frames(self._decoded) if self._decoded else 0)
            new = video[:, :, max(0, self._first - at, given - at) :]
            self._decoded += 1
            self._end.append(video.cpu())
            yield _to_pixels(new)

    def next_window(self) -> None:
        """Open the sampler's next window with the end of the one that is done and decoded."""
        sampler = self.sampler
        if self._original:
            end = torch.cat(list(self._end), dim=2)[:, :, -pixel_frames(self._overlap) :]
            with torch.no_grad():
                known = to_latents(sampler.components, end.to(sampler.components.device))
            sampler.open_window(known)
            self._rewind()
        else:
            self._past = self._final
            sampler.open_window(sampler.latents[:, :, sampler.length - self._overlap : sampler.length])

    def state(self) -> State:
        """See `Sampler.state`."""
        tensors, facts = self.sampler.state()
        return State(tensors if self._past is None else tensors | {"past": self._past}, facts)

    def restore(self, state: State) -> None:
        """See `Sampler.restore`. Raises SnapshotRefused too if frames are wanted that lie before it."""
        self.sampler.restore(state)
        self._past = state.tensors.get("past")
        self._rewind()
        if self._start and self._first < pixel_frames(self._start + self.sampler.known):
            raise SnapshotRefused(f"It gives no frame {self._first};", hint="render from the beginning.")


def _to_pixels(video: torch.Tensor) -> Frames:
    """(1, 3, frames, height, width) of -1 to 1 -> (frames, height, width, 3) of 0 to 255."""
    scaled = (video * 0.5 + 0.5) * 255
    pixels: Frames = scaled.round().to(torch.uint8)[0].permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return pixels
