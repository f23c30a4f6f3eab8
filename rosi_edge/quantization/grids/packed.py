"""Formats whose codes are bit fields beside scales: all of them but the floats and the base-3 blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Bytes, Codes, Float32
from rosi_edge.quantization.grids.base import Grid, Values
from rosi_edge.quantization.grids.bits import BitField
from rosi_edge.quantization.grids.blocks import as_blocks

Scales = Callable[[Bytes], tuple[Float32, Float32 | None]]
"""Blocks, (blocks, bytes a block), to steps and offsets, each (blocks, sub-blocks); no offsets is None."""


@dataclass(frozen=True)
class PackedGrid:
    """A format of fixed-width codes.

    Attributes:
        block_bytes: bytes a block.
        fields: where the bits of a code lie, the least significant first.
        scales: reads a block's steps and offsets.
        values: the numbers of the codes.
        bias: added to the stored number to get the code; used where ``ranks`` is None.
        flip: bits of the stored number that are stored inverted (two's complement's sign bit).
        ranks: stored number to code, for tables that are not stored in ascending order.
    """

    block_bytes: int
    fields: tuple[BitField, ...]
    scales: Scales
    values: Values
    bias: int = 0
    flip: int = 0
    ranks: npt.NDArray[np.int8] | None = None

    free = False

    def read(self, data: Bytes, columns: int) -> Grid:
        blocks = as_blocks(data, columns, self.fields[0].columns, self.block_bytes)
        with np.errstate(invalid="ignore", over="ignore"):
            step, offset = self.scales(blocks)
        rows = len(data)
        return Grid(
            self._codes(self._stored(blocks)).reshape(rows, columns),
            step.reshape(rows, -1),
            None if offset is None else offset.reshape(rows, -1),
            self.values,
        )

    def write(self, data: Bytes, codes: Codes) -> Bytes:
        new = np.array(data, dtype=np.uint8, order="C")
        blocks = as_blocks(new, codes.shape[1], self.fields[0].columns, self.block_bytes)
        wanted = codes.reshape(len(blocks), -1)
        if self.ranks is None:
            stored = (wanted - self.bias).astype(np.uint8) ^ np.uint8(self.flip)
        else:
            before = self._stored(blocks)
            first = np.array([np.flatnonzero(self.ranks == code)[0] for code in range(self.values.high + 1)])
            stored = np.where(self._codes(before) == wanted, before, first.astype(np.uint8)[wanted])
        for field in self.fields:
            field.pack(blocks, stored)
            stored = stored >> np.uint8(field.width % 8)
        return new

    def _stored(self, blocks: Bytes) -> Bytes:
        stored = self.fields[0].unpack(blocks)
        place = self.fields[0].width
        for field in self.fields[1:]:
            stored |= field.unpack(blocks) << np.uint8(place)
            place += field.width
        return stored

    def _codes(self, stored: Bytes) -> npt.NDArray[np.int8]:
        if self.ranks is not None:
            return self.ranks[stored]
        codes = stored ^ np.uint8(self.flip)
        # Modulo 256, so that eight bits wide codes come out negative where they should.
        codes += np.uint8(self.bias & 0xFF)
        return codes.view(np.int8)
