"""backend/doctor.py: each check on a machine that is well, and on one that is not."""

from __future__ import annotations

import http.server
import importlib.metadata
import shutil
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend import doctor
from backend.core.config import GIB, Settings
from backend.core.registry import MODELS, SYNTHETIC
from backend.doctor import Check
from backend.library import checkpoints
from backend.library.checkpoints import Checkpoint
from backend.system import monitoring

ABOUT_THE_COMPUTER = {"Python", "Packages", "torchvision", "GPU", "CUDA", "Free VRAM", "Memory", "Disk"}
ABOUT_THE_STUDIO = {"Folders", "History", "Video", "Models", "Port"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, shared_models=tmp_path / "none")


def test_this_machine_can_run_the_studio(settings: Settings) -> None:
    checks = doctor.run_checks(settings)
    assert {check.name for check in checks} == ABOUT_THE_COMPUTER | ABOUT_THE_STUDIO
    assert [check for check in checks if check.status == "failed"] == []


def test_a_check_that_breaks_is_a_finding() -> None:
    check = doctor.guarded("Video", lambda: [][0])
    assert (check.name, check.status) == ("Video", "failed")
    assert "IndexError" in check.detail
    assert check.way_out


def test_checks_are_printed_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.print_checks([Check("Python", "ok", "3.12"), Check("Port", "warning", "8501 is taken", "use another")])
    assert capsys.readouterr().out.splitlines() == [
        "     ok  Python  3.12",
        "warning  Port    8501 is taken",
        "                 -> use another",
    ]


# --- packages ---


def test_pins_are_compared_with_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"right": "1.0+cpu", "wrong": "2.1"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    file = tmp_path / "requirements.txt"
    file.write_text('# pins\nright==1.0\n\nold==1; python_version < "3"\n')
    assert doctor.check_packages(file) == Check("Packages", "ok", "1 as in requirements.txt")
    file.write_text("right==1.0\nwrong==2.0  # a comment\nabsent==3.0\n")
    check = doctor.check_packages(file)
    assert (check.status, check.detail) == ("failed", "wrong is 2.1, not ==2.0; absent is missing")
    assert "setup.py" in check.way_out


# --- GPU, driver, CUDA ---


def test_gpu_and_driver(nvml: Any) -> None:
    check = doctor.check_gpu()
    assert (check.status, check.detail) == ("ok", "NVIDIA GPU-first, NVIDIA GPU-second, driver 600.1")


def test_no_gpu_is_a_warning(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.broken = {"nvmlInit"}
    monkeypatch.setattr(doctor, "has_nvidia_card", lambda: False)
    assert doctor.check_gpu().status == "warning"
    assert "no NVIDIA GPU" in doctor.check_gpu().detail


def test_a_gpu_without_driver_is_told_the_way_out(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.broken = {"nvmlInit"}
    monkeypatch.setattr(doctor, "has_nvidia_card", lambda: True)
    assert "install NVIDIA's driver" in doctor.check_gpu().way_out


def test_a_hidden_gpu_is_told_so(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check = doctor.check_gpu()
    assert "CUDA_VISIBLE_DEVICES hides NVIDIA GPU-first" in check.detail
    assert (check.status, check.way_out) == ("warning", "unset it")


@pytest.mark.parametrize(
    ("vendor", "kind", "is_one"),
    [("0x10de", "0x030200", True), ("0x10de", "0x040300", False), ("0x8086", "0x030000", False)],
)
def test_an_nvidia_card_is_known_on_the_bus(tmp_path: Path, vendor: str, kind: str, is_one: bool) -> None:
    (tmp_path / "0000:00:01.0").mkdir()
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "vendor").write_text(f"{vendor}\n")
    (tmp_path / "0000:01:00.0" / "class").write_text(f"{kind}\n")
    assert doctor.has_nvidia_card(tmp_path) is is_one


def test_free_vram(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_vram() == Check("Free VRAM", "ok", "60.0 of 80.0 GiB")
    monkeypatch.setattr(monitoring.Gpu, "memory", lambda self: (70.0, 80.0))
    check = doctor.check_vram()
    assert (check.status, check.way_out.split(";")[0]) == ("warning", "close what else uses the GPU")
    assert "SkyReels-V2 DF 1.3B 540P needs 14.6 GiB" in check.detail
    nvml.broken = {"nvmlInit"}
    assert doctor.check_vram().status == "warning"


FACTS = {"version": "2.13.0", "built_for": "13.0", "available": False}


@pytest.mark.parametrize(
    ("facts", "status", "words"),
    [
        (FACTS, "warning", "sees no GPU"),
        (FACTS | {"built_for": None}, "warning", "a build for the CPU alone"),
        (FACTS | {"available": True, "device": "H200", "sum": 2.0}, "ok", "computes on H200"),
        (FACTS | {"available": True, "error": "no kernel image"}, "failed", "cannot compute on it: no kernel image"),
        ({"error": "ImportError: libc10.so"}, "failed", "torch does not import: ImportError: libc10.so"),
    ],
)
def test_cuda_as_torch_sees_it(facts: dict[str, Any], status: str, words: str) -> None:
    check = doctor.check_cuda(facts)
    assert check.status == status
    assert words in check.detail


@pytest.mark.parametrize(("card", "way_out"), [(True, "install a torch for CUDA, of the same version"), (False, "")])
def test_a_cpu_torch_beside_a_gpu_is_told_the_way_out(
    monkeypatch: pytest.MonkeyPatch, card: bool, way_out: str
) -> None:
    monkeypatch.setattr(doctor, "has_nvidia_card", lambda: card)
    assert doctor.check_cuda(FACTS | {"built_for": None}).way_out == way_out


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that come before the real ones, here and in children."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    return folder


WORKING_TORCH = """
__version__ = "2.13.0"
class version: cuda = None
class cuda:
    is_available = staticmethod(lambda: False)
"""


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        ("raise ImportError('libcudart.so.13 is missing')", "ImportError: libcudart.so.13 is missing"),
        ("import os; os._exit(9)", "importing torch ended Python with exit code 9"),
        ("import time; time.sleep(60)", "torch did not answer within 0.5 s"),
    ],
)
def test_a_torch_that_does_not_start_is_a_finding(
    pretend: Path, monkeypatch: pytest.MonkeyPatch, torch: str, words: str
) -> None:
    monkeypatch.setattr(doctor, "TORCH_TIMEOUT_S", 0.5 if "sleep" in torch else 60)
    (pretend / "torch.py").write_text(torch)
    with doctor.torch_facts_soon() as facts:
        assert facts()["error"] == words
        assert doctor.check_cuda(facts()).status == "failed"


def install_torchvision(folder: Path, code: str) -> None:
    (folder / "torchvision.py").write_text(code)
    info = folder / "torchvision-0.28.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")


def test_the_broken_torchvision_pair_is_found(pretend: Path) -> None:
    (pretend / "torch.py").write_text(WORKING_TORCH)
    install_torchvision(pretend, "raise RuntimeError('operator torchvision::nms does not exist')")
    with doctor.torch_facts_soon() as facts:
        check = doctor.check_torchvision(facts())
    assert check.status == "failed"
    assert "0.28.0 breaks diffusers, not fitting torch 2.13.0: RuntimeError: operator torchvision::nms" in check.detail
    assert check.way_out == f"remove it: {sys.executable} -m pip uninstall torchvision"


def test_a_torchvision_that_fits_is_fine(pretend: Path) -> None:
    (pretend / "torch.py").write_text(WORKING_TORCH)
    install_torchvision(pretend, "")
    with doctor.torch_facts_soon() as facts:
        assert doctor.check_torchvision(facts()) == Check("torchvision", "ok", "0.28.0 fits torch 2.13.0")


# --- memory, disk, folders, video ---


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "ram_used_and_total", lambda: (6.0, 8.0))
    check = doctor.check_memory()
    assert (check.status, check.detail) == ("warning", "2.0 of 8.0 GiB free")
    monkeypatch.setattr(monitoring, "ram_used_and_total", lambda: (4.0, 8.0))
    assert doctor.check_memory().status == "ok"


@pytest.mark.parametrize(("free_gib", "status"), [(1.9, "failed"), (2.1, "warning"), (21.0, "ok")])
def test_free_disk(settings: Settings, monkeypatch: pytest.MonkeyPatch, free_gib: float, status: str) -> None:
    usage = type("Usage", (), {"free": int(free_gib * GIB), "total": 100 * GIB})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check = doctor.check_disk(settings)
    assert check.status == status
    assert bool(check.way_out) is (status != "ok")


def test_folders_that_can_be_written_or_made_are_fine(settings: Settings) -> None:
    assert doctor.check_folders(settings).status == "ok"
    assert list(settings.data.iterdir()) == []  # and nothing stays behind


def test_a_folder_that_cannot_be_written_is_named(settings: Settings) -> None:
    settings.outputs.touch()
    check = doctor.check_folders(settings)
    assert check.status == "failed"
    assert str(settings.outputs) in check.detail
    assert str(settings.temp) not in check.detail


def test_a_folder_that_is_a_link_to_nowhere_is_named(settings: Settings, tmp_path: Path) -> None:
    settings.uploads.symlink_to(tmp_path / "unplugged")
    check = doctor.check_folders(settings)
    assert check.status == "failed"
    assert f"{settings.uploads} (a link to {tmp_path / 'unplugged'}, which is missing)" in check.detail


def test_video_is_really_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_video().status == "ok"
    import av

    real = av.open
    monkeypatch.setattr(av, "open", lambda *arguments, **options: without_h264(real(*arguments, **options)))
    assert doctor.guarded("Video", doctor.check_video).status == "failed"


def without_h264(container: Any) -> Any:
    """The container of an FFmpeg that has no H.264."""

    class Container:
        def __enter__(self) -> Container:
            return self

        def __exit__(self, *error: object) -> None:
            container.close()

        def add_stream(self, codec: str, rate: int) -> None:
            raise ValueError(f"Unknown codec {codec}")

    return Container()


# --- models, port ---


def test_models_present(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    released = Checkpoint(MODELS["skyreels-v2-df-1.3b-540p"], settings.models / "df")
    for found, status in (([], "warning"), ([Checkpoint(SYNTHETIC, settings.models)], "warning"), ([released], "ok")):
        monkeypatch.setattr(checkpoints, "look_for_checkpoints", lambda folders, found=found: (found, {}))
        assert doctor.check_models(settings).status == status
    assert doctor.check_models(settings).detail == "SkyReels-V2 DF 1.3B 540P"
    left_out = {settings.models / "mine": "its VAE is cut short; download it again"}
    monkeypatch.setattr(checkpoints, "look_for_checkpoints", lambda folders: ([released], left_out))
    check = doctor.check_models(settings)
    assert (check.status, check.detail) == ("warning", "mine cannot be used")
    assert check.way_out == "its VAE is cut short; download it again"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which something listens, and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_a_port_taken_by_something_else(taken: int) -> None:
    check = doctor.check_port(taken)
    assert check.status == "warning"
    assert check.way_out == f"start with `./launch.sh --port {taken + 1}`"


def test_a_free_port() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    assert doctor.check_port(port) == Check("Port", "ok", f"{port} is free")


@pytest.mark.parametrize(("body", "status"), [(b'{"status":"ok"}', "ok"), (b"ok", "warning")])
def test_a_studio_that_is_open_is_recognised(body: bytes, status: str) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        check = doctor.check_port(server.server_port)
        server.shutdown()
    assert check.status == status


def test_a_history_is_counted_and_a_damaged_one_named_with_the_way_out(settings, generator, a_request):
    generator.wait(generator.submit(a_request()).id, 30)
    found = doctor.check_history(settings)
    assert (found.status, found.detail[:6]) == ("ok", "in use")
    generator.stop()
    found = doctor.check_history(settings)
    assert (found.status, found.detail[:6]) == ("ok", "1 job,")
    settings.database.write_bytes(b"no database at all" * 100)
    found = doctor.check_history(settings)
    assert found.status == "failed"
    assert "doctor --repair" in found.way_out


def test_a_history_of_a_newer_version_is_no_history_for_this_one(settings, generator, a_request):
    generator.stop()
    with sqlite3.connect(settings.database) as database:
        database.execute("PRAGMA user_version = 999")
    database.close()
    found = doctor.check_history(settings)
    assert (found.status, "written by a newer version" in found.detail) == ("failed", True)


def test_jobs_that_cannot_be_read_are_counted(settings, generator, a_request):
    generator.pause_queue(True)
    generator.submit(a_request())
    generator.stop()
    with sqlite3.connect(settings.database) as database:
        database.execute("UPDATE jobs SET state_before = state, state = 'unreadable'")
    database.close()
    found = doctor.check_history(settings)
    assert found.status == "warning"
    assert found.detail.startswith("1 job, 1 of them unreadable")


def test_no_history_is_fine(settings):
    assert doctor.check_history(settings).detail == "none yet"
