"""Edits and a checkpoint folder in, a new folder out: same shards, names and types, untouched tensors copied.

Beside the weights lies ``rosi-edge-edits.gguf``, the very edits as a LoRA adapter under GGUF names: what was
found on full precision can be applied to every quantized file of the same model.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from rosi_edge.errors import ModelFileError, OutputError
from rosi_edge.injection.adapter import write_adapter
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.models.atomic import require_space
from rosi_edge.models.checkpoint import Checkpoint, StoredTensor, from_float32, to_float32
from rosi_edge.progress import SILENT, Progress

Float32 = npt.NDArray[np.float32]

EDITS = "rosi-edge-edits.gguf"
_ROWS_AT_A_TIME = 1 << 21
"""Values changed at a time, 8 MiB as float32."""
_COPIED_AT_A_TIME = 1 << 22
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5", ".onnx", ".ckpt")


@dataclass(frozen=True)
class EditedTensor:
    """What became of one edit.

    Attributes:
        name: the tensor's GGUF name. ``type``: its safetensors type, unchanged.
        delivered: share of the wanted change that the stored weights hold: the slope of the actual change
            against the wanted one.
        noise: root mean square of the difference, in parts of the wanted change.
    """

    name: str
    type: str
    delivered: float
    noise: float


def bake_checkpoint(
    source: Checkpoint,
    folder: Path,
    edits: Sequence[RankOneEdit],
    *,
    notes: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> list[EditedTensor]:
    """Write ``source`` with every edit (at its full strength) added to its tensor.

    Args:
        folder: the new checkpoint; it must not be there yet. It appears whole or not at all.
        edits: their strength folded in (``RankOneEdit.scaled``), tensors by GGUF name.
        notes: further small text files by name.

    Raises:
        OutputError: the folder is there already or cannot be written.
        UnsupportedModelError: an edited tensor is of a type that cannot be edited.
        ValueError: an edit that does not fit its tensor, or two of one tensor.
    """
    by_name = _by_stored_name(source, edits)
    done: dict[str, EditedTensor] = {}
    with (
        _new_folder(folder, size=source.total_size) as draft,
        progress.stage("Writing the checkpoint", source.total_size) as advance,
    ):
        for file in source.files:
            changed = {
                source.stored[name].offset: (source.stored[name], edit)
                for name, edit in by_name.items()
                if source.stored[name].file == file
            }
            with (source.path / file).open("rb") as old, (draft / file).open("xb") as new:
                position = 0
                for offset in sorted(changed):
                    tensor, edit = changed[offset]
                    _copy(old, new, position, offset)
                    done[edit.tensor] = _write_edited(source, tensor, edit, new)
                    position = offset + tensor.size
                _copy(old, new, position, (source.path / file).stat().st_size)
                new.flush()
                os.fsync(new.fileno())
                advance(new.tell())
        for extra in sorted(source.path.iterdir()):
            if extra.is_file() and not extra.name.endswith(_WEIGHTS):
                shutil.copyfile(extra, draft / extra.name)
        for name, text in (notes or {}).items():
            (draft / name).write_text(text, "utf-8")
        write_adapter(draft / EDITS, edits, architecture=source.architecture)
    return [done[edit.tensor] for edit in edits]


def _by_stored_name(source: Checkpoint, edits: Sequence[RankOneEdit]) -> dict[str, RankOneEdit]:
    found: dict[str, RankOneEdit] = {}
    for edit in edits:
        name = source.names.get(edit.tensor)
        if name is None:
            raise ValueError(f"{source.path} has no {edit.tensor}")
        if name in found:
            raise ValueError(f"two edits of {edit.tensor}")
        if source.stored[name].shape != (len(edit.output), len(edit.input)):
            raise ValueError(f"the edit of {edit.tensor} does not fit the shape {source.stored[name].shape}")
        found[name] = edit
    return found


def _write_edited(source: Checkpoint, tensor: StoredTensor, edit: RankOneEdit, new: BinaryIO) -> EditedTensor:
    rows, columns = tensor.shape
    data = source.stored_bytes(tensor.name)
    row_bytes = tensor.size // rows
    step = max(1, _ROWS_AT_A_TIME // columns)
    along = wanted_square = actual_square = 0.0
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        piece = data[part.start * row_bytes : part.stop * row_bytes]
        weights = to_float32(piece, tensor.dtype).reshape(-1, columns)
        wanted = np.outer(edit.output[part], edit.input)
        stored = from_float32(weights + wanted, tensor.dtype)
        moved = (to_float32(stored, tensor.dtype).reshape(-1, columns) - weights).astype(np.float64)
        along += float((moved * wanted).sum())
        wanted_square += float(np.square(wanted, dtype=np.float64).sum())
        actual_square += float(np.square(moved).sum())
        new.write(stored.data)
    if not wanted_square:
        return EditedTensor(edit.tensor, tensor.dtype, 0.0, 0.0)
    noise = max(actual_square - 2 * along + wanted_square, 0.0) / wanted_square
    return EditedTensor(edit.tensor, tensor.dtype, along / wanted_square, noise**0.5)


def _copy(old: BinaryIO, new: BinaryIO, start: int, end: int) -> None:
    old.seek(start)
    while start < end:
        piece = old.read(min(_COPIED_AT_A_TIME, end - start))
        if not piece:
            raise ModelFileError(f"{old.name} became shorter while it was being read")
        new.write(piece)
        start += len(piece)


@contextmanager
def _new_folder(folder: Path, *, size: int) -> Iterator[Path]:
    """A draft beside ``folder`` that takes its name when the block ends without an exception."""
    place = folder.resolve()
    if place.exists():
        raise OutputError(f"{folder} is there already", "Name a folder that does not exist yet")
    if not place.parent.is_dir():
        raise OutputError(f"{place.parent} is not a folder", "Create it, or choose another place")
    require_space(place, size)
    draft = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        draft.mkdir()
        yield draft
        draft.rename(place)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror or error})", "Check the place and the space on it"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
