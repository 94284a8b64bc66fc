"""The transformer and its text encoder: flow matching with a noise level of its own for every latent frame."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from backend.diffusion.transformer import Transformer, rotate
from training.tiny.code import LinearCode
from training.tiny.films import A_SHARD, LONG_SHARDS, draw_shards, scene_of
from training.tiny.run import Average, Run, learning_rate
from training.tiny.text import WIDTH, embed, new_text_encoder, new_tokenizer
from training.tiny.vae import CHANNELS, to_video
from training.tiny.world import caption, mirrored

STEPS = 60_000
RATE = 1e-3
TOLD = 512  # the tokens that the studio pads a prompt to
# How long the clips of a batch are, in latent frames; how many there are; how often it is so.
LENGTHS = {1: (64, 0.1), 5: (16, 0.4), 9: (8, 0.3), 17: (4, 0.2)}
ENDS = {5: 12, 9: 28, 17: 60}  # the frame that a clip of so many latent frames ends on, when its last one is a picture


class FoldedAttention:
    """The attention of the model by plain products, which a CPU does in a third of the time, gradients included.

    A prompt is padded to 512 tokens of zeros, all alike behind the text embedder. Here one of them, the last, stands
    for all that are not there: it counts 464 times, which changes nothing but the work.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            tensor.unflatten(2, (attn.heads, -1))
            for tensor in (
                attn.norm_q(attn.to_q(hidden_states)),
                attn.norm_k(attn.to_k(seen)),
                attn.to_v(seen),
            )
        )
        if rotary_emb is not None:
            query, key = rotate(query, *rotary_emb), rotate(key, *rotary_emb)
        query, key, value = (tensor.to(value.dtype).transpose(1, 2) for tensor in (query, key, value))
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if encoder_hidden_states is not None:
            counts = torch.ones(seen.shape[1], dtype=scores.dtype)
            counts[-1] = TOLD - seen.shape[1] + 1
            scores = scores + counts.log()
        mixed = scores.softmax(dim=-1) @ value
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))


class Denoiser(nn.Module):
    """Nine million parameters that see, and one and a half that read."""

    def __init__(self, vocabulary: Any) -> None:
        super().__init__()
        self.transformer = Transformer(
            num_attention_heads=6,
            attention_head_dim=48,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            text_dim=WIDTH,
            freq_dim=128,
            ffn_dim=1152,
            num_layers=6,
            rope_max_seq_len=256,
        )
        # Nothing is said about the noise at first, and the text has a voice from the beginning.
        nn.init.zeros_(self.transformer.proj_out.weight)
        nn.init.zeros_(self.transformer.proj_out.bias)
        self.text_encoder = new_text_encoder(vocabulary)

    def forward(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        velocity: Tensor = self.transformer(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=text,
            enable_diffusion_forcing=True,
            return_dict=False,
        )[0]
        return velocity

    def fold(self) -> None:
        """Compute attention as training does."""
        for block in self.transformer.blocks:
            for attention in (block.attn1, block.attn2):
                attention.set_processor(FoldedAttention())
            block.compile(dynamic=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """`clean` latents of (clips, channels, latent frames, height, width), and the text of each. If `ended`, the last
    latent frame is a picture that the clip ends on.
    """

    clean: Tensor
    texts: list[str]
    ended: bool


def encode_shards(work: Path, films: list[Path], code: LinearCode) -> list[Path]:
    """The films as latents: float16 of (2, films, latent frames + ends, channels, height, width), the second of the two
    seen in a mirror.
    """
    folder = work / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for film in films:
        shards.append(folder / film.name)
        if shards[-1].exists():
            continue
        video = to_video(np.load(film))
        found = []
        for seen in (video, video.flip(4)):
            ends = [code.encode(seen[:, :, at : at + 1]) for at in ENDS.values() if at < seen.shape[2]]
            found.append(torch.cat([code.encode(seen), *ends], dim=2).transpose(1, 2).half())
        part = folder / "part.npy"
        np.save(part, torch.stack(found).numpy())
        part.rename(shards[-1])
    return shards


def batches(shards: list[Path], seed: int) -> Iterator[Batch]:
    """Clips from the beginnings of films, one film in two mirrored, each told anew."""
    random = np.random.default_rng(seed)
    films = [np.load(shard, mmap_mode="r") for shard in shards]
    numbers = [int(shard.stem.removeprefix("films-")) for shard in shards]
    long = [n for n, number in enumerate(numbers) if number < LONG_SHARDS]
    lengths, often = list(LENGTHS), [chance for _, chance in LENGTHS.values()]
    while True:
        length = lengths[random.choice(len(lengths), p=often)]
        ended = length in ENDS and bool(random.random() < 0.15)
        clips, texts = [], []
        for _ in range(LENGTHS[length][0]):
            which = long[random.integers(len(long))] if length == 17 else int(random.integers(len(films)))
            mirror, film = int(random.integers(2)), int(random.integers(A_SHARD))
            found = films[which][mirror, film]
            if ended:
                frames = found.shape[0] - (3 if numbers[which] < LONG_SHARDS else 2)
                end = found[frames + list(ENDS).index(length)]
                clips.append(np.concatenate([found[: length - 1], end[None]]))
            else:
                clips.append(found[:length])
            scene = scene_of(numbers[which] * A_SHARD + film)
            text = caption(mirrored(scene) if mirror else scene, random)
            texts.append("" if random.random() < 0.1 else text)
        yield Batch(torch.from_numpy(np.stack(clips)).float().transpose(1, 2), texts, ended)


def draw_levels(batch: Batch, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Timesteps of (clips, latent frames), 0 for frames that are given, and a mask of those that are asked for.

    Half of the clips go down together, the others frame by frame, in any order or later frames after earlier ones.
    Four in ten begin with frames that are given.
    """
    clips, _, length = batch.clean.shape[:3]

    def chance(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    free = chance(clips, length)
    way = chance(clips, 1)
    level = torch.where(way < 0.55, free[:, :1], torch.where(way < 0.75, free, free.sort(dim=1).values))
    shift = torch.where(chance(clips, 1) < 0.5, 3.0, 1.0)
    timesteps = (1000 * shift * level / (1 + (shift - 1) * level)).round().clamp(1, 999)
    given = torch.where(chance(clips, 1) < 0.6, 1, (1 + chance(clips, 1) * max(1, length // 2)).long())
    given = torch.where(chance(clips, 1) < 0.4, given, 0) if length > 1 else torch.zeros(clips, 1)
    asked = torch.arange(length).expand(clips, -1) >= given
    if batch.ended:
        asked = asked & (torch.arange(length) < length - 1)
    return timesteps * asked, asked


def train(work: Path, films: list[Path], steps: int, minutes: float) -> None:
    """Go on from where `work/denoiser` stands to `steps` steps, or for `minutes`."""
    torch.manual_seed(0)
    torch._dynamo.config.recompile_limit = 32
    vae = AutoencoderKLWan.from_pretrained(work / "code", local_files_only=True)
    shards = encode_shards(work, films, LinearCode(vae))
    tokenizer = new_tokenizer()
    model = Denoiser(tokenizer)
    run = Run(work / "denoiser", model, RATE)
    start = run.restore()
    average = Average(model, 0.9993)
    average.load(run.averaged)
    model.fold()
    began = noted = time.monotonic()
    source, random = batches(shards, seed=start), torch.Generator().manual_seed(start)
    course: list[float] = []
    for step in range(start, steps):
        batch = next(source)
        timesteps, asked = draw_levels(batch, random)
        sigma = timesteps[:, None, :, None, None] / 1000
        noise = torch.randn(batch.clean.shape, generator=random)
        run.set_rate(learning_rate(step, steps, warmup=300, tail=0.3))
        with torch.autocast("cpu", torch.bfloat16):
            text = embed(tokenizer, model.text_encoder, batch.texts)
            found = model(batch.clean * (1 - sigma) + noise * sigma, timesteps, text)
        error = (found.float() - (noise - batch.clean)).square().mean(dim=(1, 3, 4))
        loss = (error * asked).sum() / asked.sum()
        run.step(loss)
        average.update(model)
        course.append(loss.item())
        last = step == steps - 1 or time.monotonic() - began > 60 * minutes
        if step % 200 == 199 or last:
            spent = time.monotonic() - noted
            run.note(step + 1, loss=math.fsum(course) / len(course), seconds_a_step=spent / len(course))
            course, noted = [], time.monotonic()
        if step % 1000 == 999 or last:
            run.save(step + 1, average.weights)
        if last:
            return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--shards", type=int, default=160)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, default=1e9)
    flags = parser.parse_args()
    train(flags.work, draw_shards(flags.work / "films", flags.shards), flags.steps, flags.minutes)
