"""Rows of bytes to blocks, with the lengths checked."""

from __future__ import annotations

import numpy as np

from rosi_edge.basics.arrays import Bytes, Float32
from rosi_edge.errors import ModelFileError


def as_blocks(data: Bytes, columns: int, block_columns: int, block_bytes: int) -> Bytes:
    """(rows, bytes a row) to (rows · blocks a row, bytes a block), a view where the memory allows it.

    Raises:
        ModelFileError: the bytes are not that many columns.
    """
    if data.ndim != 2 or columns % block_columns or data.shape[1] * block_columns != columns * block_bytes:
        raise ModelFileError(
            f"rows of {columns} weights cannot lie in {data.shape[-1] if data.ndim else 0} bytes",
            "The file is damaged; fetch it again",
        )
    return data.reshape(-1, block_bytes)


def half(blocks: Bytes, start: int) -> Float32:
    """The 16-bit float at a byte offset of each block, (blocks, 1), as float32."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)
