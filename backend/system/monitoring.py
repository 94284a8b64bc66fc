"""Monitoring of hardware and load: a sample now, and the samples of half an hour. Never imports torch.

Figures are those that count for this process: the GPU that torch would choose, the cores that it may use and, in a
container, the container's share of memory. Sizes are GiB.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import math
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from backend.core.plan import Machine
from backend.core.units import GIB

log = logging.getLogger(__name__)

HISTORY_S = 30 * 60
INTERVAL_S = 5.0
LEAST_GAP_S = 0.5  # within it the last sample is returned again, however many tabs poll

CONTEXT_GIB = 0.6  # that CUDA takes for a process beside its tensors
OTHERS_LEAST_GIB = 2.0

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Sample:
    """Load of the machine at `time`, in seconds since 1970. GPU figures are None without a GPU that reports them."""

    time: float
    cpu_percent: float
    ram_used_gib: float
    ram_total_gib: float
    vram_used_gib: float | None
    vram_others_gib: float | None  # of that, what other programs hold
    vram_total_gib: float | None
    gpu_percent: float | None
    disk_free_gib: float
    disk_total_gib: float


def machine() -> Machine:
    """This computer, as plans and forecasts see it."""
    cores, (_, ram_gib) = usable_cores(), ram_used_and_total()
    gpu = Gpu.find()
    memory = gpu.memory() if gpu else None
    if gpu is None or memory is None:
        name = f"CPU, {cores} core{'s' * (cores != 1)}"
        return without_broken_torch(Machine(device=name, cores=cores, ram_gib=ram_gib, has_torch=torch_is_installed()))
    return without_broken_torch(Machine(device=gpu.name, cores=cores, ram_gib=ram_gib, vram_gib=memory[1]))


class Monitor:
    """Takes a sample every few seconds in a thread of its own, and keeps those of the last half hour."""

    def __init__(self, data: Path, interval_s: float = INTERVAL_S) -> None:
        self._data = data
        self._interval_s = interval_s
        self._samples: deque[Sample] = deque(maxlen=math.ceil(HISTORY_S / interval_s))
        self._lock = threading.Lock()
        self._gpu = Gpu.find()
        self._last: Sample | None = None
        self._cpu = busy_and_all_seconds()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()
            self._thread = None

    def history(self) -> list[Sample]:
        """The samples of the thread, oldest first."""
        with self._lock:
            return list(self._samples)

    def sample(self) -> Sample:
        """How busy the machine is now; the CPU since the previous sample."""
        with self._lock:
            if self._last is None or not 0 <= time.time() - self._last.time < LEAST_GAP_S:
                self._last = self._measure()
            return self._last

    def vram_of_others_gib(self) -> float:
        """What other programs hold of the GPU's memory, in whole GiB; 0 for the little that a desktop takes."""
        others = self.sample().vram_others_gib or 0.0
        return float(math.floor(others)) if others >= OTHERS_LEAST_GIB else 0.0

    def without_others(self, machine: Machine) -> Machine:
        """`machine` without what other programs hold of its GPU's memory; 1 GiB is left at least."""
        if not machine.has_gpu:
            return machine
        return replace(machine, vram_gib=max(1.0, machine.vram_gib - self.vram_of_others_gib()))

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                sample = self.sample()
                with self._lock:
                    self._samples.append(sample)
            except OSError as error:  # the data folder's disk was taken away, for one
                log.warning("no sample of the machine: %s", error)
            self._ended.wait(self._interval_s)

    def _measure(self) -> Sample:
        before, self._cpu = self._cpu, busy_and_all_seconds()
        busy, passed = (now - then for now, then in zip(self._cpu, before, strict=True))
        ram_used, ram_total = ram_used_and_total()
        memory = self._gpu.memory() if self._gpu else None
        disk = shutil.disk_usage(nearest_folder(self._data))
        return Sample(
            time=time.time(),
            cpu_percent=min(max(100 * busy / passed, 0.0), 100.0) if passed > 0 else 0.0,
            ram_used_gib=ram_used,
            ram_total_gib=ram_total,
            vram_used_gib=memory[0] if memory else None,
            vram_others_gib=max(memory[0] - own_vram_gib(), 0.0) if memory else None,
            vram_total_gib=memory[1] if memory else None,
            gpu_percent=self._gpu.percent() if self._gpu else None,
            disk_free_gib=disk.free / GIB,
            disk_total_gib=disk.total / GIB,
        )


class Gpu:
    """The NVIDIA GPU that torch calls cuda:0, read through the driver's own library (NVML)."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self.name = str(nvml.nvmlDeviceGetName(handle))

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> Gpu | None:
        """None without driver, GPU or a torch that could use it, and where CUDA_VISIBLE_DEVICES hides them all."""
        visible = environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        if not torch_has_cuda():
            return None
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            if visible.isdecimal():  # NVML counts by bus; CUDA too, where all GPUs are alike
                handle = pynvml.nvmlDeviceGetHandleByIndex(int(visible))
            else:  # a UUID, or one of the ways to say none: "" and -1, which name no GPU
                handle = pynvml.nvmlDeviceGetHandleByUUID(visible)
            return cls(pynvml, handle)
        except pynvml.NVMLError as error:
            log.debug("no GPU: %s", error)
            return None

    def memory(self) -> tuple[float, float] | None:
        """Used and total, in GiB; None when the driver does not answer."""
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        except self._nvml.NVMLError:
            return None
        return memory.used / GIB, memory.total / GIB

    def percent(self) -> float | None:
        """Utilisation in percent; None where the driver does not report it, as on a slice of a shared GPU."""
        try:
            return float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
        except self._nvml.NVMLError:
            return None


def own_vram_gib() -> float:
    """What this process holds of the GPU's memory: nothing, unless a render has imported torch."""
    cuda = sys.modules.get("torch.cuda")
    initialised = getattr(cuda, "is_initialized", None)  # which is not there yet while a render imports torch
    if cuda is None or initialised is None or not initialised():
        return 0.0
    return float(cuda.memory_reserved() / GIB + CONTEXT_GIB)


def torch_is_installed() -> bool:
    return importlib.util.find_spec("torch") is not None


_torch_failure: str | None = None


def note_torch_failure(reason: str) -> None:
    """Remember that torch, or a library over it, cannot be imported: for the rest of this process no model can run."""
    global _torch_failure
    _torch_failure = reason


def torch_failure() -> str | None:
    """Why torch could not be imported in this process; None if it was imported, or if nobody has tried."""
    return _torch_failure


def without_broken_torch(machine: Machine) -> Machine:
    """`machine`, and `has_torch` is False if torch could not be imported in this process."""
    return replace(machine, has_torch=machine.has_torch and _torch_failure is None)


def torch_has_cuda() -> bool:
    """Whether the installed torch is a build for CUDA, by its version."""
    try:
        return not importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def usable_cores() -> int:
    """CPU cores that this process may use: its affinity, and in a container its share of time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _words(CGROUP / "cpu.max") or [
        *_words(CGROUP / "cpu/cpu.cfs_quota_us"),
        *_words(CGROUP / "cpu/cpu.cfs_period_us"),
    ]
    if len(limit) == 2 and limit[0].isdecimal():  # "max" or -1 without a limit
        cores = min(cores, max(1, round(int(limit[0]) / int(limit[1]))))
    return cores


def ram_used_and_total() -> tuple[float, float]:
    """Used and total memory in GiB, those of the container where it has a limit below the machine's memory."""
    host = psutil.virtual_memory()
    for limit_file, used_file, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _words(CGROUP / limit_file), _words(CGROUP / used_file)
        if limit and used and limit[0].isdecimal() and int(limit[0]) < host.total:
            statistics = _words((CGROUP / used_file).with_name("memory.stat"))
            # Files that were read once count as used, though the kernel gives their memory away when it is wanted.
            cached = int(statistics[statistics.index(cache) + 1]) if cache in statistics else 0
            return max(0, int(used[0]) - cached) / GIB, int(limit[0]) / GIB
    return (host.total - host.available) / GIB, host.total / GIB


def busy_and_all_seconds() -> tuple[float, float]:
    """CPU seconds spent working, and all of them, since the machine started and summed over its cores.

    Our own count, because psutil.cpu_percent keeps one for each thread that asks.
    """
    times = psutil.cpu_times()
    everything = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # guests count as user
    return everything - times.idle - getattr(times, "iowait", 0.0), everything


def nearest_folder(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
