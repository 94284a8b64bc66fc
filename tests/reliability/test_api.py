"""P20: whatever is asked, no answer is a server error, and every refusal is JSON with code, message and field."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.core import NotSet

EVENTS = "/api/v1/jobs/{job_id}/events"  # goes on for as long as the job does


@pytest.fixture
def paused(client, generator, a_request):
    """An HTTP client of a studio with a film, a waiting job and an upload, that starts nothing more."""
    generator.wait(generator.submit(a_request()).id, 30)
    generator.pause_queue(True)
    generator.submit(a_request(seed=2))
    return client


def operations(client) -> list[Any]:
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    return [found.ok() for found in schema.get_all_operations() if found.ok().path != EVENTS]


def ask_everything(client, generator, cases: int) -> int:
    """So many cases of every operation, good and bad ones; how many there were."""
    known = [job.id for job in generator.store.find()]
    asked = 0

    def check(case: Any, data: Any) -> None:
        nonlocal asked
        asked += 1
        path = case.formatted_path
        for word in ("job_id", "upload_id"):
            if word in (case.path_parameters or {}) and data.draw(st.booleans()):
                path = case.path.replace(f"{{{word}}}", data.draw(st.sampled_from(known)))
                path = path.replace(
                    "{action}", data.draw(st.sampled_from(["cancel", "pause", "retry", "restore", "x"]))
                )
        body = None if isinstance(case.body, NotSet) else case.body
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        headers = {name: str(value) for name, value in (case.headers or {}).items()}
        if case.media_type:
            headers["content-type"] = case.media_type
        try:
            request = client.build_request(case.method, path, params=case.query, headers=headers, content=content)
        except (UnicodeError, ValueError, TypeError):
            return  # no client could send this
        answer = client.send(request)
        assert answer.status_code < 500 or answer.status_code in (503, 507), (case.method, path, answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) - {"parts"} == {"code", "message", "field"}
            assert "Traceback" not in answer.text

    for operation in operations(client):
        for mode in schemathesis.GenerationMode:
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=cases,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            )
            @given(case=strategy, data=st.data())
            def run(case: Any, data: Any) -> None:
                check(case, data)

            with contextlib.suppress(Unsatisfiable):  # some operations cannot be asked wrongly
                run()
        generator.pause_queue(True)
    return asked


def test_no_case_is_a_server_error(paused, generator):
    asked = ask_everything(paused, generator, 15)
    print(f"{asked} cases")
    assert asked > 250


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_thousand_cases_are_no_server_error(paused, generator):
    asked = ask_everything(paused, generator, 1000)
    print(f"{asked} cases")
    assert asked >= 10_000
