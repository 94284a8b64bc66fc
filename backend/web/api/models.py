"""Models, LoRAs and downloads."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from backend.core.errors import InvalidRequest
from backend.web.api.common import Generator, api
from backend.web.api.uploads import check_length, keeps_coming

LORA_LIMIT = 8 * 2**30  # bytes


@api.get("/models", tags=["models"])
def models(generator: Generator, all: bool = False) -> dict[str, Any]:
    """The models that can render here and now, and why other folders in models/ cannot; with `all`, also those that can
    be fetched.
    """
    found = [spec.as_dict() | {"present": present} for spec, present in generator.catalog.list(downloads=all)]
    return {"models": found, "refused": generator.catalog.rejected()}


@api.delete("/models/{model_id}", tags=["models"])
def remove_model(model_id: str, generator: Generator, for_good: bool = False) -> dict[str, str]:
    """Move a model to the trash, where it stays for a week; with `for_good` it is gone at once."""
    generator.remove_model(model_id, for_good=for_good)
    return {"removed": model_id}


@api.post("/models/{model_id}/restore", tags=["models"])
def restore_model(model_id: str, generator: Generator) -> dict[str, str]:
    """Bring a model back from the trash."""
    generator.restore_model(model_id)
    return {"restored": model_id}


@api.get("/loras", tags=["models"])
def list_loras(generator: Generator) -> dict[str, Any]:
    """The LoRAs in models/loras, and why other files there are none."""
    found, refused = generator.loras.all()
    return {"loras": [lora.as_dict() for lora in found], "refused": refused}


@api.post("/loras", status_code=201, tags=["models"])
async def add_lora(request: Request, generator: Generator, filename: str = "") -> dict[str, Any]:
    """Keep a LoRA: its safetensors file as the raw body. Streamed to disk, then checked."""
    check_length(request, LORA_LIMIT)
    slots: asyncio.Semaphore = request.app.state.upload_slots
    async with slots:
        body = Request(request.scope, keeps_coming(request, LORA_LIMIT)).stream()
        with generator.loras.receive(filename) as incoming:
            try:
                async for chunk in body:
                    await run_in_threadpool(incoming.write, chunk)
            except ClientDisconnect:
                raise InvalidRequest("The upload was cut off;", hint="send the file again.") from None
            lora = await run_in_threadpool(incoming.accept)
    return lora.as_dict() | {"id": lora.name, "kind": "lora"}


@api.delete("/loras/{name:path}", tags=["models"])
def remove_lora(name: str, generator: Generator, for_good: bool = False) -> dict[str, str]:
    """Move a LoRA, named with its subfolders, to the trash, where it stays for a week; with `for_good` it is gone at
    once.
    """
    generator.remove_lora(name, for_good=for_good)
    return {"removed": name}


@api.post("/loras/{name:path}/restore", tags=["models"])
def restore_lora(name: str, generator: Generator) -> dict[str, str]:
    """Bring a LoRA back from the trash."""
    generator.loras.restore(name)
    return {"restored": name}


class DownloadRequest(BaseModel):
    """The id of a model that is to be fetched."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=200)


@api.post("/downloads", status_code=202, tags=["models"])
def download(request: DownloadRequest, generator: Generator) -> dict[str, Any]:
    """Download a model of the registry from the hub; a second call resumes it."""
    return generator.downloads.add(request.model).as_dict()


@api.get("/downloads", tags=["models"])
def list_downloads(generator: Generator) -> dict[str, Any]:
    """The models on their way here."""
    return {"downloads": [download.as_dict() for download in generator.downloads.current()]}


@api.post("/downloads/{model_id}/{action}", tags=["models"])
def act_on_download(model_id: str, action: str, generator: Generator) -> dict[str, Any]:
    """`pause`, `resume`, or `cancel`, which throws away what was fetched."""
    queue = generator.downloads
    actions = {"pause": queue.pause, "resume": queue.resume, "cancel": queue.cancel}
    if action not in actions:
        raise HTTPException(404)
    return actions[action](model_id).as_dict()
