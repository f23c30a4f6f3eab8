"""Rounding that keeps every scale and moves codes, so that real inputs meet the wanted change.

A change that is small against the quantization step vanishes when it is rounded weight by weight. Here the
rounding errors of earlier columns are made good by later ones, as seen through real inputs: second-order
error feedback (OBQ and GPTQ, arXiv 2210.17323, eq. 2 and 3) on an error state of rank K, as in greedy
path-following (GPFQ, arXiv 2010.15987), so that the cost is O(rows · columns · K) and all of it products of
matrices. For weights W, new codes Q, wanted change D and second moments of the inputs H ≈ VᵀV + Λ it works
towards the least ``tr (Q − W − D) H (Q − W − D)ᵀ``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Bytes, Codes, Float32
from rosi_edge.quantization.grid import Values, grid_of
from rosi_edge.quantization.grids.floats import FloatGrid

_SHRINKAGE = 0.05
"""Share of each column's energy added to the diagonal of H: captured inputs cannot speak for all others."""

_PUSH_WEIGHT = 30.0
"""How much more an error in the wanted push counts than the same error elsewhere. At 30 the push arrives to
within a percent and the noise does not grow."""

_PUSH_TOLERANCE = 0.003
_CANDIDATES = 256
"""Columns considered for completing the push: those with the most push for their energy."""
_COMPLETIONS = 64

REACH = 2.0
"""No weight is put further from its wanted value than so many steps, unless its code is at the end of the
range: a share of others' errors is all it makes good. Whoever checks a file can rely on it."""

_LARGEST_GROUP = 32
_GROUPS = 128
"""Columns are rounded in at least so many groups: measured, fewer cost accuracy and more only time."""


@dataclass(frozen=True)
class InputFactor:
    """Second moments of a matrix's inputs, ``H ≈ directionsᵀ directions + diag(remainder)``.

    Attributes:
        directions: (K, columns), leading principal directions scaled by their singular values.
        remainder: (columns,), what the directions leave of each column's sum of squares.
    """

    directions: Float32
    remainder: Float32


def input_factor(rows: Float32, rank: int, push: Float32 | None = None, *, seed: int = 0) -> InputFactor:
    """The second moments of some inputs, by a randomized range finder (arXiv 0909.4061, algorithm 4.4).

    Args:
        rows: captured inputs, (n, columns).
        rank: K, at most; fewer where the inputs have fewer directions.
        push: (columns,) or (k, columns), vectors a whose products with the inputs must be known exactly:
            one more direction for each sees to it that ``directionsᵀ directions a = rowsᵀ rows a``. A small
            edit often pushes along what the leading directions leave out.
        seed: of the random start.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    basis = _leading_left_vectors(rows, rank, np.random.default_rng(seed))
    for vector in () if push is None else np.atleast_2d(push):
        products = rows @ vector
        rest = products - basis @ (basis.T @ products)
        rest -= basis @ (basis.T @ rest)
        if np.linalg.norm(rest) > 1e-4 * np.linalg.norm(products):
            basis = np.concatenate([basis, (rest / np.linalg.norm(rest))[:, None]], axis=1)
    directions = np.ascontiguousarray(basis.T @ rows, dtype=np.float32)
    remainder = np.einsum("nc,nc->c", rows, rows) - np.einsum("kc,kc->c", directions, directions)
    return InputFactor(directions, np.maximum(remainder, 0))


def _leading_left_vectors(rows: Float32, rank: int, random: np.random.Generator) -> Float32:
    """(n, K), orthonormal, spanning the leading left singular vectors of ``rows``."""
    samples, columns = rows.shape
    width = min(rank + 8, samples, columns)
    if width == samples:
        basis = np.eye(samples, dtype=np.float32)
    else:
        # Faster than numpy's, and other threads go on. Imported here: the verifier needs a constant only.
        from scipy.linalg import qr

        start = rows @ random.standard_normal((columns, width), dtype=np.float32)
        basis = qr(start, mode="economic", check_finite=False)[0]
        basis = qr(rows @ (rows.T @ basis), mode="economic", check_finite=False)[0]
    sketch = basis.T @ rows
    energies, vectors = np.linalg.eigh((sketch @ sketch.T).astype(np.float64))
    # Directions that rounding errors alone have made are none.
    kept = np.flatnonzero(energies > 1e-10 * max(float(energies[-1]), 1e-30))[::-1][:rank]
    return np.asarray(basis @ vectors[:, kept], dtype=np.float32)


@dataclass(frozen=True)
class Plan:
    """What rounding needs of the inputs alone: the same for all rows of a matrix.

    Attributes:
        order: (columns,), the order in which columns are rounded.
        groups: start and end of the runs of ``order`` that are rounded at once.
        directions: (columns, K), in that order.
        gains: (columns, K), in that order: a column's best answer to an error state is ``gains @ error``.
        diagonal: (columns,), in that order, what H has on its diagonal besides the directions.
        push: the vector a that errors in ``a · x`` are weighed by; the last direction is then ``H a``.
    """

    order: npt.NDArray[np.intp]
    groups: tuple[tuple[int, int], ...]
    directions: Float32
    gains: Float32
    diagonal: Float32
    push: Float32 | None


def plan_rounding(factor: InputFactor, push: Float32 | None = None) -> Plan:
    """Columns by falling energy, and how each group of them shares an error with the columns to come.

    Args:
        factor: the inputs.
        push: (columns,), the vector a whose product with an input is the wanted output; errors in it
            count more. None for no such vector.
    """
    directions = factor.directions
    energy = np.einsum("kc,kc->c", directions, directions) + factor.remainder
    diagonal = _diagonal(factor)
    if push is not None:
        directions = np.concatenate([directions, _push_direction(factor, push)[None]])
    order = np.argsort(-energy, kind="stable")
    columns = len(order)
    size = min(max(columns // _GROUPS, 1), _LARGEST_GROUP)
    groups = tuple((start, min(start + size, columns)) for start in range(0, columns, size))

    vectors = np.ascontiguousarray(directions[:, order].T)
    gains = np.empty_like(vectors)
    # (I + Σ v vᵀ/λ)⁻¹ over the columns still to come, updated by Woodbury's identity from the last group on.
    inverse = np.eye(vectors.shape[1])
    for start, end in reversed(groups):
        group = vectors[start:end].astype(np.float64)
        shadow = group @ inverse
        system = shadow @ group.T
        system[np.diag_indices_from(system)] += diagonal[order[start:end]]
        gain = np.linalg.solve(system, shadow)
        gains[start:end] = gain
        inverse -= shadow.T @ gain
    return Plan(order, groups, vectors, gains, diagonal[order].astype(np.float32), push)


def _diagonal(factor: InputFactor) -> Float32:
    """What H has on its diagonal besides the directions, (columns,)."""
    energy = np.einsum("kc,kc->c", factor.directions, factor.directions) + factor.remainder
    diagonal = factor.remainder + np.float32(_SHRINKAGE) * energy
    return np.asarray(diagonal + max(1e-6 * float(energy.mean()), 1e-30), dtype=np.float32)


def _push_direction(factor: InputFactor, push: Float32) -> Float32:
    """H a, scaled so that missing a share ε of the push weighs ``_PUSH_WEIGHT² ε² aᵀ H a``.

    With the diagonal that stands for inputs not captured: leaning on the captured ones alone would choose
    the columns that happen to answer them, and deliver less on all others.
    """
    seen = factor.directions.T @ (factor.directions @ push) + _diagonal(factor) * push
    size = float(push @ seen)
    if size <= 0:
        return np.zeros_like(push)
    return np.asarray(_PUSH_WEIGHT / np.sqrt(size) * seen, dtype=np.float32)


def round_codes(
    codes: Codes,
    step: Float32,
    values: Values,
    change: Float32,
    plan: Plan,
    output: Float32 | None = None,
) -> Codes:
    """New codes whose weights answer real inputs as the changed weights would.

    Weights are ``offset + step · value(code)``; offsets play no part. Codes whose step is zero or no number
    stay, and so does everything where no change is wanted.

    Args:
        codes: (rows, columns), the codes as they are.
        step: (rows, sub-blocks), one for ``columns / sub-blocks`` columns of a row each.
        values: the codes there are and the numbers they stand for.
        change: (rows, columns), what should be added to the weights.
        plan: of the inputs.
        output: (rows,), what the change should add for each unit of the push, where the change holds more
            than that; None for a change of rank one.

    Returns:
        (rows, columns), of the type of ``codes``.
    """
    rows, columns = codes.shape
    # Rows change place with columns: a group of columns is then a few contiguous lines.
    steps = _Steps(step.T, columns)
    wanted = np.ascontiguousarray(change.T, dtype=np.float32)
    new = np.array(codes.T, order="C")  # a copy even of a single row
    error = np.zeros((plan.directions.shape[1], rows), dtype=np.float32)
    slack = np.float32((REACH - 0.5) * values.gap)
    for start, end in plan.groups:
        group = plan.order[start:end]
        short = wanted[group]
        moves = plan.gains[start:end] @ error
        moves *= steps.inverse(group)
        np.clip(moves, -slack, slack, out=moves)
        moves += short * steps.inverse(group)
        new[group], moves = _nearest(new[group], moves, values)
        moves *= steps.of(group)
        short -= moves
        error += plan.directions[start:end].T @ short
    if plan.push is not None:
        if output is None:
            output = plan.push @ wanted
        _complete_push(new, error, codes, steps, values, wanted, plan, output)
    return np.ascontiguousarray(new.T)


def _complete_push(
    new: Codes,
    error: Float32,
    codes: Codes,
    steps: _Steps,
    values: Values,
    wanted: Float32,
    plan: Plan,
    output: Float32,
) -> None:
    """Move single codes, in place, until the push along the change's output is whole.

    Where steps are coarse, rows too weak to be worth a step each fall short, and all in the same sense.
    The codes moved are those that cost the least error elsewhere for the push they bring; ``new``, ``wanted``
    and ``error`` are (columns, rows), (columns, rows) and (K, rows), ``output`` is (rows,).
    """
    assert plan.push is not None
    push_direction = plan.directions[:, -1]
    whole = float(push_direction @ plan.push[plan.order]) * float(output @ output)
    if whole <= 0:
        return
    energy = np.einsum("ck,ck->c", plan.directions[:, :-1], plan.directions[:, :-1]) + plan.diagonal
    best = np.argsort(-np.square(push_direction) / energy, kind="stable")[:_CANDIDATES]
    columns = plan.order[best]
    scale = steps.of(columns)
    directions, lean = plan.directions[best], push_direction[best, None] * output
    energy, diagonal = energy[best, None], plan.diagonal[best, None]
    rows = np.arange(len(output))
    for _ in range(_COMPLETIONS):
        missing = float(error[-1] @ output)
        if abs(missing) < _PUSH_TOLERANCE * whole:
            return
        sense = np.sign(lean * scale) * np.sign(missing)
        present = new[columns]
        moved = np.clip(present + sense, values.low, values.high).astype(codes.dtype)
        move = scale * (values.of(moved) - values.of(present))
        gain = lean * move * np.sign(missing)
        short = wanted[columns] - scale * (values.of(present) - values.of(codes.T[columns]))
        cost = np.square(move) * energy - 2 * move * (directions[:, :-1] @ error[:-1] + diagonal * short)
        # A step that brings more than is missing would only turn the error around.
        allowed = (gain > 0) & (gain < 1.5 * abs(missing))
        allowed &= np.abs(short - move) <= np.float32(REACH * values.gap) * np.abs(scale)
        ratio = np.full(gain.shape, np.inf, dtype=np.float32)
        np.divide(cost, gain, out=ratio, where=allowed)
        choice = np.argmin(ratio, axis=0)
        order = np.argsort(ratio[choice, rows], kind="stable")
        order = order[np.isfinite(ratio[choice, rows][order])]
        brought = np.cumsum(gain[choice, rows][order])
        # At least one, and otherwise as many rows as stay below what is missing.
        taken = order[: max(int(np.searchsorted(brought, abs(missing))), 1)]
        if not len(taken):
            return
        picked = choice[taken]
        new[columns[picked], taken] = moved[picked, taken]
        error[:, taken] -= directions[picked].T * move[picked, taken]


class _Steps:
    """The step of every weight.

    Args:
        step: (sub-blocks, rows), zero or no number where codes cannot be used.
        columns: so many, each sub-block as many as another.
    """

    def __init__(self, step: Float32, columns: int) -> None:
        self._block = np.arange(columns) // (columns // len(step))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inverse = np.float32(1) / step
            good = np.isfinite(step) & np.isfinite(inverse)
        self._step, self._inverse = (
            np.where(good, step, np.float32(0)),
            np.where(good, inverse, np.float32(0)),
        )

    def of(self, columns: npt.NDArray[np.intp]) -> Float32:
        """(columns, rows); zero for steps that cannot be used."""
        return self._step[self._block[columns]]

    def inverse(self, columns: npt.NDArray[np.intp]) -> Float32:
        """One over the steps, zero likewise."""
        return self._inverse[self._block[columns]]


def _nearest(codes: Codes, moves: Float32, values: Values) -> tuple[Codes, Float32]:
    """The allowed codes nearest to ``value(code) + move``, and the moves they make; moves in steps."""
    if values.table is not None:
        numbers = values.table[codes]
        midpoints = (values.table[1:] + values.table[:-1]) / 2
        new = np.searchsorted(midpoints, numbers + moves).astype(codes.dtype)
        return new, values.table[new] - numbers
    before = codes.astype(np.float32)
    moves = np.rint(moves, out=moves)
    # A code that is already out of range may stay there.
    np.maximum(moves, np.minimum(values.low - before, 0), out=moves)
    np.minimum(moves, np.maximum(values.high - before, 0), out=moves)
    before += moves
    return before.astype(codes.dtype), moves


class GridRounding:
    """Grid-preserving rounding of tensors whose inputs are known.

    Args:
        factors: the inputs of each tensor that will be rounded.
    """

    name = "grid"
    aims = True

    def __init__(self, factors: Mapping[str, InputFactor]) -> None:
        self._factors = factors
        # A thread rounds one tensor after the other.
        self._kept = threading.local()

    def round(
        self,
        tensor: str,
        kind: gguf.GGMLQuantizationType,
        data: Bytes,
        weights: Float32,
        change: Float32,
        push: Float32 | None = None,
        output: Float32 | None = None,
    ) -> Bytes:
        """See ``Rounding.round``.

        Raises:
            UnsupportedModelError: the type is not a grid.
            KeyError: nothing is known of the tensor's inputs.
        """
        blocks = grid_of(kind)
        if isinstance(blocks, FloatGrid) and blocks.free:
            return blocks.write_weights(data, weights + change)
        if not np.any(change):
            return data.copy()
        grid = blocks.read(data, change.shape[1])
        if push is None or output is None or not push.any():
            push, output = _push_of(change), None
        else:
            length = np.linalg.norm(push)
            push, output = push / length, output * length
        plan = self._plan(tensor, push)
        return blocks.write(data, round_codes(grid.codes, grid.step, grid.values, change, plan, output))

    def _plan(self, tensor: str, push: Float32) -> Plan:
        # The rows of a tensor come in several parts, all pushed along the same vector: one plan serves them.
        last: tuple[str, Float32, Plan] | None = getattr(self._kept, "last", None)
        if last is not None:
            name, vector, plan = last
            if name == tensor and abs(float(vector @ push)) > 1 - 1e-5:
                return plan
        plan = plan_rounding(self._factors[tensor], push)
        self._kept.last = (tensor, push, plan)
        return plan


def _push_of(change: Float32) -> Float32:
    """The leading right singular vector of a change, (columns,), of length one; exact for rank one."""
    largest = change[np.argmax(np.einsum("rc,rc->r", change, change))]
    push = change.T @ (change @ (largest / np.linalg.norm(largest)))
    return np.asarray(push / np.linalg.norm(push), dtype=np.float32)
