"""Takes a direction out of a model's write matrices, as the abliteration of a found file would have done.

Tests only, in temporary folders: what finds and mends such files needs files to find and mend.
Directional ablation: Arditi et al., arXiv 2406.11717, section 2.4, ``W ← W − s · u uᵀ W``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import MetadataArray
from rosi_edge.quantization.codec import dequantize, quantize

EMBEDDING = "token_embd.weight"


def ablate(weights: Float32, direction: Float32, strength: float = 1.0) -> Float32:
    """Rows (hidden, columns) that write ``1 − strength`` of what they wrote along the unit direction."""
    unit = direction / np.linalg.norm(direction)
    return (weights - strength * np.outer(unit, unit @ weights)).astype(np.float32)


def write_weakened(
    source: Path,
    target: Path,
    directions: Mapping[int, Float32],
    *,
    strength: float = 1.0,
    kinds: Sequence[str] = ("attention", "mlp", "mixer"),
    embedding: Float32 | None = None,
    quantization: gguf.GGMLQuantizationType | None = None,
    only_written: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write ``source`` with the blocks' write matrices ablated.

    Args:
        directions: for each block that is touched the direction it loses, (hidden,).
        kinds: which write matrices.
        embedding: a direction that the token embedding loses too.
        quantization: the type of every matrix of the new file; None keeps each one's own. Rows that a type
            cannot hold get Q5_0 for the 4-bit ones and Q8_0 else, as llama.cpp has it.
        only_written: leave all tensors out but the write matrices and the vectors: a file to look at, not to
            run, made much faster.
    """
    with GgufFile.open(source) as file:
        matrices = write_matrices(file)
        written = {matrix.name for matrix in matrices}
        lost = {
            matrix.name: directions[matrix.block]
            for matrix in matrices
            if matrix.block in directions and matrix.kind in kinds
        }
        if embedding is not None:
            lost[EMBEDDING] = embedding
        writer = gguf.GGUFWriter(target, file.text("general.architecture") or "")
        with ExitStack() as stack:
            stack.callback(writer.close)
            _copy_metadata(file, writer, metadata or {})
            for name, tensor in file.tensors.items():
                if only_written and len(tensor.shape) > 1 and name not in written:
                    continue
                kind = _kind(tensor.shape, tensor.type, quantization)
                if name not in lost and kind == tensor.type:
                    data = file.tensor_bytes(name)
                else:
                    weights = dequantize(file, name)
                    if name in lost:
                        weights = (
                            # An embedding's rows are stream vectors; a matrix's columns are.
                            ablate(weights.T, lost[name], strength).T
                            if name == EMBEDDING
                            else ablate(weights, lost[name], strength)
                        )
                    data = quantize(np.ascontiguousarray(weights), kind)
                # gguf-py takes the shape in bytes for block types, in values for floats.
                shaped: npt.NDArray[np.generic] = data.reshape(*tensor.shape[:-1], -1)
                if kind == gguf.GGMLQuantizationType.F32:
                    shaped = shaped.view(np.float32)
                writer.add_tensor(name, shaped, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
    return target


def _kind(
    shape: tuple[int, ...],
    own: gguf.GGMLQuantizationType,
    wanted: gguf.GGMLQuantizationType | None,
) -> gguf.GGMLQuantizationType:
    if wanted is None or len(shape) < 2 or own == gguf.GGMLQuantizationType.F32:
        return own
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    if shape[-1] % block == 0:
        return wanted
    small = wanted == gguf.GGMLQuantizationType.Q4_K
    fallback = gguf.GGMLQuantizationType.Q5_0 if small else gguf.GGMLQuantizationType.Q8_0
    return fallback if shape[-1] % 32 == 0 else gguf.GGMLQuantizationType.F16


def _copy_metadata(file: GgufFile, writer: gguf.GGUFWriter, extra: Mapping[str, str]) -> None:
    for field in file.fields.values():
        if field.key == "general.architecture" or field.key in extra:
            continue
        if isinstance(field.value, MetadataArray):
            writer.add_key_value(
                field.key, field.value.values(), gguf.GGUFValueType.ARRAY, field.value.element_type
            )
        else:
            writer.add_key_value(field.key, field.value, field.type)
    for key, value in extra.items():
        writer.add_string(key, value)
