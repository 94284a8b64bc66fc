"""The shapes of the parameters that a LoRA can change, computed from the numbers of a `Transformer`, without its files.

Source: `transformer_wan.py`, `transformer_wan_vace.py` and `transformer_skyreels_v2.py` of diffusers, which name their
layers alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

from backend.core.registry import Transformer
from backend.library.lora_keys import BLOCK, EMBEDDER, TABLE, Shape, change_shape

PATCH = (1, 2, 2)  # latent frames, rows and columns of a patch, which all models here have


def layer_shape(model: Transformer, layer: str) -> Shape | None:
    """The shape of the layer's weight, (out, in) or (out, in, *kernel), or of the modulation table of that name; None
    where the model has no such layer.
    """
    if not (found := BLOCK.fullmatch(layer)):
        return _elsewhere(model).get(layer)
    kind, number, inner = found[1], int(found[2]), found[3]
    if number >= (model.blocks if kind == "blocks" else model.vace_layers):
        return None
    return _in_block(model, kind == "blocks", first=number == 0).get(inner)


@functools.cache
def _in_block(model: Transformer, main: bool, first: bool) -> Mapping[str, Shape]:
    """The shapes within a block, or within one that controls it."""
    square, vector = (model.dim, model.dim), (model.dim,)
    attention = {"to_q": square, "to_k": square, "to_v": square, "to_out.0": square, "norm_q": vector, "norm_k": vector}
    shapes: dict[str, Shape] = {
        f"{name}.{inner}": attention[inner] for name in ("attn1", "attn2") for inner in attention
    }
    shapes |= {"ffn.net.0.proj": (model.ffn_dim, model.dim), "ffn.net.2": (model.dim, model.ffn_dim), "norm2": vector}
    shapes[TABLE] = (1, 6, model.dim)
    if model.image_dim:
        shapes |= {"attn2.add_k_proj": square, "attn2.add_v_proj": square, "attn2.norm_added_k": vector}
    if not main:
        shapes |= {"proj_out": square} | ({"proj_in": square} if first else {})
    return shapes


@functools.cache
def _elsewhere(model: Transformer) -> Mapping[str, Shape]:
    """The shapes of all other layers."""
    dim, image = model.dim, model.image_dim
    shapes = {
        "patch_embedding": (dim, model.in_channels, *PATCH),
        "proj_out": (model.out_channels * math.prod(PATCH), dim),
        TABLE: (1, 2, dim),
        f"{EMBEDDER}.text_embedder.linear_1": (dim, model.text_dim),
        f"{EMBEDDER}.text_embedder.linear_2": (dim, dim),
        f"{EMBEDDER}.time_embedder.linear_1": (dim, model.freq_dim),
        f"{EMBEDDER}.time_embedder.linear_2": (dim, dim),
        f"{EMBEDDER}.time_proj": (6 * dim, dim),
    }
    if image:
        shapes |= {
            f"{EMBEDDER}.image_embedder.norm1": (image,),
            f"{EMBEDDER}.image_embedder.ff.net.0.proj": (image, image),
            f"{EMBEDDER}.image_embedder.ff.net.2": (dim, image),
            f"{EMBEDDER}.image_embedder.norm2": (dim,),
        }
    return shapes | ({"vace_patch_embedding": (dim, model.vace_in_channels, *PATCH)} if model.vace_layers else {})


def wrong_shape(layer: str, shape: Shape, shapes: Mapping[str, Shape]) -> str | None:
    """What of the change of `layer`, whose tensors have `shapes` by their role, does not fit a weight of `shape`: its
    shape, for a message. None where all fits. Raises Unusable where the tensors do not fit each other.
    """
    if shapes.keys() - {"full", "bias", "alpha", "magnitude"}:
        found = change_shape(layer, shapes)
        if len(shape) < 2 or found is None or not _is_flattened(found, shape):
            return " x ".join(map(str, (shapes["up"], shapes["down"]))) if "up" in shapes else str(found)
        if not _is_magnitude(shapes.get("magnitude", shape[:1]), shape):
            return f"magnitudes of shape {shapes['magnitude']}"
    if shapes.get("full", shape) != shape:
        return str(shapes["full"])
    return None if shapes.get("bias", shape[:1]) == shape[:1] else f"a bias of shape {shapes['bias']}"


def _is_flattened(change: Shape, shape: Shape) -> bool:
    """Whether a change of that shape, in which the kernel may be flattened, is one of a weight of `shape`."""
    return (change[0], math.prod(change[1:])) == (shape[0], math.prod(shape[1:]))


def _is_magnitude(found: Shape, shape: Shape) -> bool:
    """Whether a magnitude of DoRA is (out,), (out, 1, ...) or (1, in, ...) for a weight of `shape`."""
    columns = len(found) > 1 and found[0] == 1 and math.prod(found) == shape[1]
    return columns or math.prod(found) == shape[0]
