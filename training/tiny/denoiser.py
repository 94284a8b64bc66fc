"""The transformer and its text encoder: flow matching with a separate noise level for every latent frame."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from backend.diffusion.components import compute_device
from backend.diffusion.transformer import Transformer, rotate
from training.tiny.clips import (
    A_SHARD,
    LONG_SHARDS,
    SQUARE_SHARDS,
    TALL_SHARDS,
    is_wide,
    number_of,
    scene_of,
    subject_paths,
)
from training.tiny.linear_codec import SIDE, LinearCodec
from training.tiny.run import (
    Average,
    Budget,
    Run,
    batch_size,
    by_step,
    first_alone,
    learning_rate,
    rank,
    wait_for_others,
    world_size,
)
from training.tiny.text import WIDTH, embed, new_text_encoder, pretrained
from training.tiny.vae import CHANNELS, to_video
from training.tiny.world import caption, mirrored

STEPS = 9000
RATE = 1e-2
Curriculum = tuple[tuple[float, dict[int, float]], ...]
CLIPS = {1: 64, 2: 32, 5: 12, 9: 6, 17: 3}  # in a batch, by their length in latent frames
# Probability of each clip length in latent frames, up to each part of the training: short clips first, long ones last.
CURRICULUM = (
    (0.65, {1: 0.4, 2: 0.4, 5: 0.2}),
    (0.85, {1: 0.1, 2: 0.2, 5: 0.5, 9: 0.2}),
    (1.0, {1: 0.05, 2: 0.05, 5: 0.3, 9: 0.3, 17: 0.3}),
)
# For training that starts from a checkpoint: mostly long clips.
CONTINUED_CURRICULUM = ((1.0, {1: 0.03, 2: 0.03, 5: 0.14, 9: 0.6, 17: 0.2}),)
PARTS = {Transformer: "transformer", UMT5EncoderModel: "text_encoder"}  # and their folders in a checkpoint
SUBJECT_RADIUS = 2.25  # latent pixels
ENDS = {5: 12, 9: 28, 17: 60}  # the frame that a clip of so many latent frames ends on, when its last one is a picture


class PlainAttention:
    """Attention by plain matrix products, which take a third of the time on a CPU, gradients included."""

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
        mixed = scores.softmax(dim=-1) @ value
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))


class Denoiser(nn.Module):  # type: ignore[misc]
    """Transformer of nine million parameters and text encoder of one and a half million."""

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
            inject_sample_info=True,
        )
        # The output is zero at first.
        nn.init.zeros_(self.transformer.proj_out.weight)
        nn.init.zeros_(self.transformer.proj_out.bias)
        self.text_encoder = new_text_encoder(vocabulary)

    def forward(self, latents: Tensor, timesteps: Tensor, text: Tensor, fps: int = 1) -> Tensor:
        velocity: Tensor = self.transformer(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=text,
            enable_diffusion_forcing=True,
            fps=[fps],
            return_dict=False,
        )[0]
        return velocity

    def use_cpu_kernels(self) -> None:
        """On a CPU, compile the blocks with plain attention; on a GPU compiling for every length takes too long."""
        if self.transformer.device.type != "cpu":
            return
        for block in self.transformer.blocks:
            for attention in (block.attn1, block.attn2):
                attention.set_processor(PlainAttention())
            block.compile(dynamic=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Training batch: `clean` latents of (clips, channels, latent frames, height, width), their texts, and the loss
    weights, (clips, latent frames, height, width). If `ended`, the last latent frame encodes a given end image.
    """

    clean: Tensor
    texts: list[str]
    weight: Tensor
    ended: bool


def encode_shards(work: Path, drawn: list[Path], codec: LinearCodec) -> list[Path]:
    """Encode the clips to latents: float16 of (2, clips, latent frames + ends, channels, height, width), the second of
    the two mirrored. The processes of a group share the work.
    """
    folder = work / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    shards = [folder / file.name for file in drawn]
    for file, shard in list(zip(drawn, shards, strict=True))[rank() :: world_size()]:
        if shard.exists():
            continue
        video = to_video(np.load(file), codec.first.device)
        found = []
        for seen in (video, video.flip(4)):
            ends = [codec.encode(seen[:, :, at : at + 1]) for at in ENDS.values() if at < seen.shape[2]]
            found.append(torch.cat([codec.encode(seen), *ends], dim=2).transpose(1, 2).half())
        part = folder / f"part-{rank()}.npy"
        np.save(part, torch.stack(found).cpu().numpy())
        part.rename(shard)
    wait_for_others()
    return shards


class Clips:
    """A batch for every step: the first frames of clips, half of them mirrored, each with a new caption."""

    def __init__(
        self, shards: list[Path], paths: np.ndarray, budget: Budget, curriculum: Curriculum = CURRICULUM
    ) -> None:
        self.clips = [np.load(shard, mmap_mode="r") for shard in shards]
        self.paths, self.budget, self.curriculum = paths, budget, curriculum
        self.numbers = [number_of(shard) for shard in shards]
        wide = [n for n, number in enumerate(self.numbers) if is_wide(number)]
        self.long = [n for n, number in enumerate(self.numbers) if number < LONG_SHARDS]
        kinds = (
            [n for n, number in enumerate(self.numbers) if number in part] for part in (TALL_SHARDS, SQUARE_SHARDS)
        )
        self.shapes = [wide, *(kind or wide for kind in kinds)]

    def of(self, step: int) -> Batch:
        # All processes take clips of one length and shape, or they would wait for one another.
        shared = np.random.default_rng(step)
        random = np.random.default_rng((step, rank()))
        chances = next(lengths for part, lengths in self.curriculum if self.budget.part(step) <= part)
        length = list(chances)[shared.choice(len(chances), p=list(chances.values()))]
        ended = length in ENDS and bool(shared.random() < 0.15)
        shape = self.shapes[shared.choice(3, p=(0.8, 0.1, 0.1))]
        possible = self.long if length == 17 else shape
        clips, texts, places = [], [], []
        for _ in range(batch_size(CLIPS[length])):
            which = possible[random.integers(len(possible))]
            mirror, index = int(random.integers(2)), int(random.integers(A_SHARD))
            number, found = self.numbers[which], self.clips[which][mirror, index]
            if ended:
                frames = found.shape[0] - (3 if number < LONG_SHARDS else 2)
                end = found[frames + list(ENDS).index(length)]
                clips.append(np.concatenate([found[: length - 1], end[None]]))
            else:
                clips.append(found[:length])
            place = self.paths[number, index][latent_frames(length, ended)] / SIDE
            places.append([found.shape[3] - place[:, 0], place[:, 1]] if mirror else place.T)
            scene = scene_of(number * A_SHARD + index)
            text = caption(mirrored(scene) if mirror else scene, random)
            texts.append("" if random.random() < 0.1 else text)
        clean = torch.from_numpy(np.stack(clips)).float().transpose(1, 2)
        return Batch(clean, texts, weights(torch.from_numpy(np.stack(places)), *clean.shape[3:]), ended)


def latent_frames(length: int, ended: bool) -> list[int]:
    """The frame in the middle of each of the `length` latent frames of a clip."""
    frames = [max(0, 4 * n - 1) for n in range(length)]
    return [*frames[:-1], ENDS[length]] if ended else frames


def weights(places: Tensor, height: int, width: int) -> Tensor:
    """Loss weights, (clips, latent frames, height, width), for subjects at `places`, (clips, 2, latent frames), x and y
    in latent pixels: up to five at the subject, one elsewhere.
    """
    x, y = torch.arange(width) + 0.5 - places[:, 0, :, None], torch.arange(height) + 0.5 - places[:, 1, :, None]
    away = x.square().unsqueeze(2) + y.square().unsqueeze(3)
    return 1 + 4 * torch.exp(-away / SUBJECT_RADIUS**2)


def draw_timesteps(batch: Batch, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw timesteps of (clips, latent frames), and a mask of the frames to denoise; given frames have 0 to 60.

    Three in four clips have one noise level for all frames, the others one for each, in any order or rising. One in
    four begins with given frames.
    """
    clips, _, length = batch.clean.shape[:3]

    def chance(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    free = chance(clips, length)
    kind = chance(clips, 1)
    level = torch.where(kind < 0.75, free[:, :1], torch.where(kind < 0.85, free, free.sort(dim=1).values))
    shift = torch.where(chance(clips, 1) < 0.8, 9.0, 1.0)  # the content of a clip is decided at high noise
    timesteps = (1000 * shift * level / (1 + (shift - 1) * level)).round().clamp(1, 999)
    given = torch.where(chance(clips, 1) < 0.6, 1, (1 + chance(clips, 1) * max(1, length // 2)).long())
    given = torch.where(chance(clips, 1) < 0.25, given, 0) if length > 1 else torch.zeros(clips, 1)
    denoised = torch.arange(length).expand(clips, -1) >= given
    if batch.ended:
        denoised = denoised & (torch.arange(length) < length - 1)
    condition = (60 * chance(clips, 1) * (chance(clips, 1) < 0.5)).round()  # `addnoise_condition`, or none
    return torch.where(denoised, timesteps, condition), denoised


def loss_of(error: Tensor, sigma: Tensor, weight: Tensor, denoised: Tensor) -> Tensor:
    """Loss: mean square of the velocity's `error`, (clips, channels, latent frames, height, width), over the `denoised`
    frames, plus the mean square of the change of the clean clip's error between frames. So an error of the background
    counts once, an error of the motion twice.
    """
    still = (error.square().mean(dim=1) * weight).mean(dim=(2, 3))[denoised].mean()
    both = denoised[:, 1:] & denoised[:, :-1]
    if not both.any():
        return still
    change = (error * sigma).diff(dim=2).square().mean(dim=1)
    return still + (change * weight[:, 1:]).mean(dim=(2, 3))[both].mean()


def train(work: Path, drawn: list[Path], budget: Budget, begin: Path | None = None) -> None:
    """Train the denoiser in `work/denoiser` to the end of `budget`, from its own checkpoint if there is one, else from
    the model in `begin`, else from scratch.
    """
    torch.manual_seed(0)
    torch._dynamo.config.recompile_limit = 32
    device = compute_device()
    vae = AutoencoderKLWan.from_pretrained(work / "code", local_files_only=True)
    shards = encode_shards(work, drawn, LinearCodec(vae).to(device))
    with first_alone():
        paths = subject_paths(work / "paths.npy", len(drawn))
        tokenizer, encoder = pretrained(work / "text")
    model = Denoiser(tokenizer).to(device)
    model.text_encoder.load_state_dict(encoder.state_dict())
    if begin is not None:
        for part in (model.transformer, model.text_encoder):
            found = type(part).from_pretrained(begin / PARTS[type(part)], local_files_only=True)
            part.load_state_dict(found.float().state_dict())
    model.text_encoder.requires_grad_(False)
    run = Run(work / "denoiser", model, RATE, apart=("bias", "proj_out", "patch_embed"))
    start = run.restore()
    average = Average(model, 0.998)
    average.load(run.averaged)
    model.use_cpu_kernels()
    noted, steps, total = time.monotonic(), 0, torch.zeros((), device=device)
    clips = Clips(shards, paths, budget, CURRICULUM if begin is None else CONTINUED_CURRICULUM)
    timestep_random = torch.Generator().manual_seed(start + 10**6 * rank())
    noises = torch.Generator(device).manual_seed(start + 10**6 * rank())
    for step, batch in by_step(clips.of, budget, start):
        timesteps, denoised = (x.to(device) for x in draw_timesteps(batch, timestep_random))
        clean, sigma = batch.clean.to(device), timesteps[:, None, :, None, None] / 1000
        noise = torch.randn(clean.shape, generator=noises, device=device)
        run.set_rate(learning_rate(step, budget.part(step), warmup=300, tail=0.3))
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                text = embed(tokenizer, model.text_encoder, batch.texts)
            # The same clips are wanted at 16 frames a second as at 24.
            found = model(clean * (1 - sigma) + noise * sigma, timesteps, text, fps=step % 2)
        loss = loss_of(found.float() - (noise - clean), sigma, batch.weight.to(device), denoised)
        run.step(loss)
        average.update(model)
        total, steps = total + loss.detach(), steps + 1
        last = budget.is_last(step)
        if step % 200 == 199 or last:
            run.note(step + 1, loss=total.item() / steps, seconds_a_step=(time.monotonic() - noted) / steps)
            noted, steps, total = time.monotonic(), 0, torch.zeros((), device=device)
        if step % 250 == 249 or last:
            run.save(step + 1, average.weights)
