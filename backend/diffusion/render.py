"""A render: a task in, a stream of frames out. The checkpoint is loaded and placed, layers are patched, prompts and
pictures are encoded; then denoising and decoding alternate until all frames are out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from backend.core.errors import DeviceLost, JobCancelled, SnapshotRefused
from backend.core.plan import Plan, Stage
from backend.core.schema import Fidelity
from backend.diffusion.attention import STOCK, cached_kernel
from backend.diffusion.busy import sleep_while_others_compute
from backend.diffusion.compiled import should_compile
from backend.diffusion.components import Components, is_device_lost, is_out_of_memory
from backend.diffusion.conditions import encode_conditions
from backend.diffusion.decode import StreamingDecoder
from backend.diffusion.loras import load_loras, loras_gib
from backend.diffusion.model_cache import ModelCache
from backend.diffusion.patches import RenderPatches
from backend.diffusion.preview import LatentRgbFactors
from backend.diffusion.sampler import Sampler
from backend.diffusion.snapshot import read_snapshot, write_snapshot
from backend.diffusion.text import encode_prompts
from backend.engine import Report, Reporter, Task
from backend.media.fitting import Frames

log = logging.getLogger(__name__)

PREVIEW_EVERY_S = 3.0
READ_FRACTION = 0.8  # of the loading stage; the rest is for encoding the prompt and the pictures


def configure_torch() -> None:
    """Set what holds for all renders of this process: the number of threads, and deterministic algorithms."""
    from backend.system.monitoring import usable_cores  # late: benchmarks render without it

    # In a container torch counts the cores of the whole machine, and too many threads slow each other down.
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    # The same task gives the same bytes: otherwise cuDNN may choose other algorithms.
    torch.backends.cudnn.deterministic = True


class Renderer:
    """Renders one task at a time. `save_every_s`, `cache` and `compile_blocks` are those of `SkyReelsEngine`."""

    def __init__(self, save_every_s: float, cache: Path | None, compile_blocks: bool | None) -> None:
        self._save_every_s = save_every_s
        self._compile_blocks = compile_blocks
        self._autotune_cache = cache / "kernels.json" if cache else None
        self.models = ModelCache(cache / "prompts" if cache else None)

    def render(self, task: Task, report: Reporter) -> Iterator[Frames]:
        """Yield the frames of `task`. Raises what `SkyReelsEngine.render` says; after a lack of memory nothing is
        loaded any more.
        """
        progress = _Progress(report)
        failure = None
        try:
            yield from self._run(task, progress)
        except (MemoryError, RuntimeError) as error:
            if is_device_lost(error):
                reason = str(error).split("\n")[0]
                raise DeviceLost(f"The GPU stopped with {reason!r};", hint="the studio starts afresh.") from error
            if not is_out_of_memory(error):
                raise
            log.warning("out of memory while %s: %s", progress.last.stage.value, str(error))
            failure = self.models.out_of_memory(task.plan, progress.last.stage)
        # Outside the handler, and the log has only its text: the old error holds every tensor of the failed render.
        if failure is not None:
            self.models.unload()
            raise failure

    def _run(self, task: Task, progress: _Progress) -> Iterator[Frames]:
        """The whole render, without the wording of errors."""
        plan = task.plan
        progress.loading(0.0)
        components = self.models.load(task, lambda fraction: progress.loading(READ_FRACTION * fraction))
        loras = load_loras(task, components)
        self.models.place(plan, loras_gib(loras))
        attention = self._attention_backend(plan, components)
        progress.loading(READ_FRACTION)
        on_cpu = components.device.type == "cpu"
        with sleep_while_others_compute() if on_cpu else nullcontext(), RenderPatches(components) as patches:
            original = plan.fidelity is Fidelity.ORIGINAL
            if original and on_cpu and not self._compile_blocks:
                patches.use_cpu_kernels()
            patches.set_attention_backend(attention)
            patches.interrupt_by(progress.repeat)
            previews = _Previews(self.models.latent_rgb())
            decoder = self._begin(task, components, progress)
            patches.apply_loras(loras, lambda: decoder.sampler.window)
            if original and should_compile(self._compile_blocks, plan, decoder.sampler, self._autotune_cache):
                patches.compile_blocks()
            progress(Report(Stage.LOADING, 1.0, runtime=patches.runtime() | _resumed(decoder.sampler)))
            saves = _Saves(decoder, task.work, self._save_every_s, progress)
            yield from _Loop(decoder, previews, saves, progress).frames()

    def _attention_backend(self, plan: Plan, components: Components) -> str:
        """The attention kernel of a render: the fastest on a GPU, the stock one otherwise."""
        if components.device.type != "cuda" or plan.fidelity is not Fidelity.ORIGINAL:
            return STOCK
        config = components.transformer.config
        return cached_kernel(
            self._autotune_cache,
            plan.preset,
            components.max_tokens(plan),
            config.num_attention_heads,
            config.attention_head_dim,
            components.device,
        )

    def _begin(self, task: Task, components: Components, progress: _Progress) -> StreamingDecoder:
        """Encode prompts and pictures; the render at its first step, or in the state that an earlier attempt saved."""
        prompts = encode_prompts(components, task, self.models.prompt_cache)
        progress.loading((1 + READ_FRACTION) / 2)
        conditions = encode_conditions(components, task.plan, task.inputs)

        def fresh() -> StreamingDecoder:
            sampler = Sampler(components, task.plan, task.request, prompts, conditions)
            return StreamingDecoder(sampler, task.first_frame)

        try:
            state = read_snapshot(task.work) if task.work else None
            if state is not None:
                decoder = fresh()
                decoder.restore(state)
                log.info("resumes at window %d, step %d", decoder.sampler.window + 1, decoder.sampler.step_index + 1)
                return decoder
        except SnapshotRefused as error:
            log.warning("the saved state is not used: %s", error)
        return fresh()


def _resumed(sampler: Sampler) -> dict[str, str]:
    """Where the render goes on, for its recipe; empty if it begins at its first step."""
    if not sampler.window and not sampler.step_index:
        return {}
    return {"resumed": f"window {sampler.window + 1}, step {sampler.step_index + 1}"}


class _Progress:
    """Passes reports on, and repeats the last one for the checks inside a forward."""

    def __init__(self, report: Reporter) -> None:
        self.report = report
        self.last = Report(Stage.LOADING, 0.0)
        self.saved_at: float | None = None

    def __call__(self, report: Report) -> None:
        report = replace(report, saved_at=self.saved_at)
        self.last = replace(report, preview=None, runtime=None)
        self.report(report)

    def loading(self, fraction: float) -> None:
        self(Report(Stage.LOADING, fraction))

    def repeat(self) -> None:
        self.report(self.last)


class _Previews:
    """Previews of the predicted clean latents of the window, one every PREVIEW_EVERY_S seconds."""

    def __init__(self, latent_rgb: LatentRgbFactors) -> None:
        self._latent_rgb = latent_rgb
        self._last = time.monotonic()

    def poll(self, sampler: Sampler) -> Frames | None:
        """A preview if one is due and the window has made a step, else None."""
        if time.monotonic() - self._last < PREVIEW_EVERY_S or sampler.step_index == 0:
            return None
        self._last = time.monotonic()
        return self._latent_rgb.preview(sampler.predict_clean())


class _Saves:
    """Writes the state of the render into the work folder, after a step or between two windows."""

    def __init__(self, decoder: StreamingDecoder, work: Path | None, every_s: float, progress: _Progress) -> None:
        self._decoder = decoder
        self._work = work
        self._every_s = every_s
        self._progress = progress
        self._last = time.monotonic()

    def save_if_due(self) -> None:
        if time.monotonic() - self._last >= self._every_s:
            self.save()

    def save(self) -> None:
        if self._work is not None:
            write_snapshot(self._work, self._decoder.state())
            self._last = time.monotonic()
            self._progress.saved_at = time.time()


class _Loop:
    """The sampling loop: denoise until latents become final, decode those, and so on window by window."""

    def __init__(self, decoder: StreamingDecoder, previews: _Previews, saves: _Saves, progress: _Progress) -> None:
        self._decoder = decoder
        self._previews = previews
        self._saves = saves
        self._progress = progress

    def frames(self) -> Iterator[Frames]:
        """Yield frames as chunks. The state is saved between windows, at the end of a draft, and when the render is
        cancelled.
        """
        decoder, sampler = self._decoder, self._decoder.sampler
        try:
            while True:
                self._denoise()
                if sampler.draft_done:
                    self._saves.save()  # before the preview, which a killed draft makes again
                yield from self._decode()
                if sampler.finished:
                    return
                if sampler.window_done:
                    with sampler.components.on_device(sampler.components.vae):
                        decoder.next_window()
                    self._saves.save()
        except JobCancelled:
            self._saves.save()
            raise

    def _denoise(self) -> None:
        """Make denoising steps until latents become final."""
        sampler = self._decoder.sampler
        while not self._decoder.has_undecoded:
            expert = sampler.expert
            with sampler.components.on_device(expert):
                self._denoise_with(expert)

    def _denoise_with(self, expert: Any) -> None:
        """Make denoising steps while `expert` is the expert of the next one."""
        sampler = self._decoder.sampler
        while not self._decoder.has_undecoded and sampler.expert is expert:
            preview, number = self._previews.poll(sampler), sampler.step_index + 1
            self._progress(Report(Stage.DENOISING, sampler.fraction, sampler.window + 1, number, preview))
            sampler.step()
            self._saves.save_if_due()

    def _decode(self) -> Iterator[Frames]:
        """Decode the latents that have become final."""
        decoder, sampler, progress = self._decoder, self._decoder.sampler, self._progress
        progress(Report(Stage.DENOISING, sampler.fraction, sampler.window + 1, sampler.step_index))
        progress(Report(Stage.DECODING, decoder.fraction, sampler.window + 1))
        with sampler.components.on_device(sampler.components.decoder):
            for frames in decoder.frames():
                progress(Report(Stage.DECODING, decoder.fraction, sampler.window + 1))
                yield frames
