"""The machine over REST: its load over the last half hour, how jobs ended, the checks of the installation."""

import sys
import threading

import pytest

from backend.core.config import ROOT
from backend.core.errors import RenderFailed
from backend.doctor import Check
from backend.web.api import system


def test_the_history_has_the_samples_oldest_first_and_can_begin_where_one_left_off(client, generator):
    with generator.monitor._lock:
        sample = generator.monitor._measure()
        generator.monitor._samples.extend([sample, sample])
    found = client.get("/api/v1/system/history").json()
    times = [one["time"] for one in found["samples"]]
    assert found["history_s"] == 1800
    assert len(times) >= 2
    assert times == sorted(times)
    now = client.get("/api/v1/system").json()["now"]
    assert set(found["samples"][0]) == set(now)
    assert client.get("/api/v1/system/history", params={"since": times[-1]}).json()["samples"] == []
    assert client.get("/api/v1/system/history", params={"since": "yesterday"}).status_code == 422


def test_jobs_are_counted_by_how_they_ended(client, generator, faults, a_request):
    done = generator.wait(generator.submit(a_request()).id, timeout=100)
    faults.raise_at = {1: RenderFailed("The pencil broke;", hint="sharpen it.")}
    generator.wait(generator.submit(a_request(seed=2)).id, timeout=100)
    generator.pause_queue(True)
    generator.cancel(generator.submit(a_request(seed=3)).id)
    [stats] = client.get("/api/v1/system").json()["models"]
    assert (stats["succeeded"], stats["failed"], stats["cancelled"]) == (1, 1, 1)
    assert stats["median_s"] == done.artifact.render_s


def test_the_doctor_tells_its_findings_without_paths(client, generator, monkeypatch):
    checks = [
        Check("Python", "ok", f"3.11.2 in {sys.prefix}"),
        Check("Disk", "failed", f"1 of 9 GiB free for {generator.settings.data}", "delete videos"),
        Check("Models", "warning", f"{ROOT}/models/broken cannot be used", "see /mnt/disk/models.txt"),
        Check("torchvision", "failed", "it does not fit", f"remove it: {sys.executable} -m pip uninstall torchvision"),
        Check("Port", "ok", "a studio is open at http://localhost:8501"),
    ]
    monkeypatch.setattr(system, "run_checks", lambda settings: checks)
    found = client.post("/api/v1/doctor").json()["checks"]
    assert [check["status"] for check in found] == ["ok", "failed", "warning", "failed", "ok"]
    assert found[1] == {
        "name": "Disk",
        "status": "failed",
        "detail": "1 of 9 GiB free for the data folder",
        "way_out": "delete videos",
    }
    assert found[2]["detail"] == "models/broken cannot be used"
    assert found[2]["way_out"] == "see models.txt"
    assert found[3]["way_out"].endswith("-m pip uninstall torchvision")
    assert found[4]["detail"] == "a studio is open at http://localhost:8501"
    text = str(found)
    for path in (str(generator.settings.data), str(ROOT), sys.prefix, sys.executable):
        assert path not in text


def test_the_checks_run_once_at_a_time(client, monkeypatch):
    began, go_on = threading.Event(), threading.Event()

    def slow(settings):
        began.set()
        assert go_on.wait(60)
        return []

    monkeypatch.setattr(system, "run_checks", slow)
    answers = []
    first = threading.Thread(target=lambda: answers.append(client.post("/api/v1/doctor")))
    first.start()
    assert began.wait(60)
    refused = client.post("/api/v1/doctor")
    go_on.set()
    first.join()
    assert refused.status_code == 409
    assert refused.json()["error"]["message"].startswith("The checks are running already;")
    assert [answer.json() for answer in answers] == [{"checks": []}]
    assert client.post("/api/v1/doctor").status_code == 200


def test_a_check_that_breaks_does_not_lock_the_others_out(client, monkeypatch):
    def broken(settings):
        raise OSError("no more processes")

    monkeypatch.setattr(system, "run_checks", broken)
    with pytest.raises(OSError, match="processes"):
        client.post("/api/v1/doctor")
    monkeypatch.setattr(system, "run_checks", lambda settings: [])
    assert client.post("/api/v1/doctor").json() == {"checks": []}
