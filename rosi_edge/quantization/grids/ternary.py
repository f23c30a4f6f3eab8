"""Blocks of 256 weights of −1, 0 or 1 times a scale: TQ1_0 and TQ2_0 (block_tq* in ggml-common.h)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Bytes, Codes, Float32
from rosi_edge.quantization.grids.base import Grid, Values
from rosi_edge.quantization.grids.bits import BitField
from rosi_edge.quantization.grids.blocks import as_blocks, half
from rosi_edge.quantization.grids.packed import PackedGrid

_TERNARY = Values(-1, 1)


def _tq2_0_scale(blocks: Bytes) -> tuple[Float32, None]:
    return half(blocks, 64), None


TQ2_0 = PackedGrid(66, (BitField(0, 2, 32, (0, 2, 4, 6), 2),), _tq2_0_scale, _TERNARY, bias=-1)

_POWERS = np.array([1, 3, 9, 27, 81], dtype=np.uint8)
_SECTIONS = ((0, 32, 5), (32, 16, 5), (48, 4, 4))
"""First byte, bytes, and digits a byte; a section's columns are digit by digit, each over all its bytes."""


class BaseThreeGrid:
    """TQ1_0: five ternary digits a byte, as the byte ``⌈256 n / 243⌉``: its leading base-3 digits are n's."""

    free = False
    _block_columns = 256
    _block_bytes = 54

    def read(self, data: Bytes, columns: int) -> Grid:
        blocks = as_blocks(data, columns, self._block_columns, self._block_bytes)
        scales = half(blocks, 52)
        return Grid(
            self._codes(blocks).reshape(len(data), columns), scales.reshape(len(data), -1), None, _TERNARY
        )

    def write(self, data: Bytes, codes: Codes) -> Bytes:
        new = np.array(data, dtype=np.uint8, order="C")
        blocks = as_blocks(new, codes.shape[1], self._block_columns, self._block_bytes)
        wanted = codes.reshape(len(blocks), -1)
        differs = self._codes(blocks) != wanted
        column = 0
        for start, count, digits in _SECTIONS:
            section = slice(column, column + count * digits)
            shape = (len(blocks), digits, count)
            number = np.einsum(
                "bdc,d->bc",
                (wanted[:, section] + 1).astype(np.uint16).reshape(shape),
                _POWERS[::-1][:digits].astype(np.uint16),
            )
            packed = ((number * np.uint16(256) + np.uint16(242)) // np.uint16(243)).astype(np.uint8)
            # Several bytes can mean the same digits: a byte is only rewritten where a digit changes.
            changed = differs[:, section].reshape(shape).any(axis=1)
            target = blocks[:, start : start + count]
            target[changed] = packed[changed]
            column += count * digits
        return new

    @staticmethod
    def _codes(blocks: Bytes) -> npt.NDArray[np.int8]:
        parts = []
        for start, count, digits in _SECTIONS:
            shifted = blocks[:, None, start : start + count] * _POWERS[:digits, None]  # modulo 256
            digit = (shifted.astype(np.uint16) * np.uint16(3)) >> np.uint16(8)
            parts.append(digit.astype(np.int8).reshape(len(blocks), -1))
        return np.concatenate(parts, axis=1) - np.int8(1)


TQ1_0 = BaseThreeGrid()
