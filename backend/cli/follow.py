"""Waiting for a job from the terminal: a progress bar, the end, the result copied out."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer

from backend.cli.terminal import CANCELLED, DONE, FAILED, complain, err, fail, say
from backend.core.config import Settings
from backend.core.errors import Conflict, NoAnswer, StudioError
from backend.studios import Studio
from backend.system.supervisor import LONGEST_WAIT_S

T = TypeVar("T")
RESTART_S = LONGEST_WAIT_S + 30.0  # for which a studio that starts again may be away


def check_queue_runs(studio: Studio) -> None:
    """Refuse to wait for a queue that is paused."""
    if studio.queue_paused():
        fail("The queue is paused, so the job would wait; resume it first: queue resume.", FAILED)


def finish(
    studio: Studio, job: dict[str, Any], out_file: Path | None, also_cancel: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """The job when it has ended, its result copied to `out_file`."""
    try:
        job = follow(studio, job, also_cancel)
    except NoAnswer as gone:
        way_out = f"start it again, and job {job['id']} goes on; `jobs cancel {job['id']}` ends it."
        raise NoAnswer(gone.message, hint=way_out) from gone
    if job["state"] == "succeeded" and out_file is not None:
        copy_result(studio, job["id"], out_file)
    return job


def finish_batch(studio: Studio, jobs: list[dict[str, Any]], out_file: Path | None) -> list[dict[str, Any]]:
    """The jobs of a batch when all have ended, their results copied to numbered files. Ctrl-C cancels all that have not
    ended.
    """
    numbers = range(1, len(jobs) + 1)
    return [finish(studio, jobs[n - 1], numbered(out_file, n), also_cancel=jobs[n:]) for n in numbers]


def numbered(file: Path | None, number: int) -> Path | None:
    """
    >>> numbered(Path("boats/red.mp4"), 2)
    PosixPath('boats/red-2.mp4')
    """
    return file and file.with_stem(f"{file.stem}-{number}")


def exit_with(job: dict[str, Any], out_file: Path | None, as_json: bool) -> None:
    if as_json:
        print(json.dumps(job))
    else:
        report_end(job, out_file)
    raise typer.Exit(exit_code(job))


def exit_code(job: dict[str, Any]) -> int:
    return {"succeeded": DONE, "cancelled": CANCELLED}.get(job["state"], FAILED)


def can_write(file: Path) -> bool:
    """Whether a video can be written there, checked before an hour of rendering; makes the folder."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return not file.is_dir() and os.access(file if file.exists() else file.parent, os.W_OK)
    except OSError:
        return False


def copy_result(studio: Studio, job_id: str, to: Path) -> None:
    """Put the result there whole, or not at all."""
    part, where = to.with_name(f"{to.name}.part"), f"the result is in outputs/{job_id}/."
    try:
        patiently(lambda: studio.save_file(job_id, part))
        part.replace(to)
    except OSError as error:
        raise StudioError(f"--out {to} cannot be written ({error.strerror or error});", hint=where) from error
    except NoAnswer as gone:
        raise NoAnswer(gone.message, hint=where) from gone
    finally:
        part.unlink(missing_ok=True)


def patiently(ask: Callable[[], T], away: Callable[[], None] = lambda: None) -> T:
    """What `ask` gives, also of a studio that is away because it starts again; `away` is called meanwhile."""
    until = time.monotonic() + RESTART_S
    while True:
        try:
            return ask()
        except NoAnswer:
            if time.monotonic() >= until:
                raise
        away()
        time.sleep(0.5)


def follow(studio: Studio, job: dict[str, Any], also_cancel: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The job when it has ended, shown until then; Ctrl-C cancels it, and before it those that would come next."""
    try:
        return show(studio, job)
    except KeyboardInterrupt:
        for one in (*also_cancel, job):
            cancel(studio, one["id"])
        return wait_for_end(studio, job)


def cancel(studio: Studio, job_id: str) -> None:
    """End a job, unless it has ended already."""
    try:
        studio.act(job_id, "cancel")
    except StudioError as refusal:
        if refusal.status != Conflict.status:
            raise


def show(studio: Studio, job: dict[str, Any]) -> dict[str, Any]:
    """Show a progress bar on stderr until the job has ended."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as bar:
        line = bar.add_task("queued", total=1.0)
        while job["state"] in ("queued", "running", "paused"):
            at = job["progress"]
            bar.update(line, completed=at["fraction"] if at else 0.0, description=describe(job))
            time.sleep(0.2)
            away = functools.partial(bar.update, line, description="waiting for the studio")
            job = patiently(functools.partial(studio.job, job["id"]), away)
        bar.update(line, completed=1.0 if job["state"] == "succeeded" else None, description=job["state"])
    return job


def wait_for_end(studio: Studio, job: dict[str, Any]) -> dict[str, Any]:
    while job["state"] in ("queued", "running", "paused"):
        time.sleep(0.1)
        job = studio.job(job["id"])
    return job


def describe(job: dict[str, Any]) -> str:
    at = job["progress"]
    if not at or job["state"] != "running":
        return str(job["state"])
    why = f" ({at['eta_reason']})" if at.get("eta_reason") else ""
    left = f", about {at['eta_s']:.0f} s left{why}" if at["eta_s"] is not None else ""
    step = f" step {at['step']} of {at['steps']}" if at["step"] else ""
    return f"{at['stage']}{step}{left}"


def report_end(job: dict[str, Any], out_file: Path | None) -> None:
    if job["state"] == "succeeded":
        artifact = job["artifact"]
        where = out_file or Settings.from_env().data / (artifact.get("video") or artifact["file"])
        frames = "1 frame" if artifact["frames"] == 1 else f"{artifact['frames']} frames"
        words = f"{where}: {frames}, {artifact['width']}x{artifact['height']}, {artifact['fps']:g} fps"
        if job["kind"] == "render":
            words += f", made by {job['plan']['model_title']} in {artifact['render_s']:.1f} s"
        say(words)
    elif job["error"]:
        complain(job["error"]["message"])
    else:
        complain(f"Job {job['id']} is {job['state']}.")
