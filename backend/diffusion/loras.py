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


class Added(torch.nn.Module):  # type: ignore[misc]
    """What a LoRA adds to a layer, of what goes into the layer; times `strength`, which all its layers share."""

    def __init__(self, strength: torch.Tensor) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.strength * self.change(x)

    def change(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class LowRank(Added):
    """A product of two small matrices."""

    def __init__(self, strength: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float) -> None:
        super().__init__(strength)
        self.down, self.up, self.scale = down, up, scale

    def change(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * functional.linear(functional.linear(x.to(self.down.dtype), self.down), self.up)


class WholeWeight(Added):
    """What the layer would give with that weight alone: all that have one here are linear in it."""

    def __init__(self, strength: torch.Tensor, layer: torch.nn.Module, weight: torch.Tensor) -> None:
        super().__init__(strength)
        alone: Any = copy.copy(layer)
        if isinstance(layer, torch.nn.Linear):
            alone.__class__ = torch.nn.Linear  # however the layer keeps its own weight
        alone._parameters = OrderedDict(weight=torch.nn.Parameter(weight, requires_grad=False), bias=None)
        alone._forward_hooks, alone._forward_pre_hooks = OrderedDict(), OrderedDict()
        self.alone = alone

    def change(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.alone(x.to(self.alone.weight.dtype))
        return found


class Bias(Added):
    def __init__(self, strength: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__(strength)
        self.bias = bias

    def change(self, x: torch.Tensor) -> torch.Tensor:
        return self.bias


class Worn:
    """A LoRA in memory, for the transformers of `components`. Raises ModelUnavailable where it does not fit them."""

    def __init__(self, lora: Lora, use: LoraUse, components: Components) -> None:
        self.use = use
        self.bytes = 0
        self.strength = torch.zeros((), device=components.device)  # in the window that is made
        self.added: list[tuple[torch.nn.Module, Added]] = []
        experts = self.transformers = components.transformers
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
        if not self.added:
            raise _unfit(lora.name, "changes no layer of this model")
        if absent := [layer for layer in layers if not any(layer in owner for owner in modules)]:
            log.info("the LoRA %s: %d of its %d layers are not in this model", lora.name, len(absent), len(layers))

    def _add(
        self, file: Any, layer: str, module: torch.nn.Module, parts: dict[str, Tensor], device: torch.device
    ) -> None:
        weight = next(module.parameters())
        dtype = getattr(module, "compute_dtype", weight.dtype)  # of a matrix in eight bits, the one around it

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
            self.added.append((module, LowRank(self.strength, down, up, scale)))
        if "full" in parts:
            if (full := read("full")).shape != weight.shape:
                raise _unfit(self.use.name, f"changes {layer} by {tuple(full.shape)}, which is not its shape")
            self.added.append((module, WholeWeight(self.strength, module, full)))
        if "bias" in parts:
            bias = read("bias")
            if bias.dim() != 1 or len(bias) != weight.shape[0]:
                raise _unfit(self.use.name, f"changes {layer} by {tuple(bias.shape)}, which is not its shape")
            shape = (-1, 1, 1, 1) if isinstance(module, torch.nn.Conv3d) else (-1,)
            self.added.append((module, Bias(self.strength, bias.view(shape))))


def _unfit(name: str, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"The LoRA {name} {reason};", hint="leave it out, or choose the model it was made for.", field="loras"
    )


def gib(loras: Sequence[Worn]) -> float:
    """What they take of the memory."""
    return sum(lora.bytes for lora in loras) / GIB


class Wearing(torch.nn.Module):  # type: ignore[misc]
    """Before the class of a layer: it gives what it gave, and what its LoRAs add."""

    loras: list[Added]

    def forward(self, x: torch.Tensor, *further: Any) -> torch.Tensor:
        output: torch.Tensor = super().forward(x, *further)
        for added in self.loras:
            output = output + added(x).to(output.dtype)
        return output


_WEARING: dict[type, type] = {}  # by the class of a layer; what is compiled knows them by identity


def _wearing(kind: type) -> type:
    return _WEARING.setdefault(kind, type("Wearing", (Wearing, kind), {}))


@contextmanager
def wearing(loras: Sequence[Worn], window: Callable[[], int]) -> Iterator[None]:
    """While open, the LoRAs add to the layers, each as strongly as it should in the window that `window` tells.

    The strengths are tensors, set before each forward: what is compiled takes them as they are then.
    """
    by_layer: dict[torch.nn.Module, list[Added]] = defaultdict(list)
    for lora in loras:
        for layer, added in lora.added if any(lora.use.strength) else ():
            by_layer[layer].append(added)

    def take_up(*_: Any) -> None:
        for lora in loras:
            lora.strength.fill_(lora.use.strength_in(window()))

    models = {model for lora in loras for model in lora.transformers}
    hooks = [model.register_forward_pre_hook(take_up) for model in models]
    kinds = {layer: type(layer) for layer in by_layer}
    for layer, kind in kinds.items():
        layer.loras, layer.__class__ = by_layer[layer], _wearing(kind)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, kind in kinds.items():
            layer.__class__ = kind
            del layer.loras
