"""The whole ASGI application in process. Streamlit allows one runtime a process, so the application is made once and
each test puts its own generator behind it.
"""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from backend import video_generator
from backend.core.config import Settings
from backend.web import server

HERE = "http://localhost"


@pytest.fixture(scope="session")
def doors(tmp_path_factory) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "shared_generator", lambda settings: None)
        patch.setattr(server, "stop_shared_generator", lambda: None)
        folder = tmp_path_factory.mktemp("doors")
        app = server.create_app(Settings(data=folder, shared_models=folder / "none"))
        with TestClient(app, base_url=HERE) as client:
            yield client


@pytest.fixture
def client(doors, generator, monkeypatch) -> TestClient:
    """The studio's doors over `generator`."""
    monkeypatch.setattr(video_generator, "_shared", generator)
    doors.app.state.generator = generator
    return doors
