"""Settings, from the environment, and the folders of a data folder. Reads no file and makes none."""

from __future__ import annotations

import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from backend.core.errors import InvalidRequest
from backend.core.units import GIB as GIB
from backend.core.units import MIB as MIB

ROOT = Path(__file__).resolve().parents[2]  # the checkout: pages, and weights that came with it

PREFIX = "STUDIO_"
HUB_OFFLINE = "HF_HUB_OFFLINE"  # the hub's own name for `offline`
HUB_TRUE = ("1", "ON", "YES", "TRUE")
HOST_NAME = re.compile(
    r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]"
)  # of a lower-case Host header, without port
BASE_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
# First parts of the studio's own addresses, its pages and Streamlit's routes included.
OWN_PATHS = (
    *("_stcore", "api", "app", "component", "create", "docs", "gallery", "healthz", "media", "metrics", "models"),
    *("openapi.json", "queue", "static", "static-offline-docs", "system", "v1"),
)


def _zero_or_one(value: Any) -> Any:
    """`value`, unless it is text: then the truth of "0" or "1", and ValueError for other text."""
    if isinstance(value, str) and value not in ("0", "1"):
        raise ValueError("neither 0 nor 1")
    return value == "1" if isinstance(value, str) else value


def _full_path(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except RuntimeError:  # ~somebody, who has no home here
        raise ValueError("no such user") from None


def _parts(value: Any) -> Any:
    """The parts of a text between its commas; what is no text is left as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    if not all(HOST_NAME.fullmatch(name.lower()) for name in names):
        raise ValueError("no host name")
    return tuple(name.lower() for name in names)


def _networks(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(ip_network(name)) for name in names)  # raises ValueError for what is none


def _base_path(path: str) -> str:
    path = path.rstrip("/")
    if not BASE_PATH.fullmatch(path) or path.strip("/").partition("/")[0] in OWN_PATHS:
        raise ValueError("no path for a proxy")
    return path


Folder = Annotated[Path, AfterValidator(_full_path)]
Switch = Annotated[bool, BeforeValidator(_zero_or_one)]
HostNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts), AfterValidator(_host_names)]
Networks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts), AfterValidator(_networks)]


class Settings(BaseSettings):
    """Where the studio keeps its things and how much it takes on.

    The constructor takes values by the names of the fields and reads no environment; `from_env` reads it.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        env_prefix=PREFIX,
        env_ignore_empty=True,
        populate_by_name=True,
    )

    data: Folder = Field(ROOT, description="the data folder; the checkout if left out")
    shared_models: Folder = Field(
        ROOT / "models",
        validation_alias=f"{PREFIX}MODELS",
        description="a second folder of weights, beside `models/` of the data folder; that of the checkout if left out",
    )
    queue_limit: PositiveInt = Field(1000, description="waiting jobs; one more is refused")
    upload_limit_bytes: PositiveInt = Field(500 * MIB, description="the largest upload")
    upload_slots: PositiveInt = Field(2, description="uploads at once; a further one waits")
    uploads_quota_bytes: PositiveInt = Field(20 * GIB, description="all uploads together; a further one is refused")
    upload_keep_s: NonNegativeFloat = Field(
        24 * 3600.0, description="an upload that no job needs is removed after this"
    )
    nice: int = Field(
        0, ge=0, le=19, description="how much a render gives way to other programs: 0 not at all, 19 to all of them"
    )
    save_every_s: NonNegativeFloat = Field(
        30.0, description="a render that is killed loses at most this much, and the step that it was in"
    )
    unfinished_keep_s: NonNegativeFloat = Field(
        7 * 24 * 3600.0, description="how long the work of a cancelled or failed job is kept, to go on from"
    )
    unfinished_quota_bytes: NonNegativeInt = Field(
        50 * GIB, description="all such work together; the oldest is removed first"
    )
    trash_keep_s: NonNegativeFloat = Field(7 * 24 * 3600.0, description="how long deleted videos and models are kept")
    disk_reserve_bytes: NonNegativeInt = Field(
        2 * GIB, description="a render starts only if this much of the disk would stay free"
    )
    hang_timeout_s: NonNegativeFloat = Field(
        120.0, description="a render that reports nothing for so long, and for ten of its steps, hangs"
    )
    slow_hang_timeout_s: NonNegativeFloat = Field(
        1800.0, description="the same while weights are read and while the video is joined, which report rarely"
    )
    offline: Switch = Field(False, description=f"1: ask the hub for no models; `{HUB_OFFLINE}=1` does the same")
    compile_blocks: Switch | None = Field(
        None,
        validation_alias=f"{PREFIX}COMPILE",
        description="1 compiles the transformer's blocks without a trial, 0 never; if left out they are timed on a GPU",
    )
    cancel_timeout_s: NonNegativeFloat = Field(
        10.0, description="a render that ignores its cancellation for so long is ended with the process"
    )
    slow_cancel_timeout_s: NonNegativeFloat = Field(
        180.0, description="the same while weights are read and blocks compiled, which nothing interrupts"
    )

    allowed_hosts: HostNames = Field(
        (), description="further host names under which the studio may be called, as `--allow-host`"
    )
    base_path: Annotated[str, AfterValidator(_base_path)] = Field(
        "", description="the path under which a reverse proxy shows the studio, as `--base-path`"
    )
    trusted_proxies: Networks = Field(
        (), description="whose `X-Forwarded-Proto` and `X-Forwarded-For` are believed, as `--trusted-proxy`"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @classmethod
    def from_env(cls) -> Settings:
        """The settings that the variables of the environment set; `variable_of` names the one of each field.

        Raises InvalidRequest for a value that does not fit.
        """
        found = EnvSettingsSource(cls)()
        if os.environ.get(HUB_OFFLINE, "").upper() in HUB_TRUE:
            found.setdefault("offline", True)
        try:
            return cls(**found)
        except ValidationError as error:
            raise _explain(error.errors()[0]) from None

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """Where checkpoints are looked for; of two with the same id the first counts."""
        return tuple(dict.fromkeys((self.models, self.shared_models)))

    @property
    def downloads(self) -> Path:
        """Models on their way here; nothing looks for checkpoints in it."""
        return self.models / ".downloads"

    @property
    def models_trash(self) -> Path:
        return self.models / ".trash"

    @property
    def outputs(self) -> Path:
        return self.data / "outputs"

    @property
    def trash(self) -> Path:
        return self.outputs / ".trash"

    @property
    def temp(self) -> Path:
        return self.data / "temp"

    @property
    def uploads(self) -> Path:
        return self.data / "uploads"

    @property
    def database(self) -> Path:
        return self.outputs / "studio.db"

    @property
    def copies(self) -> Path:
        """Copies of the database, the newest ones."""
        return self.outputs / ".copies"

    @property
    def damaged(self) -> Path:
        """What could not be read any more and was set aside."""
        return self.outputs / ".damaged"

    @property
    def cache(self) -> Path:
        """What is quicker to read than to find again."""
        return self.temp / ".cache"

    @property
    def reserve_file(self) -> Path:
        """Space that the history gets when the disk is full."""
        return self.outputs / ".spare"

    @property
    def draft(self) -> Path:
        """The form of the pages as it was left."""
        return self.outputs / "draft.json"

    @property
    def presets(self) -> Path:
        """Presets of settings that a user saved."""
        return self.outputs / "presets.json"

    @property
    def lock(self) -> Path:
        return self.outputs / "studio.lock"

    @property
    def token(self) -> Path:
        """What others on the network must show, after `./launch.sh --lan`."""
        return self.outputs / "studio.token"

    @property
    def moves(self) -> tuple[tuple[Path, Path], ...]:
        """From where to where whole results and models are moved, under the same name. Each may be on another disk."""
        there = (
            (self.outputs, self.trash),
            (self.models, self.models_trash),
            (self.models / "loras", self.models_trash / "loras"),
        )
        return ((self.temp, self.outputs), *there, *((to, folder) for folder, to in there))

    @property
    def log(self) -> Path:
        return self.outputs / "studio.log"

    @property
    def address(self) -> Path:
        """Where a running studio writes its URL, for the command line to find."""
        return self.outputs / "studio.json"


WANTED = {  # what is not told by the type of a field
    "allowed_hosts": "host names without port, separated by commas",
    "base_path": "a path such as /studio that is none of the studio's own",
    "trusted_proxies": "IP addresses or networks, separated by commas",
}


def variable_of(field: str) -> str:
    """The environment variable that sets a field.

    >>> variable_of("data"), variable_of("shared_models")
    ('STUDIO_DATA', 'STUDIO_MODELS')
    """
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else f"{PREFIX}{field.upper()}"


def wanted(field: str) -> str:
    """What a field's variable takes, in words.

    >>> wanted("data"), wanted("offline"), wanted("queue_limit"), wanted("save_every_s")
    ('the path of a folder', '0 or 1', 'a whole number from 1 on', 'a number of seconds from 0 on')
    """
    if field in WANTED:
        return WANTED[field]
    info = Settings.model_fields[field]
    kind = info.annotation
    if kind is Path:
        return "the path of a folder"
    if kind not in (int, float):
        return "0 or 1"
    unit = next((f" of {unit}" for end, unit in (("_bytes", "bytes"), ("_s", "seconds")) if field.endswith(end)), "")
    least = 1 if any(hasattr(rule, "gt") for rule in info.metadata) else 0
    most = next((f"to {rule.le}" for rule in info.metadata if hasattr(rule, "le")), "on")
    return f"a {'whole ' if kind is int else ''}number{unit} from {least} {most}"


def _explain(error: ErrorDetails) -> InvalidRequest:
    name = str(error["loc"][0])
    field = next(field for field in Settings.model_fields if name in (field, variable_of(field)))
    return InvalidRequest(f"{variable_of(field)}={error['input']} does not fit;", hint=f"use {wanted(field)}.")
