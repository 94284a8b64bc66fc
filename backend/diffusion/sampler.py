"""From noise to latents: one loop for plain text-to-video and image-to-video and for diffusion forcing.

The plain classes give every latent frame the same noise level and make one window. Diffusion forcing gives each its
own: frames that are already known (a picture, the end of a film, the overlap with the window before) stand at level 0
and stay, the others go down together. Windows follow one another, each beginning with the end of the one before.
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
from backend.core.planning import Plan
from backend.core.schedule import make_schedule
from backend.core.schema import Fidelity, GenerationRequest
from backend.diffusion.components import Components
from backend.diffusion.conditions import Conditions
from backend.diffusion.solver import Solver
from backend.diffusion.text import Prompt

PLACEMENTS_OF_V1 = {Placement.MODEL_OFFLOAD: "in_turns", Placement.GROUP_OFFLOAD: "streamed"}


class State(NamedTuple):
    """A sampler between two steps: tensors by name, and facts that JSON can hold."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class Answer(NamedTuple):
    """The velocity that the transformer gave at a step, with the prompt alone and, if it was asked for, guided."""

    step_index: int
    plain: torch.Tensor
    guided: torch.Tensor | None = None


class Sampler:
    """A render as a state machine: `step` until the window is done, `open_window` for the next, until `finished`. What
    `state` gives between steps, another sampler in another process can `restore`, and ends with the same bits.

    `window` and `step_index` count from 0 and say what the next `step` will do. `latents` are those of the window,
    float32, normalised, of shape (1, channels, latent frames, height, width); the first `known` of its frames were
    given, and `length` of them belong to the film.
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
        self.known = 0
        self.length = 0
        self._original = plan.fidelity is Fidelity.ORIGINAL
        # The stock pipelines draw the noise of all windows from one generator, in their order.
        self._noise = torch.Generator("cpu").manual_seed(request.seed)
        self.open_window(conditions.prefix)

    @property
    def window_done(self) -> bool:
        """Whether all frames of the window are final, so that it can be handed on."""
        return self.step_index == len(self._schedule.timestep_indices)

    @property
    def finished(self) -> bool:
        return self.window_done and self.window == len(self.plan.windows) - 1

    @property
    def part(self) -> float:
        """How much of the denoising is done, 0 to 1."""
        steps = self.plan.window_steps
        return (sum(steps[: self.window]) + self.step_index) / sum(steps)

    @property
    def expert(self) -> Any:
        """The transformer that the next step asks, or after the last step, that one did."""
        return self._experts[min(self.step_index, len(self._experts) - 1)]

    @property
    def final(self) -> int:
        """How many leading latent frames of the window no later step will change."""
        return self._schedule.num_final[self.step_index]

    def predicted(self) -> torch.Tensor:
        """The clean latents as far as they can be told: the solver's guess for frames on their way down, and without
        those that have not begun. Of the shape of `latents`, but shorter.
        """
        guess, begun = self.latents[:, :, : self.length].clone(), self.known
        for solver in self._solvers:
            if solver.clean is not None:
                guess[:, :, solver.frames] = solver.clean
                begun = solver.frames.stop
        return guess[:, :, :begun]

    @functools.cached_property
    def identity(self) -> str:
        """A hash of all that decides the pixels: plan, request and model. The forecast changes from run to run."""
        request = self.request.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps([_plan_of_v1(self.plan), request], sort_keys=True)
        found = hashlib.blake2b(text.encode(), digest_size=16)
        for transformer in self.components.transformers:
            # One small tensor that any training changes stands for the weights.
            found.update(f"{transformer.dtype} {sum(weight.numel() for weight in transformer.parameters())}".encode())
            found.update(transformer.scale_shift_table.float().cpu().numpy().tobytes())
        return found.hexdigest()

    def state(self) -> State:
        """All that the next step needs, tensors as copies on the CPU."""
        tensors = {"latents": self.latents}
        for number, answer in enumerate(self._answers):
            tensors[f"answer{number}.plain"] = answer.plain
            if answer.guided is not None:
                tensors[f"answer{number}.guided"] = answer.guided
        if not self._original:
            tensors["noise"] = self._noise.get_state()
        counters = []
        for number, solver in enumerate(self._solvers):
            remembered, counts = solver.state()
            tensors |= {f"solver{number}.{name}": tensor for name, tensor in remembered.items()}
            counters.append(counts)
        facts = {"window": self.window, "step": self.step_index, "known": self.known, "solvers": counters}
        facts["answers"] = [answer.step_index for answer in self._answers]
        copies = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        return State(copies, facts | {"identity": self.identity})

    def restore(self, state: State) -> None:
        """Go on from what `state` gave. Raises SnapshotRefused, and changes nothing, if that was another render."""
        tensors, facts = state
        if facts.get("identity") != self.identity:
            raise SnapshotRefused("It was made with another request, plan or model;", hint="render from the beginning.")
        device = self.components.device
        self.window = facts["window"]
        self._enter(tensors["latents"].to(device, copy=True), facts["known"])
        self.step_index = facts["step"]
        for number, (solver, counts) in enumerate(zip(self._solvers, facts["solvers"], strict=True)):
            start = f"solver{number}."
            mine = {name.removeprefix(start): t.to(device) for name, t in tensors.items() if name.startswith(start)}
            solver.restore(mine, counts)
        for number, step_index in enumerate(facts["answers"]):
            plain, guided = (tensors.get(f"answer{number}.{name}") for name in ("plain", "guided"))
            assert plain is not None
            self._answers.append(Answer(step_index, plain.to(device), None if guided is None else guided.to(device)))
        if not self._original:
            self._noise.set_state(tensors["noise"])

    def step(self) -> None:
        """Go one noise level down in one window: with one call of the transformer, two with guidance, or none where the
        preset extrapolates.

        Raises RenderFailed if the result is not finite; whatever a hook raises inside leaves the state as it was.
        """
        with torch.no_grad():
            velocity = self._velocity()
            moves = self._schedule.update_mask[self.step_index]
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

    def warm_up(self) -> None:
        """Ask the transformer what nobody wants to know: what must be made ready for its next call is made then."""
        here, self.step_index = self.step_index, min(self.step_index, len(self._schedule.timestep_indices) - 1)
        try:
            with torch.no_grad():
                self._ask(guided=False)
        finally:
            self.step_index = here

    def open_window(self, known: torch.Tensor | None) -> None:
        """Go on to the next window: fresh noise, with the latents that are known written over its first frames."""
        self.window += 1
        window, factor = self.plan.windows[self.window], self.components.spatial_factor
        height, width = self.plan.render_height // factor, self.plan.render_width // factor
        shape = (1, self.components.vae.config.z_dim, window.stop - window.start, height, width)
        latents = self._draw(shape).to(self.components.device)
        if known is not None:
            latents[:, :, : known.shape[2]] = self._given(known)
        if self.conditions.end is not None and self.window == len(self.plan.windows) - 1:
            latents = torch.cat([latents, self._given(self.conditions.end)], dim=2)
        self._enter(latents, 0 if known is None else known.shape[2])

    def _enter(self, latents: torch.Tensor, known: int) -> None:
        """Stand before the first step of the window, which begins with `latents`."""
        plan, window = self.plan, self.plan.windows[self.window]
        self.latents, self.known, self.length = latents, known, window.stop - window.start
        self.step_index = 0
        self._schedule = make_schedule(
            self.length, plan.num_inference_steps, plan.ar_step, plan.causal_block_size, known
        )
        self._solvers = [Solver(self.components, plan, slice(*run)) for run in self._schedule.frame_groups]
        self._timesteps = self._make_timesteps()
        self._experts = [self.components.expert(level) for level in self._timesteps.amax(dim=1).tolist()]
        self._work = plan.plan_steps(self._schedule)
        self._answers: deque[Answer] = deque(maxlen=2 if any(not work.num_evaluations for work in self._work) else 0)

    def _make_timesteps(self) -> torch.Tensor:
        """What the transformer is told of every latent frame at every step, of shape (steps, latent frames), int64."""
        # 999 is noise that waits, 0 a frame that is finished or given, as is the end picture's behind the last one.
        of_level = [999, *self._solvers[0].timesteps.tolist(), 0]
        behind = [0] * (self.latents.shape[2] - self.length)
        rows = [[of_level[level] for level in row] + behind for row in self._schedule.timestep_indices]
        return torch.tensor(rows, device=self.components.device)

    def _draw(self, shape: tuple[int, ...]) -> torch.Tensor:
        """The noise that the current window begins with. On the CPU, so that a seed is the same on every device."""
        # The first window's is the same for both, so that with one seed the fidelities draw the same thing.
        if self.window == 0 or not self._original:
            return torch.randn(shape, generator=self._noise, dtype=torch.float32)
        return named_noise(shape, self.request.seed, self.window)

    def _given(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of frames that are known; the stock pipelines keep them in the transformer's precision."""
        return latents if self._original else latents.to(self.components.transformer.dtype).float()

    def _velocity(self) -> torch.Tensor:
        """Of every latent frame at its level, guided where the preset says so: float32, or the model's dtype as in
        diffusers.
        """
        work = self._work[self.step_index]
        if not work.num_evaluations and all(
            self._experts[answer.step_index] is self.expert for answer in self._answers
        ):
            return self._extrapolated()
        answer = self._ask(guided=any(work.guided))
        self._answers.append(answer)
        return self._wanted(answer)

    def _wanted(self, answer: Answer) -> torch.Tensor:
        """Of an answer, what counts at the current step: each frame with guidance or without."""
        guided = self._work[self.step_index].guided
        if answer.guided is None or not any(guided):
            return answer.plain
        if guided == self._schedule.update_mask[self.step_index]:
            return answer.guided
        frames = answer.plain.shape[2]
        mask = torch.tensor([*guided, *[False] * frames][:frames], device=answer.plain.device)
        return torch.where(mask.view(1, 1, -1, 1, 1), answer.guided, answer.plain)

    def _extrapolated(self) -> torch.Tensor:
        """The last answer, moved on along the noise levels as it had moved since the one before."""
        first, last = self._answers
        before, velocity = self._wanted(first), self._wanted(last)
        t0, t1, t = (
            self._timesteps[row, : velocity.shape[2]].float()
            for row in (first.step_index, last.step_index, self.step_index)
        )
        on = torch.where(t1 == t0, 0.0, (t - t1) / (t1 - t0)).view(1, 1, -1, 1, 1)
        return velocity + on * (velocity - before)

    def _ask(self, guided: bool) -> Answer:
        """What the transformer says of every latent frame at its level."""
        dtype = self.components.transformer.dtype
        if self.components.per_frame_timesteps:
            latents, timesteps = self._forcing_input(dtype)
        else:
            joined = [self.latents] if self.conditions.channels is None else [self.latents, self.conditions.channels]
            latents, timesteps = torch.cat(joined, dim=1).to(dtype), self._timesteps[self.step_index, :1]
        prompt = self.prompts[min(self.window, len(self.prompts) - 1)]
        if prompt.negative is None or not guided:
            return Answer(self.step_index, self._forward(latents, timesteps, prompt.positive))
        if self.plan.batch_guidance:
            both = self._forward(latents, timesteps, torch.cat([prompt.positive, prompt.negative]))
            positive, negative = both.chunk(2)
        else:
            positive = self._forward(latents, timesteps, prompt.positive)
            negative = self._forward(latents, timesteps, prompt.negative)
        return Answer(self.step_index, positive, negative + self._guidance_scale * (positive - negative))

    @property
    def _guidance_scale(self) -> float:
        """Of the expert at work."""
        second = self.plan.guidance_scale_2
        return self.plan.guidance_scale if second is None or self.expert is self.components.transformer else second

    def _forcing_input(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents in `dtype` and one timestep a latent frame; a little noise on known frames if the plan says so.

        Where blocks do not see later ones, those that have not begun are left out: nobody would look at them.
        """
        begun = self._schedule.num_started[self.step_index] if self.plan.causal_attention else self.latents.shape[2]
        latents = self.latents[:, :, :begun].to(dtype, copy=True)
        timesteps = self._timesteps[self.step_index : self.step_index + 1, :begun].clone()
        level = self.plan.addnoise_condition
        if level and self.known:
            known = latents[:, :, : self.known]
            noise = named_noise(known.shape, self.request.seed, self.window, self.step_index).to(known)
            latents[:, :, : self.known] = known * (1.0 - 0.001 * level) + noise * (0.001 * level)
            timesteps[:, : self.known] = level
        return latents, timesteps

    def _forward(self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """One call of the transformer, which sees the same latents beside each of the texts."""
        self._set_mask()
        texts, image, control = len(text), self.conditions.image_tokens, self.conditions.control
        shown = {} if control is None else {"control_hidden_states": control.expand(texts, -1, -1, -1, -1)}
        velocity: torch.Tensor = self.expert(
            hidden_states=latents.expand(texts, -1, -1, -1, -1),
            timestep=timesteps.expand(texts, *timesteps.shape[1:]),
            encoder_hidden_states=text,
            encoder_hidden_states_image=None if image is None else image.expand(texts, -1, -1),
            causal_block_size=self.plan.causal_block_size if self.plan.causal_attention else None,
            enable_diffusion_forcing=self.components.per_frame_timesteps,
            fps=[0 if self.plan.fps == 16 else 1],  # the two rates that the model was told apart in training
            return_dict=False,
            **shown,
        )[0]
        # Mixing guidance in bfloat16 would lose what the difference of two close predictions says.
        return velocity.float() if self._original else velocity

    def _set_mask(self) -> None:
        """See that later blocks are hidden from earlier ones only where diffusers does so.

        The released weights were not trained with that mask (SkyReels-V2 issues 53, 58, 78), and the transformer keeps
        it for the next render until somebody takes it off.
        """
        if not self.components.diffusion_forcing:
            return
        transformer, block = self.components.transformer, 1 if self._original else self.plan.causal_block_size
        if transformer.config.num_frame_per_block != block:
            transformer._set_ar_attention(block)


def _plan_of_v1(plan: Plan) -> dict[str, Any]:
    """The plan as version 0.1 spelled it: the fingerprint hashes these names, so saved states stay valid."""
    fields = dataclasses.asdict(plan) | {"forecast": None}
    fields["eight_bits"] = fields.pop("fp8")
    fields["placement"] = PLACEMENTS_OF_V1.get(plan.placement, plan.placement)
    return fields


def named_noise(shape: tuple[int, ...], seed: int, window: int, step: int | None = None) -> torch.Tensor:
    """Noise that its names alone decide, so that a render can go on from anywhere. Float32, on the CPU."""
    name = hashlib.blake2b(f"{seed} {window} {step}".encode(), digest_size=8).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(name, "little") >> 1)
    return torch.randn(shape, generator=generator, dtype=torch.float32)
