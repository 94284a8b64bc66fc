"""What a command does with a studio that starts, starts again or is not there."""

import httpx
import pytest

from backend import studios
from backend.core.errors import NotFound, StudioBusy
from backend.studios import LocalStudio, reach
from backend.web import client
from backend.web.client import RemoteStudio

JOB = "0" * 20


@pytest.fixture
def clock(monkeypatch):
    """Waits pass at once; `naps` are their seconds."""

    class Clock:
        def __init__(self) -> None:
            self.naps: list[float] = []

        def monotonic(self) -> float:
            return sum(self.naps)

        def sleep(self, seconds: float) -> None:
            self.naps.append(seconds)

    clock = Clock()
    monkeypatch.setattr(client, "time", clock)
    monkeypatch.setattr(studios, "time", clock)
    return clock


class Away(RemoteStudio):
    """A studio that answers nobody `times` times, then everybody."""

    def __init__(self, times: int) -> None:
        super().__init__("http://localhost:1")
        self.asked: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            self.asked.append(request.url.path)
            if len(self.asked) <= times:
                raise httpx.ConnectError("nobody there")
            return httpx.Response(200, json={"id": JOB})

        self._http = httpx.Client(base_url=f"{self.url}/api/v1", transport=httpx.MockTransport(answer))


def test_who_only_looks_waits_for_a_studio_that_starts_again(clock):
    away = Away(times=9)
    assert away.job(JOB) == {"id": JOB}
    assert len(away.asked) == 10
    assert len(clock.naps) == 9


def test_a_studio_that_stays_away_is_said_after_a_minute(clock):
    with pytest.raises(StudioBusy, match="does not answer"):
        Away(times=10_000).job(JOB)
    assert 55 < sum(clock.naps) < 65


def test_what_changes_something_is_asked_once(clock):
    away = Away(times=1)
    with pytest.raises(StudioBusy, match="does not answer"):
        away.act(JOB, "cancel")
    assert (away.asked, clock.naps) == ([f"/api/v1/jobs/{JOB}/cancel"], [])


@pytest.mark.parametrize("name", ["../queue", "", "a?b", "..", "a/b", JOB + "/"])
def test_what_is_no_job_becomes_part_of_no_address(name):
    away = Away(times=0)
    for ask in (away.job, lambda name: away.act(name, "pause"), lambda name: away.save_video(name, None)):
        with pytest.raises(NotFound, match="There is no job"):
            ask(name)
    assert away.asked == []


def test_a_folder_that_a_command_holds_is_waited_for_a_moment(settings, clock, monkeypatch):
    holding = LocalStudio(settings)
    with pytest.raises(StudioBusy, match=r"already uses the data folder .* a command may be rendering there"):
        reach(settings)
    assert 4 < sum(clock.naps) < 6
    nap = clock.sleep

    def ends_meanwhile(seconds: float) -> None:
        holding.close()
        nap(seconds)

    monkeypatch.setattr(clock, "sleep", ends_meanwhile)
    reach(settings).close()


def test_a_studio_that_has_the_folder_and_begins_to_serve_is_reached(settings, clock, monkeypatch):
    holding = LocalStudio(settings)
    monkeypatch.setattr(client, "running_studio", lambda settings: "http://localhost:1" if clock.naps else None)
    found = reach(settings)
    assert isinstance(found, RemoteStudio)
    found.close()
    holding.close()
