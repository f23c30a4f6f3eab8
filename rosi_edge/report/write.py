"""Putting a report into a folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from rosi_edge.errors import OutputError
from rosi_edge.models.atomic import atomic_write
from rosi_edge.records.hardening import HardeningReport
from rosi_edge.report.markdown import model_card
from rosi_edge.report.pictures import PICTURES, render_all

JSON_NAME = "report.json"
CARD_NAME = "report.md"


def write_report(report: HardeningReport, folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and the pictures, each whole or not at all.

    The folder is made if need be. An earlier report in it is replaced, its pictures included; other files
    stay.

    Raises:
        OutputError: the folder cannot be made or written to.
    """
    check_folder(folder)
    # All of it is made before any of it is written: an earlier report is not left half replaced.
    pictures = render_all(report)
    card = model_card(report, list(pictures))
    files = {JSON_NAME: to_json(report).encode(), **pictures, CARD_NAME: card.encode()}
    _make(folder)
    for name, content in files.items():
        with atomic_write(folder / name, size=len(content)) as stream:
            stream.write(content)
    for name in PICTURES:
        if name not in pictures:
            with suppress(OSError):
                (folder / name).unlink()


def to_json(report: BaseModel) -> str:
    """A report as JSON with its keys in the order of the schema, ending with a newline."""
    return report.model_dump_json(indent=2) + "\n"


def check_folder(folder: Path) -> None:
    """Raise OutputError when a report cannot go there, before any long work is done for it."""
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        is_folder = existing.is_dir()
    except (OSError, ValueError) as error:
        raise _cannot_make(folder, error) from error
    if not is_folder:
        raise OutputError(f"{existing} is a file, not a folder", "Choose another folder for the report")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {existing} is not writable", "Choose another folder for the report")


def _make(folder: Path) -> None:
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _cannot_make(folder, error) from error


def _cannot_make(folder: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or str(error)
    return OutputError(
        f"the folder {folder} cannot be made ({reason})", "Choose another folder for the report"
    )
