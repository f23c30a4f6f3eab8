"""Codes spread over the bits of a block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rosi_edge.basics.arrays import Bytes


@dataclass(frozen=True)
class BitField:
    """Some bits of every code of a block.

    The bytes come in ``groups`` of ``lanes``. Within a group the first ``lanes`` columns lie at the first of
    ``shifts`` in each byte, the next ``lanes`` columns at the second shift, and so on: ggml's layout, made so
    that a vector register of bytes unpacks with one shift and one mask.

    Attributes:
        start: offset of the field in the block, in bytes.
        groups: number of groups.
        lanes: bytes a group.
        shifts: where in a byte the values lie.
        width: bits of a value.
    """

    start: int
    groups: int
    lanes: int
    shifts: tuple[int, ...]
    width: int

    @property
    def columns(self) -> int:
        return self.groups * self.lanes * len(self.shifts)

    @property
    def _bytes(self) -> slice:
        return slice(self.start, self.start + self.groups * self.lanes)

    def unpack(self, blocks: Bytes) -> Bytes:
        """Blocks, (blocks, bytes a block), to values, (blocks, columns)."""
        packed = blocks[:, self._bytes].reshape(-1, self.groups, self.lanes)
        mask = np.uint8((1 << self.width) - 1)
        values = np.empty((len(blocks), self.groups, len(self.shifts), self.lanes), dtype=np.uint8)
        for place, shift in enumerate(self.shifts):
            np.right_shift(packed, np.uint8(shift), out=values[:, :, place])
        values &= mask
        return values.reshape(len(blocks), self.columns)

    def pack(self, blocks: Bytes, values: Bytes) -> None:
        """Write values, (blocks, columns), into the blocks in place; the other bits of each byte stay."""
        spread = values.reshape(-1, self.groups, len(self.shifts), self.lanes)
        mask = np.uint8((1 << self.width) - 1)
        used = 0
        packed = np.zeros((len(blocks), self.groups, self.lanes), dtype=np.uint8)
        for place, shift in enumerate(self.shifts):
            packed |= (spread[:, :, place] & mask) << np.uint8(shift)
            used |= int(mask) << shift
        target = blocks[:, self._bytes]
        target &= np.uint8(~used & 0xFF)
        target |= packed.reshape(len(blocks), -1)
