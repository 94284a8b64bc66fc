"""The WebSocket of the pages: what it sends, who may open it, and that one poller serves all."""

import json
from contextlib import ExitStack

import pytest
from starlette.websockets import WebSocketDisconnect

from backend.web.api import feed
from tests.web.test_api import SMALL, submit

URL = "ws://localhost/api/v1/live"


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(feed, "EVERY_S", 0.01)


def until(socket, wanted):
    """The first message that `wanted` is true of."""
    while not wanted(message := socket.receive_json()):
        pass
    return message


def test_a_page_is_told_all_of_it_and_then_the_changes(client, generator):
    generator.pause_queue(True)
    first = submit(client)
    with client.websocket_connect(URL) as socket:
        message = socket.receive_json()
        assert set(message) == {"version", "order", "jobs", "paused", "draft", "preview", "videos", "downloads"}
        assert (message["order"], message["paused"]) == ([first["id"]], True)
        assert message["jobs"] == [first]
        second = submit(client, seed=2)
        message = until(socket, lambda message: "order" in message)
        assert message["order"] == [first["id"], second["id"]]
        assert message["jobs"] == [second]
        assert "paused" not in message
        client.put("/api/v1/draft", json={"form": SMALL})
        assert until(socket, lambda message: "draft" in message)["draft"] == 1
        client.post("/api/v1/queue/resume")
        states = {}
        while states.get(second["id"]) != "succeeded":
            states |= {job["id"]: job["state"] for job in socket.receive_json()["jobs"]}


def test_a_socket_of_what_a_page_may_send_ignores_it(client, generator):
    generator.pause_queue(True)
    with client.websocket_connect(URL) as socket:
        socket.receive_json()
        socket.send_text("[" * 1000)
        socket.send_bytes(b"\xff")
        job = submit(client)
        assert until(socket, lambda message: "order" in message)["order"] == [job["id"]]


def test_many_pages_share_one_poller_and_one_text(client, generator, monkeypatch):
    generator.pause_queue(True)
    dumped = []
    monkeypatch.setattr(feed.json, "dumps", lambda value: dumped.append(value) or json.JSONEncoder().encode(value))
    with ExitStack() as stack:
        sockets = [stack.enter_context(client.websocket_connect(URL)) for _ in range(20)]
        for socket in sockets:
            socket.receive_json()
        broadcast = client.app.state.broadcast
        assert broadcast.connections == 20
        assert len([value for value in dumped if isinstance(value, dict) and "version" in value]) == 1
        job = submit(client)
        for socket in sockets:
            assert until(socket, lambda message: "order" in message)["order"] == [job["id"]]
        assert client.app.state.broadcast is broadcast
    assert broadcast.connections == 0
    with client.websocket_connect(URL) as socket:
        assert socket.receive_json()["order"] == [job["id"]]
        assert client.app.state.broadcast is not broadcast


def test_pages_are_closed_and_connect_again_where_the_history_cannot_be_read(client, generator, monkeypatch):
    def refuse():
        raise OSError("the disk is away")

    with client.websocket_connect(URL) as socket:
        socket.receive_json()
        monkeypatch.setattr(generator.feed, "poll", refuse)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
        assert closed.value.code == feed.TRY_AGAIN
    monkeypatch.undo()
    with client.websocket_connect(URL) as socket:
        assert socket.receive_json()["order"] == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"host": "evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://evil.example", "host": "evil.example"},
    ],
)
def test_a_page_of_another_site_is_told_nothing(client, headers):
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect(URL, headers=headers):
        pass
    assert closed.value.code == 1008


def test_its_address_is_no_page(client):
    assert client.get("/api/v1/live").status_code == 405
