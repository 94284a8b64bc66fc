"""What every command does with the terminal: words, exit codes, the studio that it asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from backend.core.config import Settings
from backend.core.errors import StudioError
from backend.core.text import escape_control
from backend.studios import Studio, connect

DONE, FAILED, BAD_REQUEST, CANCELLED = 0, 1, 2, 130

out = Console(emoji=False)  # ":x:" in a prompt is what was written
err = Console(stderr=True, emoji=False)


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


def remark(message: str) -> None:
    """A line on stderr that is no error: it is seen where the answer goes to a file."""
    err.print(escape_control(message), style="dim", markup=False, highlight=False, soft_wrap=True)


def cell(text: str) -> str:
    """Text for a table, in which nothing is markup and lines are joined."""
    return escape(escape_control(" ".join(text.split())))
