import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from backend import __version__
from backend.cli import flags, follow, terminal
from backend.cli import main as cli
from backend.core.errors import FolderTaken, NoAnswer, RenderFailed, StudioBusy, StudioError
from backend.core.plan import Stage
from backend.core.prompts import expand
from backend.core.schema import SETTINGS
from backend.engine import Report
from backend.media.probe import probe
from backend.synthetic import SyntheticEngine
from backend.system.supervisor import AGAIN, FIRST, RESTART, SUPERVISED
from backend.web.client import RemoteStudio
from tests.library.hub import Hub
from tests.lora_files import write_lora
from tests.studio import ROOT
from tests.tiny_checkpoints import build_checkpoint

SMALL = ["--resolution", "128x96", "--num-frames", "16", "--steps", "10", "--seed", "1"]


@pytest.fixture
def run(settings, monkeypatch):
    """Run a command line on the test's data folder; gives exit code, stdout, stderr."""
    monkeypatch.setenv("STUDIO_DATA", str(settings.data))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # a render in this process has set it

    def run(*arguments):
        done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    return run


def test_the_version_is_printed(run):
    assert run("--version")[:2] == (0, f"{__version__}\n")


def test_generate_makes_the_film_and_prints_the_job_last(run, tmp_path):
    film = tmp_path / "new" / "boat.mp4"
    code, out, _ = run("generate", "--prompt", "a red boat", *SMALL, "--out", film, "--json")
    job = json.loads(out.splitlines()[-1])
    assert (code, job["state"]) == (0, "succeeded")
    assert (probe(film).frames, probe(film).width) == (16, 128)
    code, out, _ = run("inspect", film)
    assert (code, json.loads(out)["request"]["prompt"]) == (0, "a red boat")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--prompt", "x", "--fps", "99"), r"^--fps=99 .* 8 to 30"),
        (("--prompt", "x", "--steps", "5"), r"^--steps=5 .* 10 to 50"),
        (("--prompt", "x", "--flow-shift", "99"), r"^--flow-shift=99 .* 1 to 20"),
        (("--prompt", "x", "--num-frames", "20", "--seconds", "2"), r"^--num-frames=20 and --seconds=2 both"),
        (("--prompt", "x", "--resolution", "8k"), r"'8k' is not a resolution; use 540p"),
        (("--prompt", "x", "--overlap-history", "18"), r"^--overlap-history=18 is not 4k\+1 .* 17 or 21"),
        (("--prompt", "x", "--model", "nope"), r"^--model='nope' is not here; use auto"),
        (("--image", "nowhere.png"), r"--image nowhere.png: there is no such file"),
        ((), r"^--prompt is missing"),
        (("--prompt", "x", "--mode", "video_extension"), r"^--video is missing"),
        (("--prompt", "x", "--lora", "a:9"), r"^--lora=9 is above"),
        (("--prompt", "x", "--lora", ":0.5"), r"^--lora is empty"),
        (("--prompt", "x", "--storyboard", ""), r"^--storyboard is empty"),
        (
            ("--prompt", "x", "--causal-block-size", "5"),
            r"^--causal-block-size=5 needs --ar-step, by .*, or --causal",
        ),
        (("--prompt", "x", "--video", "a.mp4"), r"^--video a.mp4: there is no such file"),
        (("--prompt", "x", "--end-image", "a.png"), r"^--end-image is given, .* change the --mode\.$"),
        (
            ("--prompt", "x", "--fidelity", "diffusers", "--preset", "turbo"),
            r"--preset=exact or --fidelity=original",
        ),
        (("--prompt", "x", "--model", "num_frames"), r"^--model='num_frames' is not here"),
        (("--image", "no/storyboard.png"), r"^--image no/storyboard.png: there is"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "plan"])
def test_a_bad_wish_exits_2_with_a_sentence_and_queues_nothing(run, command, arguments, words):
    code, out, err = run(command, *arguments)
    assert code == 2
    assert out == ""
    assert re.search(words, err), err
    assert json.loads(run("jobs", "list", "--json")[1]) == []


def test_a_place_that_cannot_be_written_is_refused_before_the_render(run, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "film.mp4"):
        code, _, err = run("generate", "--prompt", "x", *SMALL, "--out", place)
        assert (code, "cannot be written" in err) == (2, True)
    assert json.loads(run("jobs", "list", "--json")[1]) == []


def test_a_file_that_is_called_like_a_setting_keeps_its_name(run, tmp_path):
    (tmp_path / "seed=5.png").write_text("no picture")
    code, _, err = run("plan", "--image", tmp_path / "seed=5.png")
    assert code == 2
    assert err.startswith("seed=5.png ")


def test_a_studio_that_goes_away_before_the_film_is_copied_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "RESTART_S", 0.0)
    with pytest.raises(NoAnswer, match=r"does not answer .*; the result is in outputs/0+/"):
        follow.copy_result(RemoteStudio("http://localhost:1"), "0" * 20, tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_cannot_be_copied_whole_is_not_there_and_where_it_is_is_said(tmp_path):
    class Full:
        def save_file(self, job_id, to):
            to.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StudioError, match=r"film\.mp4 cannot be written \(No space.*the result is in outputs/some-id/"):
        follow.copy_result(Full(), "some-id", tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_paused_queue_is_said_instead_of_waited_for(run):
    assert run("queue", "pause")[0] == 0
    code, _, err = run("generate", "--prompt", "x", *SMALL)
    assert (code, "queue resume" in err) == (1, True)
    assert run("queue", "resume")[0] == 0
    assert run("generate", "--prompt", "x", *SMALL)[0] == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "nonsense.invalid"])
def test_an_address_that_others_reach_is_refused(run, host):
    code, _, err = run("--host", host, "--no-browser")
    assert (code, "without a password" in err) == (1, True)


def test_a_data_folder_that_cannot_be_made_is_one_sentence(run, settings):
    settings.data.parent.mkdir(exist_ok=True)
    settings.data.write_text("a file")
    code, _, err = run("jobs", "list")
    assert (code, "cannot be used" in err) == (1, True)


def test_a_folder_in_the_place_of_the_log_is_one_sentence(run, settings):
    settings.log.mkdir(parents=True)
    code, _, err = run("generate", "--prompt", "x", *SMALL)
    assert code == 1
    assert err.startswith("The log outputs/studio.log cannot be written (Is a directory); remove what lies there")
    assert len(err.splitlines()) == 1
    settings.log.rmdir()
    assert run("generate", "--prompt", "x", *SMALL)[0] == 0


@pytest.mark.parametrize(
    "said", ["", "[]", "7", "{", '{"url": 7}', '{"url": "http://[::1"}', '{"url": "ftp://x"}', "[" * 100_000]
)
def test_a_spoiled_address_of_a_studio_is_none(settings, said):
    from backend.web.client import running_studio

    settings.outputs.mkdir(parents=True)
    settings.address.write_text(said)
    assert running_studio(settings) is None


def test_an_unknown_flag_exits_2(run):
    assert run("generate", "--prmpt", "x")[0] == 2


def test_a_file_that_is_no_picture_is_refused(run, tmp_path):
    fake = tmp_path / "cat.png"
    fake.write_text("miaow")
    code, _, err = run("generate", "--image", fake)
    assert code == 2
    assert "cat.png" in err


def test_what_is_done_to_a_file_is_said_on_stderr(run, tmp_path):
    from PIL import Image

    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "cat.png")
    code, out, err = run("plan", "--image", tmp_path / "cat.png", "--prompt", "x", *SMALL)
    assert (code, "cat.png: Its transparent parts are shown on white." in err) == (0, True), err
    assert "white" not in out


def test_a_failed_render_exits_1_and_says_why(run, monkeypatch):
    from backend.core.errors import RenderFailed
    from backend.synthetic import SyntheticEngine

    def broken(self, task, report):
        raise RenderFailed("The pencil broke;", hint="sharpen it.")

    monkeypatch.setattr(SyntheticEngine, "render", broken)
    code, _, err = run("generate", "--prompt", "x", *SMALL)
    assert code == 1
    assert "The pencil broke; sharpen it." in err


def test_ctrl_c_cancels_the_job_and_exits_130(run, monkeypatch):
    def interrupted(studio, job):
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "show", interrupted)
    code, out, _ = run("generate", "--prompt", "x", *SMALL, "--json")
    assert code == 130
    assert json.loads(out.splitlines()[-1])["state"] == "cancelled"


def test_ctrl_c_cancels_all_that_is_left_of_a_batch(run, monkeypatch):
    show, shown = follow.show, []

    def interrupted_once(studio, job):
        shown.append(job)
        if len(shown) == 1:
            raise KeyboardInterrupt
        return show(studio, job)

    def endless(engine, task, report):
        while True:
            report(Report(Stage.DENOISING, 0.0))

    monkeypatch.setattr(follow, "show", interrupted_once)
    monkeypatch.setattr(SyntheticEngine, "render", endless)
    code, out, _ = run("generate", "--prompt", "x", *SMALL, "--variations", "3", "--json")
    assert (code, [job["state"] for job in json.loads(out.splitlines()[-1])["jobs"]]) == (130, 3 * ["cancelled"])


def test_plan_prints_what_it_will_be(run):
    code, out, _ = run("plan", "--prompt", "x", "--num-frames", "64", "--json")
    plan = json.loads(out)
    assert (code, plan["num_frames"], plan["width"]) == (0, 64, 960)
    assert plan["forecast_s"] > 0
    assert "64 kept of 65 made" in run("plan", "--prompt", "x", "--num-frames", "64")[1]


def test_plan_prints_the_range_of_a_forecast_until_five_renders_are_known(run):
    plan = ["plan", "--prompt", "x", *SMALL]
    forecast = json.loads(run(*plan, "--json")[1])["forecast"]
    words = f"({forecast['low_s']:.0f} to {forecast['high_s']:.0f} s)"
    assert words in run(*plan)[1]
    assert cli.range_words({"seconds": {}}) == cli.range_words({"low_s": None, "high_s": None}) == ""


def test_notes_are_lines_of_the_plan_and_of_stderr(run):
    fields = ["--prompt", "a boat <lora:x:1>", *SMALL[:-1], "-1"]
    code, out, _ = run("plan", *fields, "--json")
    assert (code, len(json.loads(out)["notes"])) == (0, 2)
    words = " ".join(run("plan", *fields)[1].split())
    assert words.count("note") == 2
    assert "<lora:x:1>" in words
    code, out, err = run("generate", *fields, "--json")
    assert (code, json.loads(out.splitlines()[-1])["request"]["seed"] >= 0) == (0, True)
    assert "Seed -1 means random" in err
    assert "<lora:x:1>" in err


def test_the_time_left_is_shown_with_the_reason_why_it_grows():
    at = {"stage": "denoising", "step": 3, "steps": 20, "eta_s": 90.4}
    assert follow.describe({"state": "running", "progress": at}) == "denoising step 3 of 20, about 90 s left"
    slow = at | {"eta_reason": "the machine is busy"}
    words = "denoising step 3 of 20, about 90 s left (the machine is busy)"
    assert follow.describe({"state": "running", "progress": slow}) == words


def test_a_story_is_told_by_a_repeated_flag(run):
    story = ["--storyboard", "noon", "--storyboard", "dusk", "--base-num-frames", "17", "--overlap-history", "5"]
    plan = ["plan", "--prompt", "dawn", "--num-frames", "49"]
    code, out, _ = run(*plan, *story, "--json")
    assert (code, json.loads(out)["window_steps"]) == (0, [20] * 4)
    code, _, err = run(*plan, *story, "--storyboard", "night", "--storyboard", "dawn")
    assert (code, "--storyboard has 4 prompts" in err) == (2, True)


def test_settings_that_are_yes_or_no_are_flags(run):
    rest = ["--prompt", "x", "--fidelity", "diffusers"]
    for flag in ("--causal-attention", "--batch-guidance"):
        code, _, err = run("plan", *rest, flag)
        assert (code, err.startswith(f"{flag}=true is not possible")) == (2, True)
    assert run("plan", *rest)[0] == 0


@pytest.mark.parametrize("command", ["generate", "plan"])
def test_every_setting_is_a_flag_with_its_help_and_bounds(run, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    said = " ".join(run(command, "--help")[1].split())
    for name, setting in SETTINGS.items():
        assert f"{flags.FLAGS[name]} " in said
        assert setting.help_with_bounds in said, name


def test_jobs_are_listed_shown_and_acted_on(run):
    run("generate", "--prompt", "a red boat", *SMALL)
    [job] = json.loads(run("jobs", "list", "--json")[1])
    assert "a red boat" in run("jobs", "list")[1]
    assert json.loads(run("jobs", "show", job["id"])[1])["state"] == "succeeded"
    code, _, err = run("jobs", "cancel", job["id"])
    assert code == 2
    assert "succeeded" in err
    assert run("jobs", "show", "nope")[0] == 2
    assert run("jobs", "list", "--state", "lost")[0] == 2


def test_models_list_names_the_test_pattern(run):
    assert [spec["id"] for spec in json.loads(run("models", "list", "--json")[1])] == ["synthetic"]
    assert "Test pattern (no AI)" in run("models", "list")[1]


def test_inspect_refuses_what_carries_no_recipe(run, tmp_path):
    fake = tmp_path / "film.mp4"
    fake.write_text("no film")
    assert run("inspect", fake)[0] == 2
    assert run("inspect", tmp_path / "nowhere.mp4")[0] == 2


def test_doctor_checks_this_machine(run):
    code, out, _ = run("doctor", "--json")
    names = {check["name"] for check in json.loads(out)}
    assert {"Python", "Packages", "Disk", "Folders"} <= names
    assert code in (0, 1)


def test_who_follows_a_film_waits_for_a_studio_that_starts_again(monkeypatch):
    said, away = [], [1, 1, 1]

    def ask():
        if away:
            away.pop()
            raise NoAnswer("The studio does not answer;")
        return "the film"

    monkeypatch.setattr(follow.time, "sleep", said.append)
    assert follow.patiently(ask, lambda: said.append("waiting")) == "the film"
    assert said == ["waiting", 0.5] * 3


def test_a_busy_folder_without_a_studio_to_ask_is_one_sentence(run, generator, monkeypatch):
    monkeypatch.setattr("backend.studios.START_S", 0.0)
    code, _, err = run("jobs", "list")
    assert code == 1
    assert "is in use by another studio" in err
    assert "or by a command that renders" in err


class Elsewhere:
    """A studio that runs, and a job of it that ends in `state`, or is lost sight of."""

    def __init__(self, state: str) -> None:
        self.state = state

    def queue_paused(self):
        return False

    def submit(self, wish):
        return {"id": "0" * 20, "state": "queued", "progress": None, "error": None}

    def job(self, job_id):
        if self.state == "gone":
            raise NoAnswer("The studio does not answer;", hint="start it again.")
        if self.state == "interrupted":
            raise KeyboardInterrupt
        return self.submit({}) | {"state": self.state}

    def act(self, job_id, action):
        if self.state == "interrupted":
            raise NoAnswer("The studio does not answer;", hint="start it again.")
        return self.submit({}) | {"state": "running"}

    def close(self):
        pass


@pytest.mark.parametrize(
    ("state", "exit_code", "words"),
    [
        ("gone", 1, f"does not answer; start it again, and job {'0' * 20} goes on; `jobs cancel"),
        ("interrupted", 1, f"does not answer; start it again, and job {'0' * 20} goes on; `jobs cancel"),
        ("cancelled", 130, f"Job {'0' * 20} is cancelled."),
        ("quarantined", 1, f"Job {'0' * 20} is quarantined."),
    ],
)
def test_how_a_film_ended_that_another_studio_makes_is_said(run, monkeypatch, state, exit_code, words):
    monkeypatch.setattr(terminal, "connect", lambda settings: Elsewhere(state))
    monkeypatch.setattr(follow, "RESTART_S", 0.0)
    code, _, err = run("generate", "--prompt", "x")
    assert (code, words in err) == (exit_code, True), err


def test_a_cancellation_that_takes_a_step_is_told_as_such(run, monkeypatch):
    monkeypatch.setattr(terminal, "connect", lambda settings: Elsewhere("running"))
    assert run("jobs", "cancel", "0" * 20)[1] == f"{'0' * 20} is being cancelled\n"


@pytest.mark.parametrize(
    ("life", "error", "serving", "exit_code"),
    [
        (FIRST, FolderTaken, None, 1),
        (AGAIN, FolderTaken, None, RESTART),
        (AGAIN, FolderTaken, "http://localhost:1", 1),
        (AGAIN, StudioBusy, None, 1),  # its port
    ],
)
def test_a_studio_tries_again_when_a_command_has_its_folder(run, monkeypatch, life, error, serving, exit_code):
    def busy(*_, **__):
        raise error("It is in other hands;")

    monkeypatch.setattr("backend.web.run.run_server", busy)
    monkeypatch.setattr("backend.web.client.running_studio", lambda settings: serving)
    monkeypatch.setenv(SUPERVISED, life)
    code, _, err = run("--no-browser")
    assert (code, err) == (exit_code, "It is in other hands;\n")


def test_ctrl_c_while_libraries_are_read_leaves_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "backend.cli", "jobs", "list"]
    heeds_it = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # in the background of a shell, too
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, timeout=100, preexec_fn=heeds_it)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_commands_go_to_the_studio_that_runs(run, generator, settings, tmp_path, monkeypatch):
    """The real client against the real API, over a socket."""
    import uvicorn
    from fastapi import FastAPI

    from backend.web.api import install

    app = FastAPI()
    app.state.generator = generator
    import asyncio

    app.state.upload_slots = asyncio.Semaphore(2)
    install(app)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        pass
    port = server.servers[0].sockets[0].getsockname()[1]
    settings.address.write_text(json.dumps({"url": f"http://127.0.0.1:{port}", "pid": 1}))
    try:
        film = tmp_path / "boat.mp4"
        code, out, err = run("generate", "--prompt", "a red boat", *SMALL, "--out", film, "--json")
        assert code == 0, err
        job = json.loads(out.splitlines()[-1])
        assert generator.job(job["id"]).artifact.frames == 16
        assert film.read_bytes() == generator.results.file(job["id"], "video.mp4").read_bytes()
        assert run("generate", "--prompt", "x", "--model", "nope")[0] == 2
        err = run("plan", "--prompt", "x", *SMALL, "--storyboard", "then")[2]
        assert re.match(r"--storyboard has 1 prompt .*; leave --storyboard out, or take --num-frames=\d+ or more", err)
        assert [j["id"] for j in json.loads(run("jobs", "list", "--json")[1])] == [job["id"]]
        code, out, err = run("generate", "--image", _picture(tmp_path), *SMALL, "--json")
        assert code == 0, err
    finally:
        server.should_exit = True
        thread.join(timeout=100)


def _picture(folder):
    import numpy as np
    from PIL import Image

    file = folder / "grey.png"
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(file)
    return file


def test_doctor_mends_a_damaged_history(run, settings, monkeypatch):
    monkeypatch.setattr("backend.doctor.run_checks", lambda settings: [])
    assert run("generate", "--prompt", "x", *SMALL)[0] == 0
    code, said, _ = run("doctor", "--repair")
    assert (code, "The history is whole." in said) == (0, True)
    settings.database.write_bytes(b"no database at all" * 100)
    code, said, _ = run("doctor", "--repair")
    assert (code, "put together from the copy" in said) == (0, True)
    assert len(json.loads(run("jobs", "list", "--json")[1])) == 1


def test_prompts_are_listed_as_they_were_typed(run):
    assert run("generate", "--prompt", "a [/b] boat [red]sails[/]", *SMALL)[0] == 0
    assert "[/b] boat" in run("jobs", "list")[1]
    assert run("plan", "--prompt", "[/b]", *SMALL)[0] == 0


STEERING = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e\u2066"


def test_nothing_that_steers_a_terminal_is_printed(run, tmp_path, monkeypatch):
    """In the form for people; --json escapes by itself."""
    from backend.core.errors import RenderFailed
    from backend.synthetic import SyntheticEngine

    def broken(self, task, report):
        raise RenderFailed(f"The pencil of {task.request.prompt} broke;", hint="sharpen it.")

    monkeypatch.setattr(SyntheticEngine, "render", broken)
    nasty = f"a {STEERING} boat"
    picture = tmp_path / f"{STEERING}.png"
    picture.write_text("miaow")
    said = [
        *run("generate", "--prompt", nasty, *SMALL),
        *run("jobs", "list"),
        *run("generate", "--image", picture),
        *run("generate", "--image", f"{picture}x"),
        *run("plan", "--prompt", "x", "--model", nasty),
        *run("jobs", "show", nasty),
        *run("jobs", "list", "--state", nasty),
        *run("inspect", picture),
        *run("inspect", f"{picture}x"),
        *run("generate", "--prompt", "x", "--out", f"{picture}/x"),
    ]
    shown = "".join(str(part) for part in said)
    assert "\\u001b[2J" in shown
    assert not set(shown) & (set(STEERING) - set("0;owned[2J31m]"))


def test_a_prompt_of_several_lines_is_one_row(run):
    run("generate", "--prompt", "a red boat\nat\tsunset", *SMALL)
    assert "a red boat at sunset" in run("jobs", "list")[1]


def test_a_film_is_named_without_steering_the_terminal(run, tmp_path):
    film = tmp_path / f"{STEERING}.mp4"
    code, out, _ = run("generate", "--prompt", "x", *SMALL, "--out", film)
    assert (code, film.exists()) == (0, True)
    assert not set(out) & (set(STEERING) - set("0;owned[2J31m]"))


def test_doctor_shows_names_harmlessly(capsys):
    from backend.doctor import Check, print_checks

    print_checks([Check("Models", "warning", STEERING, STEERING)])
    assert not set(capsys.readouterr().out) & (set(STEERING) - set("0;owned[2J31m]"))


def test_a_short_prompt_is_made_longer(run):
    code, out, _ = run("expand", "A boat", "--model", "synthetic")
    assert (code, out) == (0, f"{expand('A boat').prompt}\n")
    other = run("expand", "A boat", "--model", "synthetic", "--variation", "3")[1]
    assert other != out
    assert run("expand", "A boat", "--model", "synthetic", "--take", "3")[1] == other  # its name in version 0.1
    assert run("expand", "A boat", "--model", "nope")[2].startswith("--model='nope' is not here")
    code, _, err = run("expand", " ", "--model", "synthetic")
    assert (code, "prompt is missing" in err) == (2, True)


def test_a_lora_is_added_listed_used_removed_and_restored(run, settings, tmp_path):
    build_checkpoint(settings.models / "random-df", "df")
    assert run("loras", "add", write_lora(tmp_path / "grain.safetensors"))[:2] == (
        0,
        "grain is here: 20 layers. Use it with generate --lora 'grain'.\n",
    )
    (settings.models / "loras/old.pt").write_bytes(b"x")
    code, out, err = run("loras", "list")
    assert re.search(r"grain +width 24 +20 +4 ", out)
    assert (code, "old.pt: it is no safetensors file" in err) == (0, True)
    small = ["--model", "random-df", "--resolution", "64x64", "--num-frames", "16", "--steps", "10", "--seed", "1"]
    code, out, _ = run("generate", "--prompt", "x", *small, "--lora", "grain:0.5", "--json")
    job = json.loads(out.splitlines()[-1])
    assert (code, job["request"]["loras"]) == (0, [{"name": "grain", "strength": [0.5]}])
    assert len(job["plan"]["loras"][0]["sha256"]) == 64
    assert "No LoRA 'nope' is here" in run("generate", "--prompt", "x", *small, "--lora", "nope")[2]
    assert run("loras", "remove", "grain")[0] == 0
    assert run("loras", "restore", "grain")[:2] == (0, "grain is back.\n")
    assert run("loras", "remove", "grain", "--for-good")[0] == 0
    assert run("loras", "add", tmp_path / "none.safetensors")[0] == 2


def test_a_lora_of_an_odd_name_is_used_and_what_is_left_out_is_listed(run, settings, tmp_path):
    build_checkpoint(settings.models / "random-df", "df")
    name = "\N{FILM FRAMES} [x]: a:0.5 (1)"
    file = write_lora(tmp_path / f"{name}.SAFETENSORS")
    save_file(load_file(file) | {"text_encoder.a.lora_A.weight": torch.zeros(2, 2)}, file)
    assert "1 tensor for a text encoder is left out.\n" in run("loras", "add", file)[1]
    assert f"{name}: 1 tensor for a text encoder is left out.\n" in run("loras", "list")[1]
    small = ["--model", "random-df", "--resolution", "64x64", "--num-frames", "16", "--steps", "10", "--seed", "1"]
    code, out, err = run("generate", "--prompt", "x", *small, "--lora", f"{name}:0.8", "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["request"]["loras"] == [{"name": name, "strength": [0.8]}]
    assert run("loras", "remove", name)[0] == 0
    assert run("loras", "restore", name)[:2] == (0, f"{name} is back.\n")


def test_a_model_is_tried_and_what_is_wrong_is_told(run, settings, monkeypatch):
    monkeypatch.setattr("backend.trial.SIZE", (96, 64))
    build_checkpoint(settings.models / "random-t2v", "t2v")
    code, out, err = run("models", "verify", "random-t2v", "--render")
    assert re.search(r"^text to video, \w+: it ", out, re.MULTILINE)
    assert (code, "1 of 1 videos is not what was requested" in err) == (1, True), out + err  # random numbers draw noise


def test_models_are_imported_verified_removed_and_restored(run, settings, tmp_path):
    folder = build_checkpoint(tmp_path / "random-df", "df")
    assert run("models", "import", folder)[:2] == (0, "random-df is here.\n")
    assert "its hashes are unknown" in run("models", "verify", "random-df")[1]
    assert "random-df" in run("models", "list")[1]
    assert run("models", "remove", "random-df")[0] == 0
    assert "random-df" not in run("models", "list")[1]
    assert run("models", "restore", "random-df")[0] == 0
    assert run("models", "remove", "random-df", "--for-good")[0] == 0
    code, _, err = run("models", "restore", "random-df")
    assert (code, "is in the trash" in err) == (2, True)
    listed = json.loads(run("models", "list", "--all", "--json")[1])
    assert sum(not spec["present"] for spec in listed) >= 8


def test_a_model_is_downloaded_and_a_damaged_one_found(run, settings, tmp_path, monkeypatch):
    hub = Hub(build_checkpoint(tmp_path / "repository", "df"))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    model = "skyreels-v2-df-1.3b-540p"
    try:
        hub.status = 403
        code, _, err = run("models", "download", model)
        assert (code, "accept its licence" in err) == (1, True), err
        hub.status = None
        assert run("models", "download", model)[:2] == (0, f"{model} is here.\n")
    finally:
        hub.stop()
    assert run("models", "verify", model)[:2] == (0, f"{model} is as it was fetched.\n")
    weights = next((settings.models / "SkyReels-V2-DF-1.3B-540P-Diffusers" / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    code, _, err = run("models", "verify", model)
    assert (code, "was changed or is damaged" in err) == (1, True)
    assert run("models", "download", "nope")[0] == 2


def test_a_video_is_exported_by_job_and_by_file(run, tmp_path):
    video = tmp_path / "boat.mp4"
    job = json.loads(run("generate", "--prompt", "a red boat", *SMALL, "--out", video, "--json")[1].splitlines()[-1])
    code, out, _ = run("export", job["id"], "--format", "gif", "--width", "64", "--out", tmp_path / "boat.gif")
    assert (code, "boat.gif: 16 frames, 64x48, 24 fps" in out) == (0, True)
    with Image.open(tmp_path / "boat.gif") as image:
        assert (image.size, image.n_frames) == ((64, 48), 16)
    code, out, _ = run("export", video, "--format", "still", "--frame", "-1", "--json")
    export = json.loads(out.splitlines()[-1])
    assert (code, export["kind"], export["artifact"]["frames"]) == (0, "export", 1)
    code, _, err = run("export", job["id"], "--format", "still", "--frame", "16")
    assert (code, "--frame=16 is not in the video, which has 16 frames; use 0 to 15" in err) == (2, True)
    code, _, err = run("export", "nothing")
    assert (code, "nothing is neither a file nor the id of a job" in err) == (2, True)


def test_jobs_are_made_from_a_job(run):
    job = json.loads(run("generate", "--prompt", "a red boat", *SMALL, "--json")[1].splitlines()[-1])
    run("queue", "pause")
    code, out, _ = run("jobs", "edit", job["id"], "--fps", "12")
    assert (code, f"made from {job['id']}" in out) == (0, True)
    edited = json.loads(run("jobs", "show", out.split()[0])[1])
    assert (edited["parent"], edited["request"]["fps"], edited["request"]["seed"]) == (job["id"], 12, 1)
    code, out, _ = run("jobs", "vary", job["id"], "--sweep", "preset=exact,turbo", "--json")
    varied = json.loads(out)
    assert [one["request"]["preset"] for one in varied["jobs"]] == ["exact", "turbo"]
    code, out, _ = run("jobs", "vary", job["id"], "--sweep", 'prompt=["a boat, at sea","a ship"]', "--json")
    assert [one["request"]["prompt"] for one in json.loads(out)["jobs"]] == ["a boat, at sea", "a ship"]
    code, out, _ = run("jobs", "vary", job["id"], "--sweep", "flow-shift=5.0,9.0", "--json")
    assert [one["request"]["skyreels"]["flow_shift"] for one in json.loads(out)["jobs"]] == [5.0, 9.0]
    code, _, err = run("jobs", "vary", job["id"], "--sweep", "mood=calm")
    assert (code, "--sweep='mood' is not a setting; use one of " in err) == (2, True)
    assert len(json.loads(run("jobs", "vary", job["id"], "--json")[1])["jobs"]) == 4
    code, out, _ = run("jobs", "edit", edited["id"], "--fps", "8")
    assert f"in place of {edited['id']}; it starts when the studio runs: ./launch.sh" in out
    code, _, err = run("jobs", "again", job["id"], "--fps", "99")
    assert (code, err.startswith("--fps=99 is above")) == (2, True)


def test_drafts_are_made_as_a_batch_and_the_chosen_ones_promoted(run, tmp_path):
    code, out, err = run(
        *("generate", "--prompt", "a red boat", *SMALL, "--variations", "3", "--draft", "4"),
        *("--out", tmp_path / "boat.mp4", "--json"),
    )
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    drafts = found["jobs"]
    assert {(job["batch"], job["state"]) for job in drafts} == {(found["batch"], "succeeded")}
    assert [job["request"]["seed"] for job in drafts] == [1, 2, 3]
    assert {job["artifact"]["draft_steps"] for job in drafts} == {4}
    assert sorted(path.name for path in tmp_path.glob("boat*")) == ["boat-1.mp4", "boat-2.mp4", "boat-3.mp4"]
    chosen = [drafts[2]["id"], drafts[0]["id"]]
    code, out, _ = run("jobs", "promote", *chosen)
    lines = out.splitlines()
    assert (code, [line.split(", finishes ")[1].split(";")[0] for line in lines]) == (0, chosen)
    assert all(line.endswith("it starts when the studio runs: ./launch.sh") for line in lines)
    code, out, _ = run("jobs", "promote", *chosen, "--json")
    jobs = json.loads(out)["jobs"]
    assert [job["id"] for job in jobs] == [line.split()[0] for line in lines]
    assert [job["parent"] for job in jobs] == chosen
    code, _, err = run("jobs", "promote", jobs[0]["id"])
    assert (code, "is no draft; name one that was made with" in err) == (2, True)


def test_a_batch_sweeps_a_setting_and_says_where_its_videos_are(run, tmp_path):
    code, out, err = run(
        *("generate", "--prompt", "a red boat", *SMALL, "--sweep", "steps=10,11", "--out", tmp_path / "boat.mp4")
    )
    assert code == 0, err
    assert [line.split(": ")[0] for line in out.splitlines()] == [str(tmp_path / f"boat-{n}.mp4") for n in (1, 2)]
    code, _, err = run("generate", "--prompt", "a red boat", *SMALL, "--sweep", "mood=calm")
    assert (code, "--sweep='mood' is not a setting; use one of " in err) == (2, True)
    code, _, err = run("generate", "--prompt", "a red boat", *SMALL, "--sweep", "prompt=[a,b")
    assert (code, "this is no JSON list; use a,b,c or a list of JSON" in err) == (2, True)
    code, _, err = run("generate", "--prompt", "a red boat", *SMALL, "--variations", "13")
    assert (code, "13 variations; ask for 1 to 12" in err) == (2, True)
    code, _, err = run("generate", "--prompt", "a red boat", *SMALL, "--draft", "10")
    assert (code, "--draft=10 is not below the 10 steps of the finished video; use 1 to 9" in err) == (2, True)


def test_a_batch_of_which_one_fails_exits_as_a_failure(run, monkeypatch):
    render = SyntheticEngine.render

    def fail_at_seed_2(engine, task, report):
        if task.request.seed == 2:
            raise RenderFailed("The engine gave up;", hint="retry.")
        return render(engine, task, report)

    monkeypatch.setattr(SyntheticEngine, "render", fail_at_seed_2)
    code, out, _ = run("generate", "--prompt", "a red boat", *SMALL, "--variations", "2", "--json")
    assert (code, [job["state"] for job in json.loads(out.splitlines()[-1])["jobs"]]) == (1, ["succeeded", "failed"])
