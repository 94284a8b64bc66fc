"""From noise to latents: one loop for plain text-to-video and image-to-video and for diffusion forcing.

The plain classes give every latent frame the same noise level and make one window. Diffusion forcing gives each its
own: frames that are already known (a picture, the end of a film, the overlap with the window before) stand at level 0
and stay, the others go down together. Windows follow one another, each beginning with the end of the one before.
"""

from __future__ import annotations

import hashlib

import torch

from backend.core.errors import RenderFailed
from backend.core.planning import Plan
from backend.core.schedule import make_schedule
from backend.core.schema import Fidelity
from backend.diffusion.components import Components
from backend.diffusion.conditions import Conditions
from backend.diffusion.solver import Solver
from backend.diffusion.text import Prompt


class Sampler:
    """A render as a state machine: call `step` until `finished`, then read `film`.

    `window` and `step_index` count from 0 and say what the next `step` will do. `latents` are those of the current
    window and `film` those that are ready, float32, normalised, of shape (1, channels, latent frames, height, width).
    """

    def __init__(self, components: Components, plan: Plan, seed: int, prompt: Prompt, conditions: Conditions) -> None:
        self.components = components
        self.plan = plan
        self.seed = seed
        self.prompt = prompt
        self.conditions = conditions
        self.window = 0
        self.step_index = 0
        self._original = plan.fidelity is Fidelity.ORIGINAL
        self.film: torch.Tensor | None = None
        # On the CPU, so that the seed means the same noise on every device; windows draw from it in their order.
        self._noise = torch.Generator("cpu").manual_seed(seed)
        self._open_window()

    @property
    def finished(self) -> bool:
        return self.window == len(self.plan.windows)

    @property
    def part(self) -> float:
        """How much of the denoising is done, 0 to 1."""
        steps = self.plan.window_steps
        return (sum(steps[: self.window]) + self.step_index) / sum(steps)

    def step(self) -> None:
        """Go one noise level down in one window: one call of the transformer, two with guidance.

        Raises RenderFailed if the result is not finite; whatever a hook raises inside leaves the state as it was.
        """
        with torch.no_grad():
            velocity = self._predict()
            moves = self._schedule.moves[self.step_index]
            for solver in self._solvers:
                if moves[solver.frames.start]:
                    solver.step(self.latents, velocity)
        # Reading the answer also waits for the GPU, so a CUDA error surfaces in the step that made it.
        if not torch.isfinite(self.latents).all():
            raise RenderFailed(
                f"Step {self.step_index + 1} of window {self.window + 1} gave values that are not numbers;",
                hint="lower guidance_scale; if that does not help, download the model again.",
            )
        self.step_index += 1
        if self.step_index == len(self._schedule.levels):
            self._close_window()

    def _open_window(self) -> None:
        """Fresh noise, with the frames that are known already written into it."""
        plan, device = self.plan, self.components.device
        window, last = plan.windows[self.window], self.window == len(plan.windows) - 1
        known = self.conditions.prefix
        if self.film is not None:
            known = self.film[:, :, window.start :]
        factor = self.components.spatial_factor
        height, width = plan.render_height // factor, plan.render_width // factor
        shape = (1, self.components.vae.config.z_dim, window.stop - window.start, height, width)
        self.latents = torch.randn(shape, generator=self._noise, dtype=torch.float32).to(device)
        self._known = 0 if known is None else known.shape[2]
        if known is not None:
            self.latents[:, :, : self._known] = self._given(known)
        self._length = shape[2]
        if self.conditions.end is not None and last:
            self.latents = torch.cat([self.latents, self._given(self.conditions.end)], dim=2)
        self._schedule = make_schedule(
            shape[2], plan.num_inference_steps, plan.ar_step, plan.causal_block_size, self._known
        )
        self._solvers = [Solver(self.components, plan, slice(*run)) for run in self._schedule.runs]
        self._timesteps = self._make_timesteps()

    def _make_timesteps(self) -> torch.Tensor:
        """What the transformer is told of every latent frame at every step, of shape (steps, latent frames), int64."""
        # 999 is noise that waits, 0 a frame that is finished or given, as is the end picture's behind the last one.
        of_level = [999, *self._solvers[0].timesteps.tolist(), 0]
        behind = [0] * (self.latents.shape[2] - self._length)
        rows = [[of_level[level] for level in row] + behind for row in self._schedule.levels]
        return torch.tensor(rows, device=self.components.device)

    def _close_window(self) -> None:
        # The end picture's latent frame stands behind the film and is not part of it.
        if self.film is None:
            self.film = self.latents[:, :, : self._length]
        else:
            self.film = torch.cat([self.film, self.latents[:, :, self._known : self._length]], dim=2)
        self.window += 1
        self.step_index = 0
        if not self.finished:
            self._open_window()

    def _given(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of frames that are known; the stock pipelines keep them in the transformer's precision."""
        return latents if self._original else latents.to(self.components.transformer.dtype).float()

    def _predict(self) -> torch.Tensor:
        """The guided velocity of every latent frame at its level: float32, or the model's dtype as in diffusers."""
        dtype = self.components.transformer.dtype
        if self.components.diffusion_forcing:
            latents, timesteps = self._forcing_input(dtype)
        else:
            joined = [self.latents] if self.conditions.channels is None else [self.latents, self.conditions.channels]
            latents, timesteps = torch.cat(joined, dim=1).to(dtype), self._timesteps[self.step_index, :1]
        positive = self._forward(latents, timesteps, self.prompt.positive)
        if self.prompt.negative is None:
            return positive
        negative = self._forward(latents, timesteps, self.prompt.negative)
        return negative + self.plan.guidance_scale * (positive - negative)

    def _forcing_input(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents in `dtype` and one timestep a latent frame; a little noise on known frames if the plan says so."""
        latents = self.latents.to(dtype, copy=True)
        timesteps = self._timesteps[self.step_index : self.step_index + 1].clone()
        level = self.plan.addnoise_condition
        if level and self._known:
            known = latents[:, :, : self._known]
            noise = condition_noise(known.shape, self.seed, self.window, self.step_index).to(known)
            latents[:, :, : self._known] = known * (1.0 - 0.001 * level) + noise * (0.001 * level)
            timesteps[:, : self._known] = level
        return latents, timesteps

    def _forward(self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        self._set_mask()
        velocity: torch.Tensor = self.components.transformer(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=text,
            encoder_hidden_states_image=self.conditions.image_tokens,
            enable_diffusion_forcing=self.components.diffusion_forcing,
            fps=[0 if self.plan.fps == 16 else 1],  # the two rates that the model was told apart in training
            return_dict=False,
        )[0]
        # Mixing guidance in bfloat16 would lose what the difference of two close predictions says.
        return velocity.float() if self._original else velocity

    def _set_mask(self) -> None:
        """See that later blocks are hidden from earlier ones only where diffusers does so.

        The released weights were not trained with that mask (SkyReels-V2 issues 53, 58, 78), and the transformer keeps
        it for the next render until somebody takes it off.
        """
        transformer, block = self.components.transformer, 1 if self._original else self.plan.causal_block_size
        if transformer.config.num_frame_per_block != block:
            transformer._set_ar_attention(block)


def condition_noise(shape: tuple[int, ...], seed: int, window: int, step: int) -> torch.Tensor:
    """Noise that its three names alone decide, so that a render can go on from any step. Float32, on the CPU."""
    name = hashlib.blake2b(f"{seed} {window} {step}".encode(), digest_size=8).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(name, "little") >> 1)
    return torch.randn(shape, generator=generator, dtype=torch.float32)
