"""Writing a model anew with some tensors' bytes and some metadata changed, and nothing else.

Everything that is not replaced is copied byte for byte: metadata as raw ranges (so that types and odd text
survive), the tensor table as it stands, and the tensors' bytes in long runs. A model in several parts
becomes a model in as many parts.
"""

from __future__ import annotations

import errno
import io
import os
import struct
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.basics.progress import SILENT, Advance, Progress
from rosi_edge.errors import ModelFileError, OutputError
from rosi_edge.models.atomic import atomic_writes, checked_target
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import MAGIC, MetadataArray, align
from rosi_edge.models.layout import runs, tensor_size, tensor_table
from rosi_edge.models.parts import PART_NAME, part_name
from rosi_edge.models.seal import BLANK, PADDING_KEY, SEAL_KEY, seal_of

TensorBytes = bytes | bytearray | memoryview | npt.NDArray[Any]

NewValue = (
    str
    | bool
    | int
    | float
    | Sequence[str]
    | Sequence[bool]
    | Sequence[int]
    | Sequence[float]
    | npt.NDArray[np.float32]
)
"""What can be put into the metadata: a scalar, a list of scalars of one kind, or a float32 vector."""


@dataclass(frozen=True)
class Retyped:
    """A tensor's new bytes in another type than it has."""

    type: gguf.GGMLQuantizationType
    data: TensorBytes


_COPY_STEP = 1 << 18
_REPORT_STEP = 1 << 24
_BLOCK = 4096
"""Bytes: the page of nearly every processor and the block of nearly every file system."""
_CANNOT_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EBADF}
)
"""What a system or file system says that has no copy_file_range for this pair of files."""
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
    tensors: Mapping[str, Callable[[], TensorBytes | Retyped]],
    metadata: Mapping[str, NewValue],
    later: Callable[[], Mapping[str, NewValue]] | None = None,
    dropped: Container[str] = (),
    sealed: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Write ``source`` to ``target`` with some tensors and metadata replaced; whole or not at all.

    Args:
        source: stays as it is.
        target: the new file; replaced when it exists. The parts of a split model get its name with their
            numbers, unless it is named as a first part already.
        tensors: for each tensor to replace, a function that makes its bytes, exactly as many as it has now,
            or says that its type changes. They are called in file order, one at a time, so that only one
            result is in memory.
        metadata: keys to set. Keys that exist are replaced in their place, new ones follow the others.
        later: called once all tensors are made: the final values of some of ``metadata``, each as long in
            bytes as the one it replaces.
        dropped: keys of the source that the new file does not get, unless ``metadata`` sets them.
        sealed: also set the key that seals the header, see :mod:`rosi_edge.models.seal`, and ``PADDING_KEY``.

    Returns:
        The place of the new file, or of its first part, links followed.

    Raises:
        OutputError: the target is the source, or cannot be written.
        ModelFileError: the source changed while it was read.
        ValueError: an unknown tensor, a wrong number of bytes, or a value that metadata cannot hold.
    """
    if unknown := sorted(set(tensors) - set(source.tensors)):
        raise ValueError(f"no such tensor: {', '.join(unknown)}")
    places = output_places(source, target)
    for place in places:
        refuse_overwriting(source, place)
    values = dict(metadata)
    if sealed:
        values |= {SEAL_KEY: BLANK, PADDING_KEY: ""}
        values[PADDING_KEY] = " " * _padding(source, values, dropped)
    lengths = [len(_header(part, values if part is source else {}, {}, dropped)[0]) for part in source.parts]
    size = sum(
        length + part.size - part.data_offset for length, part in zip(lengths, source.parts, strict=True)
    )
    types: dict[str, gguf.GGMLQuantizationType] = {}
    with (
        progress.stage(f"Writing {places[0].name}", size) as advance,
        atomic_writes(places, size=size) as streams,
    ):
        for part, stream, length in zip(source.parts, streams, lengths, strict=True):
            stream.write(bytes(length))
            advance(length)
            types |= _write_tensors(part, stream, tensors, advance)
        values |= later() if later is not None else {}
        for part, stream, length in zip(source.parts, streams, lengths, strict=True):
            header, seal_end = _header(part, values if part is source else {}, types, dropped)
            if len(header) != length:
                raise ValueError("the final metadata is not as long as what stood for it")
            if sealed and part is source:
                seal = seal_of(header, seal_end)
                header = header[: seal_end - len(seal)] + seal + header[seal_end:]
            stream.seek(0)
            stream.write(header)
        source.check_unchanged()
    return places[0]


def output_places(source: GgufFile, target: str | os.PathLike[str]) -> list[Path]:
    """The files that ``rewrite`` writes, links followed.

    Raises:
        OutputError: a folder is missing or not writable, or a place is taken by something else than a file.
    """
    count = len(source.parts)
    if count == 1:
        return [checked_target(target)]
    path = Path(target)
    found = PART_NAME.fullmatch(path.name)
    if found is not None and int(found["count"]) != count:
        raise OutputError(
            f"{path.name} is named as one of {int(found['count'])} parts, but the model has {count}",
            "Give a name without part numbers",
        )
    stem = found["stem"] if found is not None else path.name.removesuffix(".gguf")
    return [checked_target(path.with_name(part_name(stem, index, count))) for index in range(count)]


def _write_tensors(
    source: GgufFile,
    stream: BinaryIO,
    tensors: Mapping[str, Callable[[], TensorBytes | Retyped]],
    advance: Advance,
) -> dict[str, gguf.GGMLQuantizationType]:
    """Append what follows a file's header; returns the types that changed."""
    types: dict[str, gguf.GGMLQuantizationType] = {}
    for run in runs(source, tensors.keys()):
        if run.tensor is None:
            _copy(source, stream, run.start, run.end, advance)
            continue
        tensor = run.tensor
        made = tensors[tensor.name]()
        if isinstance(made, Retyped) and made.type != tensor.type:
            types[tensor.name] = made.type
        content = np.frombuffer(made.data if isinstance(made, Retyped) else made, dtype=np.uint8)
        expected = tensor_size(tensor.shape, types.get(tensor.name, tensor.type))
        if content.size != expected:
            raise ValueError(f"{tensor.name} has {expected} bytes, its replacement {content.size}")
        stream.write(content.data)
        del content, made
        advance(tensor.size)
        if tensor.name in types:
            stream.write(bytes(align(expected, source.alignment) - expected))
        else:
            _copy(source, stream, tensor.end, run.end, advance)
    return types


def refuse_same_file(source: Path, target: Path) -> None:
    """Raise OutputError when both paths lead to one file, by whatever links, or the target lies in the
    source, a folder."""
    # Unlike Path's own, this takes a name that is too long for one that leads nowhere.
    if not os.path.exists(source):  # noqa: PTH110
        return
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise OutputError(
            f"{target} would lie in {source}, the input",
            "Choose another output path; the input is never written to",
        )
    if os.path.exists(target) and source.samefile(target):  # noqa: PTH110
        raise OutputError(
            "the output would overwrite the input",
            "Choose another output path; the input is never written to",
        )


def refuse_overwriting(source: GgufFile, target: Path) -> None:
    """Raise OutputError when a path leads to the file of a model, or to any of its parts."""
    for part in source.parts:
        refuse_same_file(part.path, target)


def _header(
    source: GgufFile,
    metadata: Mapping[str, NewValue],
    types: Mapping[str, gguf.GGMLQuantizationType],
    dropped: Container[str],
) -> tuple[bytes, int]:
    """Everything before the tensors' bytes, padded to the alignment, and where the seal's value ends."""
    header, seal_end = _unpadded_header(source, metadata, types, dropped)
    return header.ljust(align(len(header), source.alignment), b"\0"), seal_end


def _unpadded_header(
    source: GgufFile,
    metadata: Mapping[str, NewValue],
    types: Mapping[str, gguf.GGMLQuantizationType],
    dropped: Container[str],
) -> tuple[bytes, int]:
    if fixed := sorted(_FIXED_KEYS & set(metadata)):
        raise ValueError(f"these keys describe the file itself and stay: {', '.join(fixed)}")
    kept = [key for key in source.fields if key in metadata or key not in dropped]
    start = struct.pack("<4sIQQ", MAGIC, source.version, len(source.own_tensors), len({*kept, *metadata}))
    parts, length, seal_end = [start], len(start), 0
    for key in (*kept, *(key for key in metadata if key not in source.fields)):
        if key in metadata:
            parts.append(encode_field(key, metadata[key]))
        else:
            parts.append(source.raw(source.fields[key].start, source.fields[key].end))
        length += len(parts[-1])
        if key == SEAL_KEY:
            seal_end = length
    return b"".join([*parts, tensor_table(source, types)]), seal_end


def _padding(source: GgufFile, metadata: Mapping[str, NewValue], dropped: Container[str]) -> int:
    """Bytes that are missing until the shift of the tensors is one of whole blocks."""
    if source.alignment >= _BLOCK:
        return 0
    return (source.data_offset - len(_unpadded_header(source, metadata, {}, dropped)[0])) % _BLOCK


def encode_field(key: str, value: NewValue | MetadataArray) -> bytes:
    """One metadata key with its value as GGUF stores it.

    Raises:
        ValueError: a value (or a mix of values) that GGUF has no type for, or an empty list.
    """
    if isinstance(value, np.ndarray):
        if value.dtype != np.float32 or value.ndim != 1:
            raise ValueError(f"GGUF metadata cannot hold an array of {value.dtype} {value.shape}")
        start = struct.pack("<IIQ", gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.FLOAT32, len(value))
        return _string(key) + start + value.astype("<f4").tobytes()
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

    Whole blocks that are whole blocks in the target too are left to the system: file systems that can let
    both files share them (Btrfs, XFS) then copy nothing. On ext4 that took 0.3 s where a buffer took 0.4 s,
    for 490 MB; shifted by less than a page it is slower than a buffer (0.5 s).
    """
    if (target.tell() - start) % _BLOCK == 0 and hasattr(os, "copy_file_range"):
        first = min(start + -start % _BLOCK, end)
        _copy_buffered(source, target, start, first, advance)
        start = _copy_blocks(source, target, first, end - (end - first) % _BLOCK, advance)
    _copy_buffered(source, target, start, end, advance)


def _copy_blocks(source: GgufFile, target: BinaryIO, start: int, end: int, advance: Advance) -> int:
    """Returns how far it came: systems that cannot do it, or say nonsense, are no problem."""
    target.flush()
    position = target.tell()
    while start < end:
        try:
            done = os.copy_file_range(
                source.fileno(), target.fileno(), min(_REPORT_STEP, end - start), start, position
            )
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
            break
        if not done:
            break
        start += done
        position += done
        advance(done)
    target.seek(position)
    return start


def _copy_buffered(source: GgufFile, target: BinaryIO, start: int, end: int, advance: Advance) -> None:
    """Through a small buffer that stays in the processor's cache, as fast as ``cp``; not from the memory map,
    whose pages would count as this process's memory."""
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
