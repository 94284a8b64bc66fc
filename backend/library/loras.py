"""LoRAs: safetensors files in models/loras, inspected by their headers alone, without torch.

A LoRA changes some layers of a transformer. Training programs name the layers in different styles; all are
converted to the names of diffusers' Wan transformer, which SkyReels V2 shares. A file does not say reliably which model
it was trained for, but the shapes of its tensors exclude the others.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from backend.core.errors import Conflict, InvalidRequest, NotEnoughSpace, NotFound
from backend.core.registry import ModelSpec
from backend.durable import move, replace_file
from backend.library.checkpoints import Damaged, read_header

log = logging.getLogger(__name__)

FOLDER = "loras"  # in models/
TENSORS_MOST = 10_000  # the largest real ones have about 3,000
RANK_MOST = 1024
NAME = re.compile(r"[\w][\w.+ -]{0,99}")

PREFIXES = ("base_model.model.", "model.", "diffusion_model.", "transformer.", "lora_transformer_", "lora_unet_")
ROLES = {
    "lora_A.weight": "down",
    "lora_A.default.weight": "down",
    "lora_down.weight": "down",
    "lora.down.weight": "down",
    "lora_B.weight": "up",
    "lora_B.default.weight": "up",
    "lora_up.weight": "up",
    "lora.up.weight": "up",
    "lora_B.bias": "bias",
    "diff_b": "bias",
    "diff": "full",
    "alpha": "alpha",
}
OTHER_KINDS = {"hada_": "LoHa", "lokr_": "LoKr", "dora_scale": "DoRA", "lora_mid": "LoCon", "oft_": "OFT"}
OTHER_FAMILIES = {
    "double_blocks": "Flux or HunyuanVideo",
    "single_blocks": "Flux or HunyuanVideo",
    "single_transformer_blocks": "Flux",
    "transformer_blocks": "LTX-Video, CogVideoX, Flux or Qwen-Image",
    "joint_blocks": "Stable Diffusion 3",
    "down_blocks": "Stable Diffusion",
    "input_blocks": "Stable Diffusion",
    "text_model": "a text encoder",
    "te_": "a text encoder",
}
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_IMAGE = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
# Names of layers in the original Wan and SkyReels V2 -> names in diffusers. Within a block, then elsewhere.
IN_BLOCKS = {f"self_attn.{name}": f"attn1.{ours}" for name, ours in _ATTENTION.items()}
IN_BLOCKS |= {f"cross_attn.{name}": f"attn2.{ours}" for name, ours in (_ATTENTION | _IMAGE).items()}
IN_BLOCKS |= {"ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2", "norm3": "norm2"}
IN_BLOCKS |= {"before_proj": "proj_in", "after_proj": "proj_out"}
EMBEDDER = "condition_embedder"
ELSEWHERE = {
    "patch_embedding": "patch_embedding",
    "head.head": "proj_out",
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


class Unusable(Exception):
    """The file is not a LoRA for the models of this registry; the message is the reason."""


class Tensor(NamedTuple):
    """A tensor of the file: its key, the layer that it changes and its role in that change."""

    key: str
    layer: str  # as diffusers names it
    role: str  # "down", "up", "bias", "full" or "alpha"
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA file. `width` and `ffn_width` are those of the model that it was trained for, 0 where none of its layers
    shows them; `blocks` is the highest changed block plus one.
    """

    name: str
    file: Path
    bytes: int
    style: str
    layers: int
    ranks: tuple[int, ...]
    blocks: int
    width: int
    ffn_width: int
    sees_pictures: bool
    tensors: tuple[Tensor, ...]
    base_model_hint: str = ""  # from the metadata, as the training program wrote it

    @property
    def expert(self) -> int | None:
        """Index of the expert that it was trained for, by its name: 0 is the high-noise one; None means both."""
        match = re.search(r"(high|low)[-_ .]?noise", self.name, re.IGNORECASE)
        return {"high": 0, "low": 1}[match[1].lower()] if match else None

    def incompatibility(self, spec: ModelSpec) -> str | None:
        """The reason why it does not fit `spec`; None if it may fit."""
        shape = spec.transformer
        if shape is None:
            return f"{spec.title} has no layers to change"
        if self.width not in (0, shape.dim):
            return f"it was made for models of width {self.width}, {spec.title} has {shape.dim}"
        if self.ffn_width not in (0, shape.ffn_dim):
            return f"it was made for models with {self.ffn_width} in the middle, {spec.title} has {shape.ffn_dim}"
        if self.blocks > shape.layers:
            return f"it changes block {self.blocks}, {spec.title} has {shape.layers}"
        return None

    def require(self, spec: ModelSpec) -> None:
        """Raise InvalidRequest where it does not fit `spec`."""
        if reason := self.incompatibility(spec):
            raise InvalidRequest(f"The LoRA {self.name} does not fit: {reason};", hint="leave it out.", field="loras")

    def as_dict(self) -> dict[str, Any]:
        """As REST and `--json` show it."""
        names = ("name", "bytes", "style", "layers", "blocks", "width", "sees_pictures", "base_model_hint")
        values = {name: getattr(self, name) for name in names}
        return values | {"ranks": list(self.ranks), "said": self.base_model_hint}  # `said`: its name in 0.1


def find_loras(models: Iterable[Path]) -> tuple[list[Lora], dict[str, str]]:
    """The LoRAs in the `loras` folder of each of `models`, and by file name the reason why others are refused."""
    found: dict[str, Lora] = {}
    refused: dict[str, str] = {}
    for folder in models:
        try:
            files = sorted(file for file in (folder / FOLDER).iterdir() if not file.name.startswith("."))
        except OSError:
            continue
        for file in files:
            try:
                lora = inspect(file)
            except Unusable as error:
                refused[file.name] = str(error)
            except OSError as error:
                refused[file.name] = f"it cannot be read ({error.strerror})"
            else:
                found.setdefault(lora.name, lora)
    return list(found.values()), refused


def inspect(file: Path, name: str | None = None) -> Lora:
    """Read the header of a LoRA, named `name` or as its file. Raises Unusable with the reason if it is none for the
    models of this registry.
    """
    stat = file.stat()
    try:
        return _inspected(file, name or file.stem, stat.st_size, stat.st_mtime_ns)
    except Damaged as error:
        raise Unusable(f"it {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unusable(f"it is damaged ({type(error).__name__})") from None


@functools.lru_cache(maxsize=256)
def _inspected(file: Path, name: str, size: int, changed: int) -> Lora:
    """`inspect`, cached until size or time of change differ."""
    del size, changed
    if file.suffix != ".safetensors":
        raise Unusable("it is no safetensors file, and others can run code when they are read")
    if not file.is_file():
        raise Unusable("it is no file")
    if not NAME.fullmatch(name):
        raise Unusable("its name has other signs than letters, digits, spaces, dots, + and -")
    with file.open("rb") as stream:
        if stream.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise Unusable("it is a pickle with another name, which can run code when it is read")
    header = read_header(file)
    metadata = header.pop("__metadata__", None) or {}
    if len(header) > TENSORS_MOST:
        raise Unusable(f"it has {len(header)} tensors, and a LoRA has {TENSORS_MOST} at the most")
    kohya = any(key.startswith(("lora_unet_", "lora_transformer_")) for key in header)
    tensors = [tensor for key, entry in header.items() if (tensor := _parse(key, tuple(entry["shape"])))]
    layers = _checked(tensors)
    blocks = [int(match[2]) + 1 for layer in layers if (match := BLOCK.fullmatch(layer)) and match[1] == "blocks"]
    original = any(".self_attn." in key or ".cross_attn." in key or ".ffn.0." in key for key in header)
    hint = " ".join(str(metadata.get(key, "")) for key in ("ss_base_model_version", "modelspec.architecture"))
    return Lora(
        name=name,
        file=file,
        bytes=file.stat().st_size,
        style="kohya" if kohya else "original" if original else "diffusers",
        layers=len(layers),
        ranks=tuple(sorted({tensor.shape[0] for tensor in tensors if tensor.role == "down"})),
        blocks=max(blocks, default=0),
        width=_width(tensors, r"attn[12]\.to_(q|out\.0)|ffn\.net\.2"),
        ffn_width=_width(tensors, r"ffn\.net\.0\.proj"),
        sees_pictures=any("add_k_proj" in layer for layer in layers),
        tensors=tuple(tensors),
        base_model_hint=hint.strip()[:80],
    )


def _parse(key: str, shape: tuple[int, ...]) -> Tensor | None:
    """The layer and role of a tensor by its key; None for one that is ignored. Raises Unusable for unknown ones."""
    for sign, kind in OTHER_KINDS.items():
        if sign in key:
            raise Unusable(f"it is a {kind} ({key[:80]}), and only LoRAs are known here")
    bare = key
    for prefix in PREFIXES:
        bare = bare.removeprefix(prefix)
    role = next((role for role in sorted(ROLES, key=len, reverse=True) if bare.endswith(f".{role}")), None)
    layer = _layer(bare.removesuffix(f".{role}")) if role else None
    if layer is None or role is None:
        if bare.endswith(("modulation", "modulation.diff")):
            return None  # tables that some tools write along; nothing here adds to them
        raise Unusable(_unknown_layer(key))
    return Tensor(key, layer, ROLES[role], shape)


def _layer(named: str) -> str | None:
    """The name of a layer as diffusers has it, from that of any style; None where no such layer is."""
    if "." not in named.removeprefix("vace_"):
        named = _dotted(named)
    match = BLOCK.fullmatch(named)
    if match is None:
        return named if named in ELSEWHERE.values() else ELSEWHERE.get(named)
    inner = IN_BLOCKS.get(match[3], match[3] if match[3] in IN_BLOCKS.values() else None)
    return f"{match[1]}.{match[2]}.{inner}" if inner else None


def _dotted(named: str) -> str:
    """Kohya's names have underscores for dots: `blocks_3_self_attn_q` is `blocks.3.self_attn.q`."""
    match = re.fullmatch(r"((?:vace_)?blocks)_(\d+)_(.+)", named)
    known = {name.replace(".", "_"): name for name in (*IN_BLOCKS, *IN_BLOCKS.values())}
    if match:
        return f"{match[1]}.{match[2]}.{known.get(match[3], match[3])}"
    elsewhere = {name.replace(".", "_"): name for name in (*ELSEWHERE, *ELSEWHERE.values())}
    return elsewhere.get(named, named)


def _unknown_layer(key: str) -> str:
    for sign, family in OTHER_FAMILIES.items():
        if sign in key:
            return f"it was made for {family} ({key[:80]})"
    return f"it changes {key[:80]!r}, which no model here has"


def _checked(tensors: Iterable[Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors by layer and role. Raises Unusable where their shapes or roles do not match."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for tensor in tensors:
        if tensor.role in layers[tensor.layer]:
            raise Unusable(f"it changes {tensor.layer} twice")
        layers[tensor.layer][tensor.role] = tensor
    for layer, roles in layers.items():
        down, up = roles.get("down"), roles.get("up")
        if (down is None) != (up is None):
            raise Unusable(f"it has only one half of the change of {layer}")
        if down and up:
            if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1]:
                raise Unusable(f"the halves of its change of {layer} do not fit: {down.shape} and {up.shape}")
            if not 0 < down.shape[0] <= RANK_MOST:
                raise Unusable(f"its change of {layer} has rank {down.shape[0]}, and {RANK_MOST} is the most")
        elif set(roles) == {"alpha"}:
            raise Unusable(f"it has only a scale for {layer}")
    if not any("down" in roles or "full" in roles for roles in layers.values()):
        raise Unusable("it changes no layer")
    return layers


def _width(tensors: Iterable[Tensor], layer: str) -> int:
    """Output width of the layers whose name matches; 0 where none of them is changed."""
    pattern = re.compile(rf"blocks\.\d+\.({layer})")
    widths = {t.shape[0] for t in tensors if t.role == "up" and pattern.fullmatch(t.layer)}
    if len(widths) > 1:
        raise Unusable(f"its layers are of different widths: {sorted(widths)}")
    return widths.pop() if widths else 0


def sha256(file: Path) -> str:
    """SHA-256 of the file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class LoraLibrary:
    """The LoRAs of some folders, read again when a file has changed. New ones are written to the first folder."""

    def __init__(self, models: Sequence[Path], trash: Path, reserve_bytes: int) -> None:
        self._models, self._trash, self._reserve = models, trash / FOLDER, reserve_bytes
        self._hashes: dict[tuple[str, int, int], str] = {}

    @property
    def _folder(self) -> Path:
        return self._models[0] / FOLDER

    def all(self) -> tuple[list[Lora], dict[str, str]]:
        """See `find_loras`."""
        return find_loras(self._models)

    def get(self, name: str) -> Lora:
        """The LoRA of that name. Raises NotFound, with the reason where a file of that name cannot be used."""
        found, refused = self.all()
        for lora in found:
            if lora.name == name:
                return lora
        reason = refused.get(f"{name}.safetensors")
        if reason:
            raise NotFound(f"The LoRA {name[:80]!r} cannot be used: {reason};", hint="choose another one.")
        known = ", ".join(lora.name for lora in found[:20])
        hint = f"here are {known}." if known else f"put its safetensors file into models/{FOLDER}."
        raise NotFound(f"No LoRA {name[:80]!r} is here;", hint=hint)

    def sha256(self, lora: Lora) -> str:
        """SHA-256 of its file, computed once."""
        stat = lora.file.stat()
        named = (str(lora.file), stat.st_size, stat.st_mtime_ns)
        if named not in self._hashes:
            self._hashes[named] = sha256(lora.file)
        return self._hashes[named]

    def receive(self, filename: str) -> LoraWriter:
        """Begin to receive a LoRA, named as its file. Raises InvalidRequest, Conflict."""
        stem = filename.removesuffix(".safetensors")
        if not NAME.fullmatch(stem):
            raise InvalidRequest(
                f"{filename[:80]!r} is no name for a LoRA;", hint="use letters, digits, spaces, dots, + and -."
            )
        target = self._folder / f"{stem}.safetensors"
        if target.exists():
            raise Conflict(f"A LoRA {stem!r} is here already;", hint="remove it first, or give this one another name.")
        self._folder.mkdir(parents=True, exist_ok=True)
        return LoraWriter(target, self._reserve)

    def add(self, file: Path) -> Lora:
        """Copy a file of this machine into the library. Raises InvalidRequest, Conflict, NotEnoughSpace."""
        if not file.is_file():
            raise InvalidRequest(f"{file}: there is no such file;", hint="check the path.")
        with self.receive(file.name) as incoming, file.open("rb") as source:
            while chunk := source.read(2**20):
                incoming.write(chunk)
            return incoming.accept()

    def remove(self, name: str, *, for_good: bool = False) -> None:
        """Move it to the trash, or delete it. Raises NotFound, or Conflict for one of another folder."""
        file = self._folder / f"{name}.safetensors"
        if not NAME.fullmatch(name) or not file.is_file():
            self.get(name)
            raise Conflict(f"{name} belongs to another folder;", hint="it is not removed here.")
        if for_good:
            file.unlink()
            return
        self._trash.mkdir(parents=True, exist_ok=True)
        move(file, self._trash / file.name)
        os.utime(self._trash)

    def trashed(self) -> list[str]:
        """The names of the LoRAs in the trash."""
        return sorted(file.stem for file in self._trash.glob("*.safetensors")) if self._trash.is_dir() else []

    def restore(self, name: str) -> None:
        """Move it back from the trash. Raises NotFound or Conflict."""
        file, target = self._trash / f"{name}.safetensors", self._folder / f"{name}.safetensors"
        if not NAME.fullmatch(name) or not file.is_file():
            raise NotFound(f"No LoRA {name[:80]!r} is in the trash;", hint="it stays there for a week.")
        if target.exists():
            raise Conflict(f"A LoRA {name!r} is here already;", hint="remove it first.")
        move(file, target)


class LoraWriter:
    """A LoRA being received: `write` its pieces, then `accept`; leaving the context without it removes the file."""

    def __init__(self, target: Path, reserve_bytes: int) -> None:
        self._target, self._reserve = target, reserve_bytes
        self._part = target.with_name(f".{os.urandom(8).hex()}{target.suffix}")
        self._file = self._part.open("xb")

    def __enter__(self) -> LoraWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Append the next piece. Raises NotEnoughSpace."""
        if len(data) + self._reserve > shutil.disk_usage(self._part.parent).free:
            raise NotEnoughSpace("There is no room for the LoRA;", hint="make room, then send it again.")
        self._file.write(data)

    def accept(self) -> Lora:
        """Check and keep the file. Raises InvalidRequest if it is no LoRA for models of this registry."""
        self._file.close()
        try:
            inspect(self._part, self._target.stem)
        except Unusable as error:
            raise InvalidRequest(f"{self._target.stem} cannot be used: {error};", hint="send another file.") from None
        replace_file(self._part, self._target)
        return inspect(self._target)
