"""Results of a benchmark, with what it takes to judge them: machine, versions, command."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "diffusers", "transformers", "numpy")


def _cpu() -> str:
    """What the processor calls itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


def record(name: str, results: dict[str, Any]) -> None:
    """Print `results` and write them to results/<name>.json."""
    import torch

    cores = f"{_cpu()}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cores
    recorded = {
        "benchmark": name,
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "machine": {"device": device, "system": platform.system(), "python": platform.python_version()},
        "versions": {package: version(package) for package in PACKAGES},
        "results": results,
    }
    text = json.dumps(recorded, indent=2)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
