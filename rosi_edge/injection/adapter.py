"""Edits as a LoRA adapter GGUF: what llama.cpp applies at run time at any strength (``--lora``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.models.small_gguf import write_small_gguf


def write_adapter(path: Path, edits: Sequence[RankOneEdit], *, architecture: str) -> None:
    """Write edits as a rank-one LoRA.

    With ``adapter.lora.alpha`` 1 and rank 1, the scale that llama.cpp is given *is* the strength α
    (``llama_adapter_lora_weight::get_scale``: scale · alpha / rank).
    """
    tensors = {}
    for edit in edits:
        tensors[f"{edit.tensor}.lora_a"] = edit.input[None, :]
        tensors[f"{edit.tensor}.lora_b"] = edit.output[:, None]
    write_small_gguf(
        path,
        architecture=architecture,
        metadata={"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 1.0},
        tensors=tensors,
    )
