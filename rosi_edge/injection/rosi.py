"""The paper's injection (ROSI, arXiv 2508.20766, eq. 6): ``W' = W + α · ŝ · w̄ᵀ``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.injection.write_directions import write_direction
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights
from rosi_edge.progress import SILENT, Progress
from rosi_edge.quantization.codec import dequantize

Float32 = npt.NDArray[np.float32]


def row_means(
    file: Weights, matrices: Sequence[WriteMatrix], progress: Progress = SILENT
) -> dict[str, Float32]:
    """w̄ of every write matrix: the mean of its rows, (columns,). One matrix is in memory at a time."""
    means = {}
    with progress.stage("Reading write matrices", len(matrices)) as advance:
        for matrix in matrices:
            weights = dequantize(file, matrix.name)
            means[matrix.name] = weights.mean(axis=0, dtype=np.float64).astype(np.float32)
            advance(1)
    return means


def rosi_edits(
    file: Weights, matrices: Sequence[WriteMatrix], means: dict[str, Float32], direction: Float32
) -> list[RankOneEdit]:
    """One edit a write matrix at strength one, for a unit ``direction`` (hidden,)."""
    return [
        RankOneEdit(matrix.name, write_direction(file, matrix, direction), means[matrix.name])
        for matrix in matrices
    ]
