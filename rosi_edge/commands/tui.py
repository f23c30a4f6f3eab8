"""``rosi-edge tui``: the wizard."""

from __future__ import annotations

import os
import sys

import click

from rosi_edge.basics.extras import require
from rosi_edge.errors import RosiEdgeError


@click.command()
@click.argument("model", required=False, default="")
def tui(model: str) -> None:
    """The wizard: harden MODEL step by step."""
    # A browser (`textual serve`) brings a driver of its own instead of a terminal.
    if not os.environ.get("TEXTUAL_DRIVER") and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RosiEdgeError("the wizard needs a terminal", "Run it in one, or use rosi-edge harden")
    require("tui", "the wizard")
    from rosi_edge_tui.app import run

    written, code = run(model)
    if written is not None:
        click.echo(written)
    if code:
        raise click.exceptions.Exit(code)
