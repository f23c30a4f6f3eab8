"""Where an output goes, decided once and checked before anything is written."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from rosi_edge.errors import OutputError
from rosi_edge.models.atomic import checked_target
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import output_places, refuse_same_file


@dataclass(frozen=True)
class Destination:
    """The place of a hardened model, links followed.

    Attributes:
        weights: the model that is hardened; its files are never written to.
        place: as it was named: a file, or a folder.
        places: what is written: ``place``, or the parts of a model that has several.
        adapter: where the edits are written to as well, if anywhere.
    """

    weights: GgufFile | Checkpoint
    place: Path
    places: tuple[Path, ...]
    adapter: Path | None = None

    @classmethod
    def of(cls, weights: GgufFile | Checkpoint, output: Path, adapter: Path | None = None) -> Destination:
        """
        Raises:
            OutputError: nothing can be written there, a file of the model would be overwritten, or both
                outputs are one file.
        """
        place = checked_folder(output) if isinstance(weights, Checkpoint) else checked_target(output)
        destination = cls(
            weights,
            place,
            tuple(_numbered(weights, place)),
            None if adapter is None else checked_target(adapter),
        )
        destination.keep_off(files_of(weights))
        if destination.adapter in destination.places:
            raise OutputError(f"{output} cannot be both the model and the adapter", "Name two files")
        return destination

    @property
    def written(self) -> list[Path]:
        return [*self.places, *([] if self.adapter is None else [self.adapter])]

    def keep_off(self, read: Iterable[Path], taken: Container[Path] = ()) -> None:
        """Refuse to write to what is read, or to the place of another output.

        Raises:
            OutputError: see above.
        """
        for path in read:
            for place in self.written:
                refuse_same_file(path, place)
        if any(place in taken for place in self.written):
            raise OutputError(f"{self.place} is named twice", "Give every model an output of its own")

    def check(self) -> None:
        """Look again: something may have been put there since.

        Raises:
            OutputError: as ``of`` does.
        """
        Destination.of(self.weights, self.place, self.adapter)

    def beside(self, name: str) -> list[Path]:
        """What is written before it gets its place, under another name."""
        suffix = "" if isinstance(self.weights, Checkpoint) else ".gguf"
        return _numbered(self.weights, self.place.with_name(name + suffix))


def files_of(weights: GgufFile | Checkpoint) -> list[Path]:
    """The parts of a model's file, or the folder that it is."""
    return [weights.path] if isinstance(weights, Checkpoint) else [part.path for part in weights.parts]


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


def _numbered(weights: GgufFile | Checkpoint, place: Path) -> list[Path]:
    return [place] if isinstance(weights, Checkpoint) else output_places(weights, place)
