"""Untrusted text in Markdown: it must neither break the layout nor bring markup, links or HTML with it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rosi_edge.basics.text import printable

LONGEST_NAME = 120
"""Characters of a name shown in running text and tables."""

# An underscore inside a word, as in most file names, marks nothing.
_PUNCTUATION = re.compile(r"([\\`*\[\]|~#$@!]|(?<![^\W_])_|_(?![^\W_]))")
_BARE_LINK = re.compile(r"(?i)(://|www(?=\.))")
_LIST_START = re.compile(r"^(\d{0,9})([-+=.)])")


def plain(value: str, longest: int | None = None) -> str:
    """A text that shows as it is within running text, table cells included."""
    line = _one_line(value, longest)
    escaped = _PUNCTUATION.sub(r"\\\1", line)
    # GitHub makes links of bare addresses; an escape inside stops it.
    escaped = _BARE_LINK.sub(lambda match: ":\\//" if match[0] == "://" else f"{match[0]}\\", escaped)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def paragraph(value: str) -> str:
    """The same at the start of a line, where some signs would begin a list or a heading."""
    return _LIST_START.sub(r"\1\\\2", plain(value))


def code(value: str, longest: int | None = LONGEST_NAME, *, in_table: bool = False) -> str:
    """A code span. In a table, where a bar would end the cell even inside code, set ``in_table``."""
    line = _one_line(value, longest)
    if not line:
        return "(none)"
    if in_table and "|" in line:
        # Readers of Markdown disagree on a backslash before a bar in code.
        return plain(line)
    fence = "`" * (_longest_run(line) + 1)
    # One space on each side is taken away again by the reader; it keeps backticks at the ends apart.
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def code_block(value: str, language: str = "") -> str:
    """A fenced block with the text as it is, line breaks included."""
    lines = [
        printable(line, len(line)) for line in value.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    ]
    fence = "`" * max(3, _longest_run(value) + 1)
    return "\n".join([f"{fence}{language}", *lines, fence])


def table(head: Iterable[str], rows: Iterable[Iterable[str]], align: str = "") -> str:
    """A table of cells that are Markdown already.

    Args:
        align: a letter a column, ``l`` or ``r``; columns beyond it are left-aligned.
    """
    cells = list(head)
    rules = ["---:" if align[i : i + 1] == "r" else "---" for i in range(len(cells))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (cells, rules, *map(list, rows)))


def _one_line(value: str, longest: int | None) -> str:
    line = " ".join(value.split())
    return printable(line, len(line) if longest is None else longest)


def _longest_run(value: str) -> int:
    return max((len(run) for run in re.findall("`+", value)), default=0)
