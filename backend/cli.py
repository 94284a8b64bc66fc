"""The command line: start the studio, render one video without it, look after jobs and models.

If a studio already runs on the data folder, commands go to it; otherwise they do the work themselves. Exit codes:
0 done, 1 failed, 2 bad request, 130 cancelled.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while libraries are read: an end at once, without a traceback

import dataclasses
import functools
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from backend import __version__
from backend.core.config import Settings
from backend.core.errors import FolderTaken, InvalidRequest, NoAnswer, StudioError, mention
from backend.core.ids import is_id
from backend.core.inputs import ANY_UPLOAD, INPUTS, mode_for
from backend.core.planning import steps_in_words
from backend.core.schema import SETTINGS, Setting, parse_request
from backend.core.text import escape_control
from backend.jobs.disk_space import is_disk_full
from backend.media.export import ExportFormat
from backend.studios import Studio, connect
from backend.system.supervisor import AGAIN, LONGEST_WAIT_S, RESTART, SUPERVISED, supervise
from backend.web.network import check_host

T = TypeVar("T")
DONE, FAILED, BAD_REQUEST, CANCELLED = 0, 1, 2, 130
RESTART_S = LONGEST_WAIT_S + 30.0  # for which a studio that starts again may be away

app = typer.Typer(add_completion=False, no_args_is_help=False, rich_markup_mode=None, pretty_exceptions_enable=False)
jobs_app = typer.Typer(help="Look after jobs: list, show, cancel, pause, resume, retry.", rich_markup_mode=None)
models_app = typer.Typer(help="What can render here.", rich_markup_mode=None)
app.add_typer(jobs_app, name="jobs")
loras_app = typer.Typer(help="What changes a model's videos: list, add, remove, restore.", rich_markup_mode=None)
app.add_typer(models_app, name="models")
app.add_typer(loras_app, name="loras")

out = Console()
err = Console(stderr=True)


class QueueAction(str, Enum):
    PAUSE = "pause"
    RESUME = "resume"


@contextmanager
def explained(flags: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turns errors into a sentence, with `flags` for the fields of a request, and an exit code."""
    try:
        yield
    except StudioError as error:
        fail(error.worded(flags or {}), BAD_REQUEST if error.status in (404, 409, 422) else FAILED)


@contextmanager
def open_studio(flags: Mapping[str, str] | None = None) -> Iterator[Studio]:
    """The studio that runs on the data folder, else one of our own; errors are `explained`."""
    with explained(flags):
        studio = connect(Settings.from_env())
        try:
            yield studio
        finally:
            studio.close()


def fail(message: str, code: int) -> None:
    complain(message)
    raise typer.Exit(code)


def say(message: str) -> None:
    out.print(escape_control(message), markup=False, highlight=False, soft_wrap=True)


def complain(message: str) -> None:
    err.print(escape_control(message), style="red", markup=False, highlight=False, soft_wrap=True)


def cell(text: str) -> str:
    """Text for a table, in which nothing is markup and lines are joined."""
    return escape(escape_control(" ".join(text.split())))


# --- flags from the schema ---

FLAGS = {name: f"--{name.replace('_', '-')}" for name in SETTINGS}
FLAGS |= {"num_inference_steps": "--steps", "loras": "--lora"}
DOTTED = {SETTINGS[name].field: flag for name, flag in FLAGS.items()}
SYNTAX = {  # what only the command line has to say
    "mode": "Follows from the files if left out.",
    "loras": "NAME, or NAME:0.8, or NAME:0.8,0.4 for windows; give it once for each.",
    "storyboard": "Give it once for each window after the first.",
}


def flag_type(annotation: Any) -> Any:
    """What a flag takes for a setting of that type: a list stands for a flag that may be repeated.

    >>> flag_type(tuple[str, ...]), flag_type(int | None), flag_type(bool)
    (list[str], <class 'int'>, <class 'bool'>)
    """
    if get_origin(annotation) is tuple:
        return list[str]
    return next(iter(get_args(annotation)), annotation)


def flag_of(setting: Setting) -> inspect.Parameter:
    """The setting as a parameter of a command, by which typer makes its flag."""
    kind: Any = Path if setting.name in INPUTS else flag_type(setting.annotation)
    family = "SkyReels: " if setting.is_skyreels else ""
    words = " ".join([f"{family}{setting.help_with_bounds}", *filter(None, [SYNTAX.get(setting.name)])])
    option = typer.Option(FLAGS[setting.name], help=words, show_default=False)
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def request_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(params, ...)` a flag for every field of a request; what was not given is not in `params`."""

    @functools.wraps(command)
    def with_flags(**given: Any) -> None:
        params: dict[str, Any] = {}
        for name, setting in SETTINGS.items():
            value = given.pop(name)
            if value is None:
                continue
            value = value.value if isinstance(value, Enum) else value
            if name == "loras":
                value = [lora_use(words) for words in value]
            (params.setdefault("skyreels", {}) if setting.is_skyreels else params)[name] = value
        command(params, **given)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    flags = [flag_of(setting) for setting in SETTINGS.values()]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    with_flags.__signature__ = inspect.Signature([*flags, *own])  # type: ignore[attr-defined]
    with_flags.__annotations__ = {p.name: p.annotation for p in [*flags, *own]}
    return with_flags


def lora_use(words: str) -> dict[str, Any]:
    """A LoRA as a request has it, from a flag's value.

    >>> lora_use("grain"), lora_use("film noir:0.8,0.25")
    ({'name': 'grain'}, {'name': 'film noir', 'strength': [0.8, 0.25]})
    """
    name, colon, strength = words.rpartition(":")
    try:
        numbers = [float(number) for number in strength.split(",")]
    except ValueError:
        return {"name": words}
    return {"name": name, "strength": numbers} if colon else {"name": words}


def send_files(studio: Studio, params: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request with its files uploaded and its mode filled in."""
    fields = dict(params)
    if "mode" not in fields:
        fields["mode"] = mode_for(fields).value
    files = [name for name in INPUTS if name in fields]
    parse_request(fields | dict.fromkeys(files, ANY_UPLOAD))  # a bad flag is refused before a large file travels
    return fields | send_named_files(studio, fields)


def send_named_files(studio: Studio, params: Mapping[str, Any]) -> dict[str, str]:
    """The ids of the files that the fields of a request name, uploaded. Raises InvalidRequest for a missing one."""
    sent = {}
    for name in INPUTS:
        if name in params:
            path = Path(params[name])
            if not path.is_file():
                no_file = f" {path}: there is no such file;"
                raise InvalidRequest([mention(name), no_file], hint="check the path.", field=name)
            sent[name] = studio.upload(path)
    return sent


# --- commands ---


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
    data: Annotated[Path | None, typer.Option(help="The data folder; default: the checkout.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page when it is ready.")] = True,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """AI Video Generation Studio. Without a command: serve the studio on http://localhost:8501."""
    os.umask(0o077)  # what is made from here on is its owner's alone: videos, uploads, history and log
    if data is not None:
        os.environ["STUDIO_DATA"] = str(data.expanduser().resolve())
    if context.invoked_subcommand is None:
        serve(host, port, lan, browser)


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
    out_file: Annotated[Path | None, typer.Option("--out", help="Copy the video here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job as JSON when it is done.")] = False,
) -> None:
    """Render one video: by the running studio if there is one, else by this process."""
    if out_file is not None and not can_write(out_file):
        fail(f"--out {out_file} cannot be written; name a file in a folder of yours.", BAD_REQUEST)
    with open_studio(DOTTED) as studio:
        check_queue_runs(studio)
        job = finish(studio, studio.submit(send_files(studio, params)), out_file)
    exit_with(job, out_file, as_json)


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
            params["video"] = studio.upload(file)
        elif is_id(source):
            params["job"] = source
        else:
            fail(f"{source} is neither a file nor the id of a job; `jobs list` shows those there are.", BAD_REQUEST)
        job = finish(studio, studio.submit(params), out_file)
    exit_with(job, out_file, as_json)


def check_queue_runs(studio: Studio) -> None:
    """Refuse to wait for a queue that is paused."""
    if studio.queue_paused():
        fail("The queue is paused, so the job would wait; resume it first: queue resume.", FAILED)


def finish(studio: Studio, job: dict[str, Any], out_file: Path | None) -> dict[str, Any]:
    """The job when it has ended, its result copied to `out_file`."""
    try:
        job = follow(studio, job)
    except NoAnswer as gone:
        way_out = f"start it again, and job {job['id']} goes on; `jobs cancel {job['id']}` ends it."
        raise NoAnswer(gone.message, hint=way_out) from gone
    if job["state"] == "succeeded" and out_file is not None:
        copy_result(studio, job["id"], out_file)
    return job


def exit_with(job: dict[str, Any], out_file: Path | None, as_json: bool) -> None:
    if as_json:
        print(json.dumps(job))
    else:
        report_end(job, out_file)
    raise typer.Exit({"succeeded": DONE, "cancelled": CANCELLED}.get(job["state"], FAILED))


def can_write(file: Path) -> bool:
    """Whether a video can be written there, checked before an hour of rendering; makes the folder."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return not file.is_dir() and os.access(file if file.exists() else file.parent, os.W_OK)
    except OSError:
        return False


def copy_result(studio: Studio, job_id: str, to: Path) -> None:
    """Put the result there whole, or not at all."""
    part, where = to.with_name(f"{to.name}.part"), f"it lies in outputs/{job_id}/."
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


def follow(studio: Studio, job: dict[str, Any]) -> dict[str, Any]:
    """The job when it has ended, shown until then; Ctrl-C cancels it."""
    try:
        return show(studio, job)
    except KeyboardInterrupt:
        studio.act(job["id"], "cancel")
        return wait_for_end(studio, job)


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
    left = f", about {at['eta_s']:.0f} s left" if at["eta_s"] is not None else ""
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
    rows = {
        "model": found["model_title"],
        "size": delivered if drawn == delivered else f"{drawn} {change} to {delivered}",
        "frames": f"{found['total_frames']} at {found['fps']} fps, {found['total_frames'] / found['fps']:.1f} s",
        "new frames": f"{found['num_frames']} kept of {found['render_frames']} made",
        "windows": str(len(found["windows"])),
        "steps": f"{steps_in_words(found['window_steps'])}, {found['forwards']} model calls",
        "about": f"{found['forecast_s']:.0f} s, peak {found['forecast']['peak_gib']:.1f} GiB",
        "on disk": f"about {found['forecast']['disk_bytes'] / 1e6:.1f} MB",
    }
    for name, value in rows.items():
        table.add_row(name, cell(value))
    out.print(table)


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


@jobs_app.command("list")
def jobs_list(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """The newest jobs first."""
    from backend.jobs.job import JobState

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


def _job_command(action: str, words: str) -> None:
    @jobs_app.command(action, help=words)
    def command(job_id: str) -> None:
        with open_studio() as studio:
            job = studio.act(job_id, action)
        ending = action == "cancel" and job["state"] in ("running", "paused")  # until its next step
        say(f"{job['id']} {'is being cancelled' if ending else job['state']}")


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
        with open_studio(DOTTED) as studio:
            job = studio.derive(job_id, how, params | send_named_files(studio, params))
        say(f"{job['id']} {job['state']}, made from {job_id}")


for _how, _words in {
    "again": "Queue a job's request again, with a new seed.",
    "extend": "Queue a video that continues a finished one.",
    "edit": "Queue a job's request with other settings; a job that still waits is replaced.",
}.items():
    _derive_command(_how, _words)


@jobs_app.command("vary")
def jobs_vary(
    job_id: str,
    count: Annotated[int, typer.Option(help="How many; their seeds follow one another.")] = 4,
    sweep: Annotated[
        str | None, typer.Option(metavar="FIELD=a,b,c", help="One variation for each value of a setting instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the batch and its jobs as JSON.")] = False,
) -> None:
    """Queue variations of a job as one batch."""
    field, _, values = (sweep or "").partition("=")
    with open_studio(DOTTED) as studio:
        found = studio.vary(job_id, count, field or None, [_value(word) for word in values.split(",") if word])
    if as_json:
        print(json.dumps(found))
        return
    say(f"batch {found['batch']}: {', '.join(job['id'] for job in found['jobs'])}")


def _value(word: str) -> Any:
    """A value as JSON has it.

    >>> _value("6.5"), _value("turbo")
    (6.5, 'turbo')
    """
    try:
        return json.loads(word)
    except ValueError:
        return word


@app.command()
def queue(action: Annotated[QueueAction, typer.Argument(help="pause: start no other video; resume: go on.")]) -> None:
    """Pause or resume the whole queue."""
    with open_studio() as studio:
        studio.pause_queue(action is QueueAction.PAUSE)
    out.print(f"The queue is {'paused' if action is QueueAction.PAUSE else 'running'}.")


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

        for check in checks(spec, make, studio.upload):
            wrong.append(bool(check.faults))
            say(f"{check.what}, {check.job_id}: {'; '.join(check.faults) or 'no fault found'}")
    if bad := sum(wrong):
        are = "is" if bad == 1 else "are"
        fail(f"{spec.title}: {bad} of {len(wrong)} videos {are} not what was requested; see the gallery.", FAILED)
    say(f"{spec.title} does what it claims; the videos are in the gallery. Judge their quality by eye.")


@loras_app.command("list")
def loras_list(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """The LoRAs in models/loras, and why other files there are none."""
    with open_studio() as studio:
        found = studio.loras()
    if as_json:
        print(json.dumps(found))
        return
    table = Table("LoRA", "made for", "layers", "rank", "size", box=None)
    for lora in found["loras"]:
        ranks = ", ".join(map(str, lora["ranks"])) or "full"
        made_for = f"width {lora['width']}" if lora["width"] else "any width"
        table.add_row(cell(lora["name"]), made_for, str(lora["layers"]), ranks, f"{lora['bytes'] / 2**20:.0f} MiB")
    out.print(table)
    for name, reason in found["refused"].items():
        complain(f"{name}: {reason}.")


@loras_app.command("add")
def loras_add(file: Path) -> None:
    """Copy a LoRA's safetensors file into models/loras, if it is one for models here."""
    if not file.is_file():
        fail(f"{file}: there is no such file; check the path.", BAD_REQUEST)
    with open_studio() as studio:
        lora = studio.add_lora(file)
    say(f"{lora['name']} is here: {lora['layers']} layers. Use it with generate --lora {lora['name']!r}.")


@loras_app.command("remove")
def loras_remove(
    name: str,
    for_good: Annotated[bool, typer.Option("--for-good", help="At once, not into the trash.")] = False,
) -> None:
    """Move a LoRA to the trash, where it stays for a week."""
    with open_studio() as studio:
        studio.remove_lora(name, for_good)
    say(f"{name} is removed." if for_good else f"{name} is in the trash; loras restore {name!r} brings it back.")


@loras_app.command("restore")
def loras_restore(name: str) -> None:
    """Bring a LoRA back from the trash."""
    with open_studio() as studio:
        studio.restore_lora(name)
    say(f"{name} is back.")


def with_folders() -> Settings:
    """The settings, with the folder for models."""
    settings = Settings.from_env()
    settings.models.mkdir(parents=True, exist_ok=True)
    return settings


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
    from backend.system.doctor import print_checks, run_checks

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
        say(f"Jobs that this version cannot read: {unreadable}. Brought back from a copy: {restored}.")
    generator.stop()


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(prog_name=os.environ.get("STUDIO_COMMAND", "python -m backend.cli"))
    except KeyboardInterrupt:
        raise SystemExit(CANCELLED) from None
