"""Fixtures of all tests: a data folder, a studio that makes small placeholder videos in it, and its HTTP client."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from starlette.testclient import TestClient

from backend import video_generator
from backend.core.config import Settings
from backend.core.schema import parse_request
from backend.synthetic import Faults, SyntheticEngine
from backend.video_generator import VideoGenerator
from tests import pace
from tests.studio import BROWSER_TIMEOUT_MS, CHROMIUM_FLAGS, chromium

# A test that wants the weights which came with the studio says so; the others get placeholder videos, which is quick.
os.environ["STUDIO_MODELS"] = str(Path(__file__).parent / "no-models")

# Before torch is loaded, here and in every studio that a test starts: test processes share the cores, and a thread that
# spins while it waits takes them from the others.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

HERE = "http://localhost"
SHM = Path("/dev/shm")

hypothesis.settings.register_profile("studio", deadline=None)
hypothesis.settings.load_profile("studio")

SMALL = {
    "prompt": "a red boat at sunset",
    "resolution": "128x96",
    "num_frames": 16,
    "num_inference_steps": 10,
    "seed": 1,
}


# The files that take long, the longest first, so that no process waits for another's at the end; those that compute and
# those that wait for a browser in turns, so that not all processes want a core at the same time.
LONG_FILES = (
    *("test_tiny", "e2e/test_create", "e2e/test_other_browsers", "diffusion/test_benchmarks", "e2e/test_process"),
    *("test_skyreels_integration", "e2e/test_gallery", "diffusion/test_resume", "e2e/test_browser"),
    *("diffusion/test_sampler", "e2e/test_pictures", "media/test_videos", "ui/test_create", "diffusion/test_compiled"),
    *("library/test_downloads", "reliability/test_launch", "reliability/test_kills", "e2e/test_proxy"),
    *("jobs/test_drafts", "media/test_pictures", "e2e/test_machines", "web/test_api", "jobs/test_kind_render"),
    *("diffusion/test_wan", "test_videos", "reliability/test_switches", "reliability/test_full_disk"),
    *("e2e/test_accessible", "compat/test_data_0_1", "reliability/test_mutants", "reliability/test_soak"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first. Last those that measure time: while one of their tests runs, all other processes wait, and
    before that they end what they are at.
    """
    places = {Path(__file__).parent / f"{name}.py": place for place, name in enumerate(LONG_FILES)}
    alone = dict.fromkeys({item.path for item in items}, True)
    for item in items:
        alone[item.path] &= item.get_closest_marker("alone") is not None
    items.sort(key=lambda item: (alone[item.path], places.get(item.path, len(places))))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """While a test that measures time runs, those that run side by side with it wait."""
    alone = item.get_closest_marker("alone") is not None
    with open(__file__) as door, open(pace.__file__) as room:
        fcntl.flock(door, fcntl.LOCK_EX)  # who waits for an empty room keeps the next ones out
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # closing it would not do, were it open in a process that the test left


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """What a test logged may hold what no process can send to another."""
    report = yield
    report.sections = [(name, text.encode(errors="replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads of tiny tensors mostly wait for one another: on two busy cores two of them take twenty times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", shared_models=tmp_path / "none", disk_reserve_bytes=0)


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty folder on another file system than `tmp_path`, in memory; skips the test where there is none."""
    if not os.access(SHM, os.W_OK) or SHM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    folder = Path(tempfile.mkdtemp(prefix="studio-test-", dir=SHM))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def engine(faults: Faults) -> SyntheticEngine:
    return SyntheticEngine(faults)


@pytest.fixture
def generator(settings: Settings, engine: SyntheticEngine) -> Iterator[VideoGenerator]:
    """A started VideoGenerator whose engine's faults the test switches."""
    generator = VideoGenerator(settings, {"synthetic": engine})
    generator.start()
    yield generator
    engine.release()
    generator.stop()


class Clock:
    """A monotonic clock that the test sets, in seconds."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def render_clock(monkeypatch) -> Clock:
    """What tells a render, and who watches it, how late it is."""
    clock = Clock()
    monkeypatch.setattr("backend.jobs.running.time", clock)
    return clock


@pytest.fixture
def a_request():
    """Build a small request; fields may be overridden."""
    return lambda **wish: parse_request(SMALL | wish)


@pytest.fixture(scope="session")
def shared_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The whole ASGI application in process. Streamlit allows one runtime a process, so it is made once and each test
    puts its own generator behind it.
    """
    from backend.web import server

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "shared_generator", lambda settings: None)
        patch.setattr(server, "stop_shared_generator", lambda: None)
        folder = tmp_path_factory.mktemp("shared_client")
        app = server.create_app(Settings(data=folder, shared_models=folder / "none"))
        with TestClient(app, base_url=HERE) as client:
            yield client


@pytest.fixture
def client(shared_client: TestClient, generator: VideoGenerator, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """An HTTP client of the studio over `generator`."""
    monkeypatch.setattr(video_generator, "_shared", generator)
    shared_client.app.state.generator = generator  # type: ignore[attr-defined]
    return shared_client


@pytest.fixture(scope="session")
def browser():
    """A Chromium, one for all tests: Playwright runs once in a process."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium here; `python3 test_system.py --suite` says how to get one")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=BROWSER_TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()
