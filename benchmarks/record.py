"""Results of a benchmark, with what it takes to judge them: machine, versions, command."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backend.durable import replace_file

RESULTS = Path(__file__).parent / "results"
SMALL = RESULTS / "small"  # of runs with tiny sizes, not in git
PACKAGES = ("torch", "diffusers", "transformers", "numpy")


def _cpu() -> str:
    """What the processor calls itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


def environment() -> dict[str, Any]:
    """The machine and the versions of packages, as they are recorded."""
    import torch

    cores = f"{_cpu()}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cores
    return {
        "machine": {"device": device, "system": platform.system(), "python": platform.python_version()},
        "versions": {package: version(package) for package in PACKAGES},
    }


def record(
    name: str, results: dict[str, Any], missing: Sequence[str] = (), folder: Path = RESULTS, *, shown: bool = True
) -> None:
    """Write `results` to <name>.json in `folder`, with the names of the rows that are `missing`, and print them. The
    file is the old or the new one, whenever the process ends.
    """
    recorded = {
        "benchmark": name,
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        **environment(),
        **({"missing": list(missing)} if missing else {}),
        "results": results,
    }
    text = json.dumps(recorded, indent=2)
    if shown:
        print(text)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.json.part"
    part.write_text(text + "\n")
    replace_file(part, folder / f"{name}.json")


def kept_results(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The results of an earlier run on this machine with these versions; empty if there are none."""
    try:
        recorded = json.loads((folder / f"{name}.json").read_text())
        same = all(recorded[key] == value for key, value in environment().items())
        return dict(recorded["results"]) if same else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
