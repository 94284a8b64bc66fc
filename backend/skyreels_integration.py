"""SkyReelsEngine: a task in, a stream of frames out. Importing this module imports no torch."""

from __future__ import annotations

import contextlib
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
from backend.jobs.engine import Report, Reporter, Task
from backend.media.fitting import Frames
from backend.system.monitoring import usable_cores

if TYPE_CHECKING:
    from backend.diffusion.components import Components
    from backend.diffusion.decode import Film
    from backend.diffusion.preview import Colours
    from backend.diffusion.sampler import Sampler
    from backend.diffusion.text import PromptMemory

log = logging.getLogger(__name__)

LOOK_EVERY_S = 3.0
COMPILE_FROM_S = 60.0  # of denoising, as it was guessed; less would not pay for the wait
# Whatever a checkpoint says, nothing is fetched while it is loaded and no code of it is run.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DIFFUSERS_DISABLE_REMOTE_CODE": "1"}
READING = 0.8  # of the loading stage; the rest is encoding the prompt and the pictures


class SkyReelsEngine:
    """SkyReels V2 on this machine's GPU, or on its CPU where there is none. One render at a time.

    The checkpoint of the last render stays loaded, so the next one with the same model starts at once. A render saves
    where it stands every `save_every_s` seconds, and when it is cancelled; the next attempt goes on from there. What
    prompts became, and which way is the fastest on a GPU, is remembered in the folder `cache`, as is what was compiled.
    Blocks of transformers are compiled with `compile_blocks`; None lets a trial on the GPU decide, for long films.
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
        self._colours: Colours | None = None
        self._lacked: tuple[Plan, Placement] | None = None  # the last render that did not fit, and how it was placed

    def render(self, task: Task, report: Reporter) -> Iterator[Frames]:
        """See `Engine.render`. The seed alone decides the noise.

        Raises ModelUnavailable for a missing or damaged checkpoint, NotEnoughMemory naming the setting to lower, and
        RenderFailed where the model's numbers go astray.
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
            failure = _not_enough_memory(task.plan, progress.last.stage, self._note_lack(task.plan))
        # Outside the handler, and the log has only its text: the old error holds every tensor of the failed render.
        if failure is not None:
            self.unload()
            raise failure

    def unload(self) -> None:
        """Let go of the loaded checkpoint and of the memory that it takes."""
        self._folder = self._components = self._colours = None
        _import_torch()
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _render(self, task: Task, progress: _Progress) -> Iterator[Frames]:
        from backend.diffusion.attention import attention_backend
        from backend.diffusion.compiled import compiled
        from backend.diffusion.cpu import use_cpu_kernels
        from backend.diffusion.interrupt import interruptible
        from backend.diffusion.loras import LoadedLora, apply_loras, loras_gib
        from backend.diffusion.preview import fit_colours

        components, memory = self._load(task, progress)
        loras = [LoadedLora(lora, use, components) for lora, use in zip(task.loras, task.request.loras, strict=True)]
        _place(components, task.plan, self._safer_than(task.plan), loras_gib(loras))
        original = task.plan.fidelity is Fidelity.ORIGINAL
        optimized = components.device.type == "cpu" and original and not self._compile_blocks
        for model in (*components.transformers, components.vae):
            use_cpu_kernels(model, on=optimized)
        name = self._attention(components, task.plan)
        progress(Report(Stage.LOADING, READING))
        with contextlib.ExitStack() as ways:
            for transformer in components.transformers:
                ways.enter_context(attention_backend(transformer, name))
            ways.enter_context(interruptible(components, progress.again))
            if self._colours is None:
                self._colours = fit_colours(components)
            looks = _Looks(self._colours)
            film = _begin(components, task, memory, progress)
            ways.enter_context(apply_loras(loras, lambda: film.sampler.window))
            fast = original and self._compiles(film, task.plan)
            for transformer in components.transformers if fast else ():
                ways.enter_context(compiled(transformer))
            kernels = "compiled" if fast else "optimized" if optimized else "stock"
            progress(Report(Stage.LOADING, 1.0, runtime=_runtime(components, name, kernels)))
            saves = _Saves(film, task.work, self._save_every_s, progress)
            try:
                while True:
                    _denoise(film, looks, saves, progress)
                    yield from _decode(film, progress)
                    if film.sampler.finished:
                        return
                    if film.sampler.window_done:
                        with components.on_device(components.vae):
                            film.next_window()
                        saves.save()
            except JobCancelled:
                saves.save()
                raise

    def _attention(self, components: Components, plan: Plan) -> str:
        """The attention kernel of this render: the stock one unless a GPU has a better one for its size."""
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

    def _compiles(self, film: Film, plan: Plan) -> bool:
        """Whether the blocks are to run compiled; if so, that is made ready."""
        from backend.diffusion.compiled import can_compile, first_block, is_faster
        from backend.diffusion.components import is_out_of_memory

        wish, sampler, components = self._compile_blocks, film.sampler, film.sampler.components
        long = components.device.type == "cuda" and plan.forecast.guess[Stage.DENOISING] >= COMPILE_FROM_S
        if components.placement is Placement.GROUP_OFFLOAD or not (long if wish is None else wish):
            return False
        with components.on_device(sampler.expert):
            plain, fast = first_block(components.transformers, sampler.warm_up)
            try:
                return (wish or is_faster(self._autotune_cache, components, plain, fast)) and can_compile(fast)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("no memory to compile blocks: %s", error)
                return False

    @property
    def _autotune_cache(self) -> Path | None:
        return self._cache / "kernels.json" if self._cache else None

    def _note_lack(self, plan: Plan) -> bool:
        """Remember that `plan` did not fit as it was placed; whether there is a safer way, which it then takes."""
        components = self._components
        if components is None or components.placement is None or components.device.type != "cuda":
            return False
        self._lacked = (plan, components.placement)
        return components.placement is not Placement.GROUP_OFFLOAD

    def _safer_than(self, plan: Plan) -> Placement | None:
        """How a render of the same model, no larger than `plan`, was placed when it did not fit."""
        if self._lacked is None:
            return None
        lacked, placement = self._lacked
        same = lacked.model == plan.model and lacked.forecast.peak_gib <= plan.forecast.peak_gib
        return placement if same else None

    def _load(self, task: Task, progress: _Progress) -> tuple[Components, PromptMemory | None]:
        """The components of the task's checkpoint, those of the last render or read from disk after letting go of
        those, with the text encoder if the task's prompts are not remembered; and the memory of them.
        """
        from backend.diffusion.components import compute_device, load_components
        from backend.diffusion.text import PromptMemory

        folder = task.checkpoint
        progress(Report(Stage.LOADING, 0.0))
        if folder is None or not folder.is_dir():
            name = "none" if folder is None else folder.name
            raise ModelUnavailable(
                f"The checkpoint of this render, {name}, is not on the disk;",
                hint="download the model again or choose another one.",
                field="model",
            )
        memory = PromptMemory(self._cache / "prompts", folder, compute_device()) if self._cache else None
        unknown = memory is None or not all(map(memory.knows, itertools.chain(*_texts(task))))
        fp8 = task.plan.fp8
        if self._components is None or self._folder != folder or self._components.fp8 != fp8:
            if self._components is not None:
                self.unload()

            def loaded(part: float) -> None:
                progress(Report(Stage.LOADING, READING * part))

            self._components = load_components(folder, compute_device(), loaded, text_encoder=unknown, fp8=fp8)
            self._folder = folder
        elif unknown:
            self._components.load_text_encoder()
        return self._components, memory


class _Progress:
    """Hands reports on and remembers the last, for the checks inside a forward, which have nothing new to say."""

    def __init__(self, report: Reporter) -> None:
        self.report = report
        self.last = Report(Stage.LOADING, 0.0)
        self.saved_at: float | None = None

    def __call__(self, report: Report) -> None:
        report = replace(report, saved_at=self.saved_at)
        self.last = replace(report, preview=None, runtime=None)
        self.report(report)

    def again(self) -> None:
        self.report(self.last)


class _Looks:
    """What the window would look like if it ended now, every few seconds."""

    def __init__(self, colours: Colours) -> None:
        self._colours = colours
        self._last = time.monotonic()

    def take(self, sampler: Sampler) -> Frames | None:
        if time.monotonic() - self._last < LOOK_EVERY_S or sampler.step_index == 0:
            return None
        self._last = time.monotonic()
        return self._colours.frames(sampler.predicted())


class _Saves:
    """Writes where the film stands into the work folder, after a step or between two windows."""

    def __init__(self, film: Film, work: Path | None, every_s: float, progress: _Progress) -> None:
        self._film = film
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
            write_snapshot(self._work, self._film.state())
            self._last = time.monotonic()
            self._progress.saved_at = time.time()


def _texts(task: Task) -> tuple[list[str], list[str]]:
    """The prompts of the windows that have their own, and the negative prompt of all; none where nothing is guided."""
    told = 1 + len(task.request.skyreels.storyboard)
    prompts = [task.request.prompt_of(window) for window in range(told)]
    return prompts, [task.request.negative_prompt] if task.plan.guidance_scale > 1 else []


def _begin(components: Components, task: Task, memory: PromptMemory | None, progress: _Progress) -> Film:
    """The film before its first step, or where an earlier attempt left it."""
    from backend.diffusion.conditions import encode_conditions
    from backend.diffusion.decode import Film
    from backend.diffusion.sampler import Sampler
    from backend.diffusion.snapshot import read_snapshot
    from backend.diffusion.text import Prompt, embed

    plan, request, inputs = task.plan, task.request, task.inputs
    texts, negatives = _texts(task)
    found = embed(components, [*texts, *negatives], memory)
    negative = next((found[text] for text in negatives), None)
    prompts = [Prompt(found[text], negative) for text in texts]
    progress(Report(Stage.LOADING, (1 + READING) / 2))
    conditions = encode_conditions(
        components,
        plan.render_frames,
        inputs.image,
        inputs.end_image,
        inputs.prefix,
        size=(plan.render_width, plan.render_height),
        kept=plan.prefix_frames + plan.num_frames,
    )

    def film() -> Film:
        return Film(Sampler(components, plan, request, prompts, conditions), task.first_frame)

    try:
        state = read_snapshot(task.work) if task.work else None
        if state is not None:
            taken_up = film()
            taken_up.restore(state)
            log.info("goes on from window %d, step %d", taken_up.sampler.window + 1, taken_up.sampler.step_index + 1)
            return taken_up
    except SnapshotRefused as error:
        log.warning("the saved state is not used: %s", error)
    return film()


def _denoise(film: Film, looks: _Looks, saves: _Saves, progress: _Progress) -> None:
    """Step until there are final latents to decode."""
    sampler = film.sampler
    while not film.waiting:
        expert = sampler.expert
        with sampler.components.on_device(expert):
            _denoise_by(expert, film, looks, saves, progress)


def _denoise_by(expert: Any, film: Film, looks: _Looks, saves: _Saves, progress: _Progress) -> None:
    """Step while it is the turn of `expert`."""
    sampler = film.sampler
    while not film.waiting and sampler.expert is expert:
        look = looks.take(sampler)
        progress(Report(Stage.DENOISING, sampler.part, sampler.window + 1, sampler.step_index + 1, look))
        sampler.step()
        saves.save_if_due()


def _decode(film: Film, progress: _Progress) -> Iterator[Frames]:
    """Decode the latents that have become final."""
    sampler = film.sampler
    progress(Report(Stage.DENOISING, sampler.part, sampler.window + 1, sampler.step_index))
    progress(Report(Stage.DECODING, film.part, sampler.window + 1))
    with sampler.components.on_device(sampler.components.decoder):
        for frames in film.frames():
            progress(Report(Stage.DECODING, film.part, sampler.window + 1))
            yield frames


@functools.cache
def _import_torch() -> None:
    """Import the libraries, once; then take their 400,000 objects out of the garbage collector's rounds.

    Streamlit collects after every run of a page, and without this each collection would stop the render for 0.3 s.
    """
    os.environ |= OFFLINE
    import torch

    from backend.diffusion import conditions, decode, interrupt, preview, sampler, snapshot, text  # noqa: F401

    # In a container torch counts the cores of the whole machine, and its threads wait for each other's share of time.
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    # The same task gives the same bytes: without this cuDNN may choose its algorithms anew.
    torch.backends.cudnn.deterministic = True
    gc.collect()
    gc.freeze()


def _place(components: Components, plan: Plan, safer_than: Placement | None, loras_gib: float = 0.0) -> None:
    """Have the models lie where they fit beside the render's own needs, in what is free of the GPU's memory. LoRAs are
    on the GPU already.
    """
    import torch

    if components.device.type != "cuda":
        components.apply_offload(Placement.RESIDENT)
        return
    free, _ = torch.cuda.mem_get_info(components.device)
    free += torch.cuda.memory_reserved(components.device)  # by this process, an earlier render's models included
    placed = place(components.need(plan), free / GIB - loras_gib, plan.half_decode, safer_than)
    # What is free changes from hour to hour and may move models, but the picture is the plan's.
    components.set_half_decode(plan.half_decode)
    components.apply_offload(placed.placement)
    log.info("the models are %s, with %.1f GiB free", placed.placement.value, free / GIB)


def _runtime(components: Components, attention: str, kernels: str) -> dict[str, str]:
    """By what a film is made, for its recipe."""
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
