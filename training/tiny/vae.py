"""The VAE: its encoder is written (see `code`), its decoder is trained to take it back, with all that it can guess."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.tiny import whole
from training.tiny.code import LinearCode, write_encoder
from training.tiny.films import HELD_OUT, LONG_SHARDS, draw_film, draw_shards
from training.tiny.run import Average, Run, learning_rate

PATCH = 4  # pixels that are folded into channels before the first layer
CHANNELS = 64
STEPS = 8000
NOISE = 0.1  # on the latents, so that near ones decode alike
SHAPES = ((2, 17, 64, 112), (1, 33, 64, 112))  # in turns; a whole frame is 128 x 224
RATE = 2e-3


def new_vae() -> AutoencoderKLWan:
    """Nine million parameters; 16 x 16 x 4 pixels a latent pixel, 64 channels."""
    return AutoencoderKLWan(
        base_dim=48,
        decoder_base_dim=64,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=PATCH,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        scale_factor_spatial=16,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )


def written_vae(work: Path, shards: list[Path]) -> AutoencoderKLWan:
    """A VAE whose encoder is the linear code of the first films, kept in `work/code`."""
    folder = work / "code"
    if not folder.exists():
        torch.manual_seed(0)
        vae = new_vae()
        write_encoder(vae, torch.cat([to_video(np.load(shard, mmap_mode="r")[::3, :17]) for shard in shards[:24]]))
        vae.save_pretrained(folder)
    return AutoencoderKLWan.from_pretrained(folder, local_files_only=True)


def to_video(films: np.ndarray) -> Tensor:
    """uint8 (batch, frames, height, width, 3) -> float (batch, 3, frames, height, width) of -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(films)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def batches(shards: list[Path], seed: int) -> Iterator[Tensor]:
    """Clips from anywhere in the films, of the shapes of `SHAPES` in turns, one film in two mirrored."""
    random = np.random.default_rng(seed)
    films = [np.load(shard, mmap_mode="r") for shard in shards]
    while True:
        for shape in SHAPES:
            clips = []
            for _ in range(shape[0]):
                shard = films[random.integers(len(films))]
                film = shard[random.integers(len(shard))]
                cut = []
                for size, part in zip(film.shape[:3], shape[1:], strict=True):
                    start = random.integers(size - part + 1)
                    cut.append(slice(start, start + part))
                clip = film[tuple(cut)]
                clips.append(clip[:, :, ::-1] if random.random() < 0.5 else clip)
            yield to_video(np.stack(clips))


def distance(made: Tensor, true: Tensor) -> Tensor:
    """What is to be small: absolute and squared error, and the absolute error of the edges."""
    error = made - true
    edges = (error.diff(dim=3)).abs().mean() + (error.diff(dim=4)).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.5 * edges


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each film in dB; both are -1 to 1."""
    return -10 * torch.log10((made.clamp(-1, 1) - true).square().flatten(1).mean(1) / 4)


@torch.no_grad()
def measure(vae: AutoencoderKLWan, count: int = 10) -> float:
    """PSNR on held-out films of 33 frames, by the stock calls."""
    found = []
    for number in range(count):
        video = to_video(draw_film(HELD_OUT + number, 33)[None])
        found.append(psnr(vae.decode(vae.encode(video).latent_dist.mode()).sample, video))
    return float(torch.cat(found).mean())


def train(work: Path, shards: list[Path], steps: int = STEPS, minutes: float = 1e9) -> None:
    """Go on from where `work/vae` stands to `steps` steps, or for `minutes`; the averaged weights are kept there."""
    torch.manual_seed(0)
    vae = written_vae(work, shards)
    code = LinearCode(vae)
    vae.encoder.requires_grad_(False)
    run = Run(work / "vae", vae.decoder, RATE)
    start = run.restore()
    average = Average(vae.decoder, 0.998)
    average.load(run.averaged)
    decode = torch.compile(whole.decode, dynamic=False)
    began = time.monotonic()
    source = batches(shards, seed=start)
    for step in range(start, steps):
        video = next(source)
        latents = code.encode(video)
        run.set_rate(learning_rate(step, steps, warmup=100))
        with torch.autocast("cpu", torch.bfloat16):
            made = decode(vae, latents + NOISE * torch.randn_like(latents))
        loss = distance(made.float(), video)
        run.step(loss)
        average.update(vae.decoder)
        last = step == steps - 1 or time.monotonic() - began > 60 * minutes
        if step % 250 == 249 or last:
            with average.in_place(vae.decoder):
                run.note(step + 1, loss=loss.item(), psnr_db=measure(vae), minutes=(time.monotonic() - began) / 60)
                vae.save_pretrained(work / "vae" / "done")
            run.save(step + 1, average.weights)
        if last:
            return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, default=1e9)
    flags = parser.parse_args()
    train(flags.work, draw_shards(flags.work / "films", LONG_SHARDS), flags.steps, flags.minutes)
