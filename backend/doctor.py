"""Diagnosis of the installation: checks whether this computer can render videos, and says how to fix what fails.

Each check examines one thing and changes nothing. Its imports are inside it, because a missing package is one of the
findings.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backend.core.config import GIB, ROOT, Settings
from backend.core.errors import NewerData
from backend.core.text import counted, escape_control
from backend.jobs.migrations import check_not_newer
from backend.utils import python_problem

Status = Literal["ok", "warning", "failed"]

PORT = 8501
LEAST_FREE_RAM_GIB = 4.0
SPACE_FOR_MODEL_GIB = 20.0  # the smallest released checkpoint takes 17 on disk
TORCH_TIMEOUT_S = 60
COUNT_JOBS = "SELECT count(*), count(*) FILTER (WHERE state = 'unreadable') FROM jobs"
SETUP = "run `python3 setup.py`, which repairs it"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. A warning leaves the studio usable; `way_out` says what to do, empty when nothing is to be done."""

    name: str
    status: Status
    detail: str
    way_out: str = ""


def run_checks(settings: Settings) -> list[Check]:
    """Every check, in about four seconds. Torch comes last, because it starts slowly: it does that meanwhile."""
    with torch_facts_soon() as torch_facts:
        checks: list[tuple[str, Callable[[], Check]]] = [
            ("Python", check_python),
            ("Packages", check_packages),
            ("GPU", check_gpu),
            ("Free VRAM", check_vram),
            ("Memory", check_memory),
            ("Disk", lambda: check_disk(settings)),
            ("Folders", lambda: check_folders(settings)),
            ("History", lambda: check_history(settings)),
            ("Video", check_video),
            ("Models", lambda: check_models(settings)),
            ("Port", check_port),
            ("torchvision", lambda: check_torchvision(torch_facts())),
            ("CUDA", lambda: check_cuda(torch_facts())),
        ]
        return [guarded(name, check) for name, check in checks]


def print_checks(checks: Iterable[Check]) -> None:
    """One line a check, and under it what to do."""
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        print(f"{check.status:>7}  {check.name:<{width}}  {escape_control(check.detail)}")
        if check.way_out:
            print(f"{'':7}  {'':<{width}}  -> {escape_control(check.way_out)}")


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """The finding of `check`; what it raises is a finding too, because the checks after it are wanted all the same."""
    try:
        return check()
    except Exception as error:
        return Check(name, "failed", f"the check itself fails: {type(error).__name__}: {error}", SETUP)


def check_python() -> Check:
    detail = f"{platform.python_version()} in {sys.prefix}"
    problem = python_problem(sys.version_info[:3])
    return Check("Python", "failed", detail, problem) if problem else Check("Python", "ok", detail)


def check_packages(requirements: Path = ROOT / "requirements.txt") -> Check:
    """Whether each pin is what is installed. The pins for other Pythons do not count."""
    from packaging.requirements import Requirement

    wrong, right = [], 0
    lines = (re.sub(r"\s*#.*", "", line).strip() for line in requirements.read_text().splitlines())
    for pin in (Requirement(line) for line in lines if line):
        if pin.marker and not pin.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{pin.name} is missing")
            continue
        if pin.specifier.contains(version, prereleases=True):
            right += 1
        else:
            wrong.append(f"{pin.name} is {version}, not {pin.specifier}")
    if wrong:
        return Check("Packages", "failed", "; ".join(wrong), SETUP)
    return Check("Packages", "ok", f"{right} as in {requirements.name}")


def check_gpu() -> Check:
    """GPU and driver, as the driver reports them."""
    import pynvml

    no_gpu = "videos render on the CPU: the small models work, the released models are far too slow"
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        names = [pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
        driver = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError as error:
        if has_nvidia_card():
            way_out = "install NVIDIA's driver and restart; in a container, pass the GPU in (docker run --gpus all)"
            return Check("GPU", "warning", f"an NVIDIA GPU is there, but its driver does not answer: {error}", way_out)
        return Check("GPU", "warning", f"no NVIDIA GPU; {no_gpu}")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Check("GPU", "warning", f"CUDA_VISIBLE_DEVICES hides {', '.join(names)}; {no_gpu}", "unset it")
    if not names:
        return Check("GPU", "warning", f"driver {driver} without a GPU; {no_gpu}")
    return Check("GPU", "ok", f"{', '.join(names)}, driver {driver}")


def has_nvidia_card(devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether a display or compute card of NVIDIA is on the bus, driver or not."""
    for device in devices.glob("*"):
        with contextlib.suppress(OSError):
            vendor, kind = ((device / file).read_text().strip() for file in ("vendor", "class"))
            if vendor == "0x10de" and kind.startswith("0x03"):
                return True
    return False


def check_vram() -> Check:
    from backend.core.registry import MODELS
    from backend.system.monitoring import Gpu

    memory = gpu.memory() if (gpu := Gpu.find()) else None
    if memory is None:
        return Check("Free VRAM", "warning", "none: no GPU that the installed torch can use")
    used, total = memory
    least = min((spec for spec in MODELS.values() if spec.repo_id), key=lambda spec: spec.memory_gib)
    detail = f"{total - used:.1f} of {total:.1f} GiB"
    if total - used < least.memory_gib:
        needs = f"{detail}; {least.title} needs {least.memory_gib:.1f} GiB"
        return Check("Free VRAM", "warning", needs, "close what else uses the GPU; `nvidia-smi` shows it")
    return Check("Free VRAM", "ok", detail)


def check_memory() -> Check:
    from backend.system.monitoring import ram_used_and_total

    used, total = ram_used_and_total()
    detail = f"{total - used:.1f} of {total:.1f} GiB free"
    if total - used < LEAST_FREE_RAM_GIB:
        return Check("Memory", "warning", detail, f"close other programs until {LEAST_FREE_RAM_GIB:g} GiB are free")
    return Check("Memory", "ok", detail)


def check_disk(settings: Settings) -> Check:
    from backend.system.monitoring import nearest_folder

    disk = shutil.disk_usage(nearest_folder(settings.data))
    detail = f"{disk.free / GIB:.1f} of {disk.total / GIB:.1f} GiB free for {settings.data}"
    if disk.free < settings.disk_reserve_bytes:
        detail += f"; renders start from {settings.disk_reserve_bytes / GIB:g} GiB"
        return Check("Disk", "failed", detail, "delete videos, or set STUDIO_DATA to another disk")
    if disk.free < SPACE_FOR_MODEL_GIB * GIB:
        return Check("Disk", "warning", detail, f"make room for released models: {SPACE_FOR_MODEL_GIB:g} GiB and more")
    return Check("Disk", "ok", detail)


def check_folders(settings: Settings) -> Check:
    """Whether files can be written where the studio writes them. A missing folder will be made."""
    from backend.system.monitoring import nearest_folder

    closed = []
    for folder in (settings.models, settings.outputs, settings.temp, settings.uploads):
        if folder.is_symlink() and not folder.exists():
            closed.append(f"{folder} (a link to {folder.readlink()}, which is missing)")
            continue
        try:
            with tempfile.TemporaryFile(dir=nearest_folder(folder)) as file:
                file.write(b"?")
        except OSError as error:
            closed.append(f"{folder} ({error.strerror})")
    if closed:
        way_out = "mend their rights or links, or set STUDIO_DATA"
        return Check("Folders", "failed", f"no writing to {', '.join(closed)}", way_out)
    return Check("Folders", "ok", f"models, outputs, temp and uploads in {settings.data} can be written")


def check_history(settings: Settings) -> Check:
    """Whether the database of jobs is whole, and when it was last copied. Reads only."""
    if not settings.database.exists():
        return Check("History", "ok", "none yet")
    try:
        check_not_newer(settings.database)
    except NewerData as newer:
        return Check("History", "failed", newer.message.rstrip(";"), newer.hint)
    try:
        with contextlib.closing(sqlite3.connect(f"file:{settings.database}?mode=ro", uri=True, timeout=2)) as database:
            fault = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            jobs, unreadable = database.execute(COUNT_JOBS).fetchone() if fault == "ok" else (0, 0)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            return Check("History", "ok", "in use by the studio that runs now, which keeps it whole")
        fault = str(error)
    if fault != "ok":
        way_out = "`./launch.sh doctor --repair` sets it aside and puts it together from its copy and the videos"
        return Check("History", "failed", f"{settings.database.name} is damaged: {fault}", way_out)
    copies = list(settings.copies.glob("*.db"))
    kept = f", {len(copies)} {'copy' if len(copies) == 1 else 'copies'}" if copies else ", no copy yet"
    if unreadable:
        way_out = "`./launch.sh doctor --repair` looks for them in the copies; the Queue page shows them"
        return Check("History", "warning", f"{counted(jobs, 'job')}, {unreadable} of them unreadable{kept}", way_out)
    return Check("History", "ok", f"{counted(jobs, 'job')}{kept}")


def check_video() -> Check:
    """Whether PyAV's FFmpeg writes H.264 and reads it back: two frames, in memory."""
    import av
    import numpy as np

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for brightness in (50, 200):
            picture = np.full((64, 64, 3), brightness, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        frames = sum(1 for _ in container.decode(video=0))
    if frames != 2:
        return Check("Video", "failed", f"2 frames were written as H.264 and {frames} came back", SETUP)
    return Check("Video", "ok", f"FFmpeg {av.ffmpeg_version_info} (PyAV {av.__version__}) writes and reads H.264")


def check_models(settings: Settings) -> Check:
    from backend.library.checkpoints import look_for_checkpoints, name_below

    found, rejected = look_for_checkpoints(settings.model_folders)
    if rejected:
        names = ", ".join(name_below(settings.model_folders, path) for path in rejected)
        return Check("Models", "warning", f"{names} cannot be used", "; ".join(rejected.values()))
    titles = ", ".join(checkpoint.spec.title for checkpoint in found)
    if any(checkpoint.spec.repo_id for checkpoint in found):
        return Check("Models", "ok", titles)
    way_out = f"fetch one (`./launch.sh models list --all`), or put one in diffusers format into {settings.models}"
    return Check("Models", "warning", f"no released model; here are: {titles or 'only the test pattern'}", way_out)


def check_port(port: int = PORT) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return Check("Port", "ok", f"{port} is free")
        except OSError:
            pass
    if studio_answers(port):
        return Check("Port", "ok", f"a studio is open at http://localhost:{port}")
    way_out = f"start with `./launch.sh --port {port + 1}`"
    return Check("Port", "warning", f"{port} is taken by another program", way_out)


def studio_answers(port: int) -> bool:
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever `http_proxy` says
    try:
        with directly.open(f"http://127.0.0.1:{port}/healthz", timeout=1) as answer:
            return bool(json.load(answer) == {"status": "ok"})
    except (OSError, ValueError, urllib.error.URLError):
        return False


# --- torch, in a process of its own: it may not import at all, and it is slow ---

TORCH_CHECK = """
import json, sys
found = {}
try:
    import torch
    found |= {"version": torch.__version__, "built_for": torch.version.cuda, "available": torch.cuda.is_available()}
    if found["available"]:
        found["device"] = torch.cuda.get_device_name()
        found["sum"] = torch.ones(2, device="cuda").sum().item()
except Exception as error:
    found["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
if "error" not in found and len(sys.argv) > 1:
    try:
        import torchvision
    except Exception as error:
        found["torchvision_error"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(found))
"""


@contextlib.contextmanager
def torch_facts_soon() -> Iterator[Callable[[], dict[str, Any]]]:
    """Start asking torch about CUDA; the function given waits for the answer, `error` in it when there is none."""
    command = [sys.executable, "-c", TORCH_CHECK, *(["torchvision"] if torchvision_version() else [])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    torch_info: dict[str, Any] = {}

    def wait() -> dict[str, Any]:
        if not torch_info:
            try:
                answer, _ = child.communicate(timeout=TORCH_TIMEOUT_S)
                torch_info.update(json.loads(answer.splitlines()[-1]))
            except subprocess.TimeoutExpired:
                torch_info["error"] = f"torch did not answer within {TORCH_TIMEOUT_S} s"
            except (ValueError, IndexError):
                torch_info["error"] = f"importing torch ended Python with exit code {child.returncode}"
        return torch_info

    try:
        yield wait
    finally:
        child.kill()
        child.communicate()


def torchvision_version() -> str | None:
    try:
        return importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return None


def check_torchvision(torch_info: dict[str, Any]) -> Check:
    """A torchvision built for another torch takes transformers and diffusers down with it."""
    version = torchvision_version()
    if version is None:
        return Check("torchvision", "ok", "not installed, and not needed")
    if "torchvision_error" in torch_info:
        detail = (
            f"{version} breaks diffusers, not fitting torch {torch_info['version']}: {torch_info['torchvision_error']}"
        )
        return Check("torchvision", "failed", detail, f"remove it: {sys.executable} -m pip uninstall torchvision")
    return Check("torchvision", "ok", f"{version} fits torch {torch_info.get('version', '')}".rstrip())


def check_cuda(torch_info: dict[str, Any]) -> Check:
    if "error" in torch_info and not torch_info.get("available"):
        return Check("CUDA", "failed", f"torch does not import: {torch_info['error']}", SETUP)
    if "error" in torch_info:
        way_out = "update the driver; if it still fails, this GPU is not one that this torch was built for"
        return Check("CUDA", "failed", f"torch sees the GPU but cannot compute on it: {torch_info['error']}", way_out)
    if torch_info["available"]:
        return Check("CUDA", "ok", f"torch {torch_info['version']} computes on {torch_info['device']}")
    if torch_info["built_for"] is None:
        way_out = "install a torch for CUDA, of the same version" if has_nvidia_card() else ""
        return Check("CUDA", "warning", f"torch {torch_info['version']} is a build for the CPU alone", way_out)
    return Check(
        "CUDA", "warning", f"torch {torch_info['version']}, built for CUDA {torch_info['built_for']}, sees no GPU"
    )
