"""The paper's injection (ROSI, arXiv 2508.20766, eq. 6): ``W' = W + α · ŝ · w̄ᵀ``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import write_direction
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights, matrix_name
from rosi_edge.quantization.codec import dequantize, dequantize_bytes


def row_means(
    file: Weights, matrices: Sequence[WriteMatrix], progress: Progress = SILENT
) -> dict[str, Float32]:
    """w̄ of every write matrix, or every expert: the mean of its rows, (columns,), by ``RankOneEdit.matrix``.
    One matrix is in memory at a time."""
    means = {}
    with progress.stage("Reading write matrices", len(matrices)) as advance:
        for matrix in matrices:
            for expert in matrix.parts:
                weights = dequantize(file, matrix.name) if expert is None else _expert(file, matrix, expert)
                name = matrix_name(matrix.name, expert)
                means[name] = weights.mean(axis=0, dtype=np.float64).astype(np.float32)
            advance(1)
    return means


def _expert(file: Weights, matrix: WriteMatrix, number: int) -> Float32:
    """(rows, columns), one of a stack."""
    size = file.tensors[matrix.name].size // matrix.experts
    return dequantize_bytes(
        file.read_tensor(matrix.name, number * size, size), matrix.shape[-2:], matrix.type
    )


def rosi_edits(
    file: Weights, matrices: Sequence[WriteMatrix], means: dict[str, Float32], direction: Float32
) -> list[RankOneEdit]:
    """One edit a write matrix, or an expert, at strength one, for a unit ``direction`` (hidden,)."""
    edits = []
    for matrix in matrices:
        output = write_direction(file, matrix, direction)
        for expert in matrix.parts:
            mean = means[matrix_name(matrix.name, expert)]
            edits.append(RankOneEdit(matrix.name, output, mean, expert))
    return edits
