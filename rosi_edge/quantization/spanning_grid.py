"""The plainest scales that a quantizer could choose: from the smallest weight that shares one to the largest.

A yardstick for scales that somebody else chose. ggml's quantizers search for better ones near these; to
compare with theirs, llama.cpp would have to be there.
"""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.quantization.grid import grid_of
from rosi_edge.quantization.grids.base import Grid


def spanning_grid(weights: Float32, kind: gguf.GGMLQuantizationType) -> Grid:
    """Steps, and offsets where the type has them, whose range of codes just spans the weights.

    Args:
        weights: (rows, columns).

    Returns:
        a grid with all codes at zero.

    Raises:
        UnsupportedModelError: the type has no grid.
    """
    rows, columns = weights.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    empty = grid_of(kind).read(np.zeros((rows, columns // block * size), dtype=np.uint8), columns)
    shared = weights.reshape(rows, -1, empty.width)
    smallest, largest = shared.min(axis=2), shared.max(axis=2)
    low, high = empty.values.of(np.array([empty.values.low, empty.values.high]))
    if empty.offset is not None:
        # Offsets of k-quants are never positive; that of another type loses little by it.
        smallest = np.minimum(smallest, 0)
        step = (largest - smallest) / (high - low)
        return replace(empty, step=step, offset=smallest - step * low)
    # Ranges that reach further below zero than above can be turned round by a negative step.
    upright = np.maximum(largest / high, smallest / low)
    turned = np.maximum(largest / -low, smallest / -high)
    return replace(empty, step=np.where(upright <= turned, upright, -turned))
