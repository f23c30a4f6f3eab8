"""Edits and a checkpoint folder in, a new folder out: same shards, names and types, untouched tensors copied.

Beside the weights lie two small files: ``rosi-edge-edits.gguf``, the very edits as a LoRA adapter under GGUF
names, so that they can be applied to every quantized file of the same model, and ``rosi-edge.json``, what was
done and the hashes of the edited tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rosi_edge.baking.destination import checked_folder
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.baking.side_by_side import edits_by_tensor, ignore_rounded, rounding_ahead
from rosi_edge.baking.tensor import RoundedTensor
from rosi_edge.basics.progress import SILENT, Advance, Progress
from rosi_edge.basics.text import printable
from rosi_edge.edits.adapter import write_adapter
from rosi_edge.edits.declaration import DeclaredTensor
from rosi_edge.edits.rank_one import RankOneEdit, by_matrix
from rosi_edge.errors import ModelFileError, OutputError
from rosi_edge.models.atomic import flush_folder, require_space
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.checkpoint_files import OWN_FACTS, left_out, other_files
from rosi_edge.quantization.promotion import NEVER

EDITS = "rosi-edge-edits.gguf"
_NO_SEAL = "0" * 64
_SEAL = re.compile("[0-9a-f]{64}")
_COPIED_AT_A_TIME = 1 << 22


def bake_checkpoint(
    source: Checkpoint,
    folder: Path,
    edits: Sequence[RankOneEdit],
    settings: BakeSettings,
    *,
    progress: Progress = SILENT,
    rounded: Callable[[BakedTensor], None] = ignore_rounded,
) -> list[BakedTensor]:
    """Write ``source`` with every edit (at its full strength) rounded into its tensor, as ``bake`` does.

    Args:
        folder: the new checkpoint; it must not be there yet. It appears whole or not at all.

    Raises:
        OutputError: the folder is there already or cannot be written.
        UnsupportedModelError: an edited tensor is of a type that cannot be edited.
        UndeliveredError: a tensor cannot hold its edit.
        ValueError: an edit that does not fit its tensor.
    """
    by_tensor = edits_by_tensor(source, edits)
    settings = replace(settings, promotion=NEVER)
    done: dict[str, RoundedTensor] = {}
    unused = left_out(source.path)
    with (
        _new_folder(folder, size=source.total_size) as draft,
        progress.stage("Writing the checkpoint", source.total_size) as advance,
        rounding_ahead(source, by_tensor, settings, progress=progress, rounded=rounded) as following,
    ):
        waiting = list(by_tensor)
        for number, file in enumerate(source.files):
            with _open_source(source.path / file) as old, _new_file(draft / file) as new:
                position = 0
                while waiting and source.tensors[waiting[0]].part == number:
                    tensor = source.tensors[waiting.pop(0)]
                    _copy(old, new, position, tensor.offset, advance)
                    work = following()
                    if len(work.data) != tensor.size:
                        raise ValueError(f"{tensor.name} has another size than before")
                    new.write(work.data.data)
                    advance(len(work.data))
                    done[tensor.name] = _without_bytes(work)
                    position = tensor.end
                _copy(old, new, position, os.fstat(old.fileno()).st_size, advance)
        for extra in other_files(source.path):
            (draft / extra).parent.mkdir(parents=True, exist_ok=True)
            with _open_source(source.path / extra) as old, _new_file(draft / extra) as new:
                _copy(old, new, 0, os.fstat(old.fileno()).st_size, lambda _: None)
        write_adapter(draft / EDITS, edits, architecture=source.architecture)
        baked = {result.name: result for work in done.values() for result in work.baked}
        facts = {
            "format": 1,
            "metadata": dict(settings.metadata),
            "rounding": settings.rounding.name,
            "tensors": [
                {"name": name, "base_sha256": work.base_sha256, "sha256": work.sha256}
                for name, work in done.items()
            ],
            "aims": {name: result.aim for name, result in baked.items()},
            "edits_sha256": hashlib.sha256((draft / EDITS).read_bytes()).hexdigest(),
        }
        with _new_file(draft / OWN_FACTS) as new:
            new.write(sealed(facts))
    if unused:
        some = ", ".join(map(printable, unused[:3])) + (" and others" if len(unused) > 3 else "")
        progress.note(f"Left out, because it does not belong to the model: {some}")
    return [baked[name] for name in by_matrix(edits)]


@dataclass(frozen=True)
class CheckpointFacts:
    """What ``rosi-edge.json`` says of the edited tensors.

    Attributes:
        aims: by matrix, how much of its edits was asked for so that all of it arrives.
        edits_sha256: of ``rosi-edge-edits.gguf``.
    """

    rounding: str
    tensors: tuple[DeclaredTensor, ...]
    aims: Mapping[str, float]
    edits_sha256: str


def sealed(facts: Mapping[str, Any]) -> bytes:
    """``rosi-edge.json`` with a hash of itself, as it is with zeros in place of the hash: whatever is changed
    later shows."""
    content = json.dumps({**facts, "seal": _NO_SEAL}, indent=2).encode() + b"\n"
    return content.replace(_NO_SEAL.encode(), hashlib.sha256(content).hexdigest().encode())


def read_facts(folder: Path) -> CheckpointFacts:
    """The file that ``bake_checkpoint`` wrote.

    Raises:
        ModelFileError: it is missing, damaged or of another format.
    """
    place = folder / OWN_FACTS
    try:
        content = place.read_bytes()
        facts = json.loads(content)
        seal = facts["seal"]
        if not isinstance(seal, str) or _SEAL.fullmatch(seal) is None:
            raise ValueError
        if hashlib.sha256(content.replace(seal.encode(), _NO_SEAL.encode())).hexdigest() != seal:
            raise ModelFileError(f"{place} was changed after it was written", "Harden the original again")
        tensors = tuple(
            DeclaredTensor(str(entry["name"]), str(entry["base_sha256"]), str(entry["sha256"]))
            for entry in facts["tensors"]
        )
        aims = {str(name): float(aim) for name, aim in facts["aims"].items()}
        if facts["format"] != 1 or not tensors or not all(0 < aim < 10 for aim in aims.values()):
            raise ValueError
        return CheckpointFacts(str(facts["rounding"]), tensors, aims, str(facts["edits_sha256"]))
    except OSError as error:
        raise ModelFileError(
            f"{folder} does not say what was done to it: {OWN_FACTS} cannot be read",
            "Give a folder that `rosi-edge harden` wrote",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelFileError(f"{place} is damaged", "Harden the original again") from error


def _without_bytes(work: RoundedTensor) -> RoundedTensor:
    return RoundedTensor(np.empty(0, dtype=np.uint8), work.type, work.baked, work.base_sha256, work.sha256)


def _open_source(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path.name, error) from error


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is on the disk when the block has ended."""
    with path.open("xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _copy(old: BinaryIO, new: BinaryIO, start: int, end: int, advance: Advance) -> None:
    while start < end:
        try:
            old.seek(start)
            piece = old.read(min(_COPIED_AT_A_TIME, end - start))
        except OSError as error:
            raise _unreadable(old.name, error) from error
        if not piece:
            raise ModelFileError(f"{old.name} became shorter while it was being read")
        new.write(piece)
        start += len(piece)
        advance(len(piece))


def _unreadable(name: str, error: OSError) -> ModelFileError:
    return ModelFileError(f"{name} cannot be read ({error.strerror or error})", "Check the input's files")


@contextmanager
def _new_folder(folder: Path, *, size: int) -> Iterator[Path]:
    """A draft beside ``folder`` that takes its name when the block ends without an exception."""
    place = checked_folder(folder)
    require_space(place, size)
    draft = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        draft.mkdir()
        yield draft
        flush_folder(draft)
        draft.rename(place)
        flush_folder(place.parent)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror or error})", "Check the place and the space on it"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
