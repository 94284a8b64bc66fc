"""The checkpoint of the last render, kept in memory for the next one, and its placement on the GPU."""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from backend.core.errors import ModelUnavailable, NotEnoughMemory
from backend.core.placement import Placement, place
from backend.core.plan import Plan, Stage
from backend.core.units import GIB
from backend.diffusion.components import Components, compute_device, load_components
from backend.diffusion.patches import patch_placed
from backend.diffusion.preview import LatentRgbFactors, fit_latent_rgb
from backend.diffusion.text import PromptCache, texts_of
from backend.engine import Task
from backend.library.checkpoints import checkpoint_name

log = logging.getLogger(__name__)


class ModelCache:
    """Keeps one checkpoint loaded, so that the next render with the same model starts at once.

    `prompts` is the folder of the cached prompt embeddings; without it, `prompt_cache` is None.
    """

    def __init__(self, prompts: Path | None) -> None:
        self._prompts = prompts
        self._folder: Path | None = None
        self._latent_rgb: LatentRgbFactors | None = None
        self._out_of_memory: tuple[Plan, Placement] | None = None  # the last render that did not fit, and its placement
        self.components: Components | None = None
        self.prompt_cache: PromptCache | None = None  # of the checkpoint that was loaded last

    def load(self, task: Task, on_progress: Callable[[float], None]) -> Components:
        """Load the task's checkpoint unless it is that of the last render, and its text encoder unless all prompts are
        cached. `on_progress` is called with the fraction that is loaded. Raises ModelUnavailable.
        """
        folder, fp8, device = _existing(task.checkpoint), task.plan.fp8, compute_device()
        self.prompt_cache = PromptCache(self._prompts, folder, device) if self._prompts else None
        must_encode = not self._all_cached(task)
        if self.components is None or self._folder != folder or self.components.fp8 != fp8:
            if self.components is not None:
                self.unload()
            self.components = load_components(folder, device, on_progress, text_encoder=must_encode, fp8=fp8)
            self._folder = folder
        elif must_encode:
            self.components.load_text_encoder()
        return self.components

    def _all_cached(self, task: Task) -> bool:
        cache = self.prompt_cache
        return cache is not None and all(text in cache for text in itertools.chain(*texts_of(task)))

    def latent_rgb(self) -> LatentRgbFactors:
        """The map of the loaded checkpoint that makes previews."""
        assert self.components is not None
        if self._latent_rgb is None:
            self._latent_rgb = fit_latent_rgb(self.components)
        return self._latent_rgb

    def place(self, plan: Plan, loras_gib: float) -> None:
        """Choose and apply the placement of the loaded checkpoint, for the free memory of the GPU. LoRAs, which take
        `loras_gib`, are on the GPU already.
        """
        assert self.components is not None
        _place(self.components, plan, self._safer_than(plan), loras_gib)

    def out_of_memory(self, plan: Plan, stage: Stage) -> NotEnoughMemory:
        """The error of a render of `plan` that did not fit, which is remembered for the next attempt."""
        return _not_enough_memory(plan, stage, self._note_out_of_memory(plan))

    def unload(self) -> None:
        """Free the loaded checkpoint and its memory."""
        self._folder = self.components = self._latent_rgb = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _note_out_of_memory(self, plan: Plan) -> bool:
        """Remember that `plan` did not fit with its placement; whether there is one that takes less memory, which the
        next attempt then uses.
        """
        components = self.components
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


def _existing(folder: Path | None) -> Path:
    """`folder`. Raises ModelUnavailable if it is not on the disk."""
    if folder is None or not folder.is_dir():
        name = "none" if folder is None else checkpoint_name(folder)
        raise ModelUnavailable(
            f"The checkpoint of this render, {name}, is not on the disk;",
            hint="download the model again or choose another one.",
            field="model",
        )
    return folder


def _place(components: Components, plan: Plan, safer_than: Placement | None, loras_gib: float = 0.0) -> None:
    """Choose and apply the placement for the free memory of the GPU. LoRAs are on the GPU already."""
    if components.device.type != "cuda":
        patch_placed(components, Placement.RESIDENT, half_decode=False)
        return
    free, _ = torch.cuda.mem_get_info(components.device)
    free += torch.cuda.memory_reserved(components.device)  # by this process, including models of an earlier render
    placed = place(components.need(plan), free / GIB - loras_gib, plan.half_decode, safer_than)
    # The free memory may change the placement, but not the precision of decoding, which changes the pixels.
    patch_placed(components, placed.placement, plan.half_decode)
    log.info("placement %s, with %.1f GiB free", placed.placement.value, free / GIB)


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
