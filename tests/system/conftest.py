"""A driver library that answers as it is told, in place of NVML."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from backend.core.config import GIB
from backend.system import monitoring


class FakeNvml:
    """Two GPUs of 80 GiB; a function named in `broken` raises instead of answering."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.uuids = ["GPU-first", "GPU-second"]

    def _answer(self, function: str) -> None:
        if function in self.broken:
            raise self.NVMLError(f"{function} does not answer")

    def nvmlInit(self) -> None:  # noqa: N802
        self._answer("nvmlInit")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.uuids)

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "600.1"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index >= len(self.uuids):
            raise self.NVMLError("no such GPU")
        return self.uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in self.uuids:
            raise self.NVMLError("no such GPU")
        return uuid

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return f"NVIDIA {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        self._answer("nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(used=20 * GIB, total=80 * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        self._answer("nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=75)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A machine with GPUs and a torch that can use them."""
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(monitoring, "torch_has_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake
