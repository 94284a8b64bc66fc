"""Checkpoints on this disk: folders in diffusers' format, recognised by their JSON files alone, without torch."""

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

from backend.core.config import GIB, MIB
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


class Damaged(Exception):
    """The folder or file cannot be used; the message is the reason."""


def find_checkpoints(folders: Iterable[Path]) -> list[Checkpoint]:
    """Every checkpoint of SkyReels V2 or Wan one level below `folders`, or two as the hub lays them out (owner/name).

    A folder named like a released checkpoint gets the registry's row, any other a row made from its configuration. A
    folder that cannot be used is left out with a line in the log; of two with the same id the first stays.
    """
    found, rejected = look_for_checkpoints(folders)
    for folder, reason in rejected.items():
        log.warning("checkpoint %s is left out: %s", folder, reason)
    return found


def look_for_checkpoints(folders: Iterable[Path]) -> tuple[list[Checkpoint], dict[Path, str]]:
    """See `find_checkpoints`; and the folders that cannot be used, each with the reason and the way out."""
    found: dict[str, Checkpoint] = {}
    rejected: dict[Path, str] = {}
    for folder in _candidates(folders):
        try:
            checkpoint = Checkpoint(read_spec(folder), folder)
        except Exception as error:  # whatever a file of somebody else's can make a reader say
            rejected[folder] = _reason(error)
            continue
        first = found.setdefault(checkpoint.spec.id, checkpoint)
        if first.folder.resolve() != folder.resolve():
            rejected[folder] = f"{first.folder.name} has the same id, {first.spec.id}; remove one, or rename it"
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
            if _has_index(child):
                yield child
            else:
                yield from (sub for sub in sub_folders(child) if _has_index(sub))


def _has_index(folder: Path) -> bool:
    """Whether something of that name is there; if it is no file that can be read, `read_spec` says so."""
    return os.path.lexists(folder / "model_index.json")


def sub_folders(folder: Path) -> list[Path]:
    """Sorted, without hidden ones, which is what downloads in progress are; none, with a line in the log, of a folder
    that cannot be read.
    """
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        log.warning("%s is left out: it cannot be read (%s)", folder, error.strerror)
        return []


def read_spec(folder: Path, called: str | None = None) -> ModelSpec:
    """The row of the checkpoint in `folder`, which gets the name `called`. Raises Damaged if it cannot be used."""
    called = called or folder.name
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name")
    if name not in SKYREELS_CLASSES | WAN_CLASSES:
        raise Damaged(f"{name!r} is not a pipeline of SkyReels V2 or Wan")
    parts = weights_of(index)
    for file in sorted(folder.rglob("*.json")):
        refuse_code(file)
    sizes = {part: weights_bytes(folder / part) for part in parts}
    shape, spatial_factor = _read_shapes(folder)
    if "transformer_2" in parts and not 0 < (index.get("boundary_ratio") or 0) < 1:
        raise Damaged("it has two transformers, and model_index.json no boundary_ratio where they change")
    if not (folder / "tokenizer").is_dir():
        raise Damaged("it has no tokenizer")
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
    layers = int(config["num_layers"]) + len(config.get("vace_layers", ()))
    shape = Transformer(layers, dim, int(config["ffn_dim"]), int(config.get("in_channels", 16)))
    vae = read_json(folder / "vae" / "config.json")
    frames = 2 ** sum(vae["temperal_downsample"])
    if frames != 4:
        raise Damaged(f"its VAE packs {frames} frames into one latent frame, the studio plans for 4")
    # `scale_factor_spatial` keeps its default of 8 in any VAE that nobody set it for; the layers cannot lie.
    return shape, 2 ** (len(vae["dim_mult"]) - 1) * (vae.get("patch_size") or 1)


def weights_bytes(folder: Path) -> int:
    """Bytes of the safetensors files in `folder`; raises where one is absent or cut short."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = sorted(folder.glob("*.bin"))
        reason = f"only {others[0].name}, which can run code when it is read" if others else "no weights"
        raise Damaged(f"{folder.name} has {reason}; safetensors are needed")
    for index in folder.glob("*.safetensors.index.json"):
        absent = set(read_json(index)["weight_map"].values()) - {file.name for file in files}
        if absent:
            raise Damaged(f"{folder.name} lacks {min(absent)}; download it again")
    return sum(_checked_bytes(file) for file in files)


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
    if not stat.S_ISREG(file.stat().st_mode):
        raise Damaged(f"{file.parent.name}/{file.name} is no file; remove it, and download it again")


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
