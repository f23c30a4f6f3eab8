"""Where a hardened model goes when nobody says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from rosi_edge.commands.output import progress_bar
from rosi_edge.errors import OutputError
from rosi_edge.models.parts import PART_NAME
from rosi_edge.sources.resolve import is_fetched


def default_output(reference: str, path: Path) -> Path:
    """``MODEL-hardened.gguf`` beside the model; of a model that was fetched, in the current folder.

    Args:
        reference: the model as it was named.
        path: the file or the folder behind it.
    """
    fetched = is_fetched(reference)
    if path.is_dir():
        whole = Path(os.path.abspath(path))  # noqa: PTH100 (a link is the folder that was named)
        # A folder that was fetched is named after its commit.
        name = reference.partition("/")[2] if fetched else whole.name
        return (Path() if fetched else whole.parent) / f"{name}-hardened"
    part = PART_NAME.fullmatch(path.name)
    name = part["stem"] if part else path.stem
    return (Path() if fetched else path.parent) / f"{name}-hardened.gguf"


def free_output(reference: str) -> Path:
    """``default_output``, asking before a file is replaced.

    Raises:
        RosiEdgeError: the model cannot be found or opened.
        OutputError: a file is there and may not be replaced, or nothing can be written there.
    """
    from rosi_edge.baking.destination import Destination
    from rosi_edge.models.open_weights import open_weights
    from rosi_edge.sources.resolve import resolve

    with progress_bar() as progress:
        path = resolve(reference, progress)
    output = default_output(reference, path)
    with open_weights(path) as weights:
        there = [place for place in Destination.of(weights, output).places if place.exists()]
    if there:
        asked = sys.stdin.isatty() and sys.stderr.isatty()
        if not asked or not click.confirm(f"{there[0]} is there already. Replace it?", err=True):
            raise OutputError(f"{there[0]} is there already", "Name another file with -o, or remove it")
    return output
