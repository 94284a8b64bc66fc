"""SkyReelsEngine: a task in, a stream of frames out. Importing this module imports no torch."""

from __future__ import annotations

import functools
import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from backend.core.config import GIB
from backend.core.errors import ModelUnavailable, NotEnoughMemory
from backend.core.planning import Plan, Stage
from backend.jobs.engine import Report, Reporter, Task
from backend.media.fitting import Frames

if TYPE_CHECKING:
    from backend.diffusion.components import Components

log = logging.getLogger(__name__)

READING = 0.8  # of the loading stage; the rest is encoding the prompt and the pictures


class SkyReelsEngine:
    """SkyReels V2 on this machine's GPU, or on its CPU where there is none. One render at a time.

    The checkpoint of the last render stays loaded, so the next one with the same model starts at once.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._components: Components | None = None

    def render(self, task: Task, report: Reporter) -> Iterator[Frames]:
        """See `Engine.render`. The seed alone decides the noise.

        Raises ModelUnavailable for a missing or damaged checkpoint, NotEnoughMemory naming the setting to lower, and
        RenderFailed where the model's numbers go astray.
        """
        _import_torch()
        from backend.diffusion.components import is_out_of_memory

        progress = _Progress(report)
        failure = None
        try:
            yield from self._render(task, progress)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            log.warning("out of memory while %s: %s", progress.last.stage.value, str(error))
            failure = _not_enough_memory(task.plan, progress.last.stage)
        # Outside the handler, and the log has only its text: the old error holds every tensor of the failed render.
        if failure is not None:
            self.unload()
            raise failure

    def unload(self) -> None:
        """Let go of the loaded checkpoint and of the memory that it takes."""
        self._folder = self._components = None
        _import_torch()
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _render(self, task: Task, progress: _Progress) -> Iterator[Frames]:
        from backend.diffusion.conditions import encode_conditions
        from backend.diffusion.decode import decode
        from backend.diffusion.interrupt import interruptible
        from backend.diffusion.sampler import Sampler
        from backend.diffusion.text import encode_prompt

        plan, request, inputs = task.plan, task.request, task.inputs
        components = self._load(task.checkpoint, progress)
        _place(components, plan)
        with interruptible(components, progress.again):
            negative = request.negative_prompt if plan.guidance_scale > 1 else None
            prompt = encode_prompt(components, request.prompt, negative)
            progress(Report(Stage.LOADING, (1 + READING) / 2))
            conditions = encode_conditions(
                components, plan.render_frames, inputs.image, inputs.end_image, inputs.prefix
            )
            sampler = Sampler(components, plan, request, prompt, conditions)
            with components.at_work(components.transformer):
                while not sampler.finished:
                    progress(Report(Stage.DENOISING, sampler.part, sampler.window + 1, sampler.step_index + 1))
                    sampler.step()
            latents = sampler.film
            del sampler, prompt, conditions
            assert latents is not None  # there is no plan without a window
            progress(Report(Stage.DECODING, 0.0))
            with components.at_work(components.vae):
                for number, frames in enumerate(decode(components.vae, latents), start=1):
                    progress(Report(Stage.DECODING, number / latents.shape[2]))
                    yield frames

    def _load(self, folder: Path | None, progress: _Progress) -> Components:
        """The components of `folder`: those of the last render, or read from disk after letting go of those."""
        from backend.diffusion.components import load_components, working_device

        progress(Report(Stage.LOADING, 0.0))
        if folder is None or not folder.is_dir():
            name = "none" if folder is None else folder.name
            raise ModelUnavailable(
                f"The checkpoint of this render, {name}, is not on the disk;",
                hint="download the model again or choose another one.",
                field="model",
            )
        if self._components is None or self._folder != folder:
            if self._components is not None:
                self.unload()

            def loaded(part: float) -> None:
                progress(Report(Stage.LOADING, READING * part))

            self._components = load_components(folder, working_device(), loaded)
            self._folder = folder
        return self._components


class _Progress:
    """Hands reports on and remembers the last, for the checks inside a forward, which have nothing new to say."""

    def __init__(self, report: Reporter) -> None:
        self.report = report
        self.last = Report(Stage.LOADING, 0.0)

    def __call__(self, report: Report) -> None:
        self.last = report
        self.report(report)

    def again(self) -> None:
        self.report(self.last)


@functools.cache
def _import_torch() -> None:
    """Import the libraries, once; then take their 400,000 objects out of the garbage collector's rounds.

    Streamlit collects after every run of a page, and without this each collection would stop the render for 0.3 s.
    """
    import torch

    from backend.diffusion import conditions, decode, interrupt, sampler, text  # noqa: F401

    # The same task gives the same bytes: without this cuDNN may choose its algorithms anew.
    torch.backends.cudnn.deterministic = True
    gc.collect()
    gc.freeze()


def _place(components: Components, plan: Plan) -> None:
    """All models on the GPU if they fit beside the render's own needs, else each only while it works."""
    import torch

    if components.device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(components.device)
    free += torch.cuda.memory_reserved(
        components.device
    )  # what this process holds, an earlier render's models included
    fits = plan.forecast.peak_gib * GIB <= free
    components.move(components.device if fits else torch.device("cpu"))


def _not_enough_memory(plan: Plan, stage: Stage) -> NotEnoughMemory:
    size = f"{plan.render_width}x{plan.render_height}"
    if stage is Stage.LOADING:
        return NotEnoughMemory(
            f"{plan.model_title} needs about {plan.forecast.peak_gib:.1f} GiB, more than is free;",
            hint="close other programs that use the memory, or choose a smaller model.",
            field="model",
        )
    if stage is Stage.DECODING:
        return NotEnoughMemory(
            f"Decoding frames of {size} needs more memory than is free;", hint="lower resolution.", field="resolution"
        )
    frames = 4 * max(window.stop - window.start for window in plan.windows) - 3
    setting = "skyreels.base_num_frames" if len(plan.windows) > 1 else "num_frames"
    return NotEnoughMemory(
        f"Denoising {frames} frames of {size} at once needs about {plan.forecast.peak_gib:.1f} GiB, more than is free;",
        hint=f"lower resolution or {setting}, or choose a smaller model.",
        field="resolution",
    )
