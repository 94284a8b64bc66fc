"""LoRAs: safetensors files in models/loras and its subfolders, inspected by their headers alone, without torch.

A LoRA changes some layers of a transformer. Training programs name the layers in different styles; `lora_keys.py`
converts all to the names of diffusers' Wan transformer, which SkyReels V2 shares. A file does not say reliably which
model it was trained for, but the shapes of its tensors exclude the others.

A LoRA is called as its file without the suffix, after the names of the subfolders that it lies in ("styles/grain"), and
any name is taken that a file can have. A name is compared with those of the files that are there, and never made into a
path. Names are equal if Unicode says that they look the same (NFC), because macOS stores "\u00e9" as two characters and
keyboards type one.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import math
import os
import re
import shutil
import unicodedata
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.core.errors import Conflict, InvalidRequest, NotEnoughSpace, NotFound
from backend.core.registry import ModelSpec, Transformer
from backend.core.text import is_blank
from backend.durable import move, replace_file
from backend.library.adapter_metadata import AdapterMetadata, read_adapter_metadata
from backend.library.checkpoints import Damaged, read_header
from backend.library.foreign import PAGE_START, is_side_file, stand_in
from backend.library.layer_shapes import PATCH, layer_shape, wrong_shape
from backend.library.lora_keys import (
    BLOCK,
    Layers,
    Shape,
    Tensor,
    Unusable,
    by_layer,
    change_shape,
    is_low_rank,
    rank_of,
    read_keys,
    shapes_of,
)

log = logging.getLogger(__name__)

FOLDER = "loras"  # in models/
TENSORS_MOST = 10_000  # the largest real ones have about 3,000
SUFFIX = ".safetensors"
DEEPEST = 8  # subfolders below one another that are looked into
MOST_FILES = 10_000  # a folder that was linked in by mistake may have millions
NAME_LENGTH = 255  # characters of a name with its folders, as LoraUse takes it
NAME_BYTES = 255  # of a file's name, with its suffix
UNNAMEABLE = re.compile("[/\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # paths, line ends, undecodable bytes
# The types of numbers in safetensors that are read, and their bytes. Whole numbers are only taken as an alpha.
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
DTYPES |= dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1)
WHOLE_DTYPES = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
TRIGGER = "modelspec.trigger_phrase"
TRIGGER_LENGTH = 80  # characters
TRIGGERS_MOST = 20
PART = re.compile(r"\.[0-9a-f]{16}\.(part|safetensors)")  # of a file on its way; .safetensors in version 0.1
APPLE_DOUBLE = b"\x00\x05\x16\x07"  # how macOS begins the ._ files that it writes beside others


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA file. `width`, `ffn_width` and `in_channels` are those of the model that it was trained for, 0 where none
    of its layers shows them; `blocks` is the highest changed block plus one. `notes` are sentences that say what of the
    file is left out or changed.
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
    in_channels: int = 0
    notes: tuple[str, ...] = ()
    adapter: AdapterMetadata | None = None
    trigger_words: tuple[str, ...] = ()  # which its metadata say a prompt must have

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
        if self.blocks > shape.blocks:
            return f"it changes block {self.blocks}, {spec.title} has {shape.blocks}"
        if self.in_channels not in (0, shape.in_channels):
            return (
                f"it was made for models with {self.in_channels} input channels, {spec.title} has {shape.in_channels}"
            )
        return self._wrong_layer(spec.title, shape)

    def _wrong_layer(self, title: str, model: Transformer) -> str | None:
        """Which of its layers has another shape in the model of that title, or that the model has none of them. Layers
        that the model lacks are left out where it has others.
        """
        found = 0
        for (_, layer), roles in by_layer(self.tensors).items():
            if expected := layer_shape(model, layer):
                found += 1
                if wrong := wrong_shape(layer, expected, shapes_of(roles)):
                    return f"it changes {layer} by {wrong}, {title} has {expected} there"
        if not found:
            return f"it changes only layers that {title} does not have, such as {self.tensors[0].layer}"
        return None

    def note_on_experts(self, spec: ModelSpec) -> str | None:
        """A sentence on what becomes of layers for one of two experts, if `spec` has a single transformer."""
        named = {tensor.expert for tensor in self.tensors if tensor.expert is not None}
        if spec.experts > 1 or not named:
            return None
        if len(named) > 1:
            what = "its layers for the second expert of Wan 2.2 are left out"
            return f"The LoRA {self.name} changes the only transformer of {spec.title}: {what}."
        which = "second" if 1 in named else "first"
        return f"The LoRA {self.name} was made for the {which} expert of Wan 2.2, and {spec.title} has one transformer."

    def require(self, spec: ModelSpec, models: Iterable[ModelSpec] = ()) -> None:
        """Raise InvalidRequest where it does not fit `spec`; the way out names those of `models` that it fits."""
        if reason := self.incompatibility(spec):
            fitting = [other.title for other in models if self.incompatibility(other) is None]
            hint = f"use it with {' or '.join(fitting[:3])}, or leave it out." if fitting else "leave it out."
            raise InvalidRequest(f"The LoRA {self.name} does not fit: {reason};", hint=hint, field="loras")

    def as_dict(self) -> dict[str, Any]:
        """As REST and `--json` show it."""
        names = ("name", "bytes", "style", "layers", "blocks", "width", "sees_pictures", "base_model_hint")
        values = {name: getattr(self, name) for name in (*names, "in_channels")}
        lists = {name: list(getattr(self, name)) for name in ("ranks", "notes", "trigger_words")}
        return values | lists | {"said": self.base_model_hint}  # `said`: its name in 0.1


def name_in(filename: str) -> str:
    """The name of the LoRA in a file of that name.

    >>> name_in("grain (1).SAFETENSORS"), name_in("v1.5")
    ('grain (1)', 'v1.5')
    """
    return filename[: -len(SUFFIX)] if filename.lower().endswith(SUFFIX) else filename


def is_same_name(one: str, other: str) -> bool:
    """Whether two names look the same: macOS stores letters and their accents apart, keyboards type them together."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def _is_name(name: str) -> bool:
    return not (is_blank(name) or name in (".", "..") or UNNAMEABLE.search(name))


def _files(folder: Path) -> list[Path]:
    """The files of a folder of LoRAs and of its subfolders, each sorted, without those that a system keeps there and
    those on their way; none of a folder that cannot be read. A subfolder may be a link; one folder is read once.
    """
    files: list[Path] = []
    pending, seen = deque([(folder, 0)]), set()
    while pending and len(files) < MOST_FILES:
        here, depth = pending.popleft()
        try:
            if (place := here.resolve()) in seen:
                continue
            seen.add(place)
            entries = sorted(path for path in here.iterdir() if not _is_ignored(path))
        except OSError:
            continue
        for path in entries:
            if not path.is_dir():
                files.append(path)
            elif depth < DEEPEST:
                pending.append((path, depth + 1))
    return files


def _name_below(folder: Path, file: Path) -> str:
    """The name of the LoRA in `file`, which lies in `folder` or below."""
    return name_in(file.relative_to(folder).as_posix())


def _is_ignored(file: Path) -> bool:
    if file.is_dir():
        return is_side_file(file.name)
    if not file.name.startswith("."):
        return file.name.lower() in SYSTEM_FILES
    if PART.fullmatch(file.name) or not file.name.lower().endswith(SUFFIX):
        return True
    return file.name.startswith("._") and _first_bytes(file, 4) in (APPLE_DOUBLE, b"")


def _first_bytes(file: Path, count: int) -> bytes:
    with contextlib.suppress(OSError), file.open("rb") as stream:
        return stream.read(count)
    return b""


def find_file(folder: Path, name: str) -> Path | None:
    """The file of the LoRA of that name in `folder`: of the very same name, else of one that looks the same."""
    files = [file for file in _files(folder) if file.name.lower().endswith(SUFFIX) and file.is_file()]
    exact = (file for file in files if _name_below(folder, file) == name)
    return next(exact, None) or next((file for file in files if is_same_name(_name_below(folder, file), name)), None)


def find_loras(models: Iterable[Path]) -> tuple[list[Lora], dict[str, str]]:
    """The LoRAs in the `loras` folder of each of `models`, and by file, with its subfolders, the reason why others are
    refused.
    """
    found: dict[str, Lora] = {}
    refused: dict[str, str] = {}
    for folder in (models_folder / FOLDER for models_folder in models):
        for file in _files(folder):
            path = file.relative_to(folder).as_posix()
            shown = path.encode(errors="replace").decode()  # without bytes that are no text
            try:
                _require_suffix(file)
                lora = inspect(file, _name_below(folder, file))
            except Unusable as error:
                refused[shown] = str(error)
            except OSError as error:
                refused[shown] = f"it cannot be read ({error.strerror})"
            else:
                first = found.setdefault(lora.name, lora)
                if first is not lora and first.file.parent == file.parent:
                    refused[shown] = f"{first.file.name} has the same name; rename one"
    return list(found.values()), refused


def inspect(file: Path, name: str | None = None) -> Lora:
    """Read the header of a LoRA, named `name` or as its file. Raises Unusable with the reason if it is none for the
    models of this registry.
    """
    stat = file.stat()
    if name is None:
        _require_suffix(file)
        name = name_in(file.name)
    try:
        return _inspected(file, name, stat.st_size, stat.st_mtime_ns)
    except Damaged as error:
        raise Unusable(f"it {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unusable(f"it is damaged ({type(error).__name__})") from None


def _require_suffix(file: Path) -> None:
    if name_in(file.name) == file.name:
        raise Unusable("it is no safetensors file, and others can run code when they are read")


@functools.lru_cache(maxsize=256)
def _inspected(file: Path, name: str, size: int, changed: int) -> Lora:
    """`inspect`, cached until size or time of change differ."""
    del size, changed
    if not file.is_file():
        raise Unusable("it is no file")
    if not all(_is_name(part) for part in name.split("/")):
        raise Unusable("its name has line ends, slashes or bytes that are no text; rename it")
    if len(name) > NAME_LENGTH:
        raise Unusable(
            f"its name with its folders has {len(name)} characters, and {NAME_LENGTH} are the most; rename it"
        )
    if what := stand_in(_first_bytes(file, PAGE_START)):
        raise Unusable(f"it {what}")
    if _first_bytes(file, 2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise Unusable("it is a pickle with another name, which can run code when it is read")
    header = read_header(file)
    metadata = header.pop("__metadata__", None) or {}
    if len(header) > TENSORS_MOST:
        raise Unusable(f"it has {len(header)} tensors, and a LoRA has {TENSORS_MOST} at the most")
    keys = read_keys(header)
    for tensor in keys.tensors:
        _check_numbers(tensor, header)
    layers = by_layer(keys.tensors)
    changes = _changes(layers)
    blocks = [int(match[2]) + 1 for layer in changes if (match := BLOCK.fullmatch(layer)) and match[1] == "blocks"]
    hint = " ".join(str(metadata.get(key, "")) for key in ("ss_base_model_version", "modelspec.architecture"))
    shapes = [shapes_of(roles) for roles in layers.values()]
    return Lora(
        name=name,
        file=file,
        bytes=file.stat().st_size,
        style=_style(header),
        layers=len(layers),
        ranks=tuple(sorted({rank_of(roles) for roles in shapes if is_low_rank(roles)})),
        blocks=max(blocks, default=0),
        width=_width(changes, r"attn[12]\.to_(q|out\.0)|ffn\.net\.2"),
        ffn_width=_width(changes, r"ffn\.net\.0\.proj"),
        sees_pictures=any("add_k_proj" in layer for layer in changes),
        tensors=keys.tensors,
        base_model_hint=hint.strip()[:80],
        in_channels=_in_channels(changes.get("patch_embedding", ())),
        notes=keys.notes,
        adapter=read_adapter_metadata(metadata),
        trigger_words=_trigger_words(metadata),
    )


def _trigger_words(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The trigger phrase of the ModelSpec standard (github.com/Stability-AI/ModelSpec), at its commas."""
    phrase = "".join(char if char.isprintable() else " " for char in str(metadata.get(TRIGGER, "")))
    words = (" ".join(word.split())[:TRIGGER_LENGTH] for word in phrase.split(","))
    return tuple(dict.fromkeys(filter(None, words)))[:TRIGGERS_MOST]


def _check_numbers(tensor: Tensor, header: Mapping[str, Any]) -> None:
    """Raise Unusable for a tensor, or its scale, of a dtype that cannot be read here, or without all of its numbers."""
    for key in filter(None, (tensor.key, tensor.scale)):
        dtype, (start, end) = str(header[key]["dtype"]), header[key]["data_offsets"]
        is_whole = dtype in WHOLE_DTYPES
        if is_whole and tensor.role != "alpha":
            raise Unusable(
                f"it has whole numbers ({dtype}, {key[:80]}), whose scale is not known here; use one in BF16"
            )
        if not is_whole and dtype not in DTYPES:
            raise Unusable(f"it has numbers of the type {dtype[:20]} ({key[:80]}), unknown here; use one in BF16")
        if end - start != math.prod(header[key]["shape"]) * (DTYPES | WHOLE_DTYPES)[dtype]:
            raise Unusable(f"it is damaged: {key[:80]} has {end - start} bytes")


def _style(keys: Iterable[str]) -> str:
    """Who names layers like that: "kohya", "original" or "diffusers"."""
    if any(key.startswith(("lora_unet_", "lora_transformer_", "lycoris_")) for key in keys):
        return "kohya"
    original = re.compile(r"[._](self_attn|cross_attn|ffn[._]0)[._]")
    return "original" if any(original.search(key) for key in keys) else "diffusers"


def _changes(layers: Layers) -> dict[str, Shape]:
    """The shape of the change of each layer's weight. Raises Unusable where shapes or roles do not match."""
    changes: dict[str, Shape] = {}
    for (_, layer), roles in layers.items():
        shape = change_shape(layer, shapes_of(roles))
        if shape is not None and changes.setdefault(layer, shape) != shape:
            raise Unusable(f"its changes of {layer} have two shapes: {changes[layer]} and {shape}")
    if not changes:
        raise Unusable("it changes no layer")
    return changes


def _width(changes: Mapping[str, Shape], layer: str) -> int:
    """Output width of the layers whose name matches; 0 where none of them is changed."""
    pattern = re.compile(rf"blocks\.\d+\.({layer})")
    widths = {shape[0] for name, shape in changes.items() if pattern.fullmatch(name)}
    if len(widths) > 1:
        raise Unusable(f"its layers are of different widths: {sorted(widths)}")
    return widths.pop() if widths else 0


def _in_channels(shape: Shape) -> int:
    """The channels that a change of the patch embedding takes: its shape is (dim, channels, 1, 2, 2), or flattened."""
    return math.prod(shape[1:]) // math.prod(PATCH) if shape else 0


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

    def is_removable(self, lora: Lora) -> bool:
        """Whether `remove` takes it: it lies in the studio's own folder."""
        return lora.file.is_relative_to(self._folder)

    def get(self, name: str) -> Lora:
        """The LoRA of that name. Raises NotFound, with the reason where a file of that name cannot be used."""
        found, refused = self.all()
        same = [lora for lora in found if is_same_name(lora.name, name)]
        if same:
            return next((lora for lora in same if lora.name == name), same[0])
        if reason := next((why for file, why in refused.items() if is_same_name(name_in(file), name)), None):
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
        name = name_in(filename)
        if not _is_name(name):
            raise InvalidRequest(
                f"{filename[:80]!r} is no name for a LoRA;", hint="name the file without slashes and line ends."
            )
        target = self._folder / (filename if name != filename else f"{filename}{SUFFIX}")
        if (size := len(target.name.encode())) > NAME_BYTES:
            raise InvalidRequest(
                f"The name {filename[:40]!r}... has {size} bytes, {NAME_BYTES} are the most;", hint="shorten it."
            )
        if find_file(self._folder, name):
            raise Conflict(f"A LoRA {name!r} is here already;", hint="remove it first, or give this one another name.")
        self._make_folder()
        return LoraWriter(target, self._reserve)

    def _make_folder(self) -> None:
        if self._folder.is_symlink() and not self._folder.exists():
            what = f"models/{FOLDER} is a link to {self._folder.readlink()}, which is not there;"
            raise Conflict(what, hint="mount or restore that, or remove the link.")
        self._folder.mkdir(parents=True, exist_ok=True)

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
        file = find_file(self._folder, name)
        if file is None:
            self.get(name)
            raise Conflict(f"{name} belongs to another folder;", hint="it is not removed here.")
        if for_good:
            file.unlink()
            return
        target = self._trash / file.relative_to(self._folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        move(file, target)
        os.utime(self._trash)

    def trashed(self) -> list[str]:
        """The names of the LoRAs in the trash."""
        return [_name_below(self._trash, file) for file in _files(self._trash) if file.name.lower().endswith(SUFFIX)]

    def restore(self, name: str) -> None:
        """Move it back from the trash. Raises NotFound or Conflict."""
        file = find_file(self._trash, name)
        if file is None:
            raise NotFound(f"No LoRA {name[:80]!r} is in the trash;", hint="it stays there for a week.")
        if find_file(self._folder, name):
            raise Conflict(f"A LoRA {name!r} is here already;", hint="remove it first.")
        target = self._folder / file.relative_to(self._trash)
        self._make_folder()
        target.parent.mkdir(parents=True, exist_ok=True)
        move(file, target)


class LoraWriter:
    """A LoRA being received: `write` its pieces, then `accept`; leaving the context without it removes the file."""

    def __init__(self, target: Path, reserve_bytes: int) -> None:
        self._target, self._reserve = target, reserve_bytes
        self._part = target.with_name(f".{os.urandom(8).hex()}.part")
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
        name = name_in(self._target.name)
        try:
            inspect(self._part, name)
        except Unusable as error:
            raise InvalidRequest(f"{name} cannot be used: {error};", hint="send another file.") from None
        try:
            replace_file(self._part, self._target)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG):
                raise
            raise InvalidRequest(
                f"The disk has no file named {self._target.name!r} ({error.strerror});", hint="give it another name."
            ) from None
        return inspect(self._target)
