"""Checkpoints on this disk: folders in diffusers' format, recognised by their JSON files alone, without torch.

Side files of operating systems do not count. A folder of the hub's cache (`models--owner--name`) is used where it lies.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backend.core.registry import (
    ALL_MODES,
    I2V,
    MODELS,
    PIXELS_480P,
    PIXELS_540P,
    PIXELS_720P,
    T2V,
    ModelSpec,
    Transformer,
)
from backend.core.schema import FLOW_SHIFT
from backend.core.units import GIB, MIB
from backend.library.foreign import PAGE_START, foreign_models, is_side_file, stand_in

log = logging.getLogger(__name__)

FORCING_CLASSES = frozenset(
    {
        "SkyReelsV2DiffusionForcingPipeline",
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
    }
)
TEXT_CLASS = "SkyReelsV2Pipeline"
IMAGE_CLASS = "SkyReelsV2ImageToVideoPipeline"
SKYREELS_CLASSES = FORCING_CLASSES | {TEXT_CLASS, IMAGE_CLASS}
WAN_IMAGE_CLASS, WAN_CONTROL_CLASS = "WanImageToVideoPipeline", "WanVACEPipeline"
WAN_CLASSES = frozenset({"WanPipeline", WAN_IMAGE_CLASS, WAN_CONTROL_CLASS})
WEIGHTS = ("transformer", "text_encoder", "vae")
OPTIONAL_WEIGHTS = ("transformer_2", "image_encoder")
CONFIGURED = ("in_channels", "out_channels", "text_dim", "image_dim", "freq_dim", "vace_in_channels")
LOADED_BY_DIFFUSERS = ("transformer", "transformer_2", "vae")  # the others by transformers
VARIANTS = ("bf16", "fp16", "fp32")  # the first of them is loaded where a part has no plain weights
PARTS = (*WEIGHTS, *OPTIONAL_WEIGHTS, "tokenizer", "scheduler", "image_processor")

HEADER_LIMIT = 8 * MIB  # of a safetensors file; the largest released one has 0.3
VOCABULARIES = {"tokenizer.json", "vocab.json"}  # the only JSON that may be large
FOREIGN_KEYS = {"auto_map", "custom_pipeline", "custom_pipelines", "transformers_weights"}
TAKEN_IDS = {"auto"} | {spec.id for spec in MODELS.values() if not spec.needs_checkpoint}
BY_FOLDER_NAME = {spec.id: spec for spec in MODELS.values() if spec.needs_checkpoint} | {
    spec.repo_id.rsplit("/", 1)[-1].lower(): spec for spec in MODELS.values() if spec.repo_id
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model and the folder of its weights."""

    spec: ModelSpec
    folder: Path


@dataclass(frozen=True, slots=True)
class Weights:
    """The safetensors files of a part that diffusers and transformers load, with the `variant` in their names; `index`
    is the list of shards, if there is one.
    """

    files: tuple[Path, ...]
    variant: str | None = None
    index: Path | None = None


class Damaged(Exception):
    """The folder or file cannot be used; the message is the reason."""


def find_checkpoints(folders: Iterable[Path]) -> list[Checkpoint]:
    """Every checkpoint of SkyReels V2 or Wan one level below `folders`, or two as the hub lays them out (owner/name);
    also those in folders of the hub's cache.

    A folder named like a released checkpoint gets the registry's row, any other a row made from its configuration. A
    folder that cannot be used is left out with a line in the log; of two with the same id the first stays.
    """
    found, rejected = _read_checkpoints(folders)
    for folder, reason in rejected.items():
        log.warning("checkpoint %s is left out: %s", folder, reason)
    return found


def look_for_checkpoints(folders: Iterable[Path]) -> tuple[list[Checkpoint], dict[Path, str]]:
    """See `find_checkpoints`; and the files and folders that cannot be used, each with the reason and the way out:
    damaged checkpoints, and models in the layouts of other programs.
    """
    roots = list(dict.fromkeys(folders))
    found, rejected = _read_checkpoints(roots)
    for root in roots:
        known = {_cache_folder(folder) for folder in _candidates([root])} | {root / "loras"}
        rejected |= {path: reason for path, reason in foreign_models(root, known).items() if path not in rejected}
    return found, rejected


def name_below(roots: Iterable[Path], path: Path) -> str:
    """`path` as pages call it: its way below the folder of models that it lies in.

    >>> name_below([Path("data/models")], Path("data/models/Wan-AI/Wan2.1"))
    'Wan-AI/Wan2.1'
    """
    return next((f"{path.relative_to(root)}" for root in roots if path.is_relative_to(root)), path.name)


def _read_checkpoints(folders: Iterable[Path]) -> tuple[list[Checkpoint], dict[Path, str]]:
    found: dict[str, Checkpoint] = {}
    rejected: dict[Path, str] = {}
    for folder in _candidates(folders):
        try:
            checkpoint = Checkpoint(read_spec(folder), folder)
        except Exception as error:  # whatever a file of somebody else's can make a reader say
            rejected[_cache_folder(folder)] = _reason(error)
            continue
        first = found.setdefault(checkpoint.spec.id, checkpoint)
        if first.folder.resolve() != folder.resolve():
            other = checkpoint_name(first.folder)
            rejected[_cache_folder(folder)] = f"{other} has the same id, {first.spec.id}; remove one, or rename it"
    return list(found.values()), rejected


def _reason(error: Exception) -> str:
    if isinstance(error, Damaged):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        name = "/".join(Path(error.filename).parts[-2:])
        return f"{name} cannot be read ({error.strerror}); mend its rights, or download it again"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "one of its JSON files is damaged; download it again"
    if isinstance(error, KeyError):
        return f"one of its JSON files lacks {error}; download it again"
    return f"its files are not as they should be ({type(error).__name__}: {error}); download it again"


def _candidates(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for child in sub_folders(folder):
            place = snapshot_of(child) or child
            if _has_index(place):
                yield place
            else:
                below = (snapshot_of(sub) or sub for sub in sub_folders(child))
                yield from (sub for sub in below if _has_index(sub))


def snapshot_of(folder: Path) -> Path | None:
    """The snapshot that is used of a folder of the hub's cache: the one that refs/main names, or the newest if that is
    not here. None for any other folder.
    """
    snapshots = sub_folders(folder / "snapshots")
    if not snapshots:
        return None
    try:
        main = (folder / "refs" / "main").read_bytes()[:100].decode().strip()
    except (OSError, UnicodeDecodeError):
        main = ""
    return next((one for one in snapshots if one.name == main), max(snapshots, key=lambda one: one.stat().st_mtime))


def checkpoint_name(folder: Path) -> str:
    """The name of the checkpoint in `folder`, which may be a snapshot in the hub's cache.

    >>> checkpoint_name(Path("models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers/snapshots/0fad780a534b"))
    'Wan2.1-T2V-1.3B-Diffusers'
    """
    return _cache_folder(folder).name.removeprefix("models--").split("--", 1)[-1]


def _cache_folder(folder: Path) -> Path:
    """The folder of the hub's cache that a snapshot lies in; any other folder itself."""
    return folder.parents[1] if folder.parent.name == "snapshots" else folder


def _has_index(folder: Path) -> bool:
    """Whether something of that name is there; if it is no file that can be read, `read_spec` says so."""
    return os.path.lexists(folder / "model_index.json")


def sub_folders(folder: Path) -> list[Path]:
    """Sorted, without side files and hidden ones, which is what downloads in progress are; none, with a line in the
    log, of a folder that cannot be read.
    """
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not is_side_file(child.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        log.warning("%s is left out: it cannot be read (%s)", folder, error.strerror)
        return []


def read_spec(folder: Path, called: str | None = None) -> ModelSpec:
    """The row of the checkpoint in `folder`, which gets the name `called`. Raises Damaged if it cannot be used."""
    called = called or checkpoint_name(folder)
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name")
    if name not in SKYREELS_CLASSES | WAN_CLASSES:
        raise Damaged(f"{name!r} is not a pipeline of SkyReels V2 or Wan")
    parts = weights_of(index)
    for file in _files_in(folder, "*.json"):
        refuse_code(file)
    sizes = {part: weights_bytes(folder / part) for part in parts}
    shape, spatial_factor = _read_shapes(folder)
    if "transformer_2" in parts and not 0 < (index.get("boundary_ratio") or 0) < 1:
        raise Damaged("it has two transformers, and model_index.json no boundary_ratio where they change")
    if not (folder / "tokenizer").is_dir():
        raise Damaged("it has no tokenizer")
    for file in _files_in(folder / "tokenizer", "*.model"):
        _require_file(file)
    shift = read_json(folder / "scheduler" / "scheduler_config.json").get("flow_shift", 1.0)
    released = BY_FOLDER_NAME.get(called.lower())
    if released:
        return released
    model_id = re.sub(r"[^a-z0-9.]+", "-", called.lower()).strip("-.")
    if not model_id or model_id in TAKEN_IDS:
        raise Damaged(f"its name gives the id {model_id!r}, which is taken; rename the folder")
    weights = sum(sizes.pop(part, 0) for part in ("transformer", "transformer_2"))
    row = ModelSpec(
        id=model_id,
        title=called,
        engine="skyreels",
        modes=ALL_MODES,
        spatial_factor=spatial_factor,
        transformer=shape,
        weights_gib=weights / GIB,
        other_gib=sum(sizes.values()) / GIB,
        vae_gib=sizes["vae"] / GIB,
    )
    row = _skyreels_row(row, name) if name in SKYREELS_CLASSES else _wan_row(row, index)
    # 1 is what the scheduler writes when nobody chose a shift.
    return replace(row, flow_shift=float(shift)) if 1.0 < shift <= FLOW_SHIFT.most else row


def _skyreels_row(row: ModelSpec, name: str) -> ModelSpec:
    """The row of a SkyReels V2 checkpoint, completed by its pipeline class."""
    image, forcing = name == IMAGE_CLASS, name in FORCING_CLASSES
    hd = "720p" in row.id  # no configuration file gives the size that a checkpoint was trained at
    return replace(
        row,
        modes=ALL_MODES if forcing else frozenset({I2V if image else T2V}),
        diffusion_forcing=forcing,
        end_image=forcing,
        max_pixels=PIXELS_720P if hd else PIXELS_540P,
        base_num_frames=121 if hd else 97,
        guidance_scale=5.0 if image else 6.0,
        flow_shift=5.0 if image else 8.0,
    )


def _wan_row(row: ModelSpec, index: Mapping[str, Any]) -> ModelSpec:
    """The row of a Wan checkpoint, completed by its pipeline class and settings."""
    control, image = index["_class_name"] == WAN_CONTROL_CLASS, index["_class_name"] == WAN_IMAGE_CLASS
    expand = bool(index.get("expand_timesteps"))
    both = frozenset({T2V, I2V}) if expand else frozenset({I2V if image else T2V})
    parts = weights_of(index)
    return replace(
        row,
        family="wan",
        modes=ALL_MODES if control else both,
        end_image=control or (image and "image_encoder" not in parts and not expand),
        max_pixels=PIXELS_480P if "480p" in row.id else PIXELS_720P,
        base_num_frames=121 if expand else 81,
        fps=24 if expand else 16,
        num_inference_steps=50,
        guidance_scale=5.0,
        flow_shift=16.0 if control else 5.0,
        experts=2 if "transformer_2" in parts else 1,
    )


def weights_of(index: Mapping[str, Any]) -> list[str]:
    """The parts of a checkpoint that have weights, by its model_index.json."""
    wanted = {"image_encoder"} if index.get("_class_name") == IMAGE_CLASS else set()
    wanted |= {part for part in OPTIONAL_WEIGHTS if (index.get(part) or [None, None])[1]}
    return [*WEIGHTS, *(part for part in OPTIONAL_WEIGHTS if part in wanted)]


def _read_shapes(folder: Path) -> tuple[Transformer, int]:
    """The transformer's shape, and the pixels that a latent pixel stands for."""
    config = read_json(folder / "transformer" / "config.json")
    if tuple(config["patch_size"]) != (1, 2, 2):
        raise Damaged(f"its transformer has patch_size={config['patch_size']}, the studio plans for (1, 2, 2)")
    dim = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    vace_layers = len(config.get("vace_layers", ()))
    given = {name: int(config[name]) for name in CONFIGURED if config.get(name)}  # null: the default, or none
    shape = Transformer(
        layers=int(config["num_layers"]) + vace_layers,
        dim=dim,
        ffn_dim=int(config["ffn_dim"]),
        vace_layers=vace_layers,
        **{"out_channels": given.get("in_channels", 16)} | given,
    )
    vae = read_json(folder / "vae" / "config.json")
    frames = 2 ** sum(vae["temperal_downsample"])
    if frames != 4:
        raise Damaged(f"its VAE packs {frames} frames into one latent frame, the studio plans for 4")
    # `scale_factor_spatial` keeps its default of 8 in any VAE that nobody set it for; the layers cannot lie.
    return shape, 2 ** (len(vae["dim_mult"]) - 1) * (vae.get("patch_size") or 1)


def weights_bytes(folder: Path) -> int:
    """Bytes of the safetensors files that are loaded of the part in `folder`. Raises Damaged where one is absent or cut
    short.
    """
    return sum(_checked_bytes(file) for file in find_weights(folder).files)


def find_weights(folder: Path) -> Weights:
    """The files that diffusers or transformers loads of the part in `folder`: the plain ones, else a variant in half
    precision. Raises Damaged where there are none, or where a shard is absent.
    """
    by_transformers = folder.name not in LOADED_BY_DIFFUSERS
    stem = "model" if by_transformers else "diffusion_pytorch_model"
    for variant in (None, *VARIANTS):
        dot = f".{variant}" if variant else ""
        single = folder / f"{stem}{dot}.safetensors"
        indices = [folder / f"{stem}.safetensors.index{dot}.json"]
        if variant and not by_transformers:
            indices.append(folder / f"{stem}.safetensors{dot}.index.json")  # as diffusers wrote them until 0.31
        index = next(filter(os.path.lexists, indices), None)
        # Of both, transformers loads the single file, and diffusers the shards.
        if os.path.lexists(single) and (by_transformers or index is None):
            return Weights((single,), variant)
        if index is not None:
            return Weights(_shards(index), variant, index)
    raise Damaged(_why_no_weights(folder, stem))


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that a list of shards names. Raises Damaged for one that is absent, or outside of the folder."""
    names = sorted(set(read_json(index)["weight_map"].values()))
    here = {file.name for file in index.parent.iterdir()}
    absent = [name for name in names if name not in here]
    if absent:
        raise Damaged(f"{index.parent.name} lacks {absent[0]}; download it again")
    return tuple(index.parent / name for name in names)


def _why_no_weights(folder: Path, stem: str) -> str:
    named = [file.name for file in _files_in(folder, "*.safetensors")]
    if named:
        return f"{folder.name} has only {named[0]}, and {stem}.safetensors is loaded; download that, or rename the file"
    others = [file.name for file in _files_in(folder, "*") if file.suffix in (".bin", ".pth", ".pt", ".ckpt")]
    if others:
        return f"{folder.name} has only {others[0]}, which can run code when it is read; safetensors are needed"
    quantised = [file.name for file in _files_in(folder, "*.gguf")]
    reason = f"only {quantised[0]}, a GGUF file" if quantised else "no weights"
    return f"{folder.name} has {reason}; safetensors are needed"


def _files_in(folder: Path, pattern: str) -> list[Path]:
    """Files and folders of a name at any depth, sorted, without side files and what lies in folders of such names."""
    found = folder.rglob(pattern)
    return sorted(file for file in found if not any(map(is_side_file, file.relative_to(folder).parts)))


def refuse_code(file: Path) -> None:
    """Raise Damaged for a configuration that names code to load, a kernel to fetch or other files to read, whatever the
    libraries would do with it.
    """
    _require_file(file)
    if file.name in VOCABULARIES or file.name.endswith(".index.json"):
        return  # of tokens, or a list of shards, which is checked elsewhere
    pending: list[Any] = [_load(file)]
    while pending:
        data = pending.pop()
        pending += data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
        for key, value in data.items() if isinstance(data, dict) else ():
            foreign_kernel = key.lstrip("_").startswith("attn_implementation") and "/" in str(value)
            if key in FOREIGN_KEYS or foreign_kernel:
                raise Damaged(
                    f"{file.parent.name}/{file.name} asks for code or files from elsewhere ({key}); none are used here"
                )


def _require_file(file: Path) -> None:
    name = f"{file.parent.name}/{file.name}"
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        raise Damaged(f"{name} is a link to a file that is gone; download it again") from None
    if not stat.S_ISREG(mode):
        raise Damaged(f"{name} is no file; remove it, and download it again")
    with file.open("rb") as stream:
        what = stand_in(stream.read(PAGE_START))
    if what:
        raise Damaged(f"{name} {what}")


def _load(file: Path) -> Any:
    """The JSON of a configuration, of which none is large."""
    _require_file(file)
    if file.stat().st_size > HEADER_LIMIT:
        raise Damaged(f"{file.parent.name}/{file.name} has more than {HEADER_LIMIT // MIB} MiB, which no settings have")
    return json.loads(file.read_bytes())


def _checked_bytes(file: Path) -> int:
    """The size of a safetensors file, which is what its header promises."""
    _require_file(file)
    try:
        read_header(file)
    except Damaged as error:
        raise Damaged(f"{file.parent.name}/{file.name} {error}; download it again") from None
    return file.stat().st_size


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file, by tensor name. Raises Damaged if it does not match the file's length."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if 8 + length > size:
            raise Damaged("is cut short or damaged")
        if length > HEADER_LIMIT:
            raise Damaged(f"has a header of {length} bytes, and {HEADER_LIMIT} are the most")
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise Damaged("is damaged: its header is no list of tensors") from None
    if not ends or 8 + length + max(ends) != size:
        raise Damaged("is cut short or damaged")
    return dict(header)


def read_json(file: Path) -> Mapping[str, Any]:
    if not os.path.lexists(file):
        raise Damaged(f"{file.parent.name}/{file.name} is missing")
    data = _load(file)
    if not isinstance(data, dict):
        raise Damaged(f"{file.parent.name}/{file.name} is not a JSON object")
    return data
