"""LoRAs: each layer adds the changes of its LoRAs to its output (`weight_deltas.py`), a block to its modulation table.

The weights are not changed, so no LoRA is left behind in them, several can be applied at once, each with its own
strength in every window, and models under group offloading stay as they are.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from backend.core.errors import ModelUnavailable
from backend.core.schema import LoraUse
from backend.core.units import GIB
from backend.diffusion.components import Components
from backend.diffusion.fp8 import Fp8Linear
from backend.diffusion.weight_deltas import ConstantDelta, FullDelta, WeightDelta, change_delta
from backend.engine import Task
from backend.library.layer_shapes import wrong_shape
from backend.library.lora_keys import TABLE, Tensor, by_layer, is_low_rank, rank_of
from backend.library.loras import Lora

log = logging.getLogger(__name__)


class LoadedLora:
    """A LoRA in memory, for the transformers of `components`. Raises ModelUnavailable where it does not fit them."""

    def __init__(self, lora: Lora, use: LoraUse, components: Components) -> None:
        self.use = use
        self._adapter = lora.adapter
        self.bytes = 0
        self.strength = torch.zeros((), device=components.device)  # in the window that is denoised
        self.deltas: list[tuple[torch.nn.Module, WeightDelta]] = []
        experts = self.transformers = components.transformers
        if lora.expert is not None and len(experts) > 1:
            experts = [experts[lora.expert]]
        self._only_expert = min((tensor.expert for tensor in lora.tensors if tensor.expert is not None), default=0)
        layers = by_layer(lora.tensors)
        try:
            with safe_open(lora.file, framework="pt") as file:
                for (expert, layer), tensors in layers.items():
                    for model in self._models_of(expert, experts):
                        if (module := _owner(model, layer)) is not None:
                            self._load(file, layer, module, tensors, components.device)
        except (OSError, SafetensorError) as error:
            raise _incompatible(lora.name, f"cannot be read ({type(error).__name__})") from error
        if not self.deltas:
            raise _incompatible(lora.name, "changes no layer of this model")
        self.bytes = sum(delta.bytes for _, delta in self.deltas)
        if absent := [layer for (_, layer) in layers if all(_owner(model, layer) is None for model in experts)]:
            log.info("the LoRA %s: %d of its %d layers are not in this model", lora.name, len(absent), len(layers))

    def _models_of(self, expert: int | None, experts: Sequence[Any]) -> Sequence[Any]:
        """The transformers for which tensors of `expert` are; on a model with one, all but those beside the first's."""
        if expert is None or len(self.transformers) == 1:
            return experts if expert in (None, self._only_expert) else ()
        return [self.transformers[expert]]

    def _load(
        self, file: Any, layer: str, module: torch.nn.Module, tensors: dict[str, Tensor], device: torch.device
    ) -> None:
        """Read the tensors of one layer by their role, see `backend.library.lora_keys`."""
        is_table = layer.endswith(TABLE)
        weight = module._parameters[TABLE] if is_table else next(module.parameters())
        dtype = getattr(module, "compute_dtype", weight.dtype)  # of an Fp8Linear, that of its input
        read = {role: _read(file, tensor) for role, tensor in tensors.items()}
        shapes = {role: tuple(tensor.shape) for role, tensor in read.items()}
        if wrong := wrong_shape(layer, tuple(weight.shape), shapes):
            raise _incompatible(self.use.name, f"changes {layer} by {wrong}, which is not its shape")
        if self._adapter and "alpha" not in read and is_low_rank(shapes):
            read["alpha"] = torch.tensor(self._adapter.alpha_of(layer, rank_of(shapes)))
        if not all(tensor.isfinite().all() for tensor in read.values()):
            message = f"The LoRA {self.use.name} has NaN or infinite values in its change of {layer};"
            raise ModelUnavailable(message, hint="leave it out, or download it again.", field="loras")
        read = {role: tensor.to(device) for role, tensor in read.items()}

        def add(delta: WeightDelta) -> None:
            self.deltas.append((module, delta))

        if read.keys() - {"full", "bias", "alpha", "magnitude"}:
            original = _weight_of(module).to(device) if "magnitude" in read else None
            add(change_delta(self.strength, module, read, dtype, original))
        if "full" in read:
            full = read["full"].to(dtype)
            add(ConstantDelta(self.strength, full) if is_table else FullDelta(self.strength, module, full))
        if "bias" in read:
            shape = (-1, 1, 1, 1) if isinstance(module, torch.nn.Conv3d) else (-1,)
            add(ConstantDelta(self.strength, read["bias"].to(dtype).view(shape)))


def _owner(model: torch.nn.Module, layer: str) -> torch.nn.Module | None:
    """The layer of that name, or the module that has the modulation table of that name; None if there is none."""
    owner, _, last = layer.rpartition(".")
    try:
        module = model.get_submodule(owner if last == TABLE else layer)
    except AttributeError:
        return None
    has = TABLE in module._parameters if last == TABLE else next(module.parameters(), None) is not None
    return module if has else None


def _read(file: Any, tensor: Tensor) -> torch.Tensor:
    """A tensor in float32; one in fp8 times its scale, which is a number, or one for each row."""
    values: torch.Tensor = file.get_tensor(tensor.key).float()
    if not tensor.scale:
        return values
    scale = file.get_tensor(tensor.scale).float()
    return values * (scale.reshape(-1, *[1] * (values.dim() - 1)) if scale.numel() > 1 else scale.reshape(()))


def _weight_of(layer: Any) -> torch.Tensor:
    """The weight in float32, of an Fp8Linear too."""
    weight: torch.Tensor = layer.weight.float()
    return weight * layer.scale if isinstance(layer, Fp8Linear) else weight


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
        total = output = super().forward(x, *args)
        for delta in self.deltas:
            total = total + delta(x, output).to(output.dtype)
        return total


class LoraTable(torch.nn.Module):  # type: ignore[misc]
    """A base class put before that of a block or transformer: its modulation table plus the deltas of its LoRAs."""

    deltas: list[WeightDelta]

    @property
    def scale_shift_table(self) -> torch.Tensor:
        total = table = self._parameters[TABLE]
        for delta in self.deltas:
            total = total + delta(table, table)
        return total


_LORA_CLASSES: dict[type, type] = {}  # by the class of the layer; compiled code compares classes by identity


def _lora_class(cls: type, base: type) -> type:
    return _LORA_CLASSES.setdefault(cls, type(base.__name__, (base, cls), {}))


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
        base = LoraTable if TABLE in layer._parameters else LoraLayer
        layer.deltas, layer.__class__ = by_layer[layer], _lora_class(cls, base)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, cls in classes.items():
            layer.__class__ = cls
            del layer.deltas
