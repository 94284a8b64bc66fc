"""The names of the tensors in a LoRA file, in every style that training programs write, and what each stands for.

Names are compared with one `_` for every run of dots and underscores, so that `lora_unet__blocks_0_self_attn_q`,
`lora_unet_blocks_0.self_attn.q` and `diffusion_model.blocks.0.self_attn.q` are the same layer. The styles are the
tables below. Sources: the key maps of ComfyUI (`comfy/lora.py`, `comfy/weight_adapter`), the conversions of diffusers
(`lora_conversion_utils.py`) and the modules of LyCORIS, read as data.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from backend.core.text import counted

RANK_MOST = 1024

# Words before the name of a layer, in any number and order: `base_model.model.`, `pipe.dit.`, `lora_unet_` and so on.
PREFIX_WORDS = "base|denoiser|diffusion|dit|ema|generator|lora|lycoris|model|module|net|pipe|transformer|unet"
EXPERTS = {"transformer_2": 1, "dit_2": 1, "dit2": 1, "low_noise_model": 1, "high_noise_model": 0}  # likewise
# Words that torch puts before or within the names of what it compiles, shards or recomputes.
WRAPPERS = "orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module"
TEXT_ENCODERS = "cond_stage_model|conditioner|clip|t5(?:xxl)?|te|text_encoders?|text_model|umt5(?:xxl)?"

# The end of a name -> the role of the tensor in the change of its layer; `.weight` and an adapter's name may follow.
ROLES = {
    "lora_A": "down",
    "lora_down": "down",
    "lora_linear_layer_down": "down",
    "lora_B": "up",
    "lora_up": "up",
    "lora_linear_layer_up": "up",
    "lora_mid": "mid",
    "alpha": "alpha",
    "diff": "full",
    "w_norm": "full",
    "diff_b": "bias",
    "b_norm": "bias",
    "diff_m": "modulation",
    "dora_scale": "magnitude",
    "lora_magnitude_vector": "magnitude",
}
HADAMARD = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
KRONECKER = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
ROLES |= {name: name for name in (*HADAMARD, *KRONECKER)}
FP8_SCALES = ("scale_weight", "weight_scale", "scale")
FP8_MARKERS = ("scaled_fp8", "comfy_quant", "scale_input", "input_scale")
OTHER_KINDS = {"oft": "OFT", "boft": "BOFT", "on_input": "IA3", "vera_lambda": "VeRA", "a1_weight": "GLoRA"}
OTHER_FAMILIES = {
    "double_blocks": "Flux or HunyuanVideo",
    "single_blocks": "Flux or HunyuanVideo",
    "single_transformer_blocks": "Flux",
    "transformer_blocks": "LTX-Video, CogVideoX, Flux or Qwen-Image",
    "joint_blocks": "Stable Diffusion 3",
    "down_blocks": "Stable Diffusion",
    "input_blocks": "Stable Diffusion",
}

_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_IMAGE = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
TABLE = "scale_shift_table"  # a parameter of a block or of the model, not a layer
# Names of layers in the original Wan and SkyReels V2 -> names in diffusers. Within a block, then elsewhere.
IN_BLOCKS = {f"self_attn.{name}": f"attn1.{ours}" for name, ours in _ATTENTION.items()}
IN_BLOCKS |= {f"cross_attn.{name}": f"attn2.{ours}" for name, ours in (_ATTENTION | _IMAGE).items()}
IN_BLOCKS |= {"ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2", "norm3": "norm2", "modulation": TABLE}
IN_BLOCKS |= {"before_proj": "proj_in", "after_proj": "proj_out"}
EMBEDDER = "condition_embedder"
ELSEWHERE = {
    "patch_embedding": "patch_embedding",
    "vace_patch_embedding": "vace_patch_embedding",
    "head.head": "proj_out",
    "head.modulation": TABLE,
    "text_embedding.0": f"{EMBEDDER}.text_embedder.linear_1",
    "text_embedding.2": f"{EMBEDDER}.text_embedder.linear_2",
    "time_embedding.0": f"{EMBEDDER}.time_embedder.linear_1",
    "time_embedding.2": f"{EMBEDDER}.time_embedder.linear_2",
    "time_projection.1": f"{EMBEDDER}.time_proj",
    "img_emb.proj.0": f"{EMBEDDER}.image_embedder.norm1",
    "img_emb.proj.1": f"{EMBEDDER}.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": f"{EMBEDDER}.image_embedder.ff.net.2",
    "img_emb.proj.4": f"{EMBEDDER}.image_embedder.norm2",
}
BLOCK = re.compile(r"((?:vace_)?blocks)\.(\d+)\.(.+)")


def _joined(name: str) -> str:
    """The name with one `_` for every run of dots and underscores, and none in front; without the words of wrappers."""
    return re.sub(rf"(?:^|_)(?:{WRAPPERS})(?=_)", "", re.sub(r"[._]+", "_", name)).lstrip("_")


def _by_joined_name(table: Mapping[str, str]) -> dict[str, str]:
    return {_joined(ours): ours for ours in table.values()} | {_joined(name): ours for name, ours in table.items()}


_IN_BLOCKS = _by_joined_name(IN_BLOCKS) | {"attn1_to_out": "attn1.to_out.0", "attn2_to_out": "attn2.to_out.0"}
_ELSEWHERE = _by_joined_name(ELSEWHERE)
_PREFIX = re.compile(rf"(?:({'|'.join(EXPERTS)})|{PREFIX_WORDS})_")
_TEXT_ENCODER = re.compile(rf"(?:{TEXT_ENCODERS})[0-9]?_")
_ROLE = re.compile(
    r"(?P<layer>.+?)_(?:"
    r"(?P<half>lora_A|lora_B|lora_magnitude_vector)(?:_(?!weight$|bias$).+?)?"  # the name of an adapter of peft
    rf"|(?P<other>{'|'.join(sorted(ROLES, key=len, reverse=True))}))"
    r"(?:_(?P<part>weight|bias))?"
)
_BLOCK_JOINED = re.compile(r"((?:vace_)?blocks)_(\d+)_(.+)")
_SCALE = re.compile(rf"(.+?)(?:[._](?:{'|'.join(FP8_SCALES)}))")
_OTHER_BLOCKS = re.compile(r"(?<!^lora_)transformer_blocks")  # no `transformer` before `blocks`: of another family
_MARKER = re.compile(rf"(?:.+[._])?(?:{'|'.join(FP8_MARKERS)})")
_OTHER_KIND = re.compile(rf"_({'|'.join(OTHER_KINDS)})(?:_|$)")

Shape = tuple[int, ...]


class Unusable(Exception):
    """The file is not a LoRA for the models of this registry; the message is the reason."""


class Tensor(NamedTuple):
    """A tensor of the file: its key, the layer that it changes and its role in that change (see `ROLES`). `expert` is
    the index of the only transformer that it is for, None for any; `scale` the key of the scale of an fp8 tensor.
    """

    key: str
    layer: str  # as diffusers names it
    role: str
    shape: Shape
    expert: int | None = None
    scale: str = ""


@dataclass(frozen=True, slots=True)
class Keys:
    """The tensors of a file that change layers, and in `notes`, one sentence each, what is left out or changed."""

    tensors: tuple[Tensor, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Counts:
    """The keys that change no layer, by the reason."""

    text_encoder: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    scales: dict[str, str] = field(default_factory=dict)  # by the key of the fp8 tensor
    idle_scales: int = 0
    markers: int = 0


def read_keys(header: Mapping[str, Any]) -> Keys:
    """Sort the tensors of a safetensors header. Raises Unusable where it is no LoRA for models here."""
    counts, tensors = _Counts(), []
    for key in header:
        if tensor := _sort(key, header, counts):
            tensors.append(tensor)
    if counts.text_encoder and not tensors:
        raise Unusable(f"it was made for a text encoder ({counts.text_encoder[0][:80]})")
    if len(counts.unknown) > len(tensors) or (counts.unknown and not tensors):
        raise Unusable(_unknown_layer(counts.unknown[0]))
    tensors = [tensor._replace(scale=counts.scales.get(tensor.key, "")) for tensor in tensors]
    if any(tensor.expert for tensor in tensors):  # beside `transformer_2`, `transformer` is the first expert
        tensors = [tensor._replace(expert=tensor.expert or 0) for tensor in tensors]
    return Keys(tuple(tensors), tuple(_notes(tensors, counts)))


def _sort(key: str, header: Mapping[str, Any], counts: _Counts) -> Tensor | None:
    """The tensor of that key, or None after counting it. Raises Unusable for kinds that are not known here."""
    if scaled := _SCALE.fullmatch(key):
        target = next((name for end in ("", ".weight", ".diff") if (name := scaled[1] + end) in header), None)
        if target:
            if str(header[target]["dtype"]).startswith("F8"):
                counts.scales[target] = key
            else:
                counts.idle_scales += 1
            return None
    name, expert = _joined(key), None
    while prefix := _PREFIX.match(name):
        expert = EXPERTS.get(prefix[1], expert)
        name = name[prefix.end() :]
    found = _ROLE.fullmatch(name)
    if _TEXT_ENCODER.match(name):
        counts.text_encoder.append(key)
    elif _MARKER.fullmatch(key):
        counts.markers += 1
    elif scaled and not (found and found["other"]):
        counts.idle_scales += 1
    elif found and not _OTHER_BLOCKS.search(key) and (layer := _layer(found)):
        return Tensor(key, layer, _role(found), tuple(header[key]["shape"]), expert)
    elif kind := _OTHER_KIND.search(f"_{name}"):
        raise Unusable(f"it is of the kind {OTHER_KINDS[kind[1]]} ({key[:80]}), which is not known here")
    else:
        counts.unknown.append(key)
    return None


def _role(found: re.Match[str]) -> str:
    role = ROLES[found["half"] or found["other"]]
    if role == "modulation":
        return "full"
    return "bias" if role == "up" and found["part"] == "bias" else role


def _layer(found: re.Match[str]) -> str | None:
    """The name of a layer as diffusers has it, or of a modulation table; None where no such layer is."""
    name = found["layer"] + ("_modulation" if found["other"] == "diff_m" else "")
    block = _BLOCK_JOINED.fullmatch(name)
    if block is None:
        return _ELSEWHERE.get(name)
    inner = _IN_BLOCKS.get(block[3])
    return f"{block[1]}.{block[2]}.{inner}" if inner else None


def _unknown_layer(key: str) -> str:
    for sign, family in OTHER_FAMILIES.items():
        if sign in key:
            return f"it was made for {family} ({key[:80]})"
    return f"it changes {key[:80]!r}, which no model here has"


def _notes(tensors: Sequence[Tensor], counts: _Counts) -> list[str]:
    """What is left out or changed, in sentences."""

    def leave_out(number: int, noun: str, more: str) -> None:
        if number:
            notes.append(f"{counted(number, noun)} {more} {'is' if number == 1 else 'are'} left out.")

    notes: list[str] = []
    leave_out(len(counts.text_encoder), "tensor", "for a text encoder")
    if counts.unknown:
        leave_out(len(counts.unknown), "tensor", f"of what no model here has, such as {counts.unknown[0][:80]},")
    if number := sum(bool(tensor.scale) for tensor in tensors):
        notes.append(
            f"{counted(number, 'fp8 tensor')} {'is' if number == 1 else 'are'} multiplied by a scale beside it."
        )
    leave_out(counts.idle_scales, "scale", "without an fp8 tensor")
    leave_out(counts.markers, "marker", "of fp8 weights")
    experts = Counter(expert for _, expert in {(tensor.layer, tensor.expert) for tensor in tensors})
    if second := experts[1]:
        first = f"{counted(experts[0], 'layer')} for the first expert of Wan 2.2 and " if experts[0] else ""
        notes.append(f"It has {first}{counted(second, 'layer')} for the second{'' if first else ' expert of Wan 2.2'}.")
    return notes


Layers = dict[tuple[int | None, str], dict[str, Tensor]]


def by_layer(tensors: Sequence[Tensor]) -> Layers:
    """The tensors by expert and layer, then by role. Raises Unusable where one is there twice."""
    layers: Layers = defaultdict(dict)
    for tensor in tensors:
        roles = layers[tensor.expert, tensor.layer]
        if tensor.role in roles:
            raise Unusable(f"it changes {tensor.layer} twice")
        roles[tensor.role] = tensor
    return dict(layers)


def shapes_of(roles: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shape of each tensor, by its role."""
    return {role: tensor.shape for role, tensor in roles.items()}


def change_shape(layer: str, shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of the change of a weight, (out, in) or (out, in, *kernel), from the shapes by role; None where only
    the bias is changed. Raises Unusable where the shapes or roles do not match.
    """
    kinds = [
        kind
        for kind, roles in (("LoRA", ("down", "up", "mid")), ("LoHa", HADAMARD), ("LoKr", KRONECKER))
        if any(role in shapes for role in roles)
    ]
    if len(kinds) > 1:
        raise Unusable(f"its change of {layer} is {' and '.join(kinds)} at once")
    try:
        if not kinds:
            if not shapes.keys() & {"full", "bias"}:
                raise Unusable(f"it has only a scale for {layer}")
            return shapes.get("full")
        shape = {"LoRA": _lora_shape, "LoHa": _loha_shape, "LoKr": _lokr_shape}[kinds[0]](shapes)
    except (KeyError, IndexError):
        raise Unusable(f"it has only one half of the change of {layer}") from None
    except ValueError as error:
        raise Unusable(f"the halves of its change of {layer} do not fit: {error}") from None
    if not 0 < rank_of(shapes) <= RANK_MOST:
        raise Unusable(f"its change of {layer} has rank {rank_of(shapes)}, and {RANK_MOST} is the most")
    return shape


def rank_of(shapes: Mapping[str, Shape]) -> int:
    """The rank by which `alpha` is divided; 1 for Kronecker products of two whole matrices, which have none."""
    found = (shapes.get(role) for role in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"))
    return next((shape[0] for shape in found if shape), 1)


def is_low_rank(shapes: Mapping[str, Shape]) -> bool:
    """Whether `rank_of` is a rank."""
    return bool(shapes.keys() & {"down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"})


def _lora_shape(shapes: Mapping[str, Shape]) -> Shape:
    down, up = shapes["down"], shapes["up"]
    if min(len(down), len(up)) < 2 or down[0] != up[1] or math.prod(up[2:]) != 1:
        raise ValueError(f"{down} and {up}")
    if "mid" not in shapes:
        return (up[0], *down[1:])
    mid = shapes["mid"]
    if mid[:2] != (up[1], down[0]):
        raise ValueError(f"{down}, {mid} and {up}")
    return (up[0], down[1], *mid[2:])


def _product_shape(left: Shape, right: Shape, core: Shape | None = None) -> Shape:
    """The shape of `left` @ `right`, or with a `core` of left^T @ core @ right (Tucker's decomposition)."""
    if core is not None:
        if len(left) != 2 or len(right) != 2 or core[:2] != (left[0], right[0]):
            raise ValueError(f"{left}, {core} and {right}")
        return (left[1], right[1], *core[2:])
    if len(left) != 2 or len(right) < 2 or left[1] != right[0]:
        raise ValueError(f"{left} and {right}")
    return (left[0], *right[1:])


def _loha_shape(shapes: Mapping[str, Shape]) -> Shape:
    halves = [_product_shape(shapes[f"hada_w{n}_a"], shapes[f"hada_w{n}_b"], shapes.get(f"hada_t{n}")) for n in (1, 2)]
    if halves[0] != halves[1]:
        raise ValueError(f"{halves[0]} and {halves[1]}")
    return halves[0]


def _lokr_shape(shapes: Mapping[str, Shape]) -> Shape:
    left, right = (
        shapes.get(f"lokr_w{n}")
        or _product_shape(shapes[f"lokr_w{n}_a"], shapes[f"lokr_w{n}_b"], shapes.get(f"lokr_t{n}"))
        for n in (1, 2)
    )
    if len(left) != 2 or len(right) < 2:
        raise ValueError(f"{left} and {right}")
    return (left[0] * right[0], left[1] * right[1], *right[2:])
