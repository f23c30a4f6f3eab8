"""Edits as a LoRA adapter GGUF: what llama.cpp applies at run time at any strength (``--lora``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.small_gguf import write_small_gguf
from rosi_edge.quantization.codec import dequantize

Float32 = npt.NDArray[np.float32]


def write_adapter(
    path: Path,
    edits: Sequence[RankOneEdit],
    *,
    architecture: str,
    gains: Mapping[str, float] | None = None,
    experts: Mapping[str, int] | None = None,
) -> None:
    """Write edits as a rank-one LoRA.

    With ``adapter.lora.alpha`` 1 and rank 1, the scale that llama.cpp is given *is* the strength α
    (``llama_adapter_lora_weight::get_scale``: scale · alpha / rank).

    Args:
        gains: by what the output of a tensor's edit is multiplied, where an adapter's output does not pass
            through what the matrix's output passes through (``adapter_gains``).
        experts: how many matrices each edited stack of experts holds; those without an edit get zeros.
    """
    tensors: dict[str, Float32] = {}
    for edit in edits:
        a, b = f"{edit.tensor}.lora_a", f"{edit.tensor}.lora_b"
        output = edit.output * np.float32((gains or {}).get(edit.tensor, 1.0))
        if edit.expert is None:
            tensors[a], tensors[b] = edit.input[None, :], output[:, None]
            continue
        count = (experts or {})[edit.tensor]
        for key, shape in ((a, (count, 1, len(edit.input))), (b, (count, len(output), 1))):
            tensors.setdefault(key, np.zeros(shape, dtype=np.float32))
        tensors[a][edit.expert, 0] = edit.input
        tensors[b][edit.expert, :, 0] = output
    write_small_gguf(
        path,
        architecture=architecture,
        metadata={"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 1.0},
        tensors=tensors,
    )


def read_adapter(file: GgufFile) -> list[RankOneEdit]:
    """The edits of a rank-one LoRA at strength one; experts without an edit are left out.

    Raises:
        ModelFileError: it is no adapter, or its tensors do not belong together.
        UnsupportedModelError: its rank is more than one.
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
        if a.shape[1] != 1 or b.shape[2] != 1:
            raise UnsupportedModelError(f"{name} holds an update of {tensor} of rank {a.shape[1]}, not one")
        if len(a) != len(b):
            raise ModelFileError(f"{name} holds a stack of {len(a)} and one of {len(b)} for {tensor}")
        stacked = len(file.tensors[key].shape) == 3
        for number, (row, column) in enumerate(zip(a[:, 0], b[:, :, 0], strict=True)):
            if not stacked or (row.any() and column.any()):
                try:
                    edits.append(RankOneEdit(tensor, column, row * scale, number if stacked else None))
                except ValueError:
                    raise ModelFileError(f"{name} holds numbers that are none, for {tensor}") from None
    return edits


def _stack(file: GgufFile, key: str) -> Float32:
    """(matrices, rows, columns)."""
    shape = file.tensors[key].shape
    if len(shape) not in (2, 3):
        raise ModelFileError(f"{file.path.name} holds {key} in {len(shape)} dimensions")
    return dequantize(file, key).reshape(-1, *shape[-2:])
