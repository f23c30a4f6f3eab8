"""The header of a safetensors file, read as untrusted input."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rosi_edge.basics.text import printable
from rosi_edge.errors import ModelFileError

MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library allows, too."""
MAX_JSON_BYTES = 100_000_000
_MOST_DIMENSIONS = 8
DOWNLOAD_AGAIN = "Download it again"
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    "F4": 4,
}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it lies in a safetensors file. ``offset`` counts from the start of ``file``, in bytes."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def read_header(path: Path) -> list[StoredTensor]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            damaged_file(path, f"its header claims {length} bytes")
        raw = stream.read(length)
    header = _parse(raw, path)
    found: list[StoredTensor] = []
    for name, entry in header.items():
        if name == "__metadata__":
            if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
                damaged_file(path, "its metadata are not texts")
            continue
        found.append(_entry(path, name, entry, 8 + length))
    found.sort(key=lambda tensor: (tensor.offset, tensor.size))
    position = 8 + length
    for tensor in found:
        if tensor.offset != position:
            damaged_file(path, f"{tensor.name!r} overlaps another tensor or leaves a gap")
        position += tensor.size
    if position != size:
        damaged_file(path, f"its tensors end at byte {position} of {size}")
    return found


def _entry(path: Path, name: str, entry: object, base: int) -> StoredTensor:
    if not isinstance(entry, dict):
        damaged_file(path, f"the entry of {name!r} is no object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if (
        not (isinstance(dtype, str) and dtype in _BITS)
        or not (isinstance(shape, list) and len(shape) <= _MOST_DIMENSIONS and all(map(_natural, shape)))
        or not (isinstance(offsets, list) and len(offsets) == 2 and all(_natural(at) for at in offsets))
    ):
        damaged_file(path, f"the entry of {name!r} cannot be understood")
    start, end = offsets
    if end < start or (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        damaged_file(path, f"{name!r} has {end - start} bytes for the shape {shape} of {dtype}")
    return StoredTensor(name, path.name, dtype, tuple(shape), base + start, end - start)


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def json_object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            damaged_file(path, "it is too large")
        raw = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror or error})") from error
    return _parse(raw, path)


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8")
        content = json.loads(text, object_pairs_hook=_unique)
        if _SURROGATE.search(text):
            # Half of a pair cannot be written, nor shown, nor be a name on a disk. Pairs are fine.
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        damaged_file(path, "it is not valid JSON")
    if not isinstance(content, dict):
        damaged_file(path, "it is not a JSON object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # A name that occurs twice would be one tensor here and another for whoever reads the first one.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def damaged_file(path: Path, what: str) -> NoReturn:
    raise ModelFileError(f"{path} is damaged: {printable(what)}", DOWNLOAD_AGAIN)
