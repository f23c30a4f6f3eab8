"""A sample of a write matrix's columns, read from the file without holding or mapping the whole tensor."""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Bytes, Float32, Float64
from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights
from rosi_edge.quantization.codec import dequantize_bytes, quantize
from rosi_edge.quantization.grid import grid_of

_READ_BYTES = 1 << 24
_MOST_EXPERTS = 8
_RELATIVE_FLOOR = 1e-4
"""Rounding noise assumed at least, in parts of the mean energy: the arithmetic of whoever wrote the file."""


@dataclass(frozen=True)
class ColumnSample:
    """Some columns of a matrix.

    Attributes:
        weights: (hidden, n).
        noise: for each row the energy that rounding to the tensor's grid adds over these columns, (hidden,):
            step² / 12 a weight (uniform quantization noise). None for types without a grid.
    """

    weights: Float32
    noise: Float64 | None


def sample_columns(file: Weights, matrix: WriteMatrix, most: int) -> ColumnSample:
    """At most ``most`` columns of a write matrix (at least one block's width), evenly over its input.

    For stacked experts the columns come from up to eight of them. Which columns is fixed by the shape, so a
    file always gives the same answer.

    Raises:
        ModelFileError: the file became shorter.
        UnsupportedModelError: there is no dequantizer for the type.
    """
    hidden, columns = matrix.shape[-2:]
    width, width_bytes = gguf.GGML_QUANT_SIZES[matrix.type]
    blocks = columns // width
    experts = _evenly(max(matrix.experts, 1), _MOST_EXPERTS)
    chosen = _evenly(blocks, max(1, most // (width * len(experts))))
    stride = hidden * blocks * width_bytes
    weights, noise = [], []
    for expert in experts:
        data = _read_blocks(file, matrix.name, int(expert) * stride, hidden, blocks, width_bytes, chosen)
        values = dequantize_bytes(data.reshape(-1), (hidden, len(chosen) * width), matrix.type)
        weights.append(values)
        noise.append(_rounding_noise(data, values, matrix.type))
    known = [each for each in noise if each is not None]
    joined = np.concatenate(weights, axis=1) if len(weights) > 1 else weights[0]
    if not np.isfinite(joined).all():
        raise ModelFileError(
            f"{matrix.name} holds weights that are not finite numbers", "Download the file again"
        )
    return ColumnSample(joined, np.sum(known, axis=0) if len(known) == len(noise) else None)


def _evenly(count: int, most: int) -> npt.NDArray[np.intp]:
    """At most ``most`` of ``count`` indices, spread out."""
    if count <= most:
        return np.arange(count)
    return np.floor((np.arange(most) + 0.5) * count / most).astype(np.intp)


def _read_blocks(
    file: Weights,
    name: str,
    start: int,
    rows: int,
    blocks: int,
    width_bytes: int,
    chosen: npt.NDArray[np.intp],
) -> Bytes:
    """(rows, len(chosen) · width_bytes), a few rows at a time."""
    row_bytes = blocks * width_bytes
    found = np.empty((rows, len(chosen), width_bytes), dtype=np.uint8)
    step = max(1, _READ_BYTES // row_bytes)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        raw = file.read_tensor(name, start + first * row_bytes, count * row_bytes)
        part = raw.reshape(count, blocks, width_bytes)
        found[first : first + count] = part[:, chosen]
    return found.reshape(rows, -1)


def _rounding_noise(data: Bytes, weights: Float32, kind: gguf.GGMLQuantizationType) -> Float64 | None:
    rows, columns = weights.shape
    if kind == gguf.GGMLQuantizationType.F32:
        # Nearly every such file was converted from 16-bit floats.
        kind = gguf.GGMLQuantizationType.BF16
        data = quantize(weights, kind).reshape(rows, -1)
    try:
        grid = grid_of(kind).read(data, columns)
    except UnsupportedModelError:
        return None
    noise = np.square(grid.step, dtype=np.float64).sum(axis=1) * (grid.width / 12.0)
    energy = np.einsum("ij,ij->i", weights, weights, dtype=np.float64)
    found: Float64 = noise + _RELATIVE_FLOOR * energy.mean()
    return found
