"""Gram matrices of write matrices, summed over neighbouring layers by energy, and in units of rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rosi_edge.abliteration.columns import sample_columns
from rosi_edge.abliteration.hole import Space
from rosi_edge.abliteration.windows import Window
from rosi_edge.basics.ahead import Ahead
from rosi_edge.basics.arrays import Float32, Float64
from rosi_edge.basics.progress import Advance
from rosi_edge.errors import ModelFileError
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights
from rosi_edge.quantization.codec import dequantize


@dataclass(frozen=True)
class Gram:
    """W Wᵀ of one matrix's sampled columns, (hidden, hidden), and what rounding adds to its diagonal."""

    gram: Float32
    noise: Float64 | None


def gram_of(file: Weights, matrix: WriteMatrix, most: int) -> Gram:
    sample = sample_columns(file, matrix, most)
    with np.errstate(over="ignore"):
        gram = sample.weights @ sample.weights.T
    if not np.isfinite(np.trace(gram)):
        raise ModelFileError(
            f"{matrix.name} holds weights too large to compute with", "Get the file from its maker again"
        )
    return Gram(gram, sample.noise)


def sum_group(
    file: Weights,
    group: Sequence[WriteMatrix],
    grams: Ahead[Gram],
    spaces: Sequence[Space],
    advance: Advance,
) -> dict[Space, tuple[Window, Window | None]]:
    """The group's Gram matrices summed twice: by energy (each with a mean of 1 a direction), and by noise (in
    units of what rounding leaves), None where a type's rounding is not known."""
    by_energy: dict[Space, Window | None] = {}
    by_noise: dict[Space, Window | None] = {}
    for matrix in group:
        made = grams.next(advance)
        for space in spaces:
            gain = post_norm_gain(file, matrix) if space == "stream" else None
            scaled = made.gram if gain is None else scaled_rows(made.gram, gain)
            noise = made.noise if gain is None or made.noise is None else made.noise * gain**2
            energy = float(np.trace(scaled, dtype=np.float64)) / len(scaled)
            _take_in(by_energy, space, _weighted(matrix.block, scaled, noise, energy))
            unit = 0.0 if noise is None else float(noise.mean())
            _take_in(by_noise, space, None if noise is None else _weighted(matrix.block, scaled, noise, unit))
        advance(1)
    return {space: (window, by_noise[space]) for space, window in by_energy.items() if window is not None}


def _take_in(sums: dict[Space, Window | None], space: Space, more: Window | None) -> None:
    """What is not known of one matrix is not known of the sum."""
    if space not in sums or more is None:
        sums[space] = more
    elif (before := sums[space]) is not None:
        sums[space] = before.take_in(more)


def scaled_rows(gram: Float32, scale: Float64) -> Float32:
    """The Gram matrix of rows multiplied by ``scale``; in place after the one copy, as it may be large."""
    factors = scale.astype(np.float32)
    made = gram * factors
    made *= factors[:, None]
    return made


def post_norm_gain(file: Weights, matrix: WriteMatrix) -> Float64 | None:
    if matrix.post_norm is None:
        return None
    return dequantize(file, matrix.post_norm).reshape(-1).astype(np.float64)


def _weighted(block: int, gram: Float32, noise: Float64 | None, unit: float) -> Window:
    """In parts of ``unit``. A matrix of zeros counts as nothing."""
    share = 1.0 / unit if unit > 0 else 0.0
    return Window((block, block + 1), gram * np.float32(share), None if noise is None else noise * share, 1)
