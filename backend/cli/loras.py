"""`loras`: list, add, remove and restore what changes a model's videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from backend.cli.terminal import BAD_REQUEST, cell, complain, fail, open_studio, out, say

loras_app = typer.Typer(help="What changes a model's videos: list, add, remove, restore.", rich_markup_mode=None)


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
    for lora in found["loras"]:
        for note in lora.get("notes", ()):
            say(f"{lora['name']}: {note}")
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
    for note in lora.get("notes", ()):
        say(note)


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
