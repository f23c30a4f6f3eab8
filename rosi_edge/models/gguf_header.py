"""The header of a GGUF file, read as untrusted input."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, overload

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.basics.text import printable
from rosi_edge.errors import ModelFileError

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
DOWNLOAD_AGAIN = "Download the file again"
FROM_ITS_MAKER = "Get the file from the maker of the model"
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
_STRING = int(gguf.GGUFValueType.STRING)
_ARRAY = int(gguf.GGUFValueType.ARRAY)
_BOOL = int(gguf.GGUFValueType.BOOL)
_SCALARS: dict[int, struct.Struct] = {
    int(gguf.GGUFValueType.UINT8): struct.Struct("<B"),
    int(gguf.GGUFValueType.INT8): struct.Struct("<b"),
    int(gguf.GGUFValueType.UINT16): struct.Struct("<H"),
    int(gguf.GGUFValueType.INT16): struct.Struct("<h"),
    int(gguf.GGUFValueType.UINT32): U32,
    int(gguf.GGUFValueType.INT32): struct.Struct("<i"),
    int(gguf.GGUFValueType.FLOAT32): struct.Struct("<f"),
    _BOOL: struct.Struct("<B"),
    int(gguf.GGUFValueType.UINT64): U64,
    int(gguf.GGUFValueType.INT64): struct.Struct("<q"),
    int(gguf.GGUFValueType.FLOAT64): struct.Struct("<d"),
}
# What people hand in by mistake, by the first bytes.
LOOKALIKES: tuple[tuple[bytes, str, str], ...] = (
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
                (size,) = U64.unpack_from(self._raw, position)
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


class Cursor:
    """Reads forward through the header and refuses to look past its end."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self.data = data
        self.name = name
        self.position = 0
        self.end = min(len(data), MAX_METADATA_BYTES)

    def fail(self, message: str, remedy: str = DOWNLOAD_AGAIN) -> NoReturn:
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
        size: int = self.number(U64, f"the length of {what}")
        if size > limit:
            self.fail(f"is damaged: {what} claims a length of {size} bytes, more than the {limit} allowed")
        self.need(size, what)
        raw = self.data[self.position : self.position + size]
        self.position += size
        return raw

    def text(self, what: str, limit: int = MAX_STRING_BYTES) -> str:
        """A text that llama.cpp, whose strings end at a zero byte, reads as Python does."""
        raw = self.raw_string(what, limit)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"is damaged: {what} is not text (byte {self.position - len(raw)})")
        if "\0" in text:
            self.fail(f"holds a zero byte inside {what}, where llama.cpp stops reading", FROM_ITS_MAKER)
        return text

    def name_string(self, what: str, limit: int) -> str:
        """A key or a tensor's name. Two that look the same on a screen must be the same."""
        text = self.text(what, limit)
        if not text:
            self.fail(f"is damaged: {what} is empty (byte {self.position})")
        if not text.isprintable():
            self.fail(f"holds invisible characters in {what}, {text!a}", FROM_ITS_MAKER)
        return text


def align(position: int, alignment: int) -> int:
    """The next multiple of ``alignment`` at or after ``position``."""
    return -(-position // alignment) * alignment


def read_field(cursor: Cursor) -> MetadataField:
    start = cursor.position
    key = cursor.name_string("a metadata key", MAX_KEY_BYTES)
    type_number: int = cursor.number(U32, f"the type of {key}")
    value: MetadataValue
    if type_number in _SCALARS:
        number = cursor.number(_SCALARS[type_number], key)
        value = bool(number) if type_number == _BOOL else number
    elif type_number == _STRING:
        value = cursor.text(key)
    elif type_number == _ARRAY:
        value = _read_array(cursor, key)
    else:
        cursor.fail(f"is damaged: the metadata key {key} has the unknown type {type_number}")
    return MetadataField(key, gguf.GGUFValueType(type_number), value, start, cursor.position)


def _read_array(cursor: Cursor, key: str) -> MetadataArray:
    element_type: int = cursor.number(U32, f"the element type of {key}")
    length: int = cursor.number(U64, f"the length of {key}")
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
        unpack = U64.unpack_from
        # Tight on purpose: this walks over every token of a vocabulary, 150 thousand and more.
        for _ in range(length):
            if end - position < 8:
                break
            (size,) = unpack(data, position)
            text = position + 8
            position = text + size
            if position > end or size > MAX_STRING_BYTES:
                break
            # A token of zero bytes alone has no other reading; one that goes on behind them has two.
            if data.find(b"\0", text, position) > text:
                cursor.fail(
                    f"holds a zero byte inside a text of {key}, where llama.cpp stops reading", FROM_ITS_MAKER
                )
        else:
            cursor.position = position
            return MetadataArray(gguf.GGUFValueType.STRING, length, data[start:position])
        cursor.fail(f"is truncated or damaged: a string of the array {key} does not fit into the file")
    size = _SCALARS[element_type].size * length
    cursor.need(size, key)
    cursor.position += size
    return MetadataArray(gguf.GGUFValueType(element_type), length, cursor.data[start : cursor.position])


def read_tensor_entry(cursor: Cursor) -> TensorInfo:
    """One line of the tensor table; its offset still counts from the start of the data."""
    name = cursor.name_string("a tensor's name", MAX_TENSOR_NAME_BYTES)
    dimensions: int = cursor.number(U32, f"the number of dimensions of {name}")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        cursor.fail(f"is damaged: the tensor {name} claims {dimensions} dimensions")
    extents: list[int] = [cursor.number(U64, f"the shape of {name}") for _ in range(dimensions)]
    type_number: int = cursor.number(U32, f"the type of {name}")
    offset: int = cursor.number(U64, f"the offset of {name}")
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
