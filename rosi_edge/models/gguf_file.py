"""Reading a GGUF file that may lie.

Model files come from strangers. gguf-py's reader believes every length it reads; this one checks each of
them against the bytes that are there before it uses it, so that a damaged or hostile file ends in one
plain sentence and never in a wild allocation, a wrong slice or a traceback. The tensors' bytes stay on
disk behind a read-only memory map.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3 share one layout).
"""

from __future__ import annotations

import math
import mmap
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, Self, overload

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.errors import ModelFileError, UnsupportedModelError

MAGIC = b"GGUF"
READABLE_VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

# Far above anything real (a large vocabulary has 300 thousand entries, a chat template some kilobytes);
# low enough that a file made to waste time cannot waste more than a few seconds.
MAX_STRING_BYTES = 1 << 26
MAX_ARRAY_ELEMENTS = 1 << 24
MAX_METADATA_BYTES = 1 << 30
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 20
MAX_ALIGNMENT = 1 << 20
MAX_KEY_BYTES = (1 << 16) - 1
# ggml keeps a name in 64 bytes, the closing zero included.
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMENSIONS = 4
MAX_PARTS = 1 << 10

_DOWNLOAD_AGAIN = "Download the file again"
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_STRING = int(gguf.GGUFValueType.STRING)
_ARRAY = int(gguf.GGUFValueType.ARRAY)
_BOOL = int(gguf.GGUFValueType.BOOL)
_MOST_PARTS = 1000
PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_SCALARS: dict[int, struct.Struct] = {
    int(gguf.GGUFValueType.UINT8): struct.Struct("<B"),
    int(gguf.GGUFValueType.INT8): struct.Struct("<b"),
    int(gguf.GGUFValueType.UINT16): struct.Struct("<H"),
    int(gguf.GGUFValueType.INT16): struct.Struct("<h"),
    int(gguf.GGUFValueType.UINT32): _U32,
    int(gguf.GGUFValueType.INT32): struct.Struct("<i"),
    int(gguf.GGUFValueType.FLOAT32): struct.Struct("<f"),
    _BOOL: struct.Struct("<B"),
    int(gguf.GGUFValueType.UINT64): _U64,
    int(gguf.GGUFValueType.INT64): struct.Struct("<q"),
    int(gguf.GGUFValueType.FLOAT64): struct.Struct("<d"),
}

# What people hand in by mistake, by the first bytes.
_LOOKALIKES: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the model itself",
        "Run git lfs pull to get the model",
    ),
    (b"<", "is a web page, not a model", "Download the file itself, not the page about it"),
    (
        b"PK\x03\x04",
        "is a zip or PyTorch archive, not GGUF",
        "Convert it with llama.cpp's convert_hf_to_gguf.py",
    ),
    (b"ggml", "has the old GGML format", "Get the model in GGUF"),
    (b"lmgg", "has the old GGML format", "Get the model in GGUF"),
    (b"tjgg", "has the old GGJT format", "Get the model in GGUF"),
    (b"fmgg", "has the old GGMF format", "Get the model in GGUF"),
)


class MetadataArray(Sequence[Any]):
    """An array in the metadata; its values are decoded when first asked for.

    A vocabulary holds hundreds of thousands of strings that most callers never look at.
    """

    __slots__ = ("_length", "_raw", "_values", "element_type")

    def __init__(self, element_type: gguf.GGUFValueType, length: int, raw: bytes) -> None:
        self.element_type = element_type
        self._length = length
        self._raw = raw
        self._values: list[Any] | None = None

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.values()[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())

    def __repr__(self) -> str:
        return f"<{self._length} values of type {self.element_type.name}>"

    def values(self) -> list[Any]:
        """All values as a list. Bytes that are not UTF-8 become the replacement character."""
        if self._values is None:
            self._values = self._decode()
        return self._values

    def numbers(self) -> npt.NDArray[Any]:
        """The values of an array of numbers, (n,), in the type they are stored in; read-only.

        Raises:
            ValueError: it is an array of strings.
        """
        if self.element_type == _STRING:
            raise ValueError("an array of strings")
        code = _SCALARS[int(self.element_type)].format
        return np.frombuffer(self._raw, dtype=np.dtype(code), count=self._length)

    def _decode(self) -> list[Any]:
        if self.element_type == _STRING:
            values: list[Any] = []
            position = 0
            for _ in range(self._length):
                (size,) = _U64.unpack_from(self._raw, position)
                position += 8
                values.append(self._raw[position : position + size].decode("utf-8", "replace"))
                position += size
            return values
        numbers = self.numbers()
        return [bool(number) for number in numbers] if self.element_type == _BOOL else list(numbers.tolist())


MetadataValue = str | bool | int | float | MetadataArray
"""A value as Python sees it; the exact type and bytes are in :class:`MetadataField`."""


@dataclass(frozen=True, slots=True)
class MetadataField:
    """One key of the metadata. ``start`` and ``end`` bound its raw bytes in the file: key, type and value."""

    key: str
    type: gguf.GGUFValueType
    value: MetadataValue
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies and what it is.

    ``shape`` is in NumPy order, (rows, columns) for a matrix, that is ggml's ``ne`` reversed. ``offset`` and
    ``size`` are bytes, the offset from the start of the file. ``part`` is the file, counted from 0, in a
    model that is split into several.
    """

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    offset: int
    size: int
    part: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class _Cursor:
    """Reads forward through the header and refuses to look past its end."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self.data = data
        self.name = name
        self.position = 0
        self.end = min(len(data), MAX_METADATA_BYTES)

    def fail(self, message: str, remedy: str = _DOWNLOAD_AGAIN) -> NoReturn:
        raise ModelFileError(f"{self.name} {printable(message)}", remedy)

    def need(self, size: int, what: str) -> None:
        if size > self.end - self.position:
            if self.end < len(self.data):
                self.fail(f"claims more than {MAX_METADATA_BYTES >> 30} GiB of metadata (at {what})")
            self.fail(
                f"is truncated or damaged: {what} needs {size} bytes at byte {self.position}, "
                f"but the file has {len(self.data)}"
            )

    def number(self, form: struct.Struct, what: str) -> Any:
        self.need(form.size, what)
        (value,) = form.unpack_from(self.data, self.position)
        self.position += form.size
        return value

    def raw_string(self, what: str, limit: int = MAX_STRING_BYTES) -> bytes:
        size: int = self.number(_U64, f"the length of {what}")
        if size > limit:
            self.fail(f"is damaged: {what} claims a length of {size} bytes, more than the {limit} allowed")
        self.need(size, what)
        raw = self.data[self.position : self.position + size]
        self.position += size
        return raw

    def name_string(self, what: str, limit: int) -> str:
        """A key or a tensor's name, which has to be text to be of any use."""
        raw = self.raw_string(what, limit)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"is damaged: {what} is not text (byte {self.position - len(raw)})")
        if not text:
            self.fail(f"is damaged: {what} is empty (byte {self.position})")
        return text


class GgufFile:
    """A GGUF file, checked from end to end and mapped into memory read-only.

    Use :meth:`open`, best as a context manager. Views from :meth:`tensor_bytes` stay valid while they are
    held, even after :meth:`close`.

    A model may be split into several files; the first is opened and brings the others. Everything here then
    describes the first file, which holds the metadata, except for ``tensors`` and what takes a tensor's
    name: these know all parts.
    """

    path: Path
    version: int
    size: int
    """Bytes in the file."""
    alignment: int
    data_offset: int
    """Where the tensors' bytes begin."""
    fields: Mapping[str, MetadataField]
    metadata: Mapping[str, MetadataValue]
    tensors: Mapping[str, TensorInfo]
    """In file order, those of all parts."""
    own_tensors: Mapping[str, TensorInfo]
    """In file order, those of this file alone."""
    parts: tuple[GgufFile, ...]
    """All files of the model in order, this one first; an ordinary file is its own only part."""
    tensor_table: tuple[int, int]
    """First and past-the-last byte of the tensor table in the header."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map the file, and the parts that follow it, and check their headers.

        Raises:
            ModelFileError: missing, unreadable, not GGUF, truncated, or it contradicts itself or its parts.
            UnsupportedModelError: a part of a split model that is not the first, or not named as one.
        """
        first = cls(Path(path))
        try:
            first._open_others()
        except BaseException:
            first.close()
            raise
        return first

    def __init__(self, path: Path) -> None:
        """Open one file alone; :meth:`open` is what brings a model's other parts."""
        self.path = path
        self.parts = (self,)
        self._descriptor = _open_regular(path)
        try:
            status = os.fstat(self._descriptor)
            self.size = status.st_size
            self._modified = status.st_mtime_ns
            if self.size == 0:
                raise ModelFileError(f"{path.name} is empty", _DOWNLOAD_AGAIN)
            try:
                self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise ModelFileError(f"{path} cannot be read ({error.strerror or error})") from error
            try:
                self._parse()
            except BaseException:
                self._map.close()
                raise
        except BaseException:
            os.close(self._descriptor)
            self._descriptor = -1
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file, and of the parts it brought. May be called twice."""
        for part in self.parts[1:]:
            part.close()
        # A view that someone still holds keeps the map alive; the last one to go closes it.
        with suppress(BufferError):
            self._map.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        """The open, read-only descriptor, for copying ranges without passing them through Python."""
        if self._descriptor < 0:
            raise ValueError(f"{self.path} is closed")
        return self._descriptor

    @property
    def total_size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    def check_unchanged(self) -> None:
        """Raise ModelFileError when somebody wrote to the file, or to its parts, after it was opened."""
        for part in self.parts[1:]:
            part.check_unchanged()
        status = os.fstat(self.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.size, self._modified):
            raise ModelFileError(
                f"{self.path.name} was changed while it was being read", "Run the command again"
            )

    def raw(self, start: int, end: int) -> bytes:
        """A copy of the bytes from ``start`` to ``end``."""
        return self._map[start:end]

    def tensor_bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """The tensor's bytes as they lie in the file: a read-only view, shape (size,), nothing is copied.

        Raises:
            KeyError: no such tensor.
        """
        tensor = self.tensors[name]
        data = self.parts[tensor.part]._map
        return np.frombuffer(data, dtype=np.uint8, count=tensor.size, offset=tensor.offset)

    def read(self, start: int, size: int) -> npt.NDArray[np.uint8]:
        """A copy of ``size`` bytes of this very file, (size,).

        Not through the memory map, whose pages would count as this process's memory.

        Raises:
            ModelFileError: the file became shorter.
        """
        buffer = bytearray(size)
        view = memoryview(buffer)
        done = 0
        while done < size:
            if hasattr(os, "preadv"):
                got = os.preadv(self.fileno(), [view[done:]], start + done)
            else:  # Windows, macOS before 11
                piece = self._map[start + done : start + size]
                view[done : done + len(piece)] = piece
                got = len(piece)
            if not got:
                raise ModelFileError(f"{self.path.name} became shorter while it was being read")
            done += got
        return np.frombuffer(buffer, dtype=np.uint8)

    def read_tensor(self, name: str, start: int = 0, size: int | None = None) -> npt.NDArray[np.uint8]:
        """A copy of a tensor's bytes from ``start`` on, ``size`` of them or all that follow.

        Raises:
            KeyError: no such tensor.
            ModelFileError: the file became shorter.
        """
        tensor = self.tensors[name]
        count = tensor.size - start if size is None else size
        return self.parts[tensor.part].read(tensor.offset + start, count)

    def text(self, key: str) -> str | None:
        """A string of the metadata, None when the key is absent. Raises ModelFileError on another type."""
        value = self.metadata.get(key)
        if value is None or isinstance(value, str):
            return value
        raise ModelFileError(f"{self.path.name} is damaged: {key} should be text", _DOWNLOAD_AGAIN)

    def integer(self, key: str) -> int | None:
        """A whole number of the metadata, None when absent. Raises ModelFileError on another type."""
        value = self.metadata.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise ModelFileError(f"{self.path.name} is damaged: {key} should be a whole number", _DOWNLOAD_AGAIN)

    def _parse(self) -> None:
        cursor = _Cursor(self._map, self.path.name)
        self._read_magic(cursor)
        tensor_count: int = cursor.number(_U64, "the number of tensors")
        key_count: int = cursor.number(_U64, "the number of metadata keys")
        left = self.size - cursor.position
        # The shortest key is a length, a type and one byte; the shortest tensor entry 8+1+4+8+4+8 bytes.
        for count, limit, smallest, what in (
            (key_count, MAX_KEYS, 8 + 1 + 4 + 1, "metadata keys"),
            (tensor_count, MAX_TENSORS, 33, "tensors"),
        ):
            if count > limit or count * smallest > left:
                cursor.fail(f"is truncated or damaged: it claims {count} {what} in {self.size} bytes")

        fields: dict[str, MetadataField] = {}
        for _ in range(key_count):
            field = _read_field(cursor)
            if field.key in fields:
                cursor.fail(f"is damaged: the metadata key {field.key} occurs twice")
            fields[field.key] = field
        self.fields = MappingProxyType(fields)
        self.metadata = MappingProxyType({key: field.value for key, field in fields.items()})
        self.alignment = self._read_alignment(cursor)
        start = cursor.position
        entries = [_read_tensor_entry(cursor) for _ in range(tensor_count)]
        self.tensor_table = (start, cursor.position)
        self.data_offset = align(cursor.position, self.alignment)
        self.tensors = self.own_tensors = MappingProxyType(self._place(cursor, entries))

    def _read_magic(self, cursor: _Cursor) -> None:
        start = self._map[:24]
        if start[:4] != MAGIC:
            for signature, what, remedy in _LOOKALIKES:
                if start.startswith(signature):
                    cursor.fail(what, remedy)
            cursor.fail("is not a GGUF file", "Give a model in GGUF, the format of llama.cpp")
        cursor.position = 4
        version: int = cursor.number(_U32, "the format version")
        # A version fits in the low 16 bits, so a swapped one has them all zero.
        if version and version & 0xFFFF == 0:
            cursor.fail(
                "has its bytes in big-endian order",
                "Get the little-endian file, or swap it with gguf-convert-endian",
            )
        if version not in READABLE_VERSIONS:
            cursor.fail(
                f"has GGUF version {version}; versions 2 and 3 can be read",
                "Convert the model with a current llama.cpp",
            )
        self.version = version

    def _read_alignment(self, cursor: _Cursor) -> int:
        alignment = self.integer("general.alignment")
        if alignment is None:
            return DEFAULT_ALIGNMENT
        if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            cursor.fail(f"is damaged: general.alignment is {alignment}, not a power of two")
        return alignment

    def _open_others(self) -> None:
        """Open the files that a split model goes on in, as ``llama-gguf-split`` names and numbers them."""
        count = self.integer("split.count") or 0
        if count <= 1:
            return
        name = self.path.name
        number = self.integer("split.no") or 0
        if not 2 <= count <= MAX_PARTS or not 0 <= number < count:
            self._fail(f"is damaged: it claims to be part {number + 1} of {count}")
        found = PART_NAME.fullmatch(name)
        if found is None or int(found["count"]) != count or int(found["number"]) != number + 1:
            raise UnsupportedModelError(
                f"{printable(name)} is part {number + 1} of {count}, but its name does not say so",
                f"Name the parts NAME-00001-of-{count:05d}.gguf and so on, in one folder",
            )
        paths = [self.path.with_name(part_name(found["stem"], index, count)) for index in range(count)]
        if number:
            raise UnsupportedModelError(
                f"{printable(name)} is part {number + 1} of {count}", f"Give the first part, {paths[0].name}"
            )
        tensors = dict(self.own_tensors)
        for index, path in enumerate(paths[1:], start=1):
            if not path.exists():
                raise ModelFileError(
                    f"{printable(path.name)}, a part of the model, is missing",
                    "Put all parts into one folder",
                )
            part = GgufFile(path)
            self.parts = (*self.parts, part)
            if (part.integer("split.count"), part.integer("split.no")) != (count, index):
                part._fail(f"is not part {index + 1} of {count} of {name}")
            if part.version != self.version or tensors.keys() & part.own_tensors.keys():
                part._fail(f"does not belong to {name}")
            tensors |= {each.name: replace(each, part=index) for each in part.own_tensors.values()}
        expected = self.integer("split.tensors.count")
        if expected is not None and expected != len(tensors):
            self._fail(f"is damaged: its parts hold {len(tensors)} tensors where {expected} belong")
        self.tensors = MappingProxyType(tensors)

    def _fail(self, message: str) -> NoReturn:
        raise ModelFileError(f"{printable(self.path.name)} {printable(message)}", _DOWNLOAD_AGAIN)

    def _place(self, cursor: _Cursor, entries: list[TensorInfo]) -> dict[str, TensorInfo]:
        """Turn offsets from the start of the data into offsets in the file, and check them."""
        tensors: dict[str, TensorInfo] = {}
        for entry in entries:
            if entry.name in tensors:
                cursor.fail(f"is damaged: the tensor {entry.name} occurs twice")
            if entry.offset % self.alignment:
                cursor.fail(
                    f"is damaged: the tensor {entry.name} starts at {entry.offset}, "
                    f"not a multiple of the alignment {self.alignment}"
                )
            offset = self.data_offset + entry.offset
            if offset + entry.size > self.size:
                cursor.fail(
                    f"is truncated: the tensor {entry.name} ends at byte {offset + entry.size}, "
                    f"but the file has {self.size}"
                )
            tensors[entry.name] = TensorInfo(entry.name, entry.shape, entry.type, offset, entry.size)
        previous: TensorInfo | None = None
        for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
            if previous is not None and tensor.offset < previous.end:
                cursor.fail(f"is damaged: the tensors {previous.name} and {tensor.name} overlap")
            previous = tensor
        return tensors


def encodable(name: str) -> str:
    """A file's name as UTF-8 can hold it: names on a disk may be any bytes."""
    return name.encode("utf-8", "replace").decode("utf-8")


def printable(text: str, longest: int = 300) -> str:
    """Text out of a file as it may be shown: no terminal escapes, no line breaks, not endless."""
    shown = "".join(character if character.isprintable() else "�" for character in text)
    return shown if len(shown) <= longest else shown[:longest] + "…"


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


def align(position: int, alignment: int) -> int:
    """The next multiple of ``alignment`` at or after ``position``."""
    return -(-position // alignment) * alignment


def _open_regular(path: Path) -> int:
    try:
        # Asked before opening: opening a pipe would wait for a writer.
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            if (path / "config.json").is_file():
                raise ModelFileError(
                    f"{path} is a checkpoint folder, and this is for GGUF files",
                    "Convert it with llama.cpp's convert_hf_to_gguf.py and give the GGUF file",
                )
            raise ModelFileError(f"{path} is a folder, not a model file", "Give the .gguf file inside it")
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"{path} is not a regular file", "Give the path of a .gguf file")
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist", "Check the path") from None
    except PermissionError:
        raise ModelFileError(f"{path} may not be read", "Check its permissions") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelFileError(f"{path!s} cannot be opened ({reason})", "Check the path") from error


def _read_field(cursor: _Cursor) -> MetadataField:
    start = cursor.position
    key = cursor.name_string("a metadata key", MAX_KEY_BYTES)
    type_number: int = cursor.number(_U32, f"the type of {key}")
    value: MetadataValue
    if type_number in _SCALARS:
        number = cursor.number(_SCALARS[type_number], key)
        value = bool(number) if type_number == _BOOL else number
    elif type_number == _STRING:
        value = cursor.raw_string(key).decode("utf-8", "replace")
    elif type_number == _ARRAY:
        value = _read_array(cursor, key)
    else:
        cursor.fail(f"is damaged: the metadata key {key} has the unknown type {type_number}")
    return MetadataField(key, gguf.GGUFValueType(type_number), value, start, cursor.position)


def _read_array(cursor: _Cursor, key: str) -> MetadataArray:
    element_type: int = cursor.number(_U32, f"the element type of {key}")
    length: int = cursor.number(_U64, f"the length of {key}")
    if element_type == _ARRAY:
        cursor.fail(f"holds arrays inside the array {key}, which llama.cpp cannot read either")
    if element_type != _STRING and element_type not in _SCALARS:
        cursor.fail(f"is damaged: the array {key} has elements of the unknown type {element_type}")
    if length > MAX_ARRAY_ELEMENTS:
        cursor.fail(f"is damaged: the array {key} claims {length} elements")
    start = cursor.position
    if element_type == _STRING:
        cursor.need(8 * length, key)
        data, end, position = cursor.data, cursor.end, start
        unpack = _U64.unpack_from
        # Tight on purpose: this walks over every token of a vocabulary, 150 thousand and more.
        for _ in range(length):
            if end - position < 8:
                break
            (size,) = unpack(data, position)
            position += 8 + size
            if position > end or size > MAX_STRING_BYTES:
                break
        else:
            cursor.position = position
            return MetadataArray(gguf.GGUFValueType.STRING, length, data[start:position])
        cursor.fail(f"is truncated or damaged: a string of the array {key} does not fit into the file")
    size = _SCALARS[element_type].size * length
    cursor.need(size, key)
    cursor.position += size
    return MetadataArray(gguf.GGUFValueType(element_type), length, cursor.data[start : cursor.position])


def _read_tensor_entry(cursor: _Cursor) -> TensorInfo:
    """One line of the tensor table; its offset still counts from the start of the data."""
    name = cursor.name_string("a tensor's name", MAX_TENSOR_NAME_BYTES)
    dimensions: int = cursor.number(_U32, f"the number of dimensions of {name}")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        cursor.fail(f"is damaged: the tensor {name} claims {dimensions} dimensions")
    extents: list[int] = [cursor.number(_U64, f"the shape of {name}") for _ in range(dimensions)]
    type_number: int = cursor.number(_U32, f"the type of {name}")
    offset: int = cursor.number(_U64, f"the offset of {name}")
    # ggml counts in signed 64 bits.
    if min(extents) < 1 or math.prod(extents) >= 1 << 62:
        cursor.fail(f"is damaged: the tensor {name} claims the shape {tuple(reversed(extents))}")
    try:
        kind = gguf.GGMLQuantizationType(type_number)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        cursor.fail(
            f"holds the tensor {name} in the unknown type {type_number}",
            "Use a file quantized with a current llama.cpp to a common type such as Q4_K_M",
        )
    if extents[0] % block:
        cursor.fail(
            f"is damaged: the rows of {name} have {extents[0]} values, "
            f"which {kind.name} cannot store (a multiple of {block} is needed)"
        )
    size = math.prod(extents) // block * block_bytes
    return TensorInfo(name, tuple(reversed(extents)), kind, offset, size)
