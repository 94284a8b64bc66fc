"""LoRAs: each layer adds the low-rank update of its LoRAs (Hu et al. 2021) to its output.

The weights are not changed, so no LoRA is left behind in them, several can be applied at once, each with its own
strength in every window, and models under group offloading stay as they are.
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

from backend.core.errors import ModelUnavailable
from backend.core.schema import LoraUse
from backend.core.units import GIB
from backend.diffusion.components import Components
from backend.engine import Task
from backend.library.loras import Lora, Tensor

log = logging.getLogger(__name__)


class WeightDelta(torch.nn.Module):  # type: ignore[misc]
    """What a LoRA adds to the output of one layer, given its input: `strength` times `delta`.

    All layers of a LoRA share the tensor `strength`.
    """

    def __init__(self, strength: torch.Tensor) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.strength * self.delta(x)

    def delta(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class LowRankDelta(WeightDelta):
    """A product of two small matrices."""

    def __init__(self, strength: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float) -> None:
        super().__init__(strength)
        self.down, self.up, self.scale = down, up, scale

    def delta(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * functional.linear(functional.linear(x.to(self.down.dtype), self.down), self.up)


class FullDelta(WeightDelta):
    """A difference of the whole weight: the output of the layer with that weight and no bias. Layers that have one here
    are linear in their weight.
    """

    def __init__(self, strength: torch.Tensor, layer: torch.nn.Module, weight: torch.Tensor) -> None:
        super().__init__(strength)
        copied: Any = copy.copy(layer)
        if isinstance(layer, torch.nn.Linear):
            copied.__class__ = torch.nn.Linear  # the layer may be an Fp8Linear
        copied._parameters = OrderedDict(weight=torch.nn.Parameter(weight, requires_grad=False), bias=None)
        copied._forward_hooks, copied._forward_pre_hooks = OrderedDict(), OrderedDict()
        self.layer = copied

    def delta(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(x.to(self.layer.weight.dtype))
        return output


class BiasDelta(WeightDelta):
    """A difference of the bias."""

    def __init__(self, strength: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__(strength)
        self.bias = bias

    def delta(self, x: torch.Tensor) -> torch.Tensor:
        return self.bias


class LoadedLora:
    """A LoRA in memory, for the transformers of `components`. Raises ModelUnavailable where it does not fit them."""

    def __init__(self, lora: Lora, use: LoraUse, components: Components) -> None:
        self.use = use
        self.bytes = 0
        self.strength = torch.zeros((), device=components.device)  # in the window that is denoised
        self.deltas: list[tuple[torch.nn.Module, WeightDelta]] = []
        experts = self.transformers = components.transformers
        if lora.expert is not None and len(experts) > 1:
            experts = [experts[lora.expert]]
        layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for tensor in lora.tensors:
            layers[tensor.layer][tensor.role] = tensor
        models = [dict(expert.named_modules()) for expert in experts]
        try:
            with safe_open(lora.file, framework="pt") as file:
                for layer, tensors in layers.items():
                    for modules in models:
                        if layer in modules:
                            self._load(file, layer, modules[layer], tensors, components.device)
        except (OSError, SafetensorError) as error:
            raise _incompatible(lora.name, f"cannot be read ({type(error).__name__})") from error
        if not self.deltas:
            raise _incompatible(lora.name, "changes no layer of this model")
        if absent := [layer for layer in layers if not any(layer in modules for modules in models)]:
            log.info("the LoRA %s: %d of its %d layers are not in this model", lora.name, len(absent), len(layers))

    def _load(
        self, file: Any, layer: str, module: torch.nn.Module, tensors: dict[str, Tensor], device: torch.device
    ) -> None:
        """Read the tensors of one layer by their role: `down`, `up`, `alpha`, `full` or `bias`."""
        weight = next(module.parameters())
        dtype = getattr(module, "compute_dtype", weight.dtype)  # of an Fp8Linear, that of its input

        def read(role: str) -> torch.Tensor:
            tensor: torch.Tensor = file.get_tensor(tensors[role].key).to(device, dtype)
            self.bytes += tensor.numel() * tensor.element_size()
            return tensor

        if "down" in tensors:
            down, up = read("down"), read("up")
            fits = isinstance(module, torch.nn.Linear) and (up.shape[0], down.shape[1]) == tuple(module.weight.shape)
            if not fits:
                shapes = f"{tuple(up.shape)} x {tuple(down.shape)}"
                raise _incompatible(self.use.name, f"changes {layer} by {shapes}, which is not its shape")
            scale = 1.0
            if "alpha" in tensors:
                scale = float(file.get_tensor(tensors["alpha"].key)) / down.shape[0]
            self.deltas.append((module, LowRankDelta(self.strength, down, up, scale)))
        if "full" in tensors:
            if (full := read("full")).shape != weight.shape:
                raise _incompatible(self.use.name, f"changes {layer} by {tuple(full.shape)}, which is not its shape")
            self.deltas.append((module, FullDelta(self.strength, module, full)))
        if "bias" in tensors:
            bias = read("bias")
            if bias.dim() != 1 or len(bias) != weight.shape[0]:
                raise _incompatible(self.use.name, f"changes {layer} by {tuple(bias.shape)}, which is not its shape")
            shape = (-1, 1, 1, 1) if isinstance(module, torch.nn.Conv3d) else (-1,)
            self.deltas.append((module, BiasDelta(self.strength, bias.view(shape))))


def _incompatible(name: str, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"The LoRA {name} {reason};", hint="leave it out, or choose the model it was made for.", field="loras"
    )


def load_loras(task: Task, components: Components) -> list[LoadedLora]:
    """Load the LoRAs of `task`, in the order of its request. Raises ModelUnavailable."""
    return [LoadedLora(lora, use, components) for lora, use in zip(task.loras, task.request.loras, strict=True)]


def loras_gib(loras: Sequence[LoadedLora]) -> float:
    """Memory of `loras`."""
    return sum(lora.bytes for lora in loras) / GIB


class LoraLayer(torch.nn.Module):  # type: ignore[misc]
    """A base class put before the class of a layer: the layer's output plus the deltas of its LoRAs."""

    deltas: list[WeightDelta]

    def forward(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        output: torch.Tensor = super().forward(x, *args)
        for delta in self.deltas:
            output = output + delta(x).to(output.dtype)
        return output


_LORA_CLASSES: dict[type, type] = {}  # by the class of the layer; compiled code compares classes by identity


def _lora_class(cls: type) -> type:
    return _LORA_CLASSES.setdefault(cls, type("LoraLayer", (LoraLayer, cls), {}))


@contextmanager
def apply_loras(loras: Sequence[LoadedLora], window: Callable[[], int]) -> Iterator[None]:
    """While open, layers add the deltas of `loras`, each with its strength in the window that `window` returns.

    The strengths are tensors that are set before each forward, so that compiled code uses their current values.
    """
    by_layer: dict[torch.nn.Module, list[WeightDelta]] = defaultdict(list)
    for lora in loras:
        for layer, delta in lora.deltas if any(lora.use.strength) else ():
            by_layer[layer].append(delta)

    def set_strengths(*_: Any) -> None:
        for lora in loras:
            lora.strength.fill_(lora.use.strength_in(window()))

    models = {model for lora in loras for model in lora.transformers}
    hooks = [model.register_forward_pre_hook(set_strengths) for model in models]
    classes = {layer: type(layer) for layer in by_layer}
    for layer, cls in classes.items():
        layer.deltas, layer.__class__ = by_layer[layer], _lora_class(cls)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, cls in classes.items():
            layer.__class__ = cls
            del layer.deltas
