"""Write the ``--help`` of every command into the pages that ask for it: ``python docs/update.py``.

With ``--check`` nothing is written; pages that are stale are named, and the exit code is 1.

A page asks with ``<!-- help harden -->`` and ends what it gets with ``<!-- /help -->``.
"""

from __future__ import annotations

import re
import sys
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


def main() -> int:
    pages = {path: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.md"))}
    stale = {path: new for path, page in pages.items() if (new := updated(page)) != page}
    if "--check" in sys.argv[1:]:
        sys.stderr.writelines(f"{path.name} is stale: python docs/update.py\n" for path in stale)
        return int(bool(stale))
    for path, page in stale.items():
        path.write_text(page, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
