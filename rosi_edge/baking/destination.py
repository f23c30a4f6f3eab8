"""Where an output goes, checked before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

from rosi_edge.errors import OutputError
from rosi_edge.models.atomic import checked_target
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import output_places, refuse_overwriting, refuse_same_file


def checked_folder(folder: Path) -> Path:
    """The real place of a new folder.

    Raises:
        OutputError: something is there already, or nothing can be made there.
    """
    place = Path(os.path.realpath(folder))
    if place.exists() or place.is_symlink():
        raise OutputError(f"{folder} is there already", "Name a folder that does not exist yet")
    if not place.parent.is_dir():
        raise OutputError(f"{place.parent} is not a folder", "Create it, or choose another place")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {place.parent} is not writable", "Choose another place")
    return place


def checked_place(weights: GgufFile | Checkpoint, output: Path) -> Path:
    """The place of the output, made absolute.

    Raises:
        OutputError: nothing can be written there, or a file of the model itself would be overwritten.
    """
    place = checked_folder(output) if isinstance(weights, Checkpoint) else checked_target(output)
    for written in places_of(weights, place):
        refuse_to_touch(weights, written)
    return place


def places_of(weights: GgufFile | Checkpoint, place: Path) -> list[Path]:
    """What is written there: a folder, a file, or the parts of one."""
    return [place] if isinstance(weights, Checkpoint) else output_places(weights, place)


def refuse_to_touch(weights: GgufFile | Checkpoint, place: Path) -> None:
    """Raise OutputError when a path leads to a file of a model, any of its parts, or into its folder."""
    if isinstance(weights, Checkpoint):
        refuse_same_file(weights.path, place)
    else:
        refuse_overwriting(weights, place)
