"""``rosi-edge verify``: a hardened file against its original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from rosi_edge.commands.arguments import PATH
from rosi_edge.commands.output import FINDING, progress_bar, show


@click.command()
@click.argument("hardened", metavar="OUT", type=PATH)
@click.option("--base", required=True, metavar="MODEL", help="The original that OUT was made from.")
@click.option("--adapter", type=PATH, help="The edit as a LoRA adapter: it must be the one OUT declares.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(hardened: Path, base: str, adapter: Path | None, as_json: bool) -> None:
    """Prove from the two files that OUT is MODEL with the declared edit, and nothing else.

    Exit code 1 when anything differs that should not, down to a single byte.
    """
    from rosi_edge import library

    with progress_bar() as progress:
        found = library.verify(hardened, base, adapter=adapter, progress=progress)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        _show(found)
    if not found.passed:
        raise click.exceptions.Exit(FINDING)


def _show(found: Any) -> None:
    table = Table("edited tensor", "type", "scales", "weights changed", "along the edit", "furthest, steps")
    for tensor in found.tensors:
        kind = tensor.type if tensor.type == tensor.base_type else f"{tensor.base_type} → {tensor.type}"
        along = "–"
        if tensor.along_edit is not None:
            along = f"{tensor.along_edit:.3f} (by chance {tensor.along_edit_by_chance:.3f})"
        furthest = "–" if tensor.largest_step is None else f"{tensor.largest_step:.2f}"
        name = tensor.name.replace("[", "\\[")
        table.add_row(name, kind, tensor.scales, str(tensor.changed), along, furthest)
    if found.tensors:
        show(table)
    for check, outcome in found.checks.items():
        click.echo(f"{check.replace('_', ' ')}: {outcome}")
    for line in (*found.notes, *found.problems):
        click.echo(line)
    if found.passed:
        click.echo(f"{found.file} is {found.base} with the declared edit, and nothing else")
    else:
        click.echo(f"{found.file} is not what it should be")
