"""The one kind of change this tool makes to a model: edits of rank one, of which a matrix may get several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32
from rosi_edge.models.weights import matrix_name


def same_edits(
    declared: Sequence[RankOneEdit], given: Sequence[RankOneEdit], gains: Mapping[str, float] | None = None
) -> str | None:
    """What tells a file's edits from an adapter's; None for nothing.

    Args:
        gains: by what the outputs of an adapter's edits are multiplied (``write_directions.adapter_gains``).
    """
    mine, theirs = (
        by_matrix([edit for edit in edits if edit.output.any() and edit.input.any()])
        for edits in (declared, given)
    )
    if odd := sorted(set(mine) ^ set(theirs)):
        return f"only one of the file and the adapter edits {odd[0]}"
    for name, edits in mine.items():
        others = theirs[name]
        if len(edits) != len(others) or not all(
            cosine(edit.output, other.output) * cosine(edit.input, other.input) > 1 - 1e-5
            for edit, other in zip(edits, others, strict=True)
        ):
            return f"the adapter's edit of {name} is another than the file's"
        for edit, other in zip(edits, others, strict=True):
            strength = _length(other) / _length(edit) / abs((gains or {}).get(edit.tensor, 1.0))
            if not abs(strength - 1) <= _SAME_STRENGTH:
                return f"the adapter's edit of {name} has {strength:.0%} of the strength of the file's"
    return None


def _length(edit: RankOneEdit) -> float:
    output, inward = edit.output.astype(np.float64), edit.input.astype(np.float64)
    return float(np.linalg.norm(output)) * float(np.linalg.norm(inward))


def cosine(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Between two vectors; 0 where one is nothing."""
    if one.shape != other.shape:
        return 0.0
    # The squares of the largest numbers of single precision are none of them.
    one64, other64 = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(one64)) * float(np.linalg.norm(other64))
    return float(one64 @ other64) / lengths if lengths else 0.0


MOST_DIRECTIONS = 8
"""Edits of one matrix, at most: more is no longer an edit but a training."""


_SAME_STRENGTH = 0.01


@dataclass(frozen=True)
class RankOneEdit:
    """``W' = W + α · output ⊗ input`` for the matrix ``tensor``, before a strength α is chosen.

    Attributes:
        tensor: the weight's name in the GGUF file.
        output: (rows,), what is added to the matrix's output for each unit of ``input · x``.
        input: (columns,), the input vector the matrix's input x is measured against.
        expert: which of the stacked matrices is meant, for a tensor of experts; None for a single matrix.
    """

    tensor: str
    output: Float32
    input: Float32
    expert: int | None = None

    def __post_init__(self) -> None:
        if self.output.ndim != 1 or self.input.ndim != 1:
            raise ValueError("an edit is made of two vectors")
        if not (np.isfinite(self.output).all() and np.isfinite(self.input).all()):
            raise ValueError(f"the edit of {self.tensor} is not finite")

    @property
    def matrix(self) -> str:
        """A name for the very matrix: the tensor's, and of an expert also its number."""
        return matrix_name(self.tensor, self.expert)

    def scaled(self, strength: float) -> RankOneEdit:
        """The same edit with its strength folded into the input vector."""
        return replace(self, input=(self.input * np.float32(strength)).astype(np.float32))

    def delta(self, strength: float) -> Float32:
        """The change itself, (rows, columns)."""
        return np.outer(self.output, np.float32(strength) * self.input).astype(np.float32)


def by_matrix(edits: Sequence[RankOneEdit]) -> dict[str, tuple[RankOneEdit, ...]]:
    """Edits by ``RankOneEdit.matrix``, in the order in which the matrices first come."""
    grouped: dict[str, tuple[RankOneEdit, ...]] = {}
    for edit in edits:
        grouped[edit.matrix] = (*grouped.get(edit.matrix, ()), edit)
    return grouped


def leading(edits: Sequence[RankOneEdit]) -> RankOneEdit:
    """The rank-one part of the edits of one matrix that holds the most of their sum: its leading singular
    vectors. Of a single edit, the edit."""
    if len(edits) == 1:
        return edits[0]
    outputs = np.stack([edit.output for edit in edits], axis=1).astype(np.float64)
    inputs = np.stack([edit.input for edit in edits]).astype(np.float64)
    # The sum is outputs @ inputs; its singular vectors are those of a (k, k) matrix between two bases.
    _, left = np.linalg.qr(outputs)
    right_basis, right = np.linalg.qr(inputs.T)
    _, _, turned = np.linalg.svd(left @ right.T)
    vector = right_basis @ turned[0]
    return replace(
        edits[0],
        output=(outputs @ (inputs @ vector)).astype(np.float32),
        input=vector.astype(np.float32),
    )
