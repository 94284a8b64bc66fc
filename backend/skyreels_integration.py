"""SkyReelsEngine: a task in, a stream of frames out. Importing this module imports no torch."""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.core.config import GIB
from backend.core.errors import DeviceLost, JobCancelled, ModelUnavailable, NotEnoughMemory, SnapshotRefused
from backend.core.placement import Placement, place
from backend.core.planning import Plan, Stage
from backend.core.schema import Fidelity
from backend.engine import Report, Reporter, Task
from backend.media.fitting import Frames
from backend.system.monitoring import usable_cores

if TYPE_CHECKING:
    from backend.diffusion.components import Components
    from backend.diffusion.decode import StreamingDecoder
    from backend.diffusion.preview import LatentRgbFactors
    from backend.diffusion.sampler import Sampler
    from backend.diffusion.text import PromptCache

log = logging.getLogger(__name__)

PREVIEW_EVERY_S = 3.0
COMPILE_FROM_S = 60.0  # estimated seconds of denoising; a shorter render gains less than compiling takes
# Nothing is downloaded while a checkpoint is loaded, and no code of it is run.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DIFFUSERS_DISABLE_REMOTE_CODE": "1"}
READ_FRACTION = 0.8  # of the loading stage; the rest is for encoding the prompt and the pictures


class SkyReelsEngine:
    """Renders with SkyReels V2 and Wan on this machine's GPU, or on its CPU if it has none. One render at a time.

    The checkpoint of the last render stays loaded, so the next one with the same model starts at once. A render saves
    its state every `save_every_s` seconds, and when it is cancelled; the next attempt resumes from it. The folder
    `cache` holds prompt embeddings, the fastest kernels of a GPU and compiled blocks. `compile_blocks` compiles the
    blocks of transformers; None lets a benchmark on the GPU decide, for long renders.
    """

    def __init__(
        self, save_every_s: float = 30.0, cache: Path | None = None, compile_blocks: bool | None = None
    ) -> None:
        self._save_every_s = save_every_s
        self._cache = cache
        self._compile_blocks = compile_blocks
        if cache is not None:
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "compiled"))
        self._folder: Path | None = None
        self._components: Components | None = None
        self._latent_rgb: LatentRgbFactors | None = None
        self._out_of_memory: tuple[Plan, Placement] | None = None  # the last render that did not fit, and its placement

    def render(self, task: Task, report: Reporter) -> Iterator[Frames]:
        """See `Engine.render`. The seed alone decides the noise.

        Raises ModelUnavailable for a missing or damaged checkpoint, NotEnoughMemory naming the setting to lower, and
        RenderFailed where latents become infinite or NaN.
        """
        _import_torch()
        from backend.diffusion.components import is_device_lost, is_out_of_memory

        progress = _Progress(report)
        failure = None
        try:
            yield from self._render(task, progress)
        except (MemoryError, RuntimeError) as error:
            if is_device_lost(error):
                reason = str(error).split("\n")[0]
                raise DeviceLost(f"The GPU stopped with {reason!r};", hint="the studio starts afresh.") from error
            if not is_out_of_memory(error):
                raise
            log.warning("out of memory while %s: %s", progress.last.stage.value, str(error))
            failure = _not_enough_memory(task.plan, progress.last.stage, self._note_out_of_memory(task.plan))
        # Outside the handler, and the log has only its text: the old error holds every tensor of the failed render.
        if failure is not None:
            self.unload()
            raise failure

    def unload(self) -> None:
        """Free the loaded checkpoint and its memory."""
        self._folder = self._components = self._latent_rgb = None
        _import_torch()
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _render(self, task: Task, progress: _Progress) -> Iterator[Frames]:
        from backend.diffusion.loras import LoadedLora, loras_gib
        from backend.diffusion.patches import RenderPatches
        from backend.diffusion.preview import fit_latent_rgb

        components, cache = self._load(task, progress)
        loras = [LoadedLora(lora, use, components) for lora, use in zip(task.loras, task.request.loras, strict=True)]
        _place(components, task.plan, self._safer_than(task.plan), loras_gib(loras))
        original = task.plan.fidelity is Fidelity.ORIGINAL
        optimized = components.device.type == "cpu" and original and not self._compile_blocks
        name = self._attention(components, task.plan)
        progress(Report(Stage.LOADING, READ_FRACTION))
        with RenderPatches(components) as patches:
            if optimized:
                patches.use_cpu_kernels()
            patches.set_attention_backend(name)
            patches.interrupt_by(progress.repeat)
            if self._latent_rgb is None:
                self._latent_rgb = fit_latent_rgb(components)
            previews = _Previews(self._latent_rgb)
            decoder = _begin(components, task, cache, progress)
            patches.apply_loras(loras, lambda: decoder.sampler.window)
            fast = original and self._should_compile(decoder, task.plan)
            if fast:
                patches.compile_blocks()
            kernels = "compiled" if fast else "optimized" if optimized else "stock"
            progress(Report(Stage.LOADING, 1.0, runtime=_runtime(components, name, kernels)))
            saves = _Saves(decoder, task.work, self._save_every_s, progress)
            try:
                while True:
                    _denoise(decoder, previews, saves, progress)
                    yield from _decode(decoder, progress)
                    if decoder.sampler.finished:
                        return
                    if decoder.sampler.window_done:
                        with components.on_device(components.vae):
                            decoder.next_window()
                        saves.save()
            except JobCancelled:
                saves.save()
                raise

    def _attention(self, components: Components, plan: Plan) -> str:
        """The attention kernel of this render: the fastest on a GPU, the stock one otherwise."""
        from backend.diffusion.attention import STOCK, cached_kernel

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

    def _should_compile(self, decoder: StreamingDecoder, plan: Plan) -> bool:
        """Whether the blocks run compiled; then they are compiled now."""
        from backend.diffusion.compiled import can_compile, first_block, is_faster
        from backend.diffusion.components import is_out_of_memory

        setting, sampler, components = self._compile_blocks, decoder.sampler, decoder.sampler.components
        long = components.device.type == "cuda" and plan.forecast.guess[Stage.DENOISING] >= COMPILE_FROM_S
        if components.placement is Placement.GROUP_OFFLOAD or not (long if setting is None else setting):
            return False
        with components.on_device(sampler.expert):
            stock, fast = first_block(components.transformers, sampler.warm_up)
            try:
                return (setting or is_faster(self._autotune_cache, components, stock, fast)) and can_compile(fast)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("no memory to compile blocks: %s", error)
                return False

    @property
    def _autotune_cache(self) -> Path | None:
        return self._cache / "kernels.json" if self._cache else None

    def _note_out_of_memory(self, plan: Plan) -> bool:
        """Remember that `plan` did not fit with its placement; whether there is one that takes less memory, which the
        next attempt then uses.
        """
        components = self._components
        if components is None or components.placement is None or components.device.type != "cuda":
            return False
        self._out_of_memory = (plan, components.placement)
        return components.placement is not Placement.GROUP_OFFLOAD

    def _safer_than(self, plan: Plan) -> Placement | None:
        """The placement with which a render of the same model, no larger than `plan`, did not fit."""
        if self._out_of_memory is None:
            return None
        failed, placement = self._out_of_memory
        same = failed.model == plan.model and failed.forecast.peak_gib <= plan.forecast.peak_gib
        return placement if same else None

    def _load(self, task: Task, progress: _Progress) -> tuple[Components, PromptCache | None]:
        """Load the task's checkpoint unless it is that of the last render, and its text encoder unless all prompts are
        cached; returns the components and the cache.
        """
        from backend.diffusion.components import compute_device, load_components
        from backend.diffusion.text import PromptCache

        folder = task.checkpoint
        progress(Report(Stage.LOADING, 0.0))
        if folder is None or not folder.is_dir():
            name = "none" if folder is None else folder.name
            raise ModelUnavailable(
                f"The checkpoint of this render, {name}, is not on the disk;",
                hint="download the model again or choose another one.",
                field="model",
            )
        cache = PromptCache(self._cache / "prompts", folder, compute_device()) if self._cache else None
        must_encode = cache is None or not all(text in cache for text in itertools.chain(*_texts(task)))
        fp8 = task.plan.fp8
        if self._components is None or self._folder != folder or self._components.fp8 != fp8:
            if self._components is not None:
                self.unload()

            def on_progress(fraction: float) -> None:
                progress(Report(Stage.LOADING, READ_FRACTION * fraction))

            self._components = load_components(folder, compute_device(), on_progress, text_encoder=must_encode, fp8=fp8)
            self._folder = folder
        elif must_encode:
            self._components.load_text_encoder()
        return self._components, cache


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
        from backend.diffusion.snapshot import write_snapshot

        if self._work is not None:
            write_snapshot(self._work, self._decoder.state())
            self._last = time.monotonic()
            self._progress.saved_at = time.time()


def _texts(task: Task) -> tuple[list[str], list[str]]:
    """The prompts of the windows that have their own, and the negative prompt if there is guidance."""
    num_prompts = 1 + len(task.request.skyreels.storyboard)
    prompts = [task.request.prompt_of(window) for window in range(num_prompts)]
    return prompts, [task.request.negative_prompt] if task.plan.guidance_scale > 1 else []


def _begin(components: Components, task: Task, cache: PromptCache | None, progress: _Progress) -> StreamingDecoder:
    """Encode prompts and pictures; the render at its first step, or in the state that an earlier attempt saved."""
    from backend.diffusion.conditions import encode_conditions
    from backend.diffusion.decode import StreamingDecoder
    from backend.diffusion.sampler import Sampler
    from backend.diffusion.snapshot import read_snapshot
    from backend.diffusion.text import Prompt, embed

    plan, request, inputs = task.plan, task.request, task.inputs
    texts, negatives = _texts(task)
    embeddings = embed(components, [*texts, *negatives], cache)
    negative = next((embeddings[text] for text in negatives), None)
    prompts = [Prompt(embeddings[text], negative) for text in texts]
    progress(Report(Stage.LOADING, (1 + READ_FRACTION) / 2))
    conditions = encode_conditions(
        components,
        plan.render_frames,
        inputs.image,
        inputs.end_image,
        inputs.prefix,
        size=(plan.render_width, plan.render_height),
        num_kept=plan.prefix_frames + plan.num_frames,
    )

    def fresh() -> StreamingDecoder:
        return StreamingDecoder(Sampler(components, plan, request, prompts, conditions), task.first_frame)

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


def _denoise(decoder: StreamingDecoder, previews: _Previews, saves: _Saves, progress: _Progress) -> None:
    """Make denoising steps until latents become final."""
    sampler = decoder.sampler
    while not decoder.has_undecoded:
        expert = sampler.expert
        with sampler.components.on_device(expert):
            _denoise_with(expert, decoder, previews, saves, progress)


def _denoise_with(
    expert: Any, decoder: StreamingDecoder, previews: _Previews, saves: _Saves, progress: _Progress
) -> None:
    """Make denoising steps while `expert` is the expert of the next one."""
    sampler = decoder.sampler
    while not decoder.has_undecoded and sampler.expert is expert:
        preview = previews.poll(sampler)
        progress(Report(Stage.DENOISING, sampler.fraction, sampler.window + 1, sampler.step_index + 1, preview))
        sampler.step()
        saves.save_if_due()


def _decode(decoder: StreamingDecoder, progress: _Progress) -> Iterator[Frames]:
    """Decode the latents that have become final."""
    sampler = decoder.sampler
    progress(Report(Stage.DENOISING, sampler.fraction, sampler.window + 1, sampler.step_index))
    progress(Report(Stage.DECODING, decoder.fraction, sampler.window + 1))
    with sampler.components.on_device(sampler.components.decoder):
        for frames in decoder.frames():
            progress(Report(Stage.DECODING, decoder.fraction, sampler.window + 1))
            yield frames


@functools.cache
def _import_torch() -> None:
    """Import the libraries once, then exclude their 400,000 objects from garbage collection.

    Streamlit collects garbage after every run of a page, which would otherwise stop the render for 0.3 s.
    """
    os.environ |= OFFLINE
    import torch

    from backend.diffusion import conditions, decode, patches, preview, sampler, snapshot, text  # noqa: F401

    # In a container torch counts the cores of the whole machine, and too many threads slow each other down.
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    # The same task gives the same bytes: otherwise cuDNN may choose other algorithms.
    torch.backends.cudnn.deterministic = True
    gc.collect()
    gc.freeze()


def _place(components: Components, plan: Plan, safer_than: Placement | None, loras_gib: float = 0.0) -> None:
    """Choose and apply the placement for the free memory of the GPU. LoRAs are on the GPU already."""
    import torch

    from backend.diffusion.patches import patch_placed

    if components.device.type != "cuda":
        patch_placed(components, Placement.RESIDENT, half_decode=False)
        return
    free, _ = torch.cuda.mem_get_info(components.device)
    free += torch.cuda.memory_reserved(components.device)  # by this process, including models of an earlier render
    placed = place(components.need(plan), free / GIB - loras_gib, plan.half_decode, safer_than)
    # The free memory may change the placement, but not the precision of decoding, which changes the pixels.
    patch_placed(components, placed.placement, plan.half_decode)
    log.info("placement %s, with %.1f GiB free", placed.placement.value, free / GIB)


def _runtime(components: Components, attention: str, kernels: str) -> dict[str, str]:
    """Device, precisions, kernels and placement of a render, for its recipe."""
    import torch

    from backend.diffusion.fp8 import has_fp8_matmul

    on_gpu, placement = components.device.type == "cuda", components.placement
    precision = str(components.transformer.dtype).removeprefix("torch.")
    matrices = precision
    if components.fp8:
        matrices = "float8" if has_fp8_matmul(components.device) else "float8 weights"
    return {
        "device": torch.cuda.get_device_name(components.device) if on_gpu else "CPU",
        "precision": precision,
        "matrices": matrices,
        "decoding": str(components.decoder.dtype).removeprefix("torch."),
        "attention": attention,
        "kernels": kernels,
        "placement": placement.value if placement else "",
    }


def _not_enough_memory(plan: Plan, stage: Stage, safer: bool) -> NotEnoughMemory:
    """Why a render ended, and which setting to lower; `safer` if the next attempt keeps less on the GPU."""
    size, needs = f"{plan.render_width}x{plan.render_height}", f"about {plan.forecast.peak_gib:.1f} GiB"
    field, lower = "resolution", "lower resolution."
    if stage is Stage.LOADING:
        what = f"{plan.model_title} needs {needs}, more than is free;"
        field, lower = "model", "close other programs that use the memory, or choose a smaller model."
    elif stage is Stage.DECODING:
        what = f"Decoding frames of {size} needs more memory than is free;"
    else:
        frames = 4 * max(window.stop - window.start for window in plan.windows) - 3
        setting = "skyreels.base_num_frames" if len(plan.windows) > 1 else "num_frames"
        what = f"Denoising {frames} frames of {size} at once needs {needs}, more than is free;"
        lower = f"lower resolution or {setting}, or choose a smaller model."
    again = "try again, which keeps fewer models on the GPU; if that fails, " if safer else ""
    return NotEnoughMemory(what, hint=again + lower, field=field)
