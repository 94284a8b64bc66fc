"""REST client of a running studio, for the command line when the data folder is in use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from backend.core.config import Settings
from backend.core.errors import Mention, NoAnswer, StudioError, no_such_job
from backend.core.ids import is_id
from backend.web.network import read_token

UPLOAD_TIMEOUT_S = 600.0
EXPAND_TIMEOUT_S = 300.0


def running_studio(settings: Settings) -> str | None:
    """The URL of the studio that serves this data folder, if one answers."""
    try:
        url = str(json.loads(settings.address.read_text())["url"])
        with direct_client(url, timeout_s=3, headers=key(settings)) as http:
            return url if http.get("/healthz").status_code == 200 else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError, httpx.HTTPError, httpx.InvalidURL):
        return None


def direct_client(base_url: str, timeout_s: float, headers: Mapping[str, str] | None = None) -> httpx.Client:
    """An HTTP client that ignores `http_proxy` and its like: a proxy would be sent the studio's token."""
    return httpx.Client(base_url=base_url, timeout=timeout_s, headers=headers, trust_env=False)


def key(settings: Settings) -> dict[str, str]:
    """The Authorization header with the token; empty if there is none."""
    token = read_token(settings.token)
    return {"Authorization": f"Bearer {token}"} if token else {}


def _of_job(job_id: str) -> str:
    """The path of a job. Raises NotFound for what is no id, so that nothing else becomes part of a path."""
    if not is_id(job_id):
        raise no_such_job(job_id)
    return f"/jobs/{job_id}"


class RemoteStudio:
    """Client of a running studio with the calls of `Studio`, which return JSON. Raises StudioError with the studio's
    message, or NoAnswer.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        self.url, self.serves = url, True
        self._http = direct_client(f"{url}/api/v1", timeout_s=30, headers=headers)

    def close(self) -> None:
        self._http.close()

    def upload(self, path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            return self._call(
                "POST", "/uploads", params={"filename": path.name}, content=file, timeout=UPLOAD_TIMEOUT_S
            )

    def plan(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", "/plan", json=dict(request))

    def expand(self, prompt: str, model: str, variation: int, by_rules: bool) -> dict[str, Any]:
        body = {"prompt": prompt, "model": model, "variation": variation, "by_rules": by_rules}
        return self._call("POST", "/prompts/expand", json=body, timeout=EXPAND_TIMEOUT_S)

    def submit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", "/jobs", json=dict(request))

    def job(self, job_id: str) -> dict[str, Any]:
        return self._call("GET", _of_job(job_id))

    def jobs(self, states: list[str], limit: int) -> list[dict[str, Any]]:
        return list(self._call("GET", "/jobs", params={"state": states, "limit": limit})["jobs"])

    def act(self, job_id: str, action: str) -> dict[str, Any]:
        return self._call("POST", f"{_of_job(job_id)}/{action}")

    def derive(self, job_id: str, how: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", f"{_of_job(job_id)}/{how}", json=dict(changes))

    def vary(self, job_id: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", f"{_of_job(job_id)}/vary", json=dict(wanted))

    def variations(self, request: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", "/variations", json={**wanted, "request": dict(request)})

    def promote(self, job_id: str) -> dict[str, Any]:
        return self.act(job_id, "promote")

    def models(self, all: bool = False) -> list[dict[str, Any]]:
        return list(self._call("GET", "/models", params={"all": all})["models"])

    def download(self, model_id: str) -> dict[str, Any]:
        return self._call("POST", "/downloads", json={"model": model_id})

    def downloads(self) -> list[dict[str, Any]]:
        return list(self._call("GET", "/downloads")["downloads"])

    def act_on_download(self, model_id: str, action: str) -> dict[str, Any]:
        return self._call("POST", f"/downloads/{quote(model_id, safe='')}/{action}")

    def remove_model(self, model_id: str, for_good: bool) -> None:
        self._call("DELETE", f"/models/{quote(model_id, safe='')}", params={"for_good": for_good})

    def restore_model(self, model_id: str) -> None:
        self._call("POST", f"/models/{quote(model_id, safe='')}/restore")

    def loras(self) -> dict[str, Any]:
        return self._call("GET", "/loras")

    def add_lora(self, path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            return self._call("POST", "/loras", params={"filename": path.name}, content=file)

    def remove_lora(self, name: str, for_good: bool) -> None:
        self._call("DELETE", f"/loras/{quote(name, safe='')}", params={"for_good": for_good})

    def restore_lora(self, name: str) -> None:
        self._call("POST", f"/loras/{quote(name, safe='')}/restore")

    def queue_paused(self) -> bool:
        return bool(self._call("GET", "/system")["queue_paused"])

    def pause_queue(self, paused: bool) -> None:
        self._call("POST", f"/queue/{'pause' if paused else 'resume'}")

    def save_file(self, job_id: str, to: Path) -> None:
        try:
            with self._http.stream("GET", f"{_of_job(job_id)}/file") as answer, to.open("wb") as file:
                if not answer.is_success:
                    answer.read()
                    raise _refusal(answer)
                for chunk in answer.iter_bytes(2**20):
                    file.write(chunk)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from None

    def _no_answer(self, error: httpx.HTTPError) -> NoAnswer:
        return NoAnswer(f"The studio at {self.url} does not answer ({error});", hint="start it again.")

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from None
        if not answer.is_success:
            raise _refusal(answer)
        body: dict[str, Any] = answer.json()
        return body


def _refusal(answer: httpx.Response) -> StudioError:
    """The error in the studio's response."""
    found = answer.json().get("error", {})
    failure = StudioError(_words(found) or str(answer.status_code), field=found.get("field"))
    failure.status, failure.code = answer.status_code, str(found.get("code"))
    return failure


def _words(found: Mapping[str, Any]) -> list[str | Mention]:
    """The sentence of an error's body, in the pieces that it has."""
    pieces = found.get("parts", [found.get("message", "")])
    return [Mention(piece["field"], piece["value"]) if isinstance(piece, dict) else str(piece) for piece in pieces]
