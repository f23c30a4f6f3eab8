"""A hardened model on its way: written under a name of its own first, and kept if the verdict allows.

GGUF files and checkpoint folders are treated alike from here on.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from rosi_edge.baking.checkpoint import bake_checkpoint
from rosi_edge.baking.destination import Destination, files_of
from rosi_edge.baking.gguf import bake
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.baking.side_by_side import ignore_rounded
from rosi_edge.basics.lock import LockFile, is_locked
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import OutputError
from rosi_edge.models.atomic import put_in_place, shortened
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.digest import sha256_of_model
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.open_weights import open_weights
from rosi_edge.models.rewrite import refuse_same_file
from rosi_edge.records.facts import OutputFile

_SUFFIX = ".draft"
_LOCK = ".lock"
_LONGEST_NAME_BYTES = 120


@dataclass(frozen=True)
class Draft:
    """Files, or a folder, beside the places they are meant for.

    It is named before it is written, so that whoever ends the writing can drop what there is of it. Its name
    holds something random, so that it is no other run's and no input's, and a lock file beside it tells
    others that its writer lives.

    Attributes:
        weights: the model that it is made from.
        moves: (draft, place) of each; the first is the one that a model is opened by.
        lock: until the draft is kept or dropped.
    """

    weights: GgufFile | Checkpoint
    moves: tuple[tuple[Path, Path], ...]
    lock: LockFile

    @classmethod
    def beside(cls, destination: Destination) -> Draft:
        """New names beside a place; nothing is written yet but the lock, and what killed runs left there is
        removed.

        Raises:
            OutputError: nothing can be written there.
        """
        _remove_stale_drafts(destination)
        name, lock = _locked_name(destination.place)
        try:
            moves = zip(destination.beside(name), destination.places, strict=True)
            return cls(destination.weights, tuple(moves), lock)
        except BaseException:
            lock.release()
            raise

    @property
    def model(self) -> Path:
        return self.moves[0][0]

    def write(
        self,
        edits: Sequence[RankOneEdit],
        settings: BakeSettings,
        *,
        progress: Progress = SILENT,
        rounded: Callable[[BakedTensor], None] = ignore_rounded,
    ) -> list[BakedTensor]:
        """Bake the edits into it, in place of what has been written of it before; see ``bake``.

        Raises:
            OutputError, UnsupportedModelError, UndeliveredError: as ``bake`` and ``bake_checkpoint`` do.
        """
        if isinstance(self.weights, Checkpoint):
            self._clear()
            return bake_checkpoint(
                self.weights, self.model, edits, settings, progress=progress, rounded=rounded
            )
        return bake(self.weights, self.model, edits, settings, progress=progress, rounded=rounded)

    def output_file(self, progress: Progress = SILENT) -> OutputFile:
        """What it will be once it is kept."""
        with open_weights(self.model) as weights:
            sha256 = sha256_of_model(weights, progress)
            size = weights.total_size
        return OutputFile(file_name=self.moves[0][1].name, sha256=sha256, size=size)

    def keep(self) -> None:
        """Give it its name.

        Raises:
            OutputError: its place was taken in the meantime, or cannot be written any more.
        """
        try:
            put_in_place(list(self.moves))
        except OSError as error:
            place = self.moves[0][1]
            raise OutputError(
                f"{place} cannot be written ({error.strerror or error})",
                "Was something put there while this ran? Choose another output path",
            ) from error
        self.lock.release()

    def drop(self) -> None:
        """Take it away; what has been kept stays."""
        self._clear()
        self.lock.release()

    def _clear(self) -> None:
        for draft, _ in self.moves:
            _remove(draft)


def _locked_name(place: Path) -> tuple[str, LockFile]:
    while True:
        name = f"{_prefix(place)}{secrets.token_hex(8)}{_SUFFIX}"
        try:
            return name, LockFile(place.with_name(f"{name}{_LOCK}"))
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(
                f"{place} cannot be written ({error.strerror or error})", "Choose another output path"
            ) from error


def _remove_stale_drafts(destination: Destination) -> None:
    place = destination.place
    # With a second dot: files and folders that were on their way to being such a draft.
    pattern = re.compile(rf"\.?({re.escape(_prefix(place))}[0-9a-f]{{16}}{re.escape(_SUFFIX)})\b.*")
    leftovers: dict[str, list[Path]] = {}
    with suppress(OSError):
        for path in place.parent.iterdir():
            if found := pattern.fullmatch(path.name):
                leftovers.setdefault(found[1], []).append(path)
    for name, paths in leftovers.items():
        lock = place.with_name(f"{name}{_LOCK}")
        with suppress(OSError, OutputError):
            if lock.exists() and is_locked(lock):
                continue
            # Somebody may have found a draft, and want to harden that.
            for path, source in product(paths, files_of(destination.weights)):
                refuse_same_file(source, path)
            lock.unlink(missing_ok=True)
            for path in paths:
                _remove(path)


def _prefix(place: Path) -> str:
    # Names may have 255 bytes; what is random, suffixes and the numbers of parts come on top.
    return f".{shortened(place.name, _LONGEST_NAME_BYTES)}."


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
