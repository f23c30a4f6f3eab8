"""``rosi-edge inspect``: what a model file is."""

from __future__ import annotations

import click
from rich.table import Table

from rosi_edge.commands.output import (
    progress_bar,
    show,
)


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(model: str, as_json: bool) -> None:
    """Show what a model file is and whether it can be hardened."""
    from rosi_edge import library

    with progress_bar() as progress:
        found = library.inspect(model, progress=progress)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    types = ", ".join(f"{name} × {share.tensors}" for name, share in found.quantization.items())
    matrices: dict[tuple[str, str, str], int] = {}
    for matrix in found.write_matrices:
        key = (matrix.kind, matrix.type, "×".join(map(str, matrix.shape)))
        matrices[key] = matrices.get(key, 0) + 1
    for label, value in (
        ("file", f"{found.path} ({found.size / 1e6:.1f} MB)"),
        ("sha256", found.sha256 or ""),
        ("name", found.name or "not given"),
        ("architecture", found.architecture or "not given"),
        ("parameters", f"{found.parameters / 1e6:.1f} million"),
        ("blocks, hidden size", f"{found.block_count or '?'}, {found.hidden_size or '?'}"),
        ("quantization", f"{found.file_type or 'not named'}: {types}"),
        ("chat template", "yes" if found.chat_template else "no"),
        *(
            ("write matrices", f"{count} × {kind}, {kind_type}, {shape}")
            for (kind, kind_type, shape), count in matrices.items()
        ),
        *(("warning", warning) for warning in found.warnings),
        ("can be hardened", "yes" if found.can_harden else "no: " + "; ".join(found.reasons)),
    ):
        table.add_row(label, click.unstyle(str(value)).replace("[", "\\["))
    show(table)
