"""Patches: all changes of live layers, in the order in which they are applied. Only this file applies them to a render.

1. Per-frame modulation (`transformer.py`) replaces the class of blocks and the attention processors when a
   `Transformer` is constructed. It is part of the model and is never undone.
2. fp8 (`fp8.py`) replaces the class and the weight of linear layers when a checkpoint is loaded. It is never undone: a
   render with another precision loads the checkpoint again.
3. Offloading (`components.py`) moves models, and group offloading wraps `forward` of layers, before a render. The next
   placement undoes it.
4. CPU kernels (`cpu.py`) replace the class of layers and attention processors, for one render, as do the following.
5. The attention kernel (`attention.py`) sets an attribute of the attention processors.
6. Interruption (`interrupt.py`) registers forward hooks of blocks.
7. LoRAs (`loras.py`) replace the class of layers by a subclass of it, and register forward hooks of transformers.
8. Compilation (`compiled.py`) replaces `forward` of blocks.

Why in this order: fp8 and CPU kernels find layers by their exact class, so they come before LoRAs, which derive a class
from the one that they find. fp8 comes before offloading, which keeps the weights that it finds. LoRAs are loaded before
the CPU kernels, because a `FullDelta` copies its layer, which must be the stock one. Compilation is last because it
compiles the layers as they are then; hooks of blocks run outside of it. The patches of a render are undone in reverse
order, so that each finds what it left, and the model of the next render is as it was loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch

from backend.core.placement import Placement
from backend.diffusion.attention import STOCK, attention_backend
from backend.diffusion.compiled import Call, compiled
from backend.diffusion.components import Components, blocks_of
from backend.diffusion.cpu import use_cpu_kernels
from backend.diffusion.fp8 import has_fp8_matmul, quantize_fp8
from backend.diffusion.interrupt import interruptible
from backend.diffusion.loras import LoadedLora, apply_loras


def patch_loaded(transformer: torch.nn.Module, device: torch.device, fp8: bool) -> None:
    """Apply the patches of a transformer that was loaded just now, computing on `device`."""
    if fp8:
        quantize_fp8(blocks_of(transformer), device)


def patch_placed(components: Components, placement: Placement, half_decode: bool) -> None:
    """Apply offloading and the precision of decoding before a render."""
    components.set_half_decode(half_decode)
    components.apply_offload(placement)


class RenderPatches(ExitStack):
    """The patches of one render. They are undone when it closes.

    The methods raise RuntimeError unless they are called in the order in which they are defined; each can be left out.
    """

    def __init__(self, components: Components) -> None:
        super().__init__()
        self._components = components
        self._applied = 0
        self._attention = STOCK
        self._kernels = "stock"

    def use_cpu_kernels(self) -> None:
        self._apply(4)
        self._kernels = "optimized"
        for model in (*self._components.transformers, self._components.vae):
            self.callback(use_cpu_kernels, model, on=False)
            use_cpu_kernels(model, on=True)

    def set_attention_backend(self, name: str) -> None:
        self._apply(5)
        self._attention = name
        for transformer in self._components.transformers:
            self.enter_context(attention_backend(transformer, name))

    def interrupt_by(self, check: Callable[[], None]) -> None:
        self._apply(6)
        self.enter_context(interruptible(self._components, check))

    def apply_loras(self, loras: Sequence[LoadedLora], window: Callable[[], int]) -> None:
        self._apply(7)
        self.enter_context(apply_loras(loras, window))

    def compile_blocks(self, backend: str | Call = "inductor") -> None:
        self._apply(8)
        self._kernels = "compiled"
        for transformer in self._components.transformers:
            self.enter_context(compiled(transformer, backend))

    def runtime(self) -> dict[str, str]:
        """Device, precisions, kernels and placement of the render as it is patched, for its recipe."""
        components = self._components
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
            "attention": self._attention,
            "kernels": self._kernels,
            "placement": placement.value if placement else "",
        }

    def _apply(self, number: int) -> None:
        if number <= self._applied:
            raise RuntimeError(
                f"patch {number} cannot be applied after patch {self._applied}; see the list in patches.py"
            )
        self._applied = number
