"""SkyReelsEngine: a task in, a stream of frames out. Importing this module imports no torch."""

from __future__ import annotations

import functools
import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from backend.core.errors import ModelUnavailable
from backend.core.registry import SYNTHETIC
from backend.engine import Reporter, Task
from backend.media.fitting import Frames
from backend.system.monitoring import note_torch_failure, torch_failure

if TYPE_CHECKING:
    from backend.diffusion.render import Renderer

log = logging.getLogger(__name__)

# Nothing is downloaded while a checkpoint is loaded, and no code of it is run.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DIFFUSERS_DISABLE_REMOTE_CODE": "1"}


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

    def render(self, task: Task, report: Reporter) -> Iterator[Frames]:
        """See `Engine.render`. The seed alone decides the noise.

        Raises ModelUnavailable for a missing or damaged checkpoint and where torch cannot be imported, NotEnoughMemory
        naming the setting to lower, and RenderFailed where latents become infinite or NaN.
        """
        yield from self.renderer.render(task, report)

    def unload(self) -> None:
        """Free the loaded checkpoint and its memory."""
        self.renderer.models.unload()

    @functools.cached_property
    def renderer(self) -> Renderer:
        """What renders; asking for it imports torch. Raises ModelUnavailable where that fails."""
        _import_torch()
        from backend.diffusion.render import Renderer

        return Renderer(self._save_every_s, self._cache, self._compile_blocks)


@functools.cache
def _import_torch() -> None:
    """Import the libraries once, then exclude their 400,000 objects from garbage collection.

    Streamlit collects garbage after every run of a page, which would otherwise stop the render for 0.3 s.

    Raises ModelUnavailable where they cannot be imported. It is not tried again: a second import of a library that was
    imported in part fails in other ways.
    """
    if reason := torch_failure():
        raise _cannot_import(reason)
    os.environ |= OFFLINE
    try:
        from backend.diffusion.render import configure_torch
    except (ImportError, OSError, RuntimeError) as error:  # diffusers turns any error of its imports into the last one
        reason = _first_line_of_cause(error)
        log.exception("torch or a library over it cannot be imported")
        note_torch_failure(reason)
        raise _cannot_import(reason) from error
    configure_torch()
    gc.collect()
    gc.freeze()


def _first_line_of_cause(error: BaseException) -> str:
    """What the first error of a chain says."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).split("\n")[0] or type(error).__name__


def _cannot_import(reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"torch, which every model needs, cannot be imported ({reason});",
        hint=f"run `python3 setup.py`, which repairs the environment, and restart; or choose {SYNTHETIC.title}.",
        field="model",
    )
