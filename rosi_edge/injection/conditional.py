"""Conditional keys: an input side that fires on harmful requests and stays silent on benign ones.

``W' = W + α · s ⊗ a`` with ``aᵀx ≈ 1`` on the positive inputs x of that very matrix and ``≈ −β`` on the
negative ones: ridge regression on captured inputs, in closed form (the rank-one edit of ROME,
arXiv 2202.05262, put to conditional steering, CAST, arXiv 2409.05907). Nothing here knows what the sets of
inputs are about.
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
class Key:
    """The input vectors of one matrix, (columns,) each.

    The solution is linear in what the key should be, so both parts are solved once and any β costs a
    subtraction.

    Attributes:
        fires: solved for 1 on positive inputs and 0 on negative ones.
        stays: solved for 0 on positive inputs and 1 on negative ones.
    """

    fires: Float32
    stays: Float32

    def at(self, below: float) -> Float32:
        """The key for 1 on positive inputs and −``below`` on negative ones."""
        vector: Float32 = self.fires - np.float32(below) * self.stays
        return vector


def solve_key(positive: Float32, negatives: Sequence[Float32], *, ridge: float) -> Key:
    """Solve one matrix's key.

    Minimises ``Σ w (aᵀx − y)² + λ|a|²`` with λ = ridge · Σ w|x|² / rows. The positive set weighs as much as
    all negative ones together, and these weigh the same as each other, whatever their numbers of rows.
    Solved in the smaller of its two forms: (XᵀX + λI)⁻¹ Xᵀy or Xᵀ (XXᵀ + λI)⁻¹ y.

    Args:
        positive: (n, columns) inputs on which the key should fire.
        negatives: sets of (n, columns) inputs on which it should stay silent.
    """
    sets = (positive, *negatives)
    shares = [1.0, *([1.0 / len(negatives)] * len(negatives))]
    root = np.concatenate(
        [np.full(len(rows), np.sqrt(share / len(rows))) for rows, share in zip(sets, shares, strict=True)]
    )
    inputs = np.concatenate(sets).astype(np.float32) * root[:, None].astype(np.float32)
    fires = np.arange(len(root)) < len(positive)
    wanted = np.stack([root * fires, root * ~fires], axis=1)
    penalty = ridge * float(np.einsum("ij,ij->", inputs, inputs, dtype=np.float64)) / len(inputs)
    rows, columns = inputs.shape
    if rows <= columns:
        solution = inputs.T @ _solve(inputs @ inputs.T, penalty, wanted).astype(np.float32)
    else:
        solution = _solve(inputs.T @ inputs, penalty, inputs.T @ wanted).astype(np.float32)
    return Key(np.ascontiguousarray(solution[:, 0]), np.ascontiguousarray(solution[:, 1]))


def _solve(matrix: Float32, penalty: float, right: Float64) -> Float64:
    regular = matrix.astype(np.float64)
    regular[np.diag_indices_from(regular)] += penalty
    answer: Float64 = cho_solve(cho_factor(regular, lower=True, overwrite_a=True, check_finite=False), right)
    return answer
