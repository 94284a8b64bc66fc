"""The commands that are in no group: serve, generate, export, plan, expand, queue, inspect, doctor."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from backend import __version__
from backend.cli.flags import DOTTED, FLAGS, SWEEP, VARYING, request_flags, send_file, send_files, sweep_of
from backend.cli.follow import (
    can_write,
    check_queue_runs,
    exit_code,
    exit_with,
    finish,
    finish_batch,
    numbered,
    report_end,
)
from backend.cli.jobs import jobs_app
from backend.cli.loras import loras_app
from backend.cli.models import models_app
from backend.cli.terminal import (
    BAD_REQUEST,
    CANCELLED,
    DONE,
    FAILED,
    cell,
    explained,
    fail,
    open_studio,
    out,
    remark,
    say,
)
from backend.core.config import Settings, variable_of
from backend.core.errors import FolderTaken, StudioError
from backend.core.ids import is_id
from backend.core.plan import steps_in_words
from backend.core.text import counted
from backend.jobs.disk_space import is_disk_full
from backend.media.export import ExportFormat
from backend.system.supervisor import AGAIN, RESTART, SUPERVISED, supervise
from backend.utils import settle_home
from backend.web.network import check_host

app = typer.Typer(add_completion=False, no_args_is_help=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(jobs_app, name="jobs")
app.add_typer(models_app, name="models")
app.add_typer(loras_app, name="loras")


class QueueAction(str, Enum):
    PAUSE = "pause"
    RESUME = "resume"


def print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to serve on.")] = 8501,
    host: Annotated[str | None, typer.Option(help="The address to bind; default: this machine alone.")] = None,
    lan: Annotated[bool, typer.Option("--lan", help="Let others on the network in, with a token.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further host name to be called by; repeatable.")
    ] = None,
    base_path: Annotated[
        str | None, typer.Option(metavar="PATH", help="The path under which a reverse proxy shows the studio: /studio.")
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="A reverse proxy whose X-Forwarded-Proto is believed; repeatable."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The data folder; default: the checkout.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page when it is ready.")] = True,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """AI Video Generation Studio. Without a command: serve the studio on http://localhost:8501."""
    os.umask(0o077)  # what is made from here on is its owner's alone: videos, uploads, history and log
    if data is not None:
        with contextlib.suppress(RuntimeError):  # a home that nobody has: said by whoever reads the settings
            data = data.expanduser().resolve()
        os.environ["STUDIO_DATA"] = str(data)
    add_to_variable("allowed_hosts", allow_host)
    add_to_variable("trusted_proxies", trusted_proxy)
    if base_path is not None:
        os.environ[variable_of("base_path")] = base_path
    with explained():
        settle_home(Settings.from_env().cache / "home")
    if context.invoked_subcommand is None:
        serve(host, port, lan, browser)


def add_to_variable(field: str, values: list[str] | None) -> None:
    """Add what a repeatable flag was given to the variable of a setting, for this process and its children."""
    name = variable_of(field)
    if values:
        os.environ[name] = ",".join([*filter(None, [os.environ.get(name)]), *values])


def serve(host: str | None, port: int, lan: bool, browser: bool) -> None:
    try:
        if not lan and host is not None:
            check_host(host)
        if SUPERVISED not in os.environ:
            flags = [f"--port={port}", *([f"--host={host}"] if host else []), *(["--lan"] if lan else [])]
            flags.append("--browser" if browser else "--no-browser")
            raise typer.Exit(supervise([sys.executable, "-m", "backend.cli", *flags]))
        from backend.web.run import run_server

        run_server(Settings.from_env(), host, port, lan=lan, open_browser=browser)
    except (StudioError, OSError) as error:
        if is_disk_full(error):
            fail(f"The studio cannot start ({error}) It tries again until there is room.", RESTART)
        if isinstance(error, OSError):
            raise
        fail(str(error), RESTART if held_by_a_command(error) else FAILED)


def held_by_a_command(error: StudioError) -> bool:
    """Whether a command took the data folder while this studio was about to start again."""
    from backend.web.client import running_studio

    again = isinstance(error, FolderTaken) and os.environ.get(SUPERVISED) == AGAIN
    return again and running_studio(Settings.from_env()) is None


@app.command()
@request_flags
def generate(
    params: dict[str, Any],
    variations: Annotated[
        int | None, typer.Option(help="A batch of so many seeds, the first one given; --out is numbered.")
    ] = None,
    sweep: Annotated[str | None, typer.Option(metavar="SETTING=a,b,c", help=SWEEP)] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="Copy the video here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job as JSON when it is done.")] = False,
) -> None:
    """Render one video, or variations of it: by the running studio if there is one, else by this process."""
    if out_file is not None and not can_write(out_file):
        fail(f"--out {out_file} cannot be written; name a file in a folder of yours.", BAD_REQUEST)
    if variations is not None or sweep is not None:
        generate_batch(params, variations, sweep, out_file, as_json)
    with open_studio(DOTTED) as studio:
        check_queue_runs(studio)
        job = studio.submit(send_files(studio, params))
        for note in job.get("plan", {}).get("notes", ()):
            remark(note)
        job = finish(studio, job, out_file)
    exit_with(job, out_file, as_json)


def generate_batch(
    params: dict[str, Any], count: int | None, sweep: str | None, out_file: Path | None, as_json: bool
) -> None:
    """Render a batch and exit: with what one of its jobs would exit with, failures before cancellations."""
    with open_studio(VARYING | {"count": "--variations"}) as studio:
        check_queue_runs(studio)
        wanted = {"count": count} | (sweep_of(sweep) if sweep is not None else {})
        found = studio.variations(send_files(studio, params), wanted)
        for note in found["jobs"][0]["plan"]["notes"]:
            remark(note)
        jobs = finish_batch(studio, found["jobs"], out_file)
    if as_json:
        print(json.dumps(found | {"jobs": jobs}))
    else:
        for number, job in enumerate(jobs, start=1):
            report_end(job, numbered(out_file, number))
    codes = {exit_code(job) for job in jobs}
    raise typer.Exit(next((code for code in (FAILED, CANCELLED) if code in codes), DONE))


@app.command()
def export(
    source: Annotated[str, typer.Argument(metavar="VIDEO-OR-JOB", help="The id of a finished job, or a video file.")],
    format: Annotated[ExportFormat, typer.Option(help="What the file becomes.")] = ExportFormat.MP4,
    width: Annotated[int | None, typer.Option(help="Pixels; the height follows. The video's own if left out.")] = None,
    frame: Annotated[int, typer.Option(help="Of a still: which frame, from 0; -1 is the last one.")] = 0,
    out_file: Annotated[Path | None, typer.Option("--out", help="Copy the file here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job as JSON when it is done.")] = False,
) -> None:
    """Export a video: as WebM, AV1, GIF, WebP, ProRes or MP4, as PNG frames in a ZIP, or as one still."""
    if out_file is not None and not can_write(out_file):
        fail(f"--out {out_file} cannot be written; name a file in a folder of yours.", BAD_REQUEST)
    names = {name: f"--{name}" for name in ("format", "width", "frame")} | {"job": "the job", "video": "the video"}
    with open_studio(names) as studio:
        check_queue_runs(studio)
        params = {"kind": "export", "format": format.value, "width": width, "frame": frame}
        file = Path(source)
        if file.is_file():
            params["video"] = send_file(studio, file)
        elif is_id(source):
            params["job"] = source
        else:
            fail(f"{source} is neither a file nor the id of a job; `jobs list` shows those there are.", BAD_REQUEST)
        job = finish(studio, studio.submit(params), out_file)
    exit_with(job, out_file, as_json)


@app.command()
@request_flags
def plan(
    params: dict[str, Any], as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False
) -> None:
    """What a render would be and cost; nothing is queued. The same flags as generate."""
    with open_studio(DOTTED) as studio:
        found = studio.plan(send_files(studio, params))
    if as_json:
        print(json.dumps(found))
        return
    table = Table(show_header=False, box=None)
    change = "enlarged" if found["enlarged"] else "cropped"
    drawn, delivered = (f"{found[a]}x{found[b]}" for a, b in (("render_width", "render_height"), ("width", "height")))
    seconds = f"{found['forecast_s']:.0f} s{range_words(found['forecast'])}"
    rows = {
        "model": found["model_title"],
        "size": delivered if drawn == delivered else f"{drawn} {change} to {delivered}",
        "frames": f"{found['total_frames']} at {found['fps']} fps, {found['total_frames'] / found['fps']:.1f} s",
        "new frames": f"{found['total_frames'] - found['source_frames']} kept of {found['decoded_frames']} made",
        "windows": str(len(found["window_steps"])),
        "steps": f"{steps_in_words(found['window_steps'])}, {found['forwards']} model calls",
        "about": f"{seconds}, peak {found['forecast']['peak_gib']:.1f} GiB",
        "on disk": f"about {found['forecast']['disk_bytes'] / 1e6:.1f} MB",
    }
    for name, value in rows.items():
        table.add_row(name, cell(value))
    for note in found.get("notes", ()):
        table.add_row("note", cell(note))
    out.print(table)


def range_words(forecast: dict[str, Any]) -> str:
    """The range of a forecast that is learned from few renders; empty once enough are known."""
    if forecast.get("low_s") is None:
        return ""
    return f" ({forecast['low_s']:.0f} to {forecast['high_s']:.0f} s)"


@app.command("expand")
def expand_prompt(
    prompt: str,
    model: Annotated[str, typer.Option(help="The model that it is for.")] = "auto",
    variation: Annotated[
        int, typer.Option("--variation", "--take", min=0, help="Another number says it another way.")
    ] = 0,
    by_rules: Annotated[bool, typer.Option("--by-rules", help="Not by a language model, even if one is here.")] = False,
) -> None:
    """Make a short prompt longer, for generate --prompt; the video is not made."""
    with open_studio({"model": FLAGS["model"]}) as studio:
        found = studio.expand(prompt, model, variation, by_rules)
    say(found["prompt"])


@app.command()
def queue(action: Annotated[QueueAction, typer.Argument(help="pause: start no other video; resume: go on.")]) -> None:
    """Pause or resume the whole queue."""
    with open_studio() as studio:
        studio.pause_queue(action is QueueAction.PAUSE)
    out.print(f"The queue is {'paused' if action is QueueAction.PAUSE else 'running'}.")


@app.command("inspect")
def inspect_video(video: Path) -> None:
    """Print the recipe that an MP4 of this studio carries, in the names of this version."""
    from backend.jobs.recipe import recipe_in

    if not video.is_file():
        fail(f"{video}: there is no such file; check the path.", BAD_REQUEST)
    try:
        recipe = recipe_in(video)
    except StudioError as error:
        fail(str(error), BAD_REQUEST)
    else:
        if recipe is None:
            fail(f"{video.name} carries no recipe; it was not made by this studio, or was converted since.", FAILED)
        print(json.dumps(recipe, indent=2))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend the history and tidy up first.")] = False,
) -> None:
    """Check this machine and the data folder; exits 1 if something must be mended."""
    from backend.doctor import print_checks, run_checks

    if repair:
        mend_data_folder()
    checks = run_checks(Settings.from_env())
    if as_json:
        print(json.dumps([dataclasses.asdict(check) for check in checks]))
    else:
        print_checks(checks)
    raise typer.Exit(FAILED if any(check.status == "failed" for check in checks) else DONE)


def mend_data_folder() -> None:
    """What the studio does when it starts, without starting it; and jobs that cannot be read are looked for again."""
    from backend.video_generator import VideoGenerator

    try:
        generator = VideoGenerator(Settings.from_env())
    except StudioError as error:
        fail(str(error), FAILED)
    generator.tidying.tidy()
    say(generator.startup_notice or "The history is whole.")
    unreadable, restored = generator.tidying.restore_unreadable()
    if unreadable:
        say(f"{counted(unreadable, 'job')} cannot be read by this version; restored from a copy: {restored}.")
    generator.stop()
