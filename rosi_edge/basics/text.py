"""Text from files, made safe to print and to store."""

from __future__ import annotations


def encodable(name: str) -> str:
    """A file's name as UTF-8 can hold it: names on a disk may be any bytes."""
    return name.encode("utf-8", "replace").decode("utf-8")


def megabytes(size: int, decimals: int = 1) -> str:
    """Bytes as MB, or as GB with a decimal more."""
    return f"{size / 1e6:,.{decimals}f} MB" if size < 1e9 else f"{size / 1e9:,.{decimals + 1}f} GB"


def printable(text: str, longest: int = 300) -> str:
    """Text out of a file as it may be shown: no terminal escapes, no line breaks, not endless."""
    shown = "".join(character if character.isprintable() else "�" for character in text)
    return shown if len(shown) <= longest else shown[:longest] + "…"
