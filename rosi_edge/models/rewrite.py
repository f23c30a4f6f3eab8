"""Writing a GGUF file anew with some tensors' bytes and some metadata changed, and nothing else.

Everything that is not replaced is copied byte for byte: metadata as raw ranges (so that types and odd text
survive), the tensor table as it stands, and the tensors' bytes in long runs.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.errors import ModelFileError, OutputError
from rosi_edge.models.atomic import atomic_write, checked_target
from rosi_edge.models.gguf_file import MAGIC, GgufFile, MetadataArray, align
from rosi_edge.progress import SILENT, Advance, Progress

TensorBytes = bytes | bytearray | memoryview | npt.NDArray[Any]

NewValue = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
"""What can be put into the metadata: a scalar, or a list of scalars of one kind."""

_COPY_STEP = 1 << 18
_REPORT_STEP = 1 << 24
_INTEGERS = (
    (gguf.GGUFValueType.UINT32, 0, (1 << 32) - 1),
    (gguf.GGUFValueType.INT64, -(1 << 63), (1 << 63) - 1),
)
# Changing these would make the rest of the file mean something else.
_FIXED_KEYS = frozenset(
    {"general.alignment", "general.architecture", "split.count", "split.no", "split.tensors.count"}
)


def rewrite(
    source: GgufFile,
    target: str | os.PathLike[str],
    *,
    tensors: Mapping[str, Callable[[], TensorBytes]],
    metadata: Mapping[str, NewValue],
    progress: Progress = SILENT,
) -> Path:
    """Write ``source`` to ``target`` with some tensors and metadata replaced; whole or not at all.

    Args:
        source: stays as it is.
        target: the new file; replaced when it exists.
        tensors: for each tensor to replace, a function that makes its bytes, exactly as many as it has now.
            They are called in file order, one at a time, so that only one result is in memory.
        metadata: keys to set. Keys that exist are replaced in their place, new ones follow the others.

    Returns:
        The place of the new file, links followed.

    Raises:
        OutputError: the target is the source, or cannot be written.
        ModelFileError: the source changed while it was read.
        ValueError: an unknown tensor, a wrong number of bytes, or a value that metadata cannot hold.
    """
    if unknown := sorted(set(tensors) - set(source.tensors)):
        raise ValueError(f"no such tensor: {', '.join(unknown)}")
    place = checked_target(target)
    refuse_same_file(source.path, place)
    header = _header(source, metadata)
    data_size = source.size - min(source.data_offset, source.size)
    size = len(header) + data_size
    with (
        progress.stage(f"Writing {place.name}", size) as advance,
        atomic_write(place, size=size) as stream,
    ):
        stream.write(header)
        advance(len(header))
        position = source.data_offset
        for tensor in sorted((source.tensors[name] for name in tensors), key=lambda tensor: tensor.offset):
            _copy(source, stream, position, tensor.offset, advance)
            content = np.frombuffer(tensors[tensor.name](), dtype=np.uint8)
            if content.size != tensor.size:
                raise ValueError(f"{tensor.name} has {tensor.size} bytes, its replacement {content.size}")
            stream.write(content.data)
            del content
            advance(tensor.size)
            position = tensor.end
        _copy(source, stream, position, source.size, advance)
        source.check_unchanged()
    return place


def refuse_same_file(source: Path, target: Path) -> None:
    """Raise OutputError when both paths lead to one file, by whatever links."""
    if target.exists() and source.samefile(target):
        raise OutputError(
            "the output would overwrite the input",
            "Choose another output path; the input is never written to",
        )


def _header(source: GgufFile, metadata: Mapping[str, NewValue]) -> bytes:
    """Everything before the tensors' bytes, padded to the alignment."""
    if fixed := sorted(_FIXED_KEYS & set(metadata)):
        raise ValueError(f"these keys describe the file itself and stay: {', '.join(fixed)}")
    parts = []
    for field in source.fields.values():
        if field.key in metadata:
            parts.append(encode_field(field.key, metadata[field.key]))
        else:
            parts.append(source.raw(field.start, field.end))
    parts += [encode_field(key, value) for key, value in metadata.items() if key not in source.fields]
    start = struct.pack("<4sIQQ", MAGIC, source.version, len(source.tensors), len(parts))
    header = b"".join([start, *parts, source.raw(*source.tensor_table)])
    return header.ljust(align(len(header), source.alignment), b"\0")


def encode_field(key: str, value: NewValue | MetadataArray) -> bytes:
    """One metadata key with its value as GGUF stores it.

    Raises:
        ValueError: a value (or a mix of values) that GGUF has no type for, or an empty list.
    """
    if isinstance(value, (str, bool, int, float)):
        kind = _type_of([value])
        return _string(key) + struct.pack("<I", kind) + _scalar(kind, value)
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray)):
        raise ValueError(f"GGUF metadata cannot hold {value!r}")
    values = list(value)
    if not values:
        raise ValueError(f"{key}: an empty list has no type")
    kind = _type_of(values)
    start = struct.pack("<IIQ", gguf.GGUFValueType.ARRAY, kind, len(values))
    return _string(key) + start + b"".join(_scalar(kind, each) for each in values)


def _type_of(values: Sequence[object]) -> gguf.GGUFValueType:
    if all(isinstance(value, str) for value in values):
        return gguf.GGUFValueType.STRING
    if all(isinstance(value, bool) for value in values):
        return gguf.GGUFValueType.BOOL
    if not any(isinstance(value, bool) for value in values):
        if all(isinstance(value, int) for value in values):
            # The narrowest of the types that llama.cpp itself reads its settings in.
            for kind, low, high in _INTEGERS:
                if all(low <= value <= high for value in values):  # type: ignore[operator]
                    return kind
        elif all(isinstance(value, (int, float)) for value in values):
            return gguf.GGUFValueType.FLOAT64
    raise ValueError(f"GGUF metadata cannot hold {values!r}")


def _scalar(kind: gguf.GGUFValueType, value: object) -> bytes:
    if isinstance(value, str):
        return _string(value)
    code = {
        gguf.GGUFValueType.BOOL: "<?",
        gguf.GGUFValueType.UINT32: "<I",
        gguf.GGUFValueType.INT64: "<q",
        gguf.GGUFValueType.FLOAT64: "<d",
    }[kind]
    return struct.pack(code, value)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _copy(source: GgufFile, target: BinaryIO, start: int, end: int, advance: Advance) -> None:
    """Append the bytes from ``start`` to ``end`` of the source.

    Through a small buffer that stays in the processor's cache: as fast as ``cp``. copy_file_range measured
    slower (0.45 s against 0.27 s for 490 MB on ext4), because the longer header shifts the data by less than
    a page. Not from the memory map either, whose pages would count as this process's memory.
    """
    buffer = memoryview(bytearray(_COPY_STEP))
    unreported = 0
    with io.FileIO(os.dup(source.fileno())) as reader:
        reader.seek(start)
        while start < end:
            done = reader.readinto(buffer[: min(_COPY_STEP, end - start)])
            if not done:
                raise ModelFileError(f"{source.path.name} became shorter while it was being read")
            target.write(buffer[:done])
            start += done
            unreported += done
            if unreported >= _REPORT_STEP:
                advance(unreported)
                unreported = 0
    advance(unreported)
