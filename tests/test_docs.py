"""What the pages of docs/ say is there, and what is there is said."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from backend.cli import main as cli
from backend.cli.flags import request_flags
from backend.core.config import Settings, variable_of
from backend.core.placement import Placement
from backend.core.plan import Machine, Source
from backend.core.planning import make_plan
from backend.core.registry import MODELS
from backend.core.schema import GenerationRequest, SkyReelsOptions, parse_request
from backend.web.api import api
from benchmarks import settings as settings_tables
from benchmarks.models import page as models_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "SYSTEM_OVERVIEW.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def text(*names: str) -> str:
    return "\n".join((ROOT / name).read_text() for name in names)


def test_every_route_is_described():
    described = text("docs/api.md")
    for route in api.routes:
        if "{path" in route.path:
            continue
        path = route.path.replace(":path}", "}")
        last = path.replace("{job_id}", "{id}").replace("{upload_id}", "{id}").rsplit("/", 1)[-1]
        words = {"{action}": ["cancel", "pause", "resume", "retry", "restore", "favourite", "unfavourite"]}.get(
            last, [path.rsplit("/", 1)[-1]]
        )
        for word in words:
            assert word.strip("{}").replace("job_", "").replace("upload_", "") in described, path


def test_every_field_of_a_request_is_described():
    described = text("docs/api.md", "docs/usage.md")
    for name in [*GenerationRequest.model_fields, *SkyReelsOptions.model_fields]:
        assert f"`{name}`" in described, name


def test_the_page_of_the_models_is_that_of_the_registry():
    assert text("docs/models.md") == models_page(), "python -m benchmarks.models"


def test_the_tables_of_settings_are_those_of_the_code():
    page = text("docs/usage.md")
    assert page == settings_tables.page(page), "python -m benchmarks.settings"


def test_every_variable_of_the_environment_is_described():
    described = text("docs/usage.md")
    for field, info in Settings.model_fields.items():
        assert f"`{variable_of(field)}`" in described
        assert info.description, field


def test_the_readme_says_from_which_memory_on_models_are_fastest_and_fit():
    said = re.search(
        r"1\.3B models are fastest from (\d+) GB on, 14B models from (\d+) GB on; from (\d+) GB on parts of 1\.3B "
        r"models take turns, .*layer by layer, slowly; with `balanced` parts of 14B models for text take turns "
        r"from (\d+) GB on",
        text("README.md"),
    )
    fastest = {"1.3b": int(said[1]), "14b": int(said[2])}
    least, lossy = int(said[3]), int(said[4])
    slowest = {"1.3b": Placement.MODEL_OFFLOAD, "14b": Placement.GROUP_OFFLOAD}
    for size in fastest:
        for spec in MODELS.values():
            if size in spec.id and spec.family == "skyreels-v2":
                fields = {"prompt": "-", "model": spec.id}
                if "i2v" in spec.id:
                    fields |= {"mode": "image_to_video", "image": "0" * 20}
                for gib, placement, preset in (
                    (fastest[size], Placement.RESIDENT, "exact"),
                    (least, slowest[size], "exact"),
                    *(
                        [(lossy - 0.5, Placement.MODEL_OFFLOAD, "balanced")]
                        if size == "14b" and "i2v" not in spec.id
                        else []
                    ),
                ):
                    plan = make_plan(parse_request(fields | {"preset": preset}), spec, Machine("a GPU", 16, 128, gib))
                    assert plan.placement is placement
                    assert plan.forecast.peak_gib < gib


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_names_commands_that_exist():
    known = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    known |= {group.name for group in cli.app.registered_groups}
    used = set(re.findall(r"^\./launch\.sh (\w+)", text("README.md"), re.MULTILINE))
    assert used
    assert used <= known


def recipes() -> list[str]:
    """The command lines of the examples in usage.md, without the program."""
    section = text("docs/usage.md").split("### Examples")[1].split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return [block.replace("\\\n", " ").removeprefix("./launch.sh generate ") for block in blocks]


@pytest.mark.parametrize(("recipe", "windows"), list(zip(recipes(), (3, 4, 8), strict=True)))
def test_the_examples_give_the_windows_that_the_page_says(recipe, windows):
    app, requests = typer.Typer(), []
    app.command()(request_flags(requests.append))
    assert CliRunner().invoke(app, shlex.split(recipe)).exit_code == 0
    [params] = requests
    clip = Source(960, 540, 240, 24.0) if params.get("video") else None
    if clip:
        params |= {"mode": "video_extension", "video": "0" * 20}
    plan = make_plan(parse_request(params), MODELS[params["model"]], Machine("H100", 16, 128, 79), clip)
    assert len(plan.windows) == windows


def test_the_files_that_the_guide_for_changes_names_are_there():
    named = re.findall(r"`((?:backend|ui|tests|training|benchmarks)/[\w./]+?)/?`", text("docs/development.md"))
    assert "backend/finishing" in named
    assert [name for name in named if not (ROOT / name).exists()] == []
