"""The sampler: from noise to latents, for plain text- and image-to-video models and for diffusion forcing.

Plain models denoise all latent frames at the same timestep, in one window. Diffusion forcing (Chen et al. 2024) gives
each latent frame its own timestep: context frames (a picture, the end of a video, the overlap with the window before)
have timestep 0 and do not change, the others are denoised. Every window after the first begins with the end of the one
before.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from backend.core.errors import RenderFailed, SnapshotRefused
from backend.core.placement import Placement
from backend.core.plan import Plan
from backend.core.schedule import make_schedule
from backend.core.schema import Fidelity, GenerationRequest
from backend.diffusion.components import Components
from backend.diffusion.conditions import Conditions
from backend.diffusion.solver import Solver
from backend.diffusion.text import Prompt

NOISE_TIMESTEP = 999  # of a frame that has not started

# Values and names of version 0.1, which the fingerprint hashes.
PLACEMENTS_OF_V1 = {Placement.MODEL_OFFLOAD: "in_turns", Placement.GROUP_OFFLOAD: "streamed"}


class State(NamedTuple):
    """The state of a sampler between two steps: tensors by name, and metadata that JSON can hold."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]


class Prediction(NamedTuple):
    """The velocity that the transformer predicted at a step: conditional, and with classifier-free guidance if that was
    computed.
    """

    step_index: int
    cond: torch.Tensor
    guided: torch.Tensor | None = None


class Sampler:
    """A render as a state machine: `step` until the window is done, `open_window` for the next one, until `finished`.
    `state` between two steps can be restored by another sampler in another process, which ends with the same bits. A
    draft is finished earlier, in its first window; its state is that of the whole render there.

    `window` and `step_index` count from 0 and are those of the next `step`. `latents` are those of the window: float32,
    normalised, of shape (1, channels, latent frames, height, width). The first `num_context_frames` of them are given,
    and the first `num_frames` belong to the video: an end picture is one more.
    """

    def __init__(
        self,
        components: Components,
        plan: Plan,
        request: GenerationRequest,
        prompts: Sequence[Prompt],
        conditions: Conditions,
    ) -> None:
        self.components = components
        self.plan = plan
        self.request = request
        self.prompts = prompts
        self.conditions = conditions
        self.window = -1
        self.step_index = 0
        self.num_context_frames = 0
        self.num_frames = 0
        self._original = plan.fidelity is Fidelity.ORIGINAL
        # The stock pipelines draw the noise of all windows from one generator, in their order.
        self._generator = torch.Generator("cpu").manual_seed(request.seed)
        self.open_window(conditions.prefix)

    @property
    def window_done(self) -> bool:
        """Whether all steps of the window are done."""
        return self.step_index == len(self._schedule.timestep_indices)

    @property
    def draft_done(self) -> bool:
        """Whether this is a draft, and its steps are done."""
        return self.step_index == self.plan.draft_steps

    @property
    def finished(self) -> bool:
        return self.draft_done or (self.window_done and self.window == len(self.plan.windows) - 1)

    @property
    def fraction(self) -> float:
        """The fraction of the denoising steps of this render that is done; those of its draft do not count."""
        steps, before = self.plan.window_steps, self.plan.done_steps
        done = sum(steps[: self.window]) + self.step_index
        return max(0, done - before) / (sum(steps) - before)

    @property
    def expert(self) -> Any:
        """The transformer of the next step, or of the last one after it."""
        return self._experts[min(self.step_index, len(self._experts) - 1)]

    @property
    def num_final(self) -> int:
        """How many leading latent frames of the window no later step will change. All that have started are final once
        a draft is done, none before.
        """
        if self.plan.draft_steps is None:
            return self._schedule.num_final[self.step_index]
        return self._schedule.num_started[self.step_index - 1] if self.draft_done else 0

    @property
    def final(self) -> torch.Tensor:
        """The final latent frames of the window, those of a draft as it predicts them. Of the shape of `latents`, but
        with `num_final` frames.
        """
        latents = self.latents if self.plan.draft_steps is None else self.predict_clean()
        return latents[:, :, : self.num_final]

    def predict_clean(self) -> torch.Tensor:
        """The predicted clean latents (x0) of the frames that have started, the others are left out. Of the shape of
        `latents`, but with fewer frames.
        """
        clean, num_started = self.latents[:, :, : self.num_frames].clone(), self.num_context_frames
        for solver in self._solvers:
            if solver.predicted_clean is not None:
                clean[:, :, solver.frames] = solver.predicted_clean
                num_started = solver.frames.stop
        return clean[:, :, :num_started]

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides the pixels: plan, request and model. The forecast changes from run to run."""
        request = self.request.model_dump(mode="json", exclude_defaults=True, exclude={"draft_steps"})
        text = json.dumps([_plan_of_v1(self.plan), request], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=16)
        for transformer in self.components.transformers:
            # One small tensor that any training changes stands for the weights.
            digest.update(f"{transformer.dtype} {sum(weight.numel() for weight in transformer.parameters())}".encode())
            table = transformer._parameters["scale_shift_table"]  # without what LoRAs add to it
            digest.update(table.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def state(self) -> State:
        """All that the next step needs. Tensors are copies on the CPU."""
        tensors = {"latents": self.latents}
        for number, prediction in enumerate(self._predictions):
            tensors[f"prediction{number}.cond"] = prediction.cond
            if prediction.guided is not None:
                tensors[f"prediction{number}.guided"] = prediction.guided
        if not self._original:
            tensors["noise"] = self._generator.get_state()
        counters = []
        for number, solver in enumerate(self._solvers):
            history, counts = solver.state()
            tensors |= {f"solver{number}.{name}": tensor for name, tensor in history.items()}
            counters.append(counts)
        copies = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        metadata = {
            "window": self.window,
            "step": self.step_index,
            "num_context_frames": self.num_context_frames,
            "solvers": counters,
            "predictions": [prediction.step_index for prediction in self._predictions],
            "fingerprint": self.fingerprint,
        }
        return State(copies, metadata)

    def restore(self, state: State) -> None:
        """Continue from `state`. Raises SnapshotRefused, and changes nothing, if it is that of another render."""
        tensors, metadata = state
        if metadata.get("fingerprint") != self.fingerprint:
            raise SnapshotRefused("It was made with another request, plan or model;", hint="render from the beginning.")
        device = self.components.device
        self.window = metadata["window"]
        self._begin_window(tensors["latents"].to(device, copy=True), metadata["num_context_frames"])
        self.step_index = metadata["step"]
        for number, (solver, counts) in enumerate(zip(self._solvers, metadata["solvers"], strict=True)):
            start = f"solver{number}."
            history = {name.removeprefix(start): t.to(device) for name, t in tensors.items() if name.startswith(start)}
            solver.restore(history, counts)
        for number, step_index in enumerate(metadata["predictions"]):
            cond, guided = (tensors.get(f"prediction{number}.{name}") for name in ("cond", "guided"))
            assert cond is not None
            guided = None if guided is None else guided.to(device)
            self._predictions.append(Prediction(step_index, cond.to(device), guided))
        if not self._original:
            self._generator.set_state(tensors["noise"])

    def step(self) -> None:
        """Make one denoising step: with one call of the transformer, two with classifier-free guidance, or none where
        the preset extrapolates the velocity.

        Raises RenderFailed if the result is not finite. An error that a hook raises leaves the state as it was.
        """
        with torch.no_grad():
            velocity = self._velocity()
            updates = self._schedule.update_mask[self.step_index]
            for solver in self._solvers:
                if updates[solver.frames.start]:
                    solver.step(self.latents, velocity)
        # Reading the result also waits for the GPU, so a CUDA error surfaces in the step that caused it.
        if not torch.isfinite(self.latents).all():
            raise RenderFailed(
                f"Step {self.step_index + 1} of window {self.window + 1} gave values that are not numbers;",
                hint="lower guidance_scale; if that does not help, download the model again.",
            )
        self.step_index += 1

    def warm_up(self) -> None:
        """Call the transformer once and discard its output, so that what its first call compiles is compiled now."""
        step_index, self.step_index = self.step_index, min(self.step_index, len(self._schedule.timestep_indices) - 1)
        try:
            with torch.no_grad():
                self._predict(guided=False)
        finally:
            self.step_index = step_index

    def open_window(self, context: torch.Tensor | None) -> None:
        """Go on to the next window: fresh noise, with the latents of `context` written over its first frames."""
        self.window += 1
        window, factor = self.plan.windows[self.window], self.components.spatial_factor
        height, width = self.plan.render_height // factor, self.plan.render_width // factor
        shape = (1, self.components.vae.config.z_dim, window.stop - window.start, height, width)
        latents = self._draw_noise(shape).to(self.components.device)
        if context is not None:
            latents[:, :, : context.shape[2]] = self._as_context(context)
        if self.conditions.end is not None and self.window == len(self.plan.windows) - 1:
            latents = torch.cat([latents, self._as_context(self.conditions.end)], dim=2)
        self._begin_window(latents, 0 if context is None else context.shape[2])

    def _begin_window(self, latents: torch.Tensor, num_context_frames: int) -> None:
        """Set up the schedule and the solvers of the window, which begins with `latents`."""
        plan, window = self.plan, self.plan.windows[self.window]
        self.latents, self.num_context_frames = latents, num_context_frames
        self.num_frames = window.stop - window.start
        self.step_index = 0
        self._schedule = make_schedule(
            self.num_frames, plan.num_inference_steps, plan.ar_step, plan.causal_block_size, num_context_frames
        )
        self._solvers = [Solver(self.components, plan, slice(*group)) for group in self._schedule.frame_groups]
        self._timesteps = self._make_timesteps()
        self._experts = [self.components.expert(timestep) for timestep in self._timesteps.amax(dim=1).tolist()]
        self._step_plans = plan.plan_steps(self._schedule)
        # Extrapolation needs the last two predictions.
        skips = any(not step.num_evaluations for step in self._step_plans)
        self._predictions: deque[Prediction] = deque(maxlen=2 if skips else 0)

    def _make_timesteps(self) -> torch.Tensor:
        """The timestep of every latent frame at every step, of shape (steps, latent frames), int64."""
        # Timestep 0 is a clean frame, as is the end picture behind the last frame.
        by_index = [NOISE_TIMESTEP, *self._solvers[0].timesteps.tolist(), 0]
        end = [0] * (self.latents.shape[2] - self.num_frames)
        rows = [[by_index[index] for index in row] + end for row in self._schedule.timestep_indices]
        return torch.tensor(rows, device=self.components.device)

    def _draw_noise(self, shape: tuple[int, ...]) -> torch.Tensor:
        """The initial noise of the current window, on the CPU, so that a seed gives the same on every device."""
        # That of the first window is the same for both fidelities, so that one seed gives the same composition.
        if self.window == 0 or not self._original:
            return torch.randn(shape, generator=self._generator, dtype=torch.float32)
        return seeded_noise(shape, self.request.seed, self.window)

    def _as_context(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of context frames. The stock pipelines of diffusion forcing round them to the transformer's dtype;
        that of Wan 2.2 TI2V keeps float32.
        """
        if self._original or not self.components.diffusion_forcing:
            return latents
        return latents.to(self.components.transformer.dtype).float()

    def _velocity(self) -> torch.Tensor:
        """The velocity of every latent frame at the current step, guided where the preset says so: float32, or the
        model's dtype with `diffusers` fidelity.
        """
        step = self._step_plans[self.step_index]
        same_expert = all(self._experts[before.step_index] is self.expert for before in self._predictions)
        if not step.num_evaluations and same_expert:
            return self._extrapolate()
        prediction = self._predict(guided=any(step.guided))
        self._predictions.append(prediction)
        return self._select(prediction)

    def _select(self, prediction: Prediction) -> torch.Tensor:
        """The velocity of each frame with guidance or without, as the current step needs it."""
        guided = self._step_plans[self.step_index].guided
        if prediction.guided is None or not any(guided):
            return prediction.cond
        if guided == self._schedule.update_mask[self.step_index]:
            return prediction.guided
        frames = prediction.cond.shape[2]
        mask = torch.tensor([*guided, *[False] * frames][:frames], device=prediction.cond.device)
        return torch.where(mask.view(1, 1, -1, 1, 1), prediction.guided, prediction.cond)

    def _extrapolate(self) -> torch.Tensor:
        """The velocity extrapolated linearly in the timestep from the last two predictions."""
        first, last = self._predictions
        v0, v1 = self._select(first), self._select(last)
        t0, t1, t = (
            self._timesteps[row, : v1.shape[2]].float() for row in (first.step_index, last.step_index, self.step_index)
        )
        ratio = torch.where(t1 == t0, 0.0, (t - t1) / (t1 - t0)).view(1, 1, -1, 1, 1)
        return v1 + ratio * (v1 - v0)

    def _predict(self, guided: bool) -> Prediction:
        """Evaluate the transformer at the current step. If `guided`, and if there is a negative prompt, with
        classifier-free guidance (Ho and Salimans 2022).
        """
        dtype = self.components.transformer.dtype
        if self.components.per_frame_timesteps:
            latents, timesteps = self._forcing_input(dtype)
        else:
            channels = self.conditions.channels
            inputs = [self.latents] if channels is None else [self.latents, channels]
            latents, timesteps = torch.cat(inputs, dim=1).to(dtype), self._timesteps[self.step_index, :1]
        prompt = self.prompts[min(self.window, len(self.prompts) - 1)]
        if prompt.negative is None or not guided:
            return Prediction(self.step_index, self._forward(latents, timesteps, prompt.positive))
        if self.plan.batch_guidance:
            both = self._forward(latents, timesteps, torch.cat([prompt.positive, prompt.negative]))
            cond, uncond = both.chunk(2)
        else:
            cond = self._forward(latents, timesteps, prompt.positive)
            uncond = self._forward(latents, timesteps, prompt.negative)
        return Prediction(self.step_index, cond, uncond + self._guidance_scale * (cond - uncond))

    @property
    def _guidance_scale(self) -> float:
        """The guidance scale of the current expert."""
        second = self.plan.guidance_scale_2
        return self.plan.guidance_scale if second is None or self.expert is self.components.transformer else second

    def _forcing_input(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents in `dtype` and one timestep per latent frame; context frames get noise of `addnoise_condition`.

        With block-causal attention the frames that have not started are left out: no other frame attends to them.
        """
        all_frames = self.latents.shape[2]
        num_started = self._schedule.num_started[self.step_index] if self.plan.causal_attention else all_frames
        latents = self.latents[:, :, :num_started].to(dtype, copy=True)
        timesteps = self._timesteps[self.step_index : self.step_index + 1, :num_started].clone()
        timestep, count = self.plan.addnoise_condition, self.num_context_frames
        if timestep and count:
            context = latents[:, :, :count]
            noise = seeded_noise(context.shape, self.request.seed, self.window, self.step_index).to(context)
            latents[:, :, :count] = context * (1.0 - 0.001 * timestep) + noise * (0.001 * timestep)
            timesteps[:, :count] = timestep
        return latents, timesteps

    def _forward(self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """One call of the transformer, with the same latents for each of the texts."""
        self._set_mask()
        batch, image, control = len(text), self.conditions.image_tokens, self.conditions.control
        kwargs = {} if control is None else {"control_hidden_states": control.expand(batch, -1, -1, -1, -1)}
        velocity: torch.Tensor = self.expert(
            hidden_states=latents.expand(batch, -1, -1, -1, -1),
            timestep=timesteps.expand(batch, *timesteps.shape[1:]),
            encoder_hidden_states=text,
            encoder_hidden_states_image=None if image is None else image.expand(batch, -1, -1),
            causal_block_size=self.plan.causal_block_size if self.plan.causal_attention else None,
            enable_diffusion_forcing=self.components.per_frame_timesteps,
            fps=[0 if self.plan.fps == 16 else 1],  # the model was trained with labels for 16 and 24 frames a second
            return_dict=False,
            **kwargs,
        )[0]
        # In bfloat16 the small difference of the two predictions of guidance would be lost to rounding.
        return velocity.float() if self._original else velocity

    def _set_mask(self) -> None:
        """Set the block-causal mask of diffusers with `diffusers` fidelity, and reset it otherwise.

        The released weights were not trained with that mask (SkyReels-V2 issues 53, 58, 78), and the transformer keeps
        it for the next render until it is reset.
        """
        if not self.components.diffusion_forcing:
            return
        transformer, block = self.components.transformer, 1 if self._original else self.plan.causal_block_size
        if transformer.config.num_frame_per_block != block:
            transformer._set_ar_attention(block)


def _plan_of_v1(plan: Plan) -> dict[str, Any]:
    """The plan as version 0.1 spelled it: the fingerprint hashes these names, so that its saved states stay valid."""
    fields = dataclasses.asdict(plan) | {"forecast": None}
    fields["eight_bits"] = fields.pop("fp8")
    del fields["finishing_steps"], fields["notes"], fields["unknown_words"]  # none of them changes latents
    del fields["draft_steps"], fields["done_steps"]  # a draft and the rest of it share their state
    fields["placement"] = PLACEMENTS_OF_V1.get(plan.placement, plan.placement)
    return fields


def seeded_noise(shape: tuple[int, ...], seed: int, window: int, step: int | None = None) -> torch.Tensor:
    """Noise that depends on seed, window and step alone, so that any step can be resumed. Float32, on the CPU."""
    digest = hashlib.blake2b(f"{seed} {window} {step}".encode(), digest_size=8).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(shape, generator=generator, dtype=torch.float32)
