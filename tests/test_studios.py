"""What a command does with a studio that starts, refuses or is not there."""

import httpx
import pytest

from backend import studios
from backend.core.errors import FolderTaken, NoAnswer, NotFound, StudioError
from backend.studios import LocalStudio, connect
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
    monkeypatch.setattr(studios, "time", clock)
    return clock


class Answering(RemoteStudio):
    """A studio that says `answer` to everybody, or nothing."""

    def __init__(self, answer: httpx.Response | None) -> None:
        super().__init__("http://localhost:1")
        self.asked: list[str] = []

        def say(request: httpx.Request) -> httpx.Response:
            self.asked.append(request.url.path)
            if answer is None:
                raise httpx.ConnectError("nobody there")
            return answer

        self._http = httpx.Client(base_url=f"{self.url}/api/v1", transport=httpx.MockTransport(say))


def test_a_studio_that_is_not_there_is_said(tmp_path):
    for ask in (lambda: Answering(None).job(JOB), lambda: Answering(None).save_file(JOB, tmp_path / "film.mp4")):
        with pytest.raises(NoAnswer, match=r"localhost:1 does not answer \(nobody there\); start it"):
            ask()


def test_what_it_refuses_is_said_in_its_words(tmp_path):
    refusal = {"error": {"code": "not_found", "message": "The film is gone;", "field": None}}
    for ask in (lambda studio: studio.job(JOB), lambda studio: studio.save_file(JOB, tmp_path / "film.mp4")):
        with pytest.raises(StudioError, match=r"^The film is gone;$") as refused:
            ask(Answering(httpx.Response(404, json=refusal)))
        assert (refused.value.status, refused.value.code) == (404, "not_found")


@pytest.mark.parametrize("name", ["../queue", "", "a?b", "..", "a/b", JOB + "/"])
def test_what_is_no_job_becomes_part_of_no_address(name):
    studio = Answering(None)
    for ask in (studio.job, lambda name: studio.act(name, "pause"), lambda name: studio.save_file(name, None)):
        with pytest.raises(NotFound, match="There is no job"):
            ask(name)
    assert studio.asked == []


def test_a_folder_that_a_command_holds_is_waited_for_a_moment(settings, clock, monkeypatch):
    holding = LocalStudio(settings)
    with pytest.raises(FolderTaken, match=r"is in use by another studio, or by a command that renders;"):
        connect(settings)
    assert 4 < sum(clock.naps) < 6
    nap = clock.sleep

    def ends_meanwhile(seconds: float) -> None:
        holding.close()
        nap(seconds)

    monkeypatch.setattr(clock, "sleep", ends_meanwhile)
    connect(settings).close()


def test_a_studio_that_has_the_folder_and_begins_to_serve_is_reached(settings, clock, monkeypatch):
    holding = LocalStudio(settings)
    monkeypatch.setattr(client, "running_studio", lambda settings: "http://localhost:1" if clock.naps else None)
    found = connect(settings)
    assert isinstance(found, RemoteStudio)
    found.close()
    holding.close()
