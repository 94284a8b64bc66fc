"""Models, LoRAs and downloads."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from backend.core.errors import InvalidRequest
from backend.core.model_choice import fit_words, recommend
from backend.core.registry import ModelSpec
from backend.core.units import GIB
from backend.library.loras import Lora
from backend.system.monitoring import nearest_folder
from backend.video_generator import VideoGenerator
from backend.web.api.common import Generator, api
from backend.web.api.uploads import check_length, keeps_coming

LORA_LIMIT = 8 * 2**30  # bytes
HUB = "https://huggingface.co"
LICENCES = {"Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0"}  # other ones are named on the model card


@api.get("/models", tags=["models"])
def models(generator: Generator, all: bool = False) -> dict[str, Any]:
    """The models that can render here and now, and why other folders in models/ cannot; with `all`, also those that can
    be fetched, which one suits this machine best, the trash, and what a download needs.
    """
    listed = generator.catalog.list(downloads=all)
    folders = {one.spec.id: one.folder for one in generator.catalog.checkpoints()}
    trashed = {one.spec.id: one.spec.title for one in generator.downloads.trashed()}
    found = [
        _model(spec, folders.get(spec.id), generator) | {"present": present, "trashed": spec.id in trashed}
        for spec, present in listed
    ]
    answer = {"models": found, "refused": generator.catalog.rejected()}
    if not all:
        return answer
    best = recommend([spec for spec, _ in listed], generator.free_machine)
    return answer | {
        "recommended": {"model": best.spec.id, "why": best.why},
        "automatic": automatic.id if (automatic := generator.submission.automatic_model()) else None,
        "trashed": [{"id": model_id, "title": title} for model_id, title in trashed.items()],
        "offline": generator.settings.offline,
        "disk_free_bytes": shutil.disk_usage(nearest_folder(generator.settings.models)).free,
    }


def _model(spec: ModelSpec, folder: Path | None, generator: VideoGenerator) -> dict[str, Any]:
    """A row of the registry with what this machine makes of it. `folder` has its weights, if they are here."""
    plan = generator.submission.suitability(spec).plan
    fits, fit = fit_words(spec, generator.free_machine)
    card = f"{HUB}/{spec.repo_id}" if spec.repo_id else None
    return spec.as_dict() | {
        "fits": fits,
        "fit": fit,
        "forecast": {
            **{name: getattr(plan.forecast, name) for name in ("total_s", "low_s", "high_s", "peak_gib")},
            **{name: getattr(plan, name) for name in ("width", "height", "num_frames", "fps")},
        },
        "bytes": _bytes_in(folder) if folder else None,
        "download_bytes": round(spec.memory_gib * GIB) if spec.repo_id else None,
        "card_url": card,
        "licence_url": LICENCES.get(spec.licence, card),
        "removable": folder is not None and generator.downloads.is_removable(folder),
    }


def _bytes_in(folder: Path) -> int:
    """The bytes of all files in a folder, which somebody may be moving away."""
    found = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found += file.stat().st_size if file.is_file() else 0
    return found


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
    """The LoRAs in models/loras, why other files there are none, and the names of those in the trash."""
    found, refused = generator.loras.all()
    loras = [_lora(lora, generator) for lora in found]
    return {"loras": loras, "refused": refused, "trashed": generator.loras.trashed()}


def _lora(lora: Lora, generator: VideoGenerator) -> dict[str, Any]:
    """A LoRA, with the reason why it does not fit for each installed model, null for those that it fits."""
    fits = {spec.id: lora.incompatibility(spec) for spec in generator.models()}
    return lora.as_dict() | {"fits": fits, "removable": generator.loras.is_removable(lora)}


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
