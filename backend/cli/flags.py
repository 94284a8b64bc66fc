"""The flags of a request, made from the settings of its schema, and the request made from flags."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from backend.cli.terminal import remark
from backend.core.errors import InvalidRequest, mention
from backend.core.inputs import ANY_UPLOAD, INPUTS, mode_for
from backend.core.schema import SETTINGS, Setting, parse_request
from backend.studios import Studio

FLAGS = {name: f"--{name.replace('_', '-')}" for name in SETTINGS}
FLAGS |= {"num_inference_steps": "--steps", "draft_steps": "--draft", "loras": "--lora"}
DOTTED = {SETTINGS[name].field: flag for name, flag in FLAGS.items()}
SYNTAX = {  # what only the command line has to say
    "mode": "Follows from the files if left out.",
    "loras": "NAME, or NAME:0.8, or NAME:0.8,0.4 for windows; give it once for each.",
    "storyboard": "Give it once for each window after the first.",
}

_NUMBER = r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*"
STRENGTHS = re.compile(rf":{_NUMBER}(?:,{_NUMBER})*")  # behind the name of a LoRA, which may have colons too


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
    flag = FLAGS[setting.name]
    names = f"{flag}/--no-{flag.removeprefix('--')}" if kind is bool else flag
    option = typer.Option(names, help=words, show_default=False)
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

    >>> lora_use("grain"), lora_use("film noir:0.8,0.25"), lora_use("a:b (1)")
    ({'name': 'grain'}, {'name': 'film noir', 'strength': [0.8, 0.25]}, {'name': 'a:b (1)'})
    """
    name, _, strengths = words.rpartition(":")
    if not STRENGTHS.fullmatch(f":{strengths}") or ":" not in words:
        return {"name": words}
    return {"name": name, "strength": [float(number) for number in strengths.split(",")]}


SWEEP = 'Vary a setting instead of the seed; a JSON list is fine: prompt=["a, b","c"].'
VARYING = DOTTED | {"field": "--sweep", "values": "--sweep"}


def sweep_of(words: str) -> dict[str, Any]:
    """The setting that a sweep varies and its values. Raises InvalidRequest for a list of JSON that is none.

    >>> sweep_of("steps=10,20"), sweep_of('prompt=["a, b"]')["values"]
    ({'field': 'num_inference_steps', 'values': [10, 20]}, ['a, b'])
    """
    name, _, values = words.partition("=")
    settings = {flag.removeprefix("--"): setting for setting, flag in FLAGS.items()}
    found = _value(values) if values.startswith("[") else [_value(word) for word in values.split(",") if word]
    if not isinstance(found, list):
        field = mention("values", words)
        raise InvalidRequest([field, ": this is no JSON list;"], hint="use a,b,c or a list of JSON.", field="values")
    return {"field": settings.get(name, name.replace("-", "_")), "values": found}


def _value(word: str) -> Any:
    """A value as JSON has it.

    >>> _value("6.5"), _value("turbo")
    (6.5, 'turbo')
    """
    try:
        return json.loads(word)
    except ValueError:
        return word


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
            sent[name] = send_file(studio, path)
    return sent


def send_file(studio: Studio, path: Path) -> str:
    """The id of the uploaded file; what is done to it unasked is said on stderr."""
    upload = studio.upload(path)
    for note in upload["notes"]:
        remark(f"{path.name}: {note}")
    return str(upload["id"])
