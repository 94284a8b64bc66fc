"""The whole ASGI application in process, on a test's own data folder."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from backend import video_generator
from backend.web.server import create_app

HERE = "http://localhost"


@pytest.fixture
def client(settings, generator, monkeypatch) -> Iterator[TestClient]:
    """The studio's doors over `generator`."""
    monkeypatch.setattr(video_generator, "_shared", generator)
    monkeypatch.setattr("backend.web.server.stop_shared_generator", lambda: None)  # the fixture stops it
    with TestClient(create_app(settings), base_url=HERE) as client:
        yield client
