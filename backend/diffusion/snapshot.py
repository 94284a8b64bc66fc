"""Snapshots: the saved state of a render, one safetensors file with the metadata as JSON in its header."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from backend.core.errors import SnapshotRefused
from backend.diffusion.sampler import State
from backend.durable import replace_file
from backend.engine import STATE as NAME

# Version 0.1 named the header's field "facts" and these keys of it differently, and tensors as in `_from_v1`.
KEYS_OF_V1 = {"known": "num_context_frames", "answers": "predictions", "identity": "fingerprint"}


def write_snapshot(folder: Path, state: State) -> None:
    """Write `state` into `folder`, in place of an earlier one; it is synced to the disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)  # a clean-up may have removed it
    part = folder / f"{NAME}.part"
    metadata = json.dumps(state.metadata | {"digest": _digest(state)})
    save_file(state.tensors, part, metadata={"metadata": metadata})
    replace_file(part, folder / NAME)


def read_snapshot(folder: Path) -> State | None:
    """The state in `folder`, None if there is none. Raises SnapshotRefused if the file is damaged.

    States that version 0.1 wrote are read too.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            metadata = json.loads(header["metadata"] if "metadata" in header else header["facts"])
            state = State({name: file.get_tensor(name) for name in file.keys()}, metadata)  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SnapshotRefused(f"It cannot be read ({error});", hint="render from the beginning.") from None
    if metadata.pop("digest", None) != _digest(state):
        raise SnapshotRefused("It is damaged;", hint="render from the beginning.")
    return state if "metadata" in header else _from_v1(state)


def _from_v1(state: State) -> State:
    """A state of version 0.1 with today's names."""
    tensors = {
        re.sub(r"^answer(\d)\.", r"prediction\1.", name).replace(".plain", ".cond"): tensor
        for name, tensor in state.tensors.items()
    }
    return State(tensors, {KEYS_OF_V1.get(key, key): value for key, value in state.metadata.items()})


def _digest(state: State) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state.tensors):
        digest.update(name.encode())
        digest.update(state.tensors[name].numpy().tobytes())
    return digest.hexdigest()
