"""The smallest eigenvalues of a large Gram matrix, and how far the lowest stands below the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rosi_edge.basics.arrays import Float32, Float64

SMALLEST_SPREAD = 8.0
"""Channels that a direction must be spread over to count. Real models have single channels that hardly
anything writes to; a direction taken from activations is never that narrow."""

_BLOCK = 12
_STEPS = 6
_JITTER = 1e-6
_AT_ONCE = 128
"""Rows and columns of a block."""


@dataclass(frozen=True)
class Bottom:
    """The lowest end of a spectrum.

    Attributes:
        direction: the eigenvector of the smallest eigenvalue among those spread over enough channels, (d,).
        smallest: its eigenvalue.
        gap: natural logarithm of the next spread eigenvalue over ``smallest``.
        typical: the geometric mean of all eigenvalues.
    """

    direction: Float32
    smallest: float
    gap: float
    typical: float


def smallest_eigenpairs(gram: Float32, count: int = 10) -> tuple[Float64, Float64, float]:
    """The smallest eigenvalues, ascending, their eigenvectors (d, count), and the mean logarithm of all.

    Block Krylov iteration on the inverse, by one Cholesky factor: a 4096 × 4096 matrix takes about a second
    where the whole spectrum would take a minute.

    Raises:
        ValueError: the matrix is no Gram matrix of finite numbers.
    """
    size = len(gram)
    if not np.isfinite(gram).all():
        raise ValueError("the Gram matrix holds numbers that are not finite")
    mean = float(np.trace(gram, dtype=np.float64)) / size
    if mean <= 0:
        raise ValueError("the Gram matrix is empty")
    if size <= 4 * _BLOCK * _STEPS:
        values, vectors = np.linalg.eigh(gram.astype(np.float64))
        values = np.maximum(values, _JITTER * mean)
        return values[:count], vectors[:, :count], float(np.log(values).mean())
    factor = _cholesky(gram, mean)
    log_mean = float(2 * np.log(np.diag(factor).astype(np.float64)).mean())
    block = np.random.default_rng(0).standard_normal((size, _BLOCK)).astype(gram.dtype)
    blocks: list[Float32] = []
    for _ in range(_STEPS):
        block = np.linalg.qr(block)[0]
        blocks.append(block)
        block = _solve(factor, block)
        # Against what the basis already holds, or every block would become the first vector again.
        for earlier in blocks:
            block -= earlier @ (earlier.T @ block)
    basis = np.linalg.qr(np.concatenate(blocks, axis=1))[0]
    values, inner = np.linalg.eigh((basis.T @ (gram @ basis)).astype(np.float64))
    vectors = basis.astype(np.float64) @ inner[:, :count]
    return np.maximum(values[:count], _JITTER * mean), vectors, log_mean


def bottom(gram: Float32) -> Bottom | None:
    """The lowest spread direction and the gap above it; None when too few directions are spread."""
    values, vectors, log_mean = smallest_eigenpairs(gram)
    spread = 1.0 / np.sum(vectors**4, axis=0)
    kept = np.flatnonzero(spread >= SMALLEST_SPREAD)
    if len(kept) < 2:
        return None
    first, second = kept[:2]
    return Bottom(
        direction=vectors[:, first].astype(np.float32),
        smallest=float(values[first]),
        gap=float(np.log(values[second] / values[first])),
        typical=float(np.exp(log_mean)),
    )


def _cholesky(gram: Float32, mean: float) -> Float32:
    """L of L Lᵀ, with the least that the diagonal needs added. Above its diagonal blocks stands anything."""
    jitter = _JITTER
    while True:
        lifted = gram.copy()
        lifted[np.diag_indices_from(lifted)] += np.float32(jitter * mean)
        try:
            _factorize(lifted)
            return lifted
        except np.linalg.LinAlgError:
            # float32 rounding of a few very large eigenvalues can push the smallest below zero.
            jitter *= 10
            if jitter > 1e-2:
                raise ValueError("the Gram matrix is not positive") from None


def _blocks(size: int) -> list[slice]:
    return [slice(start, min(start + _AT_ONCE, size)) for start in range(0, size, _AT_ONCE)]


def _factorize(matrix: Float32) -> None:
    """Cholesky in place, in blocks: numpy's own is three times slower here, and checks go without scipy."""
    for part in _blocks(len(matrix)):
        matrix[part.start :, part] -= matrix[part.start :, : part.start] @ matrix[part, : part.start].T
        matrix[part, part] = factor = np.linalg.cholesky(matrix[part, part])
        matrix[part.stop :, part] = np.linalg.solve(factor, matrix[part.stop :, part].T).T


def _solve(factor: Float32, right: Float32) -> Float32:
    """x of L Lᵀ x = right, by substitution in the same blocks."""
    x = right.copy()
    parts = _blocks(len(factor))
    for part in parts:
        x[part] -= factor[part, : part.start] @ x[: part.start]
        x[part] = np.linalg.solve(factor[part, part], x[part])
    for part in reversed(parts):
        x[part] -= factor[part.stop :, part].T @ x[part.stop :]
        x[part] = np.linalg.solve(factor[part, part].T, x[part])
    return x
