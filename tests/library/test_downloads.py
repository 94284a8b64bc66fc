"""Models from the hub: a stand-in on this machine, with every fault, and the real code in its own process."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from backend.core.config import MIB, ROOT, Settings
from backend.core.errors import Conflict, InvalidRequest, ModelUnavailable, NotEnoughSpace, NotFound
from backend.library import fetch
from backend.library.checkpoints import find_checkpoints
from backend.library.downloads import Downloads, DownloadState
from backend.library.fetch import RECORD, File, wanted_files
from tests.library.hub import COMMIT, Hub
from tests.pace import within
from tests.tiny_checkpoints import build_checkpoint

MODEL = "skyreels-v2-df-1.3b-540p"
NAME = "SkyReels-V2-DF-1.3B-540P-Diffusers"
TOKEN = "hf_" + "q" * 30


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("repository") / "random", "df")


@pytest.fixture
def hub(checkpoint, monkeypatch):
    hub = Hub(checkpoint)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "2")
    yield hub
    hub.stop()


@pytest.fixture
def settings(tmp_path) -> Settings:
    settings = Settings(data=tmp_path / "data", shared_models=tmp_path / "none", disk_reserve_bytes=MIB)
    settings.models.mkdir(parents=True)
    return settings


@pytest.fixture
def downloads(settings):
    queue = Downloads(settings)
    yield queue
    queue.stop()


def wait(queue: Downloads, timeout: float = 60.0) -> str | None:
    """Until nothing is on its way; what the last one failed with."""
    deadline = time.monotonic() + timeout
    while busy := [one for one in queue.current() if one.state in (DownloadState.QUEUED, DownloadState.RUNNING)]:
        assert time.monotonic() < deadline, busy
        time.sleep(0.02)
    return queue.current()[-1].error if queue.current() else None


def found(settings) -> list[str]:
    return [one.spec.id for one in find_checkpoints(settings.model_folders)]


def files_in(folder: Path) -> dict[str, bytes]:
    return {f"{p.relative_to(folder)}": p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def is_the_repository(settings, checkpoint) -> bool:
    have = files_in(settings.models / NAME)
    record = json.loads(have.pop(RECORD))
    return have == files_in(checkpoint) and record["commit"] == COMMIT


def test_a_model_is_fetched_and_is_what_the_hub_has(hub, downloads, settings, checkpoint):
    asked_for = downloads.add(MODEL)
    assert (asked_for.id, asked_for.repo_id) == (MODEL, f"Skywork/{NAME}")
    assert wait(downloads) is None
    assert found(settings) == [MODEL]
    assert is_the_repository(settings, checkpoint)
    assert downloads.current() == []
    deadline = time.monotonic() + 60
    while os.listdir(settings.downloads):  # the request goes first, then its folder
        assert time.monotonic() < deadline
    assert downloads.has_hashes(MODEL)
    assert downloads.verify(MODEL) == []
    with pytest.raises(Conflict, match="is here already"):
        downloads.add(MODEL)


def test_a_request_of_version_0_1_is_found(settings):
    queue = Downloads(settings)
    folder = settings.downloads / NAME
    folder.mkdir(parents=True)
    request = {"model": MODEL, "repo_id": f"Skywork/{NAME}", "revision": None, "added_at": 1.0, "paused": True}
    (folder / "wish.json").write_text(json.dumps(request))
    assert queue.current() == []
    (download,) = Downloads(settings).current()
    assert (download.id, download.state) == (MODEL, DownloadState.PAUSED)
    assert [file.name for file in folder.iterdir()] == ["request.json"]


def test_nothing_is_fetched_that_nobody_asked_for(hub, downloads):
    downloads.start()
    time.sleep(0.5)
    assert hub.asked == []


def test_only_files_that_cannot_run_code_are_fetched(hub, downloads, settings, checkpoint):
    hub.extra = {
        "transformer/diffusion_pytorch_model.bin": b"pickle",
        "transformer/diffusion_pytorch_model.fp16.safetensors": b"half",
        "transformer/modeling.py": b"import os",
        "pipeline.py": b"import os",
        "extra/config.json": b"{}",
        "README.md": b"# Card",
        "LICENSE.txt": b"Do.",
        ".gitattributes": b"",
    }
    downloads.add(MODEL)
    assert wait(downloads) is None
    here = set(files_in(settings.models / NAME)) - set(files_in(checkpoint))
    assert here == {"README.md", "LICENSE.txt", RECORD}
    assert not any("modeling.py" in path or ".bin" in path for path, _ in hub.asked)


@pytest.mark.parametrize(
    "path", ["../evil.json", "/etc/passwd.json", "vae/../../x.json", "vae\\..\\x.json", "vae/\x1b[2J.json"]
)
def test_a_repository_that_names_files_outside_of_itself_is_refused(hub, downloads, settings, path):
    hub.extra = {"vae/config.json": b"{}"}
    hub.listed = {"vae/config.json": {"rfilename": path}}
    downloads.add(MODEL)
    assert "outside of itself" in wait(downloads)
    assert found(settings) == []
    assert not list(settings.data.rglob("x.json"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([File("vae/config.json", 2, git_sha1="0")], "no model_index.json"),
        ([File("model_index.json", 2)], "no size or hash"),
        ([File("model_index.json", -1, git_sha1="0")], "no size or hash"),
        ([File(f"vae/{number}.json", 2, git_sha1="0") for number in range(2001)], "has 2001 files"),
    ],
)
def test_what_is_no_model_is_said(files, words):
    with pytest.raises(ModelUnavailable, match=words):
        wanted_files("owner/name", files)


def test_a_line_that_is_cut_goes_on_where_it_was(hub, downloads, settings, checkpoint):
    hub.cut_after, hub.cuts_left = 65_536, 4
    downloads.add(MODEL)
    assert wait(downloads) is None
    assert is_the_repository(settings, checkpoint)
    assert any(asked.startswith("bytes=") for _, asked in hub.asked)


@pytest.mark.parametrize("fault", ["deaf_to_ranges", "range_shift"])
def test_a_hub_that_lies_about_ranges_does_no_harm(hub, downloads, settings, checkpoint, fault):
    hub.cut_after, hub.cuts_left = 65_536, 1
    setattr(hub, fault, 1)
    downloads.add(MODEL)
    assert wait(downloads) is None
    assert is_the_repository(settings, checkpoint)


def test_wrong_bytes_are_fetched_once_more_and_then_refused(hub, downloads, settings, checkpoint):
    file = "vae/diffusion_pytorch_model.safetensors"
    hub.other_bytes = {file}
    downloads.add(MODEL)
    assert "vae/diffusion_pytorch_model.safetensors of Skywork/" in (error := wait(downloads))
    assert "not what the hub's list says" in error
    assert sum(path.endswith(file) for path, _ in hub.asked) == 2
    assert found(settings) == []
    hub.other_bytes = set()
    before = len(hub.asked)
    downloads.resume(MODEL)
    assert wait(downloads) is None
    assert is_the_repository(settings, checkpoint)
    assert not any(path.endswith("text_encoder/config.json") for path, _ in hub.asked[before:])  # it was right


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "accept its licence.*HF_TOKEN"),
        (403, "accept its licence.*HF_TOKEN"),
        (404, "does not have this model"),
        (500, r"answers with an error \(500\)"),
    ],
)
def test_what_the_hub_answers_is_said(hub, downloads, settings, status, words):
    hub.status = status
    downloads.add(MODEL)
    error = wait(downloads)
    assert error
    assert re.search(words, error), error
    (failed,) = downloads.current()
    assert failed.state is DownloadState.FAILED
    hub.status = None
    assert downloads.add(MODEL).error is None  # asked for again, it goes on
    assert wait(downloads) is None
    assert found(settings) == [MODEL]


def test_a_hub_that_is_gone_is_said(hub, downloads, settings):
    hub.stop()
    downloads.add(MODEL)
    assert "does not answer as it should" in wait(downloads)


@pytest.mark.parametrize("place", ["http://169.254.169.254", "http://localhost:1", "https://example.org", "ftp://x"])
def test_a_redirect_elsewhere_is_not_followed(hub, downloads, settings, place):
    hub.redirect = place
    downloads.add(MODEL)
    error = wait(downloads)
    assert "which is not its own" in error or "not answer" in error
    assert found(settings) == []


def test_a_token_comes_from_the_environment_and_goes_nowhere_else(hub, downloads, settings, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.status_of = {"vae/config.json": 403}
    with caplog.at_level(logging.DEBUG):
        downloads.add(MODEL)
        error = wait(downloads)
        hub.status_of = {}
        downloads.resume(MODEL)
        assert wait(downloads) is None
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in error + caplog.text
    assert not any(TOKEN.encode() in data for data in files_in(settings.data).values())


def test_without_a_token_none_is_sent(hub, downloads, monkeypatch, tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    downloads.add(MODEL)
    assert wait(downloads) is None
    assert hub.tokens == {""}


def test_offline_means_offline(hub, settings):
    queue = Downloads(settings.model_copy(update={"offline": True}))
    with pytest.raises(ModelUnavailable, match="HF_HUB_OFFLINE"):
        queue.add(MODEL)
    assert hub.asked == []


def test_what_the_engine_does_to_its_environment_is_no_matter(hub, downloads, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as it sets it when torch is imported
    downloads.add(MODEL)
    assert wait(downloads) is None


def test_a_disk_that_is_too_small_is_said_before_a_byte(hub, settings, checkpoint):
    whole = shutil.disk_usage(settings.data).total  # what is free changes meanwhile
    queue = Downloads(settings.model_copy(update={"disk_reserve_bytes": whole}))
    try:
        queue.add(MODEL)
        assert "GiB more" in wait(queue)
        assert not any("/resolve/" in path for path, _ in hub.asked)
    finally:
        queue.stop()


def test_a_disk_that_becomes_full_is_said_and_what_has_space_is_kept(hub, settings, checkpoint, monkeypatch):
    import resource

    size = max(len(data) for data in files_in(checkpoint).values())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    queue = Downloads(settings)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limit[1]))  # the child's, too
        queue.add(MODEL)
        error = wait(queue)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert "The disk is full" in error
        assert found(settings) == []
        queue.resume(MODEL)
        assert wait(queue) is None
        assert is_the_repository(settings, checkpoint)
        assert any(asked == f"bytes={size // 2}-" for _, asked in hub.asked)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        queue.stop()


def test_a_pause_just_before_its_child_starts_is_heeded(hub, downloads, monkeypatch):
    run_child, asked = downloads._run_child, threading.Event()

    def paused_first(name: str) -> str | None:
        downloads.pause(MODEL)
        try:
            return run_child(name)
        finally:
            asked.set()

    monkeypatch.setattr(downloads, "_run_child", paused_first)
    downloads.add(MODEL)
    assert asked.wait(60)
    assert downloads.current()[0].state is DownloadState.PAUSED
    assert hub.asked == []


def test_a_child_whose_studio_is_gone_ends_without_a_word(hub, settings):
    hub.stop()
    folder = settings.downloads / NAME
    folder.mkdir(parents=True)
    (folder / fetch.REQUEST).write_text(json.dumps({"model": MODEL, "repo_id": f"Skywork/{NAME}", "revision": COMMIT}))
    command = [sys.executable, "-m", "backend.library.fetch", str(folder), "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait(60) == 1


def test_a_stop_right_after_a_failure_is_quick(hub, settings, monkeypatch):
    """Before the queue has begun to wait for its next try."""
    queue, fetching, stopped = Downloads(settings), threading.Event(), threading.Event()

    def fetch(name: str) -> None:
        fetching.set()
        stopped.wait()
        raise OSError("the disk is gone")

    monkeypatch.setattr("backend.library.downloads.RETRY_S", 300)
    monkeypatch.setattr(queue, "_fetch", fetch)
    monkeypatch.setattr(queue, "_kill", stopped.set)
    queue.add(MODEL)
    assert fetching.wait(100)
    queue.stop(timeout=within(30))
    assert not queue._thread.is_alive()


def test_a_commit_is_resolved_once(hub, downloads, settings):
    hub.bytes_per_s = 50_000
    downloads.add(MODEL)
    while not (settings.downloads / NAME / fetch.FILES).exists():
        time.sleep(0.01)
    downloads.pause(MODEL)
    hub.commit, hub.bytes_per_s = "d" * 40, None
    downloads.resume(MODEL)
    assert wait(downloads) is None
    assert sum(path.startswith("/api/") for path, _ in hub.asked) == 1
    assert {path.split("/")[4] for path, _ in hub.asked if "/resolve/" in path} == {COMMIT}


def test_pause_resume_and_cancel(hub, downloads, settings):
    hub.bytes_per_s = 40_000
    downloads.add(MODEL)
    while not (at := downloads.current()[0]).bytes_done:
        time.sleep(0.02)
    assert at.state is DownloadState.RUNNING
    assert at.bytes_total > at.bytes_done
    while not (at := downloads.current()[0]).bytes_per_s:
        time.sleep(0.02)
    assert at.eta_s > 0
    began = time.monotonic()
    assert downloads.pause(MODEL).id == MODEL
    while downloads.current()[0].state is not DownloadState.PAUSED:
        time.sleep(0.01)
    assert time.monotonic() - began < within(3)
    assert downloads.current()[0].bytes_done > 0
    asked = len(hub.asked)
    time.sleep(0.3)
    assert len(hub.asked) == asked
    downloads.resume(MODEL)
    while len(hub.asked) == asked:
        time.sleep(0.02)
    downloads.cancel(MODEL)
    assert downloads.current() == []
    assert os.listdir(settings.downloads) == []
    with pytest.raises(NotFound):
        downloads.pause(MODEL)


def test_fifty_kills_lose_nothing_and_show_nothing_half(hub, settings, checkpoint):
    """Of the child or of the whole queue, at random moments."""
    hub.bytes_per_s = 5_000
    chance = random.Random(7)
    queue = Downloads(settings)
    queue.add(MODEL)
    kills = 0
    while queue.current():
        time.sleep(chance.uniform(0.0, 0.6))
        if not found(settings):
            assert not (settings.models / NAME).exists()
        child = queue._child
        if kills < 50 and child is not None:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
            if kills % 5 == 0:
                queue.stop()
                queue = Downloads(settings)
                queue.start()
        for one in queue.current():
            # The kills are spread over all of it, however fast this machine is.
            hub.bytes_per_s = None if kills >= 50 else 300_000 if one.fraction < kills / 60 else 5_000
            if one.state is DownloadState.FAILED:
                assert "ended by the system" in one.error
                queue.resume(MODEL)
    queue.stop()
    assert kills == 50
    assert is_the_repository(settings, checkpoint)
    assert queue.verify(MODEL) == []


def test_a_studio_that_starts_again_goes_on(hub, settings, checkpoint):
    hub.bytes_per_s = 100_000
    first = Downloads(settings)
    first.add(MODEL)
    while not first.current()[0].bytes_done:
        time.sleep(0.02)
    began = time.monotonic()
    first.stop()
    assert time.monotonic() - began < within(3)
    hub.bytes_per_s = None
    second = Downloads(settings)
    assert second.current()[0].bytes_done > 0
    second.start()
    assert wait(second) is None
    second.stop()
    assert is_the_repository(settings, checkpoint)


def test_verify_finds_a_flipped_bit_and_a_missing_file(hub, downloads, settings):
    downloads.add(MODEL)
    wait(downloads)
    file = settings.models / NAME / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (settings.models / NAME / "README.md").unlink(missing_ok=True)
    (settings.models / NAME / "tokenizer" / "tokenizer_config.json").unlink()
    assert sorted(downloads.verify(MODEL)) == [
        "tokenizer/tokenizer_config.json is missing",
        "vae/diffusion_pytorch_model.safetensors was changed or is damaged",
    ]


def test_a_model_is_removed_and_brought_back(hub, downloads, settings, checkpoint):
    downloads.add(MODEL)
    wait(downloads)
    downloads.remove(MODEL)
    assert found(settings) == []
    downloads.restore(MODEL)
    assert is_the_repository(settings, checkpoint)
    downloads.remove(MODEL)
    downloads.purge_trash(3600, time.time())
    assert [one.spec.id for one in downloads.trashed()] == [MODEL]
    downloads.purge_trash(3600, time.time() + 3700)
    with pytest.raises(NotFound):
        downloads.restore(MODEL)
    with pytest.raises(NotFound):
        downloads.remove(MODEL)


def test_a_model_of_another_folder_is_not_removed(tmp_path, checkpoint):
    build_checkpoint(tmp_path / "shared" / "random-df", "df")
    settings = Settings(data=tmp_path / "data", shared_models=tmp_path / "shared")
    with pytest.raises(Conflict, match="not removed here"):
        Downloads(settings).remove("random-df")


def test_what_is_no_model_of_the_registry_is_not_asked_for(hub, downloads):
    for wrong in ("skyreels-v2-tiny", "synthetic", "evil/repository", "../x"):
        with pytest.raises(NotFound, match="these can"):
            downloads.add(wrong)
    assert hub.asked == []


def test_a_checkpoint_from_another_folder_is_imported(downloads, settings, checkpoint, tmp_path):
    """As the hub's own cache has it: links in snapshots."""
    cached = tmp_path / f"models--Skywork--{NAME}" / "snapshots" / COMMIT
    for file in (path for path in checkpoint.rglob("*") if path.is_file()):
        link = cached / file.relative_to(checkpoint)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    (cached / "evil.py").write_text("import os")
    (cached / "transformer" / "model.bin").write_bytes(b"pickle")
    assert downloads.import_folder(cached).id == MODEL
    assert files_in(settings.models / NAME) == files_in(checkpoint)
    assert not any(path.is_symlink() for path in (settings.models / NAME).rglob("*"))
    assert not downloads.has_hashes(MODEL)
    with pytest.raises(Conflict, match="here already"):
        downloads.import_folder(cached)


def test_a_folder_of_the_hubs_cache_is_imported_by_its_name(downloads, settings, checkpoint, tmp_path):
    place = tmp_path / f"models--someone--{NAME}"
    shutil.copytree(checkpoint, place / "snapshots" / ("a" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    assert downloads.import_folder(place).id == MODEL
    assert files_in(settings.models / NAME) == files_in(checkpoint)


def test_a_variant_is_imported_where_it_is_what_is_loaded_and_side_files_are_not(
    downloads, settings, checkpoint, tmp_path
):
    source = shutil.copytree(checkpoint, tmp_path / NAME)
    (file,) = (source / "transformer").glob("*.safetensors")
    variant = file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    (source / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not loaded")
    (source / "vae" / "._config.json").write_bytes(b"\0\5\x16\7")
    downloads.import_folder(source)
    copied = {path.relative_to(settings.models / NAME) for path in (settings.models / NAME).rglob("*.*")}
    assert variant.relative_to(source) in copied
    assert Path("vae/diffusion_pytorch_model.fp16.safetensors") not in copied
    assert Path("vae/._config.json") not in copied


def test_what_cannot_be_imported_is_said(downloads, settings, checkpoint, tmp_path):
    with pytest.raises(InvalidRequest, match=r"model_index\.json is missing"):
        downloads.import_folder(tmp_path)
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InvalidRequest, match="cut short or damaged"):
        downloads.import_folder(broken)
    small = Downloads(settings.model_copy(update={"disk_reserve_bytes": shutil.disk_usage(settings.data).free}))
    with pytest.raises(NotEnoughSpace):
        small.import_folder(checkpoint)
    assert found(settings) == []
