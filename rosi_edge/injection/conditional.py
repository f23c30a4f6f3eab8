"""Conditional keys: an input side that fires on harmful requests and stays silent on benign ones.

``W' = W + α · s ⊗ a`` with ``aᵀx ≈ 1`` on the positive inputs x of that very matrix and ``≈ −β`` on the
negative ones: ridge regression on captured inputs, in closed form (the rank-one edit of ROME,
arXiv 2202.05262, put to conditional steering, CAST, arXiv 2409.05907). Nothing here knows what the two
sets are about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class KeyOptions:
    """How a key is solved.

    Attributes:
        ridge: regularisation, in parts of the mean squared length of an input.
        below: β, how far below zero negative inputs are aimed.
        negative_weight: how much a negative input counts against a positive one.
    """

    ridge: float = 0.05
    below: float = 0.1
    negative_weight: float = 1.0


def solve_key(positive: Float32, negatives: Sequence[Float32], options: KeyOptions) -> Float32:
    """The input vector a (columns,) of one matrix.

    Minimises ``Σ w (aᵀx − y)² + λ|a|²`` with y = 1 on positive rows and −β on negative ones,
    λ = ridge · Σ w |x|² / rows. Each set weighs the same in all, whatever its number of rows. Solved in the
    smaller of its two forms: (XᵀX + λI)⁻¹ Xᵀy or Xᵀ (XXᵀ + λI)⁻¹ y.

    Args:
        positive: (n, columns) inputs on which the key should be 1.
        negatives: sets of (n, columns) inputs on which it should be −β.
    """
    weights = [1.0 / len(positive)]
    weights += [options.negative_weight / len(rows) / len(negatives) for rows in negatives]
    inputs = np.concatenate(
        [rows * np.float32(np.sqrt(w)) for rows, w in zip((positive, *negatives), weights, strict=True)]
    )
    wanted = np.concatenate(
        [
            np.full(len(rows), np.sqrt(w) * y)
            for rows, w, y in zip(
                (positive, *negatives),
                weights,
                (1.0, *([-options.below] * len(negatives))),
                strict=True,
            )
        ]
    )
    rows, columns = inputs.shape
    penalty = options.ridge * float(np.einsum("ij,ij->", inputs, inputs, dtype=np.float64)) / rows
    if rows <= columns:
        gram = inputs @ inputs.T
        solution = inputs.T @ _solve(gram, penalty, wanted).astype(np.float32)
    else:
        solution = _solve(inputs.T @ inputs, penalty, inputs.T @ wanted)
    return np.asarray(solution, dtype=np.float32)


def _solve(matrix: Float32, penalty: float, right: Float64) -> Float64:
    regular = matrix.astype(np.float64)
    regular[np.diag_indices_from(regular)] += penalty
    answer: Float64 = cho_solve(cho_factor(regular, lower=True, overwrite_a=True, check_finite=False), right)
    return answer
