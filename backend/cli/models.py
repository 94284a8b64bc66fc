"""`models`: list, download, import, verify and remove models."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from backend.cli.follow import follow, report_end
from backend.cli.terminal import CANCELLED, FAILED, cell, err, explained, fail, open_studio, out, say
from backend.core.config import Settings
from backend.core.text import escape_control

models_app = typer.Typer(help="What can render here.", rich_markup_mode=None)


@models_app.command("list")
def models_list(
    all_of_them: Annotated[bool, typer.Option("--all", help="Those that can be downloaded, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """The models that can render here and now."""
    with open_studio() as studio:
        found = studio.models(all_of_them)
    if as_json:
        print(json.dumps(found))
        return
    table = Table(Column("model", no_wrap=True, overflow="fold"), "name", "modes", "memory", "", box=None)
    for spec in found:
        memory = spec["memory_gib"]
        table.add_row(
            cell(spec["id"]),
            cell(spec["title"]),
            ", ".join(spec["modes"]),
            f"{memory:.1f} GiB" if memory else "",
            "" if spec["present"] else "can be downloaded",
        )
    out.print(table)


@models_app.command("download")
def models_download(model: str) -> None:
    """Fetch a model from the hub; what was cut off goes on. Ctrl-C pauses it."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with open_studio() as studio:
        at = studio.download(model)
        try:
            with Progress(*columns, TimeRemainingColumn(), console=err) as bar:
                line = bar.add_task(escape_control(at["title"]), total=None)
                while at["state"] in ("queued", "running"):
                    bar.update(line, completed=at["bytes_done"], total=at["bytes_total"] or None)
                    time.sleep(0.2)
                    left = [one for one in studio.downloads() if one["id"] == model]
                    if not left:
                        break
                    at = left[0]
        except KeyboardInterrupt:
            studio.act_on_download(model, "pause")
            fail(f"{model} is paused; the same command goes on.", CANCELLED)
        if at["state"] in ("failed", "paused"):
            fail(at["error"] or f"{model} was paused.", FAILED)
    say(f"{model} is here.")


@models_app.command("remove")
def models_remove(
    model: str,
    for_good: Annotated[bool, typer.Option("--for-good", help="At once, not into the trash.")] = False,
) -> None:
    """Move a model to the trash, where it stays for a week."""
    with open_studio() as studio:
        studio.remove_model(model, for_good)
    say(f"{model} is removed." if for_good else f"{model} is in the trash; `models restore {model}` brings it back.")


@models_app.command("restore")
def models_restore(model: str) -> None:
    """Bring a model back from the trash."""
    with open_studio() as studio:
        studio.restore_model(model)
    say(f"{model} is back.")


@models_app.command("import")
def models_import(folder: Path) -> None:
    """Copy a checkpoint from a folder of this machine, for one without network."""
    from backend.library.downloads import Downloads

    with explained():
        say(f"{Downloads(with_folders()).import_folder(folder).id} is here.")


@models_app.command("verify")
def models_verify(
    model: str,
    render: Annotated[bool, typer.Option("--render", help="Also make a short video of each kind that it can.")] = False,
) -> None:
    """Hash a model's files anew and compare them with what was fetched."""
    from backend.library.downloads import Downloads

    with explained():
        downloads = Downloads(with_folders())
        wrong = downloads.verify(model)
        if wrong:
            fail(f"{model}: {'; '.join(wrong)}. Remove it and download it again.", FAILED)
        if not downloads.has_hashes(model):
            say(f"{model} was not fetched by this studio, so its hashes are unknown; its files can be read.")
        else:
            say(f"{model} is as it was fetched.")
    if render:
        try_model(model)


def try_model(model: str) -> None:
    """Render a short video of every kind and measure each."""
    from backend.library.checkpoints import find_checkpoints
    from backend.trial import checks

    (spec,) = (one.spec for one in find_checkpoints(Settings.from_env().model_folders) if one.spec.id == model)
    wrong = []
    with open_studio() as studio, tempfile.TemporaryDirectory() as folder:

        def make(params: dict[str, Any]) -> tuple[str, Path]:
            job = follow(studio, studio.submit(params))
            if job["state"] != "succeeded":
                report_end(job, None)
                raise typer.Exit(CANCELLED if job["state"] == "cancelled" else FAILED)
            video = Path(folder) / f"{job['id']}.mp4"
            studio.save_file(job["id"], video)
            return job["id"], video

        def upload(file: Path) -> str:
            return str(studio.upload(file)["id"])

        for check in checks(spec, make, upload):
            wrong.append(bool(check.faults))
            say(f"{check.what}, {check.job_id}: {'; '.join(check.faults) or 'no fault found'}")
    if bad := sum(wrong):
        are = "is" if bad == 1 else "are"
        fail(f"{spec.title}: {bad} of {len(wrong)} videos {are} not what was requested; see the gallery.", FAILED)
    say(f"{spec.title} does what it claims; the videos are in the gallery. Judge their quality by eye.")


def with_folders() -> Settings:
    """The settings, with the folder for models."""
    settings = Settings.from_env()
    settings.models.mkdir(parents=True, exist_ok=True)
    return settings
