"""What models/ holds besides checkpoints: side files of operating systems, and models in the layouts of other programs.

They are recognised by names, configurations and headers alone, and nothing of them is loaded.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import deque
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from backend.core.registry import MODELS
from backend.core.units import MIB
from backend.library.lora_keys import ROLES

SIDE_FILES = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how a pointer file begins, by the specification of git-lfs
PICKLES = {".ckpt", ".pth", ".pt", ".bin"}
SAFETENSORS = {".safetensors", ".sft"}
GGUF = ".gguf"
WEIGHT_SUFFIXES = PICKLES | SAFETENSORS | {GGUF}
ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"}
COMFYUI = {  # subfolders of ComfyUI's models/
    "audio_encoders",
    "checkpoints",
    "clip",
    "clip_vision",
    "controlnet",
    "diffusion_models",
    "embeddings",
    "latent_upscale_models",
    "model_patches",
    "style_models",
    "text_encoders",
    "unet",
    "upscale_models",
    "vae",
    "vae_approx",
}
# Files and folders that the releases of Wan and SkyReels V2 outside of diffusers have.
ORIGINAL_FILES = re.compile(r"(wan2\.\d_vae|models_t5_umt5|models_clip_open-clip)\S*\.(pth|safetensors)", re.IGNORECASE)
ORIGINAL_FOLDERS = {"high_noise_model", "low_noise_model"}
ORIGINAL_CLASS = re.compile(r"\w*Wan(?!Transformer)\w*Model\w*")
PARTS_OF_DIFFUSERS = {"transformer", "transformer_2", "text_encoder", "image_encoder", "vae"}
DEEPEST = 12  # folders below models/ that are looked into
MOST_LOOKED_AT = 2000  # a folder that was linked in by mistake may have millions
CONFIG_LIMIT = MIB
PAGE_START = 2**10  # bytes in which a page or a pointer says what it is
HEADER_START = 2**20  # bytes of a safetensors header, whose metadata may be long
_ROLE_NAMES = "|".join(name.replace("_", "[._]") for name in ROLES if name not in ("alpha", "w_norm", "b_norm"))
LORA_KEY = re.compile(rf'[._](?:lora[._][AB](?:[._][^":]*)?|(?:{_ROLE_NAMES})(?:[._](?:weight|bias))?)"'.encode())
PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)?<(?:!doctype html|html|head|body)[\s>]", re.I | re.S)


def is_side_file(name: str) -> bool:
    """Whether an operating system or a file manager leaves files or folders of this name beside the real ones.

    >>> [is_side_file(name) for name in ("._model.safetensors", ".DS_Store", "Thumbs.db", "model.safetensors")]
    [True, True, True, False]
    """
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in SIDE_FILES


def stand_in(start: bytes) -> str:
    """What a file that begins like this is in the place of the one that it is named as, and the way out: a pointer that
    git-lfs would replace, or a page that a site sent instead of a download. Empty for all others.
    """
    if start.startswith(LFS_POINTER):
        return "is a git-lfs pointer, not the file itself; run `git lfs pull` in the folder that was cloned"
    if PAGE.match(start):
        return "is a web page, not the file itself; download it again, signed in where the site asks for that"
    return ""


def foreign_models(folder: Path, known: Collection[Path]) -> dict[Path, str]:
    """Files and folders in `folder`, which is a models/, that are models and cannot be used, each with its kind and the
    way out. `known` are the folders that need no look: checkpoints, and LoRAs.
    """
    if os.path.lexists(folder / "model_index.json"):
        reason = f"the files of a model lie in {folder.name}/ itself; move them into a folder of their own"
        return {folder / "model_index.json": reason}
    found: dict[Path, str] = {}
    pending = deque((path, 1) for path in _entries(folder))
    for _ in range(MOST_LOOKED_AT):
        if not pending:
            break
        path, depth = pending.popleft()
        if path in known and path.exists():  # `loras` may be a link that leads nowhere
            continue
        reason = _folder_kind(path, depth) if path.is_dir() else _other_kind(path, depth)
        if reason:
            found[path] = reason
        elif path.is_dir() and depth < DEEPEST and not _is_closed(path):
            pending += ((child, depth + 1) for child in _entries(path))
    return found


def _is_closed(folder: Path) -> bool:
    """Whether nothing below is a model of its own: a language model, or a folder of the hub's cache."""
    return _is_language_model(folder) or (folder / "snapshots").is_dir() or _is_of_the_hub(folder)


def _is_of_the_hub(folder: Path) -> bool:
    """Whether it is the folder of a model in the hub's cache, by its name and by what lies in it."""
    return folder.name.startswith("models--") and any((folder / name).is_dir() for name in ("refs", "blobs"))


def _entries(folder: Path) -> list[Path]:
    """Files and folders, sorted, without side files; none of a folder that cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not is_side_file(path.name))
    except OSError:
        return []


def _other_kind(path: Path, depth: int) -> str:
    """The kind of a file, or of a link that leads nowhere, and the way out; empty if it is neither."""
    if depth <= 2 and path.is_symlink() and not os.path.exists(path):
        target = os.readlink(path).encode(errors="replace").decode()
        return f"it is a link to {target}, which is not there; mount or restore that, or remove the link"
    return _file_kind(path) if depth == 1 else ""


def _file_kind(file: Path) -> str:
    """The kind of a file and the way out; empty if it is no model."""
    suffix = file.suffix.lower()
    if suffix in ARCHIVES:
        return "it is an archive; unpack it into a folder of its own here"
    if suffix not in WEIGHT_SUFFIXES:
        return ""
    if what := stand_in(_start(file, PAGE_START)):
        return f"it {what}"
    if suffix == GGUF:
        return f"it is a GGUF file, quantised weights of a transformer alone; {_instead(file)}"
    if suffix in PICKLES:
        kind = f"it is a single {suffix} file, a pickle, which can run code when it is read"
    elif _is_lora(file):
        return "it is a LoRA; move it into models/loras/"
    else:
        kind = "it is a single safetensors file, which lacks the configuration and the other parts of a model"
    return f"{kind}; {_instead(file)}"


def _folder_kind(folder: Path, depth: int) -> str:
    """The kind of a folder and the way out; empty if it holds no model itself."""
    entries = _entries(folder)
    names = {path.name for path in entries}
    if depth > 2 and names & {"model_index.json", "snapshots"}:
        return f"the model lies too deep; move the folder {folder.name} into models/"
    if "snapshots" in names or _is_of_the_hub(folder):
        snapshots = _entries(folder / "snapshots")
        if not any((child / "config.json").exists() or _weights_below(child) for child in snapshots):
            return "it is a folder of the hub's cache in which no model lies; download the model again"
        return next(filter(None, (_folder_kind(child, 1) for child in snapshots)), "")
    if _is_language_model(folder):
        return ""
    class_name = str(_config(folder).get("_class_name") or "")
    original = [path.name for path in entries if ORIGINAL_FILES.fullmatch(path.name)]
    original += sorted(names & ORIGINAL_FOLDERS)
    if original or ORIGINAL_CLASS.fullmatch(class_name):
        return f"it has the original layout of Wan or SkyReels V2 ({[*original, class_name][0]}); {_instead(folder)}"
    parts = sorted(name for name in names & PARTS_OF_DIFFUSERS if (folder / name / "config.json").is_file())
    if parts:
        return f"it has parts of a model ({', '.join(parts)}) and no model_index.json; download it again as a whole"
    if class_name:
        return f"it is one part of a model alone ({class_name}); download the whole model, with its model_index.json"
    comfyui = [path for path in (folder, *entries) if path.name.lower() in COMFYUI and _weights_below(path)]
    if comfyui:
        files = [file for path in comfyui for file in _weights_below(path)]
        return f"it is a folder of ComfyUI ({_listed(files, folder)}); {_instead(*files)}"
    files = _weights(entries)
    if not files:
        return ""
    if any(file.suffix.lower() == GGUF for file in files):
        return f"it has GGUF files ({_listed(files, folder)}), quantised weights alone; {_instead(*files, folder)}"
    if all(_is_lora(file) for file in files):
        return f"it has LoRAs ({_listed(files, folder)}); move them into models/loras/"
    return f"it has single files ({_listed(files, folder)}) and no model_index.json; {_instead(*files, folder)}"


def _weights(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in WEIGHT_SUFFIXES and not path.is_dir()]


def _weights_below(folder: Path) -> list[Path]:
    """Weight files in a folder and in the folders directly in it."""
    entries = _entries(folder)
    return _weights(entries) + [file for child in entries if child.is_dir() for file in _weights(_entries(child))]


def _is_lora(file: Path) -> bool:
    """Whether its header has a name that only tensors of a LoRA have."""
    if file.suffix.lower() not in SAFETENSORS:
        return False
    length = int.from_bytes(_start(file, 8), "little")
    return LORA_KEY.search(_start(file, 8 + min(length, HEADER_START))) is not None


def _listed(files: list[Path], folder: Path) -> str:
    """
    >>> _listed([Path("a/vae/x.pth"), Path("a/unet/y.gguf"), Path("a/z.pth")], Path("a"))
    'vae/x.pth and 2 more'
    """
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{files[0].relative_to(folder)}{more}"


def _instead(*paths: Path) -> str:
    """What to do instead: fetch the model of the registry whose name is in one of the names, or look for one."""
    names = [re.sub(r"[^a-z0-9]+", "", path.name.lower()) for path in paths]
    ids = {spec.id: re.sub(r"[^a-z0-9]+", "", spec.id) for spec in MODELS.values() if spec.repo_id}
    matches = [model_id for model_id, short in ids.items() if any(short in name for name in names)]
    if matches:
        return f"download {max(matches, key=len)} on the Models page instead"
    return "the studio reads models in diffusers format: download one on the Models page"


def _is_language_model(folder: Path) -> bool:
    """Whether it is a model of transformers, which instruct.py looks for and reports."""
    return bool(_config(folder).get("architectures"))


def _config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder; empty if there is none that can be read."""
    try:
        data = json.loads(_start(folder / "config.json", CONFIG_LIMIT))
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _start(file: Path, count: int) -> bytes:
    """The first bytes of a regular file; none of one that cannot be read."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return b""
        with file.open("rb") as stream:
            return stream.read(min(count, file.stat().st_size))
    except OSError:
        return b""
