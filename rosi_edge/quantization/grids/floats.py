"""F32, F16, BF16: no blocks or scales, but 16-bit floats have a grid too: the spacing of their neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Bytes, Codes, Float32
from rosi_edge.quantization.grids.base import Grid, Values
from rosi_edge.quantization.grids.blocks import as_blocks

_FAR = 1 << 20
"""Steps that a weight may move: more than any edit asks for, few enough for float32 to count."""

_FINEST = 2.0**-12
"""The finest step used, relative to the row's root mean square: weights near zero need no finer one."""


@dataclass(frozen=True)
class FloatGrid:
    """A float format: ``offset`` is the weight itself, ``step`` the spacing around it and every code zero.

    Float32 is ``free``: its spacing is finer than any edit, so its steps read as zero and
    ``write_weights`` says all there is to say.

    Attributes:
        exponent_bits: 8 for F32 and BF16, 5 for F16.
        bits: 32 or 16.
    """

    exponent_bits: int
    bits: int

    @property
    def free(self) -> bool:
        return self.bits == 32

    def read(self, data: Bytes, columns: int) -> Grid:
        weights = self._weights(as_blocks(data, columns, 1, self.bits // 8).reshape(len(data), -1))
        step = np.zeros_like(weights) if self.free else self._spacing(weights)
        return Grid(np.zeros(weights.shape, dtype=np.int32), step, weights, Values(-_FAR, _FAR))

    def write(self, data: Bytes, codes: Codes) -> Bytes:
        grid = self.read(data, codes.shape[1])
        return self._replace(data, replace(grid, codes=codes).weights(), codes != 0)

    def _spacing(self, weights: Float32) -> Float32:
        """The distance to the next float, no finer than the row needs; zero where the weight is no number."""
        mantissa = self.bits - 1 - self.exponent_bits
        finite = np.isfinite(weights)
        size = np.sqrt(np.square(np.where(finite, weights, 0), dtype=np.float64).mean(axis=1, keepdims=True))
        # Powers of two, so that a weight plus some steps is again a float of the format, or close to one.
        finest = np.exp2(np.floor(np.log2(np.maximum(size * _FINEST, 1e-30)))).astype(np.float32)
        exponent = np.frexp(np.where(finite, weights, 0))[1] - np.int32(1 + mantissa)
        # Zero has no exponent: frexp calls it 0, which is that of weights near one.
        spacing = np.where(weights == 0, np.float32(0), np.ldexp(np.float32(1), exponent))
        step = np.maximum(spacing, finest)
        step[~finite] = 0
        return np.asarray(step, dtype=np.float32)

    def write_weights(self, data: Bytes, weights: Float32) -> Bytes:
        """A copy of ``data`` with these weights, (rows, columns), each rounded to the nearest float."""
        return self._replace(data, weights, weights != self._weights(data))

    def _weights(self, data: Bytes) -> Float32:
        data = np.ascontiguousarray(data)
        if self.bits == 32:
            return data.view("<f4").astype(np.float32)
        if self.exponent_bits == 5:
            return data.view("<f2").astype(np.float32)
        return (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)

    def _replace(self, data: Bytes, weights: Float32, where: npt.NDArray[np.bool_]) -> Bytes:
        new = np.array(data, dtype=np.uint8, order="C")
        if self.bits == 32:
            new.view("<f4")[where] = weights[where]
        elif self.exponent_bits == 5:
            new.view("<f2")[where] = np.clip(weights[where], -65504, 65504).astype(np.float16)
        else:
            new.view("<u2")[where] = _to_bfloat16(weights[where])
        return new


def _to_bfloat16(weights: Float32) -> npt.NDArray[np.uint16]:
    """The upper halves, rounded to nearest even and never up to infinity."""
    largest = np.array([0x7F7F0000], dtype=np.uint32).view(np.float32)[0]
    bits = np.clip(weights, -largest, largest).astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        np.uint16
    )


F32 = FloatGrid(exponent_bits=8, bits=32)
F16 = FloatGrid(exponent_bits=5, bits=16)
BF16 = FloatGrid(exponent_bits=8, bits=16)
