"""LoRAs at work: each layer gives what it gave, and what they add to it.

The weights are not touched, so nothing of a LoRA is left behind in them, several may work at once, each with its own
strength in every window, and models that are streamed to the GPU stay as they are.
"""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn import functional

from backend.core.config import GIB
from backend.core.errors import ModelUnavailable
from backend.core.schema import LoraUse
from backend.diffusion.components import Components
from backend.library.loras import Lora, Tensor

log = logging.getLogger(__name__)

Term = Callable[[torch.Tensor], torch.Tensor]  # of a layer's input: what is added to its output


class Worn:
    """A LoRA in memory, for the transformers of `components`. Raises ModelUnavailable where it does not fit them."""

    def __init__(self, lora: Lora, use: LoraUse, components: Components) -> None:
        self.use = use
        self.bytes = 0
        self.terms: list[tuple[torch.nn.Module, Term]] = []
        experts = components.transformers
        if lora.expert is not None and len(experts) > 1:
            experts = [experts[lora.expert]]
        layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for tensor in lora.tensors:
            layers[tensor.layer][tensor.role] = tensor
        modules = [dict(expert.named_modules()) for expert in experts]
        try:
            with safe_open(lora.file, framework="pt") as file:
                for layer, parts in layers.items():
                    for owner in modules:
                        if layer in owner:
                            self._add(file, layer, owner[layer], parts, components.device)
        except (OSError, SafetensorError) as error:
            raise _unfit(lora.name, f"cannot be read ({type(error).__name__})") from error
        if not self.terms:
            raise _unfit(lora.name, "changes no layer of this model")
        if absent := [layer for layer in layers if not any(layer in owner for owner in modules)]:
            log.info("the LoRA %s: %d of its %d layers are not in this model", lora.name, len(absent), len(layers))

    def _add(
        self, file: Any, layer: str, module: torch.nn.Module, parts: dict[str, Tensor], device: torch.device
    ) -> None:
        weight = next(module.parameters())
        dtype = getattr(module, "working_dtype", weight.dtype)  # of a matrix in eight bits, the one around it

        def read(role: str) -> torch.Tensor:
            tensor: torch.Tensor = file.get_tensor(parts[role].key).to(device, dtype)
            self.bytes += tensor.numel() * tensor.element_size()
            return tensor

        if "down" in parts:
            down, up = read("down"), read("up")
            fits = isinstance(module, torch.nn.Linear) and (up.shape[0], down.shape[1]) == tuple(module.weight.shape)
            if not fits:
                wanted = f"{tuple(up.shape)} x {tuple(down.shape)}"
                raise _unfit(self.use.name, f"changes {layer} by {wanted}, which is not its shape")
            scale = 1.0
            if "alpha" in parts:
                scale = float(file.get_tensor(parts["alpha"].key)) / down.shape[0]
            self.terms.append((module, _low_rank(down, up, scale)))
        if "full" in parts:
            if (full := read("full")).shape != weight.shape:
                raise _unfit(self.use.name, f"changes {layer} by {tuple(full.shape)}, which is not its shape")
            self.terms.append((module, _alone(module, full)))
        if "bias" in parts:
            bias = read("bias")
            if bias.dim() != 1 or len(bias) != weight.shape[0]:
                raise _unfit(self.use.name, f"changes {layer} by {tuple(bias.shape)}, which is not its shape")
            shape = (-1, 1, 1, 1) if isinstance(module, torch.nn.Conv3d) else (-1,)
            self.terms.append((module, _constant(bias.view(shape))))


def _low_rank(down: torch.Tensor, up: torch.Tensor, scale: float) -> Term:
    return lambda x: scale * functional.linear(functional.linear(x.to(down.dtype), down), up)


def _constant(bias: torch.Tensor) -> Term:
    return lambda _: bias


def _alone(module: torch.nn.Module, weight: torch.Tensor) -> Term:
    """What the layer would give with that weight alone: all that have one here are linear in it."""
    if isinstance(module, torch.nn.Linear):
        return lambda x: functional.linear(x.to(weight.dtype), weight)
    alone: Any = copy.copy(module)
    alone._parameters = OrderedDict(weight=torch.nn.Parameter(weight, requires_grad=False), bias=None)
    alone._forward_hooks, alone._forward_pre_hooks = OrderedDict(), OrderedDict()
    term: Term = alone
    return term


def _unfit(name: str, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"The LoRA {name} {reason};", hint="leave it out, or choose the model it was made for.", field="loras"
    )


def gib(loras: Sequence[Worn]) -> float:
    """What they take of the memory."""
    return sum(lora.bytes for lora in loras) / GIB


@contextmanager
def wearing(loras: Sequence[Worn], window: Callable[[], int]) -> Iterator[None]:
    """While open, the LoRAs add to the layers, each as strongly as it should in the window that `window` tells."""
    by_module: dict[torch.nn.Module, list[tuple[LoraUse, Term]]] = defaultdict(list)
    for lora in loras:
        for module, term in lora.terms if any(lora.use.strength) else ():
            by_module[module].append((lora.use, term))

    def hook(terms: list[tuple[LoraUse, Term]]) -> Callable[..., torch.Tensor]:
        def add(_: torch.nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            for use, term in terms:
                if strength := use.strength_in(window()):
                    output = output + (strength * term(given[0])).to(output.dtype)
            return output

        return add

    hooks = [module.register_forward_hook(hook(terms)) for module, terms in by_module.items()]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
