"""What a LoRA adds to the output of one layer, for every way in which a change of a weight can be stored.

LoRA: Hu et al. 2021, arXiv 2106.09685. LoHa, LoKr and Tucker's decomposition of convolutions: Yeh et al. 2023,
arXiv 2309.14859 (LyCORIS). DoRA: Liu et al. 2024, arXiv 2402.09353. In all of them the strength scales the difference
that the change makes to the weight: W + strength * (W' - W).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from backend.library.lora_keys import HADAMARD, is_low_rank, rank_of

Tensors = Mapping[str, torch.Tensor]  # by role, see `backend.library.lora_keys.ROLES`


class WeightDelta(torch.nn.Module):  # type: ignore[misc]
    """What a LoRA adds to the output of one layer, given its input and that output: `strength` times `delta`.

    All layers of a LoRA share the tensor `strength`; `own` are the tensors that this one keeps in memory.
    """

    def __init__(self, strength: torch.Tensor, *own: torch.Tensor) -> None:
        super().__init__()
        self.strength = strength
        self.bytes = sum(tensor.numel() * tensor.element_size() for tensor in own)

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return self.strength * self.delta(x, output)

    def delta(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class LowRankDelta(WeightDelta):
    """LoRA: a product of two small matrices."""

    def __init__(self, strength: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float) -> None:
        super().__init__(strength, down, up)
        self.down, self.up, self.scale = down, up, scale

    def delta(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return self.scale * functional.linear(functional.linear(x.to(self.down.dtype), self.down), self.up)


class HadamardDelta(WeightDelta):
    """LoHa: the elementwise product of two low-rank matrices. It is multiplied out in every forward, which takes little
    time beside the tokens of a video, and only the small matrices stay in memory.
    """

    def __init__(self, strength: torch.Tensor, factors: tuple[torch.Tensor, ...], scale: float) -> None:
        super().__init__(strength, *factors)
        self.factors, self.scale = factors, scale

    def delta(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        left, right, other_left, other_right = self.factors
        weight = (left @ right) * (other_left @ other_right)
        return self.scale * functional.linear(x.to(weight.dtype), weight)


class KroneckerDelta(WeightDelta):
    """LoKr: the Kronecker product of `left` (a, c) and `right` (b, d), by the identity (A (x) B) vec(X) = vec(A X B^T)
    for rows: an input of c * d numbers is a matrix of (c, d), and no matrix of (a * b, c * d) is made.
    """

    def __init__(self, strength: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
        super().__init__(strength, left, right)
        self.left, self.right = left, right

    def delta(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        rows = x.to(self.right.dtype).unflatten(-1, (self.left.shape[1], self.right.shape[1]))
        return (self.left @ functional.linear(rows, self.right)).flatten(-2)


class FullDelta(WeightDelta):
    """A difference of the whole weight: the output of the layer with that weight and no bias. Layers that have one here
    are linear in their weight.
    """

    def __init__(self, strength: torch.Tensor, layer: torch.nn.Module, weight: torch.Tensor) -> None:
        super().__init__(strength, weight)
        self.layer = _without_bias(layer, torch.nn.Parameter(weight, requires_grad=False))
        if isinstance(layer, torch.nn.Linear):
            self.layer.__class__ = torch.nn.Linear  # the layer may be an Fp8Linear

    def delta(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.layer(x.to(self.layer.weight.dtype))
        return added


class ConstantDelta(WeightDelta):
    """A difference of the bias or of the modulation table, whatever the input is."""

    def __init__(self, strength: torch.Tensor, constant: torch.Tensor) -> None:
        super().__init__(strength, constant)
        self.constant = constant

    def delta(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return self.constant


class DoraDelta(WeightDelta):
    """DoRA: the changed weight W + D, with the norm of its rows or columns set to trained magnitudes m.

    W' = (W + D) m / ||W + D||. With r = m / ||W + D|| - 1, W'x - Wx is r (Wx + Dx) + Dx for rows, of which Wx is the
    output without the bias, and W(r x) + D(x + r x) for columns. `ratio` is r: of shape (out,), or (in,) for `columns`.
    """

    def __init__(self, change: WeightDelta, layer: torch.nn.Linear, ratio: torch.Tensor, *, columns: bool) -> None:
        super().__init__(change.strength, ratio)
        self.bytes += change.bytes
        self.change, self.ratio, self.columns, self.bias = change, ratio, columns, layer.bias
        self.layer = _without_bias(layer, layer.weight)

    def delta(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        if self.columns:
            scaled = self.ratio * x.to(self.ratio.dtype)
            return self.layer(scaled) + self.change.delta(x + scaled, output)
        changed = self.change.delta(x, output)
        weighted = output if self.bias is None else output - self.bias
        return self.ratio * (weighted.to(changed.dtype) + changed) + changed


def _without_bias(layer: torch.nn.Module, weight: torch.nn.Parameter) -> Any:
    """A copy of the layer with that weight and no bias and hooks; what else it has is shared with it."""
    copied = copy.copy(layer)
    copied._parameters = OrderedDict(weight=weight, bias=None)
    copied._forward_hooks, copied._forward_pre_hooks = OrderedDict(), OrderedDict()
    return copied


def change_delta(
    strength: torch.Tensor, layer: torch.nn.Module, tensors: Tensors, dtype: torch.dtype, weight: torch.Tensor | None
) -> WeightDelta:
    """The delta of a layer whose change is a LoRA, LoHa or LoKr, computed in `dtype`; of a DoRA, which has magnitudes,
    if `weight`, that of the layer, is given. It and `tensors` are float32.

    Raises ValueError where the magnitudes have another shape than the weight.
    """
    linear = isinstance(layer, torch.nn.Linear)
    change = _linear_delta(strength, tensors, dtype) if linear else None
    if change is not None and weight is None:
        return change
    full = weight_change(tensors).reshape(layer.weight.shape)
    if weight is not None:
        ratio, columns = dora_ratio(weight, full, tensors["magnitude"])
        if change is not None:
            return DoraDelta(change, layer, ratio.to(dtype), columns=columns)
        shape = [-1 if dim == int(columns) else 1 for dim in range(full.dim())]
        full = (weight + full) * (1 + ratio.reshape(shape)) - weight
    return FullDelta(strength, layer, full.to(dtype))


def _linear_delta(strength: torch.Tensor, tensors: Tensors, dtype: torch.dtype) -> WeightDelta | None:
    """The delta of a linear layer without making its whole matrix; None where there is a core between the factors."""
    scale = scale_of(tensors)

    def kept(*factors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(factor.flatten(1).to(dtype) for factor in factors)

    if "mid" in tensors or "hada_t1" in tensors:
        return None
    if "down" in tensors:
        down, up = kept(tensors["down"], tensors["up"])
        return LowRankDelta(strength, down, up, scale)
    if "hada_w1_a" in tensors:
        return HadamardDelta(strength, kept(*(tensors[role] for role in HADAMARD[:4])), scale)
    left, right = _kronecker_factors(tensors)
    return KroneckerDelta(strength, *kept(scale * left, right))


def weight_change(tensors: Tensors) -> torch.Tensor:
    """The change of a weight that is a LoRA, LoHa or LoKr, of shape (out, in) or (out, in, *kernel), from float32.

    LoRA: (alpha / rank) up @ down; with a core, Tucker's decomposition of a convolution. LoHa: (alpha / rank) (w1_a @
    w1_b) * (w2_a @ w2_b). LoKr: (alpha / rank) kron(w1, w2), where each of the two may be a product itself; alpha
    counts only if one is. Source: arXiv 2309.14859.
    """
    scale = scale_of(tensors)
    if "down" in tensors:
        down, up = tensors["down"], tensors["up"].flatten(1)
        if "mid" in tensors:
            return scale * torch.einsum("m n ..., i m, n j -> i j ...", tensors["mid"], up, down.flatten(1))
        return scale * (up @ down.flatten(1)).unflatten(1, down.shape[1:])
    if "hada_w1_a" in tensors:
        return scale * _product(tensors, "hada", 1) * _product(tensors, "hada", 2)
    left, right = _kronecker_factors(tensors)
    return scale * torch.kron(left.reshape(*left.shape, *[1] * (right.dim() - 2)), right.contiguous())


def scale_of(tensors: Tensors) -> float:
    """What the product of the factors is multiplied by: alpha / rank, 1 without an alpha or a rank."""
    shapes = {role: tuple(tensor.shape) for role, tensor in tensors.items()}
    return float(tensors["alpha"]) / rank_of(shapes) if is_low_rank(shapes) and "alpha" in tensors else 1.0


def _kronecker_factors(tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    left, right = (tensors[f"lokr_w{n}"] if f"lokr_w{n}" in tensors else _product(tensors, "lokr", n) for n in (1, 2))
    return left, right


def _product(tensors: Tensors, kind: str, number: int) -> torch.Tensor:
    """a @ b of shape (out, in, *kernel); with a core t, the sum over i and j of t[i, j] a[i] b[j]."""
    left, right = tensors[f"{kind}_w{number}_a"], tensors[f"{kind}_w{number}_b"]
    core = tensors.get(f"{kind}_t{number}")
    if core is not None:
        return torch.einsum("i j ..., i p, j r -> p r ...", core, left, right)
    return (left @ right.flatten(1)).unflatten(1, right.shape[1:])


def dora_ratio(weight: torch.Tensor, change: torch.Tensor, magnitude: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """m / ||W + D|| - 1, and whether it is for columns; all float32. Raises ValueError where `magnitude` has another
    shape than (out,), (out, 1, ...) or (1, in, ...).
    """
    changed = weight + change
    columns = magnitude.dim() > 1 and magnitude.shape[0] == 1 and magnitude.numel() == weight.shape[1]
    dims = [dim for dim in range(weight.dim()) if dim != int(columns)]
    norm = torch.linalg.vector_norm(changed, dim=dims)
    if magnitude.numel() != norm.numel():
        raise ValueError(f"magnitudes of shape {tuple(magnitude.shape)}")
    return magnitude.flatten() / norm.clamp(min=torch.finfo(norm.dtype).tiny) - 1, columns
