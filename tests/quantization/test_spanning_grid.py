"""The yardstick of the verifier, against the scales that ggml's quantizers choose for the same weights."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest

from rosi_edge.basics.arrays import Float32
from rosi_edge.quantization.codec import quantize
from rosi_edge.quantization.grid import can_rescale, grid_of, supported_grids
from rosi_edge.quantization.grids.base import Grid
from rosi_edge.quantization.spanning_grid import spanning_grid
from rosi_edge.verification.matrix import _COARSEST, _NO_STEP, _OUTSIDE

ROWS, COLUMNS = 24, 512
KINDS = sorted(kind for kind in supported_grids() if can_rescale(kind))
RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.standard_normal((ROWS, COLUMNS))
WEIGHTS = {
    "normal": NORMAL,
    "heavy tails": RANDOM.standard_t(1.5, size=(ROWS, COLUMNS)),
    "large columns": NORMAL * np.where(np.arange(COLUMNS) % 97, 1, 30),
    "all positive": NORMAL + 3,
    "mostly zero": NORMAL * (RANDOM.random((ROWS, COLUMNS)) < 0.05),
    "uneven": NORMAL * np.repeat(np.exp(2 * RANDOM.standard_normal((ROWS, COLUMNS // 32))), 32, axis=1),
}


def ends(grid: Grid) -> tuple[Float32, Float32]:
    low, high = (
        replace(grid, codes=np.full_like(grid.codes, end)).weights()
        for end in (grid.values.low, grid.values.high)
    )
    return np.minimum(low, high), np.maximum(low, high)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_ggmls_scales_lie_near(kind: gguf.GGMLQuantizationType, name: str) -> None:
    weights = (0.02 * WEIGHTS[name]).astype(np.float32)
    spanning = spanning_grid(weights, kind)
    low, high = ends(spanning)
    room = 1e-5 * np.abs(weights).max()
    assert (low <= weights + room).all() and (weights <= high + room).all()
    ggml = grid_of(kind).read(quantize(weights, kind).reshape(ROWS, -1), COLUMNS)
    assert ggml.step.shape == spanning.step.shape
    needed = np.square(spanning.step).sum(axis=1)
    assert (np.square(ggml.step).sum(axis=1) <= _COARSEST * needed).all()
    outside = np.sqrt(np.square(weights - np.clip(weights, *ends(ggml))).mean(axis=1))
    assert (outside <= _OUTSIDE * spanning.values.gap * np.sqrt(needed / spanning.step.shape[1])).all()
    share = np.abs(spanning.step) / np.abs(spanning.step).max(axis=1, keepdims=True)
    assert (share[ggml.step == 0] <= _NO_STEP).all()
