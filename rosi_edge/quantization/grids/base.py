"""What a block format looks like once its bits are numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rosi_edge.basics.arrays import Bytes, Codes, Float32


@dataclass(frozen=True)
class Values:
    """The numbers that codes stand for: a code's own value, or an entry of an ascending table.

    Attributes:
        low: the smallest code that may be written.
        high: the largest code that may be written. Blocks may hold codes beyond (ternary blocks have
            room for a fourth value, for instance); those are read as they are and never chosen.
        table: None where ``value(code) = code``; otherwise ``value(code) = table[code]``, strictly ascending.
    """

    low: int
    high: int
    table: Float32 | None = None

    @property
    def gap(self) -> float:
        """The largest distance between two neighbouring numbers."""
        return 1.0 if self.table is None else float(np.diff(self.table).max())

    @property
    def range(self) -> float:
        """The distance between the smallest and the largest number."""
        if self.table is None:
            return float(self.high - self.low)
        return float(self.table[self.high] - self.table[self.low])

    def of(self, codes: Codes) -> Float32:
        """The numbers of some codes, in their shape."""
        if self.table is None:
            return codes.astype(np.float32)
        return self.table[codes]


@dataclass(frozen=True)
class Grid:
    """Rows of blocks as ``weight = offset + step · value(code)``.

    Attributes:
        codes: (rows, columns).
        step: (rows, sub-blocks), one for ``columns / sub-blocks`` columns in a row each. As stored: zero,
            negative, infinite and NaN steps are possible in a file.
        offset: like ``step``; None where the format has none.
        values: the codes that there are and their numbers.
    """

    codes: Codes
    step: Float32
    offset: Float32 | None
    values: Values

    @property
    def width(self) -> int:
        """How many columns share a step."""
        return int(self.codes.shape[1] // self.step.shape[1])

    def weights(self) -> Float32:
        """(rows, columns), by the same float32 operations in the same order as ggml's dequantizers."""
        rows, columns = self.codes.shape
        values = self.values.of(self.codes).reshape(rows, -1, self.width)
        with np.errstate(invalid="ignore", over="ignore"):
            values *= self.step[:, :, None]
            if self.offset is not None:
                values += self.offset[:, :, None]
        return values.reshape(rows, columns)


class BlockGrid(Protocol):
    """A block format whose weights lie on a grid: scales that stay, codes that can be chosen."""

    @property
    def free(self) -> bool:
        """Whether every float32 number is allowed, so that there are no codes to choose."""
        ...

    def read(self, data: Bytes, columns: int) -> Grid:
        """Rows of blocks, (rows, bytes a row), as a grid of ``columns`` columns.

        Raises:
            ModelFileError: the bytes are not that many columns of this format.
        """
        ...

    def write(self, data: Bytes, codes: Codes) -> Bytes:
        """A copy of ``data`` with other codes, (rows, columns); all other bits are untouched.

        A weight whose code is what it was keeps its bits, even where another pattern means the same.
        """
        ...
