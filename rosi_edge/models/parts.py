"""The names of a model in several parts."""

from __future__ import annotations

import re
from pathlib import Path

MAX_PARTS = 1 << 10
_MOST_PARTS = 1000
PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_PIECE = re.compile(
    r"(?P<whole>.+\.gguf)(?:[.-](?:part|split)?[._-]?(?:\d{1,4}(?:[._-]?of[._-]?\d{1,4})?|[a-z]{1,2}))",
    re.IGNORECASE,
)
"""Pieces of bytes, as ``split`` and uploaders of large files name them: X.gguf.part1of2, X.gguf-split-a."""


def whole_of_piece(name: str) -> str | None:
    """The name of the file that a piece of bytes was cut from, by the piece's name."""
    found = _PIECE.fullmatch(name)
    return found["whole"] if found else None


def part_name(stem: str, index: int, count: int) -> str:
    """The name of a part, counted from 0, of a model split into ``count`` (``llama_split_path``)."""
    return f"{stem}-{index + 1:05d}-of-{count:05d}.gguf"


def parts_beside(path: Path) -> list[Path]:
    """All parts of a model by the name of one, there or not; the path itself of any other file."""
    found = PART_NAME.fullmatch(path.name)
    if found is None:
        return [path]
    count = min(int(found["count"]), _MOST_PARTS)
    return [path, *(path.with_name(part_name(found["stem"], index, count)) for index in range(count))]
