"""What the tests of baking and verifying share: a tiny model, edits of it, and inputs like real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from tiny_gguf import write_tiny_llama

from rosi_edge.baking.gguf import bake
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.hashing import sha256_of
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.grid_rounding import GridRounding, input_factor
from rosi_edge.quantization.promotion import AUTO
from rosi_edge.quantization.rounding import Rounding

Types = GGMLQuantizationType | Mapping[str, GGMLQuantizationType]


def model(path: Path, types: Types, **settings: int) -> Path:
    """Two blocks with the write matrices 256 × 256 and 256 × 512."""
    return write_tiny_llama(path, hidden=256, feed_forward=512, types=types, **settings)


def inputs(columns: int, count: int, seed: int) -> Float32:
    """(count, columns), mixed from a few causes of falling strength, as activations are. The causes are the
    same for every seed."""
    random = np.random.default_rng(columns)
    mixing = random.standard_normal((24, columns)) * np.exp(0.5 * random.standard_normal(columns))
    random = np.random.default_rng(seed)
    causes = random.standard_normal((count, 24)) / np.arange(1, 25)
    noise = 0.01 * random.standard_normal((count, columns))
    return (causes @ mixing + noise).astype(np.float32)


def edits(file: GgufFile, share: float = 0.1) -> list[RankOneEdit]:
    """One edit a write matrix that answers to one of its inputs' causes; ``share`` is its size against the
    weights."""
    found = []
    for number, matrix in enumerate(write_matrices(file)):
        rows, columns = matrix.shape
        seen = inputs(columns, 400, 1)
        wanted = np.linalg.svd(seen, full_matrices=False)[0][:, 4]
        gram = (seen @ seen.T).astype(np.float64)
        gram[np.diag_indices_from(gram)] += 0.001 * np.trace(gram) / len(gram)
        push = (seen.T @ np.linalg.solve(gram, wanted)).astype(np.float32)
        output = np.random.default_rng(number // 2).standard_normal(rows).astype(np.float32)
        # The weights of the tiny model have a variance of one over their columns.
        size = share / np.sqrt(columns) / np.sqrt(np.mean(np.square(np.outer(output, push))))
        found.append(RankOneEdit(matrix.name, output, push).scaled(float(size)))
    return found


def rounding(wanted: Sequence[RankOneEdit]) -> GridRounding:
    return GridRounding(
        {edit.matrix: input_factor(inputs(len(edit.input), 400, 1), 64, edit.input) for edit in wanted}
    )


def probes(wanted: Sequence[RankOneEdit]) -> dict[str, Float32]:
    """Other inputs than the rounding has seen."""
    return {edit.matrix: inputs(len(edit.input), 200, 2) for edit in wanted}


def baked(
    file: GgufFile,
    target: Path,
    wanted: Sequence[RankOneEdit],
    declared: Sequence[RankOneEdit] | None = None,
) -> Path:
    """``target``, a model file with the edits rounded onto its grids."""
    bake(
        file,
        target,
        wanted,
        BakeSettings(
            rounding=rounding(wanted),
            probes=probes(wanted),
            declared=declared,
        ),
    )
    return target


def hardened(folder: Path, share: float, rounds: Rounding | None = None) -> tuple[Path, Path]:
    """A model of k-quants, and itself with an edit. A large one does not fit: some matrices get larger
    types, or other scales."""
    types = {"attn_output": GGMLQuantizationType.Q3_K, "ffn_down": GGMLQuantizationType.Q4_K}
    source, target = model(folder / "base.gguf", types), folder / "out.gguf"
    with GgufFile.open(source) as file:
        wanted = edits(file, share)
        settings = BakeSettings(
            rounding=rounds or rounding(wanted),
            probes=probes(wanted),
            min_delivered=0.95 if rounds is None else None,
            promotion=AUTO,
            metadata={"rosi.strength": 0.5, "rosi.source.sha256": sha256_of(source)},
        )
        bake(file, target, wanted, settings)
    return source, target
