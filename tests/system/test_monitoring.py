"""backend/system/monitoring.py: the machine, and how busy it is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.core.config import GIB, ROOT
from backend.system import monitoring
from backend.system.monitoring import Gpu, Monitor, machine, nearest_folder, ram_used_and_total, usable_cores


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files in which a container finds its limits; none at first."""
    monkeypatch.setattr(monitoring, "CGROUP", tmp_path)
    return tmp_path


def test_a_machine_without_gpu(monkeypatch: pytest.MonkeyPatch, nvml: Any) -> None:
    nvml.broken = {"nvmlInit"}
    monkeypatch.setattr(monitoring, "usable_cores", lambda: 2)
    found = machine()
    assert found.device == "CPU, 2 cores"
    assert not found.has_gpu
    assert 0.1 < found.ram_gib < 100_000


def test_a_machine_with_a_gpu(nvml: Any) -> None:
    found = machine()
    assert (found.device, found.vram_gib) == ("NVIDIA GPU-first", 80.0)
    assert found.cores >= 1


def test_a_gpu_that_does_not_tell_its_memory_is_none(nvml: Any) -> None:
    nvml.broken = {"nvmlDeviceGetMemoryInfo"}
    assert not machine().has_gpu


@pytest.mark.parametrize(
    ("visible", "name"),
    [
        ("0", "NVIDIA GPU-first"),
        ("1,0", "NVIDIA GPU-second"),
        ("GPU-second", "NVIDIA GPU-second"),
        ("", None),
        ("-1", None),
        ("7", None),
        ("GPU-gone", None),
    ],
)
def test_cuda_visible_devices_is_obeyed(nvml: Any, visible: str, name: str | None) -> None:
    gpu = Gpu.find({"CUDA_VISIBLE_DEVICES": visible})
    assert (gpu.name if gpu else None) == name


@pytest.mark.parametrize(("version", "has"), [("2.13.0+cpu", False), ("2.13.0+cu130", True), ("2.13.0", True)])
def test_a_torch_for_the_cpu_is_known_by_its_version(monkeypatch: pytest.MonkeyPatch, version: str, has: bool) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert monitoring.torch_has_cuda() is has


@pytest.mark.parametrize("spec", [None, object()])
def test_a_machine_says_whether_torch_is_installed(nvml: Any, monkeypatch: pytest.MonkeyPatch, spec: object) -> None:
    nvml.broken = {"nvmlInit"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert machine().has_torch is (spec is not None)


@pytest.mark.parametrize("gpu", [True, False])
def test_a_torch_that_failed_to_import_is_none_for_the_rest_of_the_process(
    nvml: Any, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    nvml.broken = set() if gpu else {"nvmlInit"}
    monkeypatch.setattr(monitoring, "_torch_failure", None)
    before = machine()
    assert (before.has_gpu, before.has_torch) == (gpu, True)
    monitoring.note_torch_failure("libcudart.so.13: cannot open shared object file")
    assert monitoring.torch_failure() == "libcudart.so.13: cannot open shared object file"
    assert machine() == replace(before, has_torch=False)


def test_a_gpu_that_torch_cannot_use_does_not_count(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "torch_has_cuda", lambda: False)
    assert not machine().has_gpu


def test_cores_are_those_that_the_process_may_use(cgroup: Path) -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "files",
    [{"cpu.max": "100000 100000"}, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}],
)
def test_a_container_counts_its_share_of_the_cores(
    cgroup: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    write(cgroup, files)
    assert usable_cores() == 1


@pytest.mark.parametrize(
    "files", [{"cpu.max": "max 100000"}, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}]
)
def test_no_share_means_all_cores(cgroup: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    write(cgroup, files)
    assert usable_cores() == 8


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


V2 = {
    "memory.max": str(GIB // 2),
    "memory.current": str(GIB // 4),
    "memory.stat": f"anon 1\ninactive_file {GIB // 8}\n",
}
V1 = {
    "memory/memory.limit_in_bytes": str(GIB // 2),
    "memory/memory.usage_in_bytes": str(GIB // 4),
    "memory/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB // 8}\n",
}


@pytest.mark.parametrize("files", [V2, V1])
def test_a_container_counts_its_own_memory(cgroup: Path, files: dict[str, str]) -> None:
    write(cgroup, files)
    assert ram_used_and_total() == (0.125, 0.5)


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_no_limit_means_the_machines_memory(cgroup: Path, limit: str) -> None:
    write(cgroup, {**V2, "memory.max": limit})
    used, total = ram_used_and_total()
    assert total > 0.6
    assert 0 < used < total


def test_a_sample_without_gpu(tmp_path: Path, nvml: Any) -> None:
    nvml.broken = {"nvmlInit"}
    sample = Monitor(tmp_path / "not" / "made").sample()
    assert (sample.vram_used_gib, sample.vram_total_gib, sample.gpu_percent) == (None, None, None)
    assert abs(sample.time - time.time()) < 60
    assert 0 <= sample.cpu_percent <= 100
    assert sample.disk_total_gib == shutil.disk_usage(tmp_path).total / GIB
    assert 0 < sample.disk_free_gib <= sample.disk_total_gib


def test_a_sample_with_a_gpu(tmp_path: Path, nvml: Any) -> None:
    sample = Monitor(tmp_path).sample()
    assert (sample.vram_used_gib, sample.vram_total_gib, sample.gpu_percent) == (20.0, 80.0, 75.0)


def test_a_gpu_that_fails_on_the_way_leaves_the_other_figures(
    tmp_path: Path, nvml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "LEAST_GAP_S", 0)
    monitor = Monitor(tmp_path)
    assert monitor.sample().gpu_percent == 75.0
    nvml.broken = {"nvmlDeviceGetUtilizationRates"}
    sample = monitor.sample()
    assert (sample.vram_used_gib, sample.gpu_percent) == (20.0, None)
    nvml.broken = {"nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUtilizationRates"}
    assert (monitor.sample().vram_used_gib, monitor.sample().vram_total_gib) == (None, None)


def test_cpu_percent_is_the_work_since_the_sample_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([(10.0, 100.0), (15.0, 110.0), (15.0, 130.0)])
    monkeypatch.setattr(monitoring, "busy_and_all_seconds", lambda: next(counts))
    monkeypatch.setattr(monitoring, "LEAST_GAP_S", 0)
    monitor = Monitor(tmp_path)
    assert [monitor.sample().cpu_percent, monitor.sample().cpu_percent] == [50.0, 0.0]


def test_cpu_seconds_grow_with_work() -> None:
    busy, everything = monitoring.busy_and_all_seconds()
    deadline = time.monotonic() + 60
    while monitoring.busy_and_all_seconds()[0] <= busy and time.monotonic() < deadline:
        sum(range(100_000))
    assert monitoring.busy_and_all_seconds()[0] > busy
    assert monitoring.busy_and_all_seconds()[1] > everything


def test_many_tabs_share_one_sample(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path)
    assert monitor.sample() is monitor.sample()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Monitor]:
    """A monitor that takes a sample every hundredth of a second and keeps four of them."""
    monkeypatch.setattr(monitoring, "LEAST_GAP_S", 0)
    monkeypatch.setattr(monitoring, "HISTORY_S", 0.04)
    monitor = Monitor(tmp_path, interval_s=0.01)
    yield monitor
    monitor.stop()


def wait_until(happened: Any) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.005)


def test_history_is_taken_in_order_and_forgotten_in_time(running: Monitor) -> None:
    assert running.history() == []
    running.start()
    wait_until(lambda: running.history())
    first = running.history()[0]
    wait_until(lambda: first not in running.history())
    running.stop()
    times = [sample.time for sample in running.history()]
    assert len(times) == 4
    assert times == sorted(set(times))


def test_half_an_hour_is_kept(tmp_path: Path) -> None:
    assert Monitor(tmp_path)._samples.maxlen == 360  # every five seconds


def test_stop_ends_the_one_thread(running: Monitor) -> None:
    def threads() -> int:
        return sum(thread.name == "monitor" for thread in threading.enumerate())

    before = threads()
    running.start()
    running.start()
    assert threads() == before + 1
    running.stop()
    running.stop()
    assert threads() == before


def test_it_can_start_again(running: Monitor) -> None:
    running.start()
    running.stop()
    running._samples.clear()
    running.start()
    wait_until(lambda: running.history())
    assert len(running.history()) >= 1


def test_a_disk_that_went_away_does_not_end_the_watch(running: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def fail(path: Path) -> Any:
        failed.set()
        raise OSError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(shutil, "disk_usage", fail)
        running.start()
        assert failed.wait(timeout=100)
    wait_until(lambda: running.history())


def test_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path
    assert nearest_folder(tmp_path) == tmp_path


def test_monitoring_takes_no_torch() -> None:
    code = "import sys, backend.system.monitoring as m; m.machine(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(("used", "own", "others"), [(1.5, 0.0, 0.0), (30.4, 0.0, 30.0), (30.4, 29.0, 0.0)])
def test_what_others_hold_of_the_gpu_is_all_but_our_own(tmp_path, monkeypatch, used, own, others):
    gpu = SimpleNamespace(memory=lambda: (used, 80.0), percent=lambda: 0.0)
    monkeypatch.setattr(Gpu, "find", lambda: gpu)
    monkeypatch.setattr(monitoring, "own_vram_gib", lambda: own)
    assert Monitor(tmp_path).vram_of_others_gib() == others


def test_without_a_gpu_others_hold_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Gpu, "find", lambda: None)
    assert Monitor(tmp_path).vram_of_others_gib() == 0.0


def test_our_own_share_is_what_torch_has_reserved(monkeypatch):
    cuda = SimpleNamespace(is_initialized=lambda: True, memory_reserved=lambda: 3 * GIB)
    monkeypatch.setitem(sys.modules, "torch.cuda", cuda)
    assert monitoring.own_vram_gib() == 3.6
    cuda.is_initialized = lambda: False
    assert monitoring.own_vram_gib() == 0.0
    monkeypatch.setitem(sys.modules, "torch.cuda", SimpleNamespace())  # while it is imported
    assert monitoring.own_vram_gib() == 0.0
    monkeypatch.delitem(sys.modules, "torch.cuda")
    assert monitoring.own_vram_gib() == 0.0
