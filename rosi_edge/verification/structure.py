"""What rounding leaves has to look like rounding: is there another edit inside it?

A weight may lie a step or two from where the declared edit wants it, since rounding makes good the errors of
others. That is room enough for a second edit: taking a direction out of a matrix moves its weights by 0.1 to
0.6 steps. So the remainder, what the file holds beyond its base and the declared edit, is searched for
structure.

Honest remainders have some of their own. Rows that the edit moves alike get the same codes in the same
columns, so the remainder is large along functions of the declared output. Along these it is asked whether a
direction was *taken out*: what rounding leaves has nothing to do with what the matrix writes. Beyond them the
leading singular value must lie near the edge of a random matrix of the same entries, σ(√rows + √columns)
(Marchenko and Pastur 1967; Vershynin, High-Dimensional Probability, theorem 4.4.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32, Float64

_BINS = 16
"""Parts of equal size into which rows are sorted by the declared output; in each a function is linear."""
_LEADING = 8
_ROUNDS = 6
_IN_SINGLE = 1 << 25
"""Values up to which a matrix is kept in single precision; larger ones in half, for want of memory."""
_WEAK = 0.25
"""Of the mean energy of a direction, added to every direction's: of one that the matrix hardly writes along,
a share taken out says little."""


@dataclass(frozen=True)
class Structure:
    """
    Attributes:
        removed: the largest share of any one direction that the remainder takes out of what the matrix
            writes, or adds to it; 1 when it is gone.
        removed_by_chance: how large that is, at most, when it has nothing to do with the weights.
        outside: the leading singular value of the remainder, in steps, beyond functions of the declared
            outputs, in parts of the edge of a random matrix.
    """

    removed: float
    removed_by_chance: float
    outside: float


class Remainder:
    """What a matrix holds beyond its base and the declared edit, gathered a few rows at a time."""

    def __init__(self, rows: int, columns: int) -> None:
        kind = np.float32 if rows * columns <= _IN_SINGLE else np.float16
        self._base = _Stored(rows, columns, kind)
        self._rest = _Stored(rows, columns, kind)
        self._in_steps = _Stored(rows, columns, kind)
        self._squares = 0.0

    def add(self, part: slice, base: Float32, rest: Float32, in_steps: Float32) -> None:
        """
        Args:
            base: (rows, columns), the base's weights.
            rest: what is beyond, in the weights' unit.
            in_steps: the same, each weight in steps of its grid.
        """
        self._base.put(part, base)
        self._rest.put(part, rest)
        self._in_steps.put(part, in_steps)
        self._squares += float(np.square(in_steps, dtype=np.float64).sum())

    def structure(self, outputs: Sequence[Float32], inputs: Sequence[Float32]) -> Structure:
        """
        Args:
            outputs: (rows,) each, of the declared edits.
            inputs: (columns,) each; how much of the edits themselves there is, is asked elsewhere.
        """
        try:
            return self._found(outputs, inputs)
        except np.linalg.LinAlgError:
            # Numbers that nothing can be reckoned with are no rounding.
            return Structure(np.inf, 0.0, np.inf)

    def _found(self, outputs: Sequence[Float32], inputs: Sequence[Float32]) -> Structure:
        rows, columns = self._rest.shape
        known = _functions(outputs, rows)
        left, values = _leading(self._in_steps, known)
        edge = np.sqrt(self._squares / (rows * columns)) * (np.sqrt(rows) + np.sqrt(columns))
        directions = np.linalg.qr(np.hstack([known, left]))[0]
        removed, by_chance = self._removed(
            directions, np.linalg.qr(np.stack(inputs, axis=1).astype(np.float64))[0]
        )
        return Structure(removed, by_chance, float(values[0] / edge) if edge else 0.0)

    def _removed(self, directions: Float64, inputs: Float64) -> tuple[float, float]:
        """Taking a share t of u out of W adds −t u uᵀW, so t is the remainder along uᵀW, in parts of it. The
        largest over all directions in a space is the solution of an eigenproblem in that space."""
        rest, written = (
            found - (found @ inputs) @ inputs.T
            for found in (self._rest.times(directions.T), self._base.times(directions.T))
        )
        energy = written @ written.T
        energy[np.diag_indices_from(energy)] += _WEAK * self._base.squares() / len(self._base)
        if not np.all(np.isfinite(energy)) or not energy.any():
            return 0.0, 0.0
        inverse = np.linalg.inv(np.linalg.cholesky(energy))
        rest, written = inverse @ rest, inverse @ written
        along = rest @ written.T
        count, columns = rest.shape
        # Of rows that lie anyhow to those of the other, which are at most one long.
        by_chance = float(np.linalg.norm(rest, 2)) * np.sqrt(2 * count / columns)
        return float(np.abs(np.linalg.eigvalsh((along + along.T) / 2)).max()), float(by_chance)


class _Stored:
    """A matrix, (rows, columns), multiplied a few rows at a time."""

    def __init__(self, rows: int, columns: int, kind: npt.DTypeLike) -> None:
        self.shape = (rows, columns)
        self._values = np.empty((rows, columns), kind)
        self._unit = 0.0

    def __len__(self) -> int:
        return self.shape[0]

    def put(self, part: slice, values: Float32) -> None:
        # Half precision has little range: the first rows say where the numbers lie.
        largest = float(np.abs(values).max(initial=0, where=np.isfinite(values)))
        self._unit = self._unit or largest / 64 or 1.0
        with np.errstate(all="ignore"):
            self._values[part] = np.nan_to_num(np.clip(values / self._unit, -60000, 60000))

    def _parts(self) -> Iterator[tuple[slice, Float32]]:
        step = max(1, (1 << 22) // self.shape[1])
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            yield part, self._values[part].astype(np.float32, copy=False)

    def times(self, left: Float64) -> Float64:
        """``left`` (k, rows) times the matrix, (k, columns)."""
        product = np.zeros((len(left), self.shape[1]))
        for part, values in self._parts():
            product += left[:, part].astype(np.float32) @ values
        return product * self._unit

    def applied(self, right: Float64) -> Float64:
        """The matrix times ``right`` (columns, k), (rows, k)."""
        thin = right.astype(np.float32)
        return np.concatenate([values @ thin for _, values in self._parts()]).astype(np.float64) * self._unit

    def squares(self) -> float:
        return (
            sum(float(np.square(values, dtype=np.float64).sum()) for _, values in self._parts())
            * self._unit**2
        )


def _functions(outputs: Sequence[Float32], rows: int) -> Float64:
    """An orthonormal basis, (rows, k), of the functions of each output that are linear in every bin."""
    bins = max(1, min(_BINS, rows // (2 * _BINS)))
    columns = [np.ones((rows, 1))]
    for output in (each.astype(np.float64) for each in outputs):
        bin_of = np.argsort(np.argsort(output)) * bins // rows
        within = (bin_of[:, None] == np.arange(bins)).astype(np.float64)
        size = float(np.linalg.norm(output)) or 1.0
        columns += [within, within * (output[:, None] / size)]
    left, values, _ = np.linalg.svd(np.hstack(columns), full_matrices=False)
    return np.asarray(left[:, values > 1e-9 * values[0]])


def _leading(matrix: _Stored, without: Float64) -> tuple[Float64, Float64]:
    """Leading left singular vectors, (rows, k), and values of a matrix of which a space of rows is left out,
    by subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4)."""
    rows, columns = matrix.shape
    count = min(_LEADING, rows, columns)

    def outside(left: Float64) -> Float64:
        return left - without @ (without.T @ left)

    right = np.random.default_rng(0).standard_normal((columns, count))
    for _ in range(_ROUNDS):
        left, _ = np.linalg.qr(outside(matrix.applied(right)))
        right, _ = np.linalg.qr(matrix.times(outside(left).T).T)
    turned, values, _ = np.linalg.svd(matrix.times(outside(left).T), full_matrices=False)
    return left @ turned, values
