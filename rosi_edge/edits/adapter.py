"""Edits as a LoRA adapter GGUF: what llama.cpp applies at run time at any strength (``--lora``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.edits.rank_one import MOST_DIRECTIONS, RankOneEdit, by_matrix
from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.small_gguf import write_small_gguf
from rosi_edge.quantization.codec import dequantize


def write_adapter(
    path: Path,
    edits: Sequence[RankOneEdit],
    *,
    architecture: str,
    gains: Mapping[str, float] | None = None,
    experts: Mapping[str, int] | None = None,
) -> None:
    """Write edits as a LoRA of rank one, or of as many as one matrix has edits.

    With ``adapter.lora.alpha`` equal to the rank, the scale that llama.cpp is given *is* the strength α
    (``llama_adapter_lora_weight::get_scale``: scale · alpha / rank). Alpha is the whole file's, so matrices
    with fewer edits are filled up with zeros.

    Args:
        gains: by what the output of a tensor's edit is multiplied, where an adapter's output does not pass
            through what the matrix's output passes through (``adapter_gains``).
        experts: how many matrices each edited stack of experts holds; those without an edit get zeros.
    """
    tensors: dict[str, Float32] = {}
    matrices = by_matrix(edits)
    rank = max((len(its) for its in matrices.values()), default=1)
    for its in matrices.values():
        tensor, expert = its[0].tensor, its[0].expert
        rows = np.zeros((rank, len(its[0].input)), dtype=np.float32)
        columns = np.zeros((len(its[0].output), rank), dtype=np.float32)
        for number, edit in enumerate(its):
            rows[number] = edit.input
            columns[:, number] = edit.output * np.float32((gains or {}).get(tensor, 1.0))
        a, b = f"{tensor}.lora_a", f"{tensor}.lora_b"
        if expert is None:
            tensors[a], tensors[b] = rows, columns
            continue
        count = (experts or {})[tensor]
        for key, part in ((a, rows), (b, columns)):
            tensors.setdefault(key, np.zeros((count, *part.shape), dtype=np.float32))[expert] = part
    write_small_gguf(
        path,
        architecture=architecture,
        metadata={"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": float(rank)},
        tensors=tensors,
    )


def read_adapter(file: GgufFile) -> list[RankOneEdit]:
    """The edits of a LoRA at strength one, one or more a matrix; what is all zeros is left out where there
    is more than one.

    Raises:
        ModelFileError: it is no adapter, or its tensors do not belong together.
        UnsupportedModelError: its rank is more than ``MOST_DIRECTIONS``.
    """
    name = file.path.name
    if file.text("general.type") != "adapter" or file.text("adapter.type") != "lora":
        raise ModelFileError(f"{name} is not a LoRA adapter", "Give the file that --adapter wrote")
    alpha = file.metadata.get("adapter.lora.alpha", 0.0)
    scale = np.float32(alpha if isinstance(alpha, (int, float)) and alpha else 1.0)
    edits = []
    for key in file.tensors:
        if not key.endswith(".lora_a"):
            continue
        tensor = key.removesuffix(".lora_a")
        if f"{tensor}.lora_b" not in file.tensors:
            raise ModelFileError(f"{name} holds {key} without its counterpart")
        a, b = _stack(file, key), _stack(file, f"{tensor}.lora_b")
        rank = a.shape[1]
        if max(rank, b.shape[2]) > MOST_DIRECTIONS:
            raise UnsupportedModelError(
                f"{name} holds an update of {tensor} of rank {max(rank, b.shape[2])}; "
                f"edits have {MOST_DIRECTIONS} at most"
            )
        if b.shape[2] != rank:
            raise ModelFileError(f"{name} holds {tensor} in ranks that do not go together")
        if len(a) != len(b):
            raise ModelFileError(f"{name} holds a stack of {len(a)} and one of {len(b)} for {tensor}")
        stacked = len(file.tensors[key].shape) == 3
        for number in range(len(a)):
            for row, column in zip(a[number], b[number].T, strict=True):
                if (stacked or rank > 1) and not (row.any() and column.any()):
                    continue
                try:
                    # Values that are not finite are refused below, without a word of numpy's before it.
                    with np.errstate(all="ignore"):
                        row = row * (scale / np.float32(rank) if alpha else scale)
                    column = np.ascontiguousarray(column)
                    edits.append(RankOneEdit(tensor, column, row, number if stacked else None))
                except ValueError:
                    raise ModelFileError(f"{name} holds values that are not finite, for {tensor}") from None
    return edits


def _stack(file: GgufFile, key: str) -> Float32:
    """(matrices, rows, columns)."""
    shape = file.tensors[key].shape
    if len(shape) not in (2, 3):
        raise ModelFileError(f"{file.path.name} holds {key} in {len(shape)} dimensions")
    return dequantize(file, key).reshape(-1, *shape[-2:])
