"""The VAE: a linear encoder that is computed (see `linear_codec`), and a decoder that is trained to invert it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from backend.diffusion.components import compute_device
from training.tiny import whole
from training.tiny.clips import HELD_OUT, draw_clip
from training.tiny.linear_codec import SIDE, LinearCodec, write_encoder
from training.tiny.run import Average, Budget, Run, batch_size, by_step, first_alone, learning_rate, rank

PATCH = 2  # pixels that are folded into channels before the first layer
CHANNELS = 32
STEPS = 7000
NOISE = 0.2  # largest standard deviation of the noise on the latents, for a smooth decoder
SHAPES = ((2, 17, 64, 64), (1, 33, 64, 64), (1, 17, 96, 96))  # in turns; a whole frame is 96 x 160
RATE = 4e-3


def new_vae() -> AutoencoderKLWan:
    """Five million parameters; 8 x 8 x 4 pixels a latent pixel, 32 channels."""
    return AutoencoderKLWan(
        base_dim=48,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=PATCH,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        scale_factor_spatial=8,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )


def written_vae(work: Path, shards: list[Path]) -> AutoencoderKLWan:
    """A VAE with the linear encoder computed from the first clips; stored in `work/code`."""
    folder = work / "code"
    if not folder.exists():
        torch.manual_seed(0)
        vae = new_vae()
        write_encoder(vae, torch.cat([to_video(np.load(shard, mmap_mode="r")[::3, :17]) for shard in shards[:24]]))
        vae.save_pretrained(folder)
    return AutoencoderKLWan.from_pretrained(folder, local_files_only=True)


def to_video(clips: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """uint8 (batch, frames, height, width, 3) -> float (batch, 3, frames, height, width) of -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(clips)).to(device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


class Clips:
    """Random crops for every step, of the shapes of `SHAPES` in turns, half of them mirrored; aligned to latent
    pixels.
    """

    def __init__(self, shards: list[Path]) -> None:
        self.clips = [np.load(shard, mmap_mode="r") for shard in shards]

    def of(self, step: int) -> np.ndarray:
        """uint8 of (clips, frames, height, width, 3)."""
        random = np.random.default_rng((step, rank()))
        count, *shape = SHAPES[step % len(SHAPES)]
        clips = []
        for _ in range(batch_size(count)):
            shard = self.clips[random.integers(len(self.clips))]
            whole = shard[random.integers(len(shard))]
            cut = []
            for size, part, grid in zip(whole.shape[:3], shape, (1, SIDE, SIDE), strict=True):
                start = grid * random.integers((size - part) // grid + 1)
                cut.append(slice(start, start + part))
            clip = whole[tuple(cut)]
            clips.append(clip[:, :, ::-1] if random.random() < 0.5 else clip)
        return np.stack(clips)


def distance(made: Tensor, true: Tensor) -> Tensor:
    """Reconstruction loss: absolute and squared error, and the absolute error of the image gradients."""
    error = made - true
    edges = (error.diff(dim=3)).abs().mean() + (error.diff(dim=4)).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.5 * edges


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (PSNR) of each clip in dB, for values of -1 to 1."""
    return -10 * torch.log10((made.clamp(-1, 1) - true).square().flatten(1).mean(1) / 4)


@torch.no_grad()  # type: ignore[untyped-decorator]
def measure(vae: AutoencoderKLWan, count: int = 10) -> float:
    """Mean PSNR in dB on `count` held-out clips of 33 frames, with diffusers' own encode and decode."""
    found = []
    for number in range(count):
        video = to_video(draw_clip(HELD_OUT + number, 33)[None], vae.device)
        found.append(psnr(vae.decode(vae.encode(video).latent_dist.mode()).sample, video))
    return float(torch.cat(found).mean())


def train(work: Path, shards: list[Path], budget: Budget) -> None:
    """Train the decoder in `work/vae` to the end of `budget`, from its checkpoint if there is one."""
    torch.manual_seed(0)
    with first_alone():
        vae = written_vae(work, shards)
    device = compute_device()
    codec = LinearCodec(vae).to(device)
    vae.encoder.requires_grad_(False)
    vae.to(device)
    run = Run(work / "vae", vae.decoder, RATE)
    start = run.restore()
    average = Average(vae.decoder, 0.998)
    average.load(run.averaged)
    # On a GPU compiling takes longer than it saves.
    decode = torch.compile(whole.decode, dynamic=False) if device.type == "cpu" else whole.decode
    for step, clips in by_step(Clips(shards).of, budget, start):
        video = to_video(np.asarray(clips), device)
        latents = codec.encode(video)
        latents = latents + NOISE * torch.rand(len(latents), 1, 1, 1, 1, device=device) * torch.randn_like(latents)
        run.set_rate(learning_rate(step, budget.part(step), warmup=100, tail=0.6))
        with torch.autocast(device.type, torch.bfloat16):
            made = decode(vae, latents)
        loss = distance(made.float(), video)
        run.step(loss)
        average.update(vae.decoder)
        last = budget.is_last(step)
        if step % 500 == 499 or last:
            with average.in_place(vae.decoder):
                run.note(step + 1, loss=loss.item(), psnr_db=measure(vae), minutes=budget.spent)
            run.save(step + 1, average.weights)
