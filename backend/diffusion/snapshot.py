"""The state of a render on the disk: one safetensors file with its facts as JSON in the header."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from backend.core.errors import SnapshotRefused
from backend.diffusion.sampler import State
from backend.durable import replace_file

NAME = "state.safetensors"


def write_snapshot(folder: Path, state: State) -> None:
    """Put `state` into `folder`, in place of an earlier one; on the disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up meanwhile
    part = folder / f"{NAME}.part"
    facts = json.dumps(state.facts | {"digest": _digest(state)})
    save_file(state.tensors, part, metadata={"facts": facts})
    replace_file(part, folder / NAME)


def read_snapshot(folder: Path) -> State | None:
    """What `write_snapshot` put there; None where there is nothing. Raises SnapshotRefused if the file is damaged."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            state = State({name: file.get_tensor(name) for name in file.keys()}, facts)  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SnapshotRefused(f"It cannot be read ({error});", hint="render from the beginning.") from None
    if facts.pop("digest", None) != _digest(state):
        raise SnapshotRefused("It is damaged;", hint="render from the beginning.")
    return state


def _digest(state: State) -> str:
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(state.tensors):
        found.update(name.encode())
        found.update(state.tensors[name].numpy().tobytes())
    return found.hexdigest()
