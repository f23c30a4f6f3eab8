"""Importance matrices: how much each column of a matrix matters, as llama.cpp's ``llama-imatrix`` writes it.

Two formats are read: GGUF (tensors ``NAME.in_sum2`` and ``NAME.counts``, llama.cpp's tools/imatrix), and the
older binary one: a count of entries, and for each the length of its name, the name, the number of calls, the
number of values and these as floats.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import gguf
import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.text import printable
from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import MAGIC
from rosi_edge.quantization.codec import dequantize

_FLOAT = gguf.GGMLQuantizationType.F32
_LONGEST_NAME = 256
_MOST_BYTES = 1 << 30
_REMEDY = "Give a file that llama-imatrix wrote for this model"


def read_importance(path: Path) -> dict[str, Float32]:
    """The mean squared input of every column, (matrices, columns), by the tensor's name.

    One matrix for most tensors, one for each expert of a stack. Experts that were never called count alike.

    Raises:
        ModelFileError: missing, unreadable, damaged or something else.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(len(MAGIC))
            if start != MAGIC:
                size = path.stat().st_size
                if size > _MOST_BYTES:
                    raise ModelFileError(f"{path.name} is too large for an importance matrix", _REMEDY)
                found = _read_binary(path, start + stream.read())
        if start == MAGIC:
            found = _read_gguf(path)
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read ({error.strerror or error})", "Check the path"
        ) from error
    if not found:
        raise ModelFileError(f"{path.name} covers no tensor", _REMEDY)
    return found


def importance_for(path: Path, matrices: Iterable[WriteMatrix]) -> Mapping[str, Float32]:
    """The importance that a file holds of some write matrices, (matrices, columns), by the tensor's name.

    Checked against the model before anything long begins. Matrices that it says nothing of are left out.

    Raises:
        ModelFileError: see :func:`read_importance`.
        UnsupportedModelError: it says nothing of any of them, or is of another model.
    """
    known = read_importance(path)
    found = {}
    for matrix in matrices:
        if matrix.name not in known:
            continue
        expected = (matrix.experts or 1, matrix.shape[-1])
        if known[matrix.name].shape != expected:
            raise UnsupportedModelError(
                f"{path.name} holds {known[matrix.name].shape[-1]} columns for {matrix.name}, "
                f"which has {expected[-1]}",
                _REMEDY,
            )
        found[matrix.name] = known[matrix.name]
    if not found:
        raise UnsupportedModelError(f"{path.name} covers none of this model's write matrices", _REMEDY)
    return found


def _read_gguf(path: Path) -> dict[str, Float32]:
    found: dict[str, Float32] = {}
    with GgufFile.open(path) as file:
        if file.text("general.type") != "imatrix":
            raise ModelFileError(f"{path.name} is not an importance matrix", _REMEDY)
        for key in file.tensors:
            if not key.endswith(".in_sum2"):
                continue
            name = key.removesuffix(".in_sum2")
            if f"{name}.counts" not in file.tensors:
                raise _damaged(path, name)
            if not file.tensors[key].type == file.tensors[f"{name}.counts"].type == _FLOAT:
                raise _damaged(path, name)
            sums = dequantize(file, key).reshape(-1, file.tensors[key].shape[-1])
            counts = dequantize(file, f"{name}.counts").reshape(-1)
            if len(counts) != len(sums):
                raise _damaged(path, name)
            found[name] = _mean(path, name, sums, counts)
    return found


def _read_binary(path: Path, data: bytes) -> dict[str, Float32]:
    position = 0

    def number() -> int:
        nonlocal position
        if position + 4 > len(data):
            raise ModelFileError(f"{path.name} is truncated, or not an importance matrix", _REMEDY)
        position += 4
        return int(struct.unpack_from("<i", data, position - 4)[0])

    found: dict[str, Float32] = {}
    for _ in range(number()):
        length = number()
        if not 0 < length <= _LONGEST_NAME or position + length > len(data):
            raise ModelFileError(f"{path.name} is truncated, or not an importance matrix", _REMEDY)
        name = data[position : position + length].decode("utf-8", "replace")
        position += length
        calls, values = number(), number()
        if not 0 < values <= (len(data) - position) // 4:
            raise _damaged(path, name)
        sums = np.frombuffer(data, dtype="<f4", count=values, offset=position)
        position += 4 * values
        found[name] = _mean(path, name, sums[None], np.array([max(calls, 1)], dtype=np.float32))
    return found


def _mean(path: Path, name: str, sums: Float32, counts: Float32) -> Float32:
    if not (np.isfinite(sums).all() and np.isfinite(counts).all() and (sums >= 0).all()):
        raise _damaged(path, name)
    called = counts > 0
    mean = np.ones(sums.shape, dtype=np.float32)
    mean[called] = sums[called] / counts[called, None]
    return mean


def _damaged(path: Path, name: str) -> ModelFileError:
    return ModelFileError(f"{path.name} is damaged at {printable(name)}", _REMEDY)
