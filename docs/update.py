"""Write the ``--help`` of every command into the pages that ask for it: ``python docs/update.py``.

A page asks with ``<!-- help harden -->`` and ends what it gets with ``<!-- /help -->``.
"""

from __future__ import annotations

import re
from pathlib import Path

import click
from click.testing import CliRunner

from rosi_edge.cli import application

FOLDER = Path(__file__).parent
_ASKED = re.compile(r"<!-- help ([\w ]+) -->\n.*?<!-- /help -->", re.DOTALL)


def help_of(command: str) -> str:
    """What a command prints with ``--help``, as wide as the pages take it."""
    runner = CliRunner()
    result = runner.invoke(
        application,
        [*command.split(), "--help"],
        prog_name="rosi-edge",
        terminal_width=100,
        max_content_width=100,
    )
    if result.exit_code:
        raise ValueError(f"rosi-edge {command} --help: {result.output}")
    return result.output.rstrip()


def updated(page: str) -> str:
    """A page with the present help texts."""
    return _ASKED.sub(
        lambda asked: f"<!-- help {asked[1]} -->\n```text\n{help_of(asked[1])}\n```\n<!-- /help -->", page
    )


def commands(group: click.Group = application) -> list[str]:
    """Every command by its full name."""
    found = []
    for name, command in group.commands.items():
        below = commands(command) if isinstance(command, click.Group) else []
        found += [f"{name} {each}" for each in below] or [name]
    return found


def main() -> None:
    for path in sorted(FOLDER.glob("*.md")):
        page = path.read_text("utf-8")
        if (new := updated(page)) != page:
            path.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
