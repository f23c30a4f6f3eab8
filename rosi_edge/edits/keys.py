"""Conditional keys: an input side that fires on some requests and stays silent on others.

``W' = W + α · s ⊗ a`` with ``aᵀx ≈ 1`` on the positive inputs x of that very matrix and ``≈ −β`` on the
negative ones, in closed form (the rank-one edit of ROME, arXiv 2202.05262, put to conditional steering,
CAST, arXiv 2409.05907). Three forms are known, because none wins on every model:

- ridge regression on positive and negative inputs;
- the linear discriminant: the positive mean, whitened by the second moments of the negative inputs;
- ridge regression confined to the null space of the leading directions of the negative inputs.

Nothing here knows what the sets of inputs are about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, qr

from rosi_edge.basics.arrays import Float32, Float64

_NULL_DIRECTIONS = 16
"""Leading directions of the negative inputs that a null-space key may not touch."""
_POSITIVE_WEIGHT = 0.3
"""What the positive inputs weigh together in a ridge regression, all negative ones together being one.
Measured on the demo model: with less weight on them the keys push benign requests less for the same push on
harmful ones, and the hardest harmful ones fall out when it is much less."""
_SILENT_WEIGHT = 1.0
"""What each set of silent inputs weighs, all negative ones together being one."""


class Form(StrEnum):
    RIDGE = "ridge"
    DISCRIMINANT = "discriminant"
    NULL_SPACE = "null space"


@dataclass(frozen=True)
class Key:
    """The input vectors of one matrix, (columns,) each.

    Every form is linear in what the key should be, so its parts are solved once and any β costs a
    subtraction.

    Attributes:
        fires: for 1 on positive inputs and 0 on negative ones.
        stays: one vector a set of negative inputs, for 1 on that set and 0 on the others.
    """

    fires: Float32
    stays: tuple[Float32, ...]

    def at(self, below: Sequence[float]) -> Float32:
        """The key for 1 on positive inputs and −β on negative ones.

        Args:
            below: β of each set of negative inputs.
        """
        vector = self.fires.copy()
        for share, part in zip(below, self.stays, strict=True):
            vector -= np.float32(share) * part
        return vector


def solve_keys(
    positive: Float32,
    negatives: Sequence[Float32],
    *,
    ridge: float,
    silent: Sequence[Float32] = (),
    forms: Sequence[Form] = tuple(Form),
) -> dict[Form, Key]:
    """Solve one matrix's key in several forms.

    Ridge minimises ``Σ w (aᵀx − y)² + λ|a|²`` with λ = ridge · Σ w|x|² / rows. The positive set weighs
    0.3 of what all negative ones weigh together, and these weigh the same as each other, whatever their
    numbers of rows. All forms are solved in the smaller of two shapes: (XᵀX + λI)⁻¹ Xᵀy or Xᵀ (XXᵀ + λI)⁻¹ y.

    Args:
        positive: (n, columns) inputs on which the key should fire.
        negatives: sets of (n, columns) inputs on which it should stay silent.
        silent: sets of (n, columns) inputs that the key should answer with 0 whatever β is: those of other
            positions, and the changes that the edits themselves bring to this matrix's inputs. Otherwise each
            edited layer would read the push of those before it as a positive input, and a small mistake
            would grow from layer to layer.
    """
    sets = (positive, *negatives)
    shares = [_POSITIVE_WEIGHT, *([1.0 / len(negatives)] * len(negatives))]
    root = np.concatenate(
        [np.full(len(rows), np.sqrt(share / len(rows))) for rows, share in zip(sets, shares, strict=True)]
    )
    inputs = np.concatenate(sets).astype(np.float32) * root[:, None].astype(np.float32)
    penalty = ridge * float(np.einsum("ij,ij->", inputs, inputs, dtype=np.float64)) / len(inputs)
    member = np.repeat(np.arange(len(sets)), [len(rows) for rows in sets])
    for rows in silent:
        if len(rows):
            weight = np.float32(np.sqrt(_SILENT_WEIGHT / len(rows)))
            inputs = np.concatenate([inputs, rows.astype(np.float32) * weight])
            root = np.concatenate([root, np.zeros(len(rows))])
            member = np.concatenate([member, np.full(len(rows), -1)])
    wanted = np.where(member[:, None] == np.arange(len(sets)), root[:, None], 0.0)
    products = inputs @ inputs.T if len(inputs) <= inputs.shape[1] else inputs.T @ inputs
    keys = {}
    for form in forms:
        if form is Form.RIDGE:
            vectors = _ridge(inputs, products, penalty, wanted)
        elif form is Form.NULL_SPACE:
            vectors = _null_space(inputs, products, member > 0, penalty, wanted)
        else:
            vectors = _discriminant(inputs, products, member, root, penalty, len(sets))
        keys[form] = Key(
            np.ascontiguousarray(vectors[:, 0]),
            tuple(np.ascontiguousarray(vectors[:, part]) for part in range(1, len(sets))),
        )
    return keys


def _ridge(inputs: Float32, products: Float32, penalty: float, wanted: Float64) -> Float32:
    if len(inputs) <= inputs.shape[1]:
        return np.asarray(inputs.T @ _solve(products, penalty, wanted).astype(np.float32))
    return _solve(products, penalty, inputs.T.astype(np.float64) @ wanted).astype(np.float32)


def _null_space(
    inputs: Float32, products: Float32, negative: npt.NDArray[np.bool_], penalty: float, wanted: Float64
) -> Float32:
    """Ridge regression on what is left of the inputs without the leading negative directions."""
    basis = _leading_directions(inputs[negative], _NULL_DIRECTIONS)
    along = inputs @ basis.T
    rest = np.asarray(inputs - along @ basis, dtype=np.float32)
    if len(rest) <= rest.shape[1]:
        # The basis is orthonormal, so what it takes out of the products is known without multiplying again.
        products = np.asarray(products - along @ along.T, dtype=np.float32)
    else:
        products = rest.T @ rest
    vectors = _ridge(rest, products, penalty, wanted)
    return np.asarray(vectors - basis.T @ (basis @ vectors))


def _leading_directions(rows: Float32, count: int) -> Float32:
    """(count, columns), orthonormal: the leading right singular vectors, by a few subspace iterations."""
    count = min(count, *rows.shape)
    start = np.random.default_rng(0).standard_normal((rows.shape[1], min(count + 8, rows.shape[1])))
    basis = qr(start.astype(np.float32), mode="economic", check_finite=False)[0]
    for _ in range(4):
        basis = qr(rows.T @ (rows @ basis), mode="economic", check_finite=False)[0]
    _, _, turned = np.linalg.svd(rows @ basis, full_matrices=False)
    return np.asarray((basis @ turned.T).T[:count], dtype=np.float32)


def _discriminant(
    inputs: Float32, products: Float32, member: npt.NDArray[np.intp], root: Float64, penalty: float, sets: int
) -> Float32:
    """(M + λI)⁻¹ of each set's mean, M being the second moments of everything that is not positive, scaled so
    that the mean of its own set gives one."""
    others = inputs[member != 0]
    means = np.stack(
        [(inputs[member == part].T @ root[member == part]).astype(np.float64) for part in range(sets)], axis=1
    )
    # Rows carry the root of their weight, so a set's sum of weights is what its rows' roots square to.
    means /= np.array([np.square(root[member == part]).sum() for part in range(sets)])
    if len(others) <= others.shape[1]:
        if len(inputs) <= inputs.shape[1]:
            of_others = products[np.ix_(member != 0, member != 0)]
        else:
            of_others = others @ others.T
        inner = _solve(of_others, penalty, others.astype(np.float64) @ means)
        vectors = (means - others.T.astype(np.float64) @ inner) / penalty
    else:
        vectors = _solve(others.T @ others, penalty, means)
    answers = np.einsum("cs,cs->s", vectors, means)
    return np.asarray(vectors / np.maximum(answers, 1e-30), dtype=np.float32)


def _solve(matrix: Float32, penalty: float, right: Float64) -> Float64:
    regular = matrix.astype(np.float64)
    regular[np.diag_indices_from(regular)] += penalty
    # Factored by numpy, which lets other threads (the wizard's screen) go on meanwhile; scipy's does not.
    factor = np.linalg.cholesky(regular)
    answer: Float64 = cho_solve((factor.T, False), right, check_finite=False)
    return answer
