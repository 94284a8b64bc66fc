"""`jobs`: list, show, cancel, pause, resume and retry jobs; make new ones from them."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from backend.cli.flags import DOTTED, SWEEP, VARYING, request_flags, send_named_files, sweep_of
from backend.cli.terminal import BAD_REQUEST, cell, fail, open_studio, out, remark, say
from backend.core.inputs import INPUTS, mode_for
from backend.core.schema import SETTINGS
from backend.jobs.job import JobState
from backend.studios import Studio

jobs_app = typer.Typer(help="Look after jobs, and make new ones from them.", rich_markup_mode=None)


@jobs_app.command("list")
def jobs_list(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """The newest jobs first."""
    known = [s.value for s in JobState]
    for name in state or []:
        if name not in known:
            fail(f"--state {name} is not a state; use {', '.join(known)}.", BAD_REQUEST)
    with open_studio() as studio:
        found = studio.jobs(state or [], limit)
    if as_json:
        print(json.dumps(found))
        return
    table = Table("job", "state", "done", "title", box=None)
    for job in found:
        done = f"{job['progress']['fraction']:.0%}" if job["progress"] and job["state"] == "running" else ""
        table.add_row(job["id"], job["state"], done, cell(job["title"][:60]))
    out.print(table)


@jobs_app.command("show")
def jobs_show(job_id: str) -> None:
    """One job as JSON."""
    with open_studio() as studio:
        print(json.dumps(studio.job(job_id), indent=2))


def waits(studio: Studio) -> str:
    """What to add to the word that a job is queued where nothing renders it yet."""
    return "" if studio.serves else "; it starts when the studio runs: ./launch.sh"


def _job_command(action: str, words: str) -> None:
    @jobs_app.command(action, help=words)
    def command(job_id: str) -> None:
        with open_studio() as studio:
            job = studio.act(job_id, action)
            later = waits(studio) if job["state"] == "queued" else ""
        ending = action == "cancel" and job["state"] in ("running", "paused")  # until its next step
        say(f"{job['id']} {'is being cancelled' if ending else job['state']}{later}")


for _action, _words in {
    "cancel": "End a job that has not ended.",
    "pause": "Hold a job.",
    "resume": "Let a paused job go on.",
    "retry": "Queue a job again that failed or was cancelled.",
}.items():
    _job_command(_action, _words)


def _derive_command(how: str, words: str) -> None:
    @jobs_app.command(how, help=f"{words} The flags of generate change single settings.")
    @request_flags
    def command(params: dict[str, Any], job_id: str) -> None:
        if "mode" not in params and any(name in params for name in INPUTS):
            params["mode"] = mode_for(params).value
        with open_studio(DOTTED) as studio:
            job = studio.derive(job_id, how, params | send_named_files(studio, params))
            later = waits(studio)
        origin = f"made from {job_id}" if job["parent"] == job_id else f"in place of {job_id}"
        say(f"{job['id']} {job['state']}, {origin}{later}")


for _how, _words in {
    "again": "Queue a job's request again, with a new seed.",
    "extend": "Queue a video that continues a finished one.",
    "edit": "Queue a job's request with other settings; a job that still waits is replaced.",
}.items():
    _derive_command(_how, _words)


@jobs_app.command("vary")
def jobs_vary(
    job_id: str,
    count: Annotated[int | None, typer.Option(help="How many further seeds, each the next one; 4 by default.")] = None,
    sweep: Annotated[str | None, typer.Option(metavar="SETTING=a,b,c", help=SWEEP)] = None,
    draft: Annotated[int | None, typer.Option(help=f"Make drafts. {SETTINGS['draft_steps'].help_with_bounds}")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the batch and its jobs as JSON.")] = False,
) -> None:
    """Queue variations of a job as one batch."""
    with open_studio(VARYING | {"count": "--count"}) as studio:
        wanted = {"count": 4 if count is None and sweep is None else count, "draft_steps": draft}
        found = studio.vary(job_id, wanted | (sweep_of(sweep) if sweep is not None else {}))
        later = waits(studio)
    if as_json:
        print(json.dumps(found))
        return
    say(f"batch {found['batch']}: {', '.join(job['id'] for job in found['jobs'])}{later}")


@jobs_app.command("promote")
def jobs_promote(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB...", help="Drafts that are done.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the jobs as JSON.")] = False,
) -> None:
    """Finish drafts, in this order, each from its saved state: no step is made twice."""
    with open_studio(DOTTED) as studio:
        jobs = [studio.promote(job_id) for job_id in job_ids]
        later = waits(studio)
    if as_json:
        print(json.dumps({"jobs": jobs}))
        return
    for job in jobs:
        say(f"{job['id']} {job['state']}, finishes {job['parent']}{later if job['state'] == 'queued' else ''}")
        for note in job["plan"]["notes"]:
            remark(note)
