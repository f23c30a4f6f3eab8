"""Blocks to numbers and back: gguf-py's dequantizer and ggml's quantizer, a tensor at a time.

llama.cpp is loaded by the two functions that say so, and by nothing else: whoever only checks files need not
have it.
"""

from __future__ import annotations

import gguf
import numpy as np
from gguf.quants import dequantize as gguf_dequantize
from gguf.quants import quantize as gguf_quantize

from rosi_edge.basics.arrays import Bytes, Float32
from rosi_edge.basics.extras import require
from rosi_edge.errors import UnsupportedModelError
from rosi_edge.models.weights import Weights


def dequantize(file: Weights, name: str) -> Float32:
    """The matrix ``name`` of a file as float32, in its shape (rows, columns).

    Raises:
        UnsupportedModelError: there is no dequantizer for the type.
    """
    return dequantize_bytes(file.tensor_bytes(name), file.tensors[name].shape, file.tensors[name].type)


def dequantize_bytes(data: Bytes, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> Float32:
    """Raw block bytes of a matrix as float32 in ``shape``."""
    if kind == gguf.GGMLQuantizationType.F32:
        return data.view(np.float32).reshape(shape)
    if kind == gguf.GGMLQuantizationType.F16:
        return data.view(np.float16).reshape(shape).astype(np.float32)
    try:
        # (rows, bytes a row): gguf-py works along the last axis.
        values = gguf_dequantize(data.reshape(shape[0], -1), kind)
    except NotImplementedError as error:
        raise UnsupportedModelError(f"tensors of type {kind.name} cannot be read") from error
    return np.ascontiguousarray(values, dtype=np.float32).reshape(shape)


def dequantize_rows(data: Bytes, columns: int, kind: gguf.GGMLQuantizationType) -> Float32:
    """Rows of blocks, (rows, bytes a row), as (rows, columns), by ggml itself: the fastest way.

    Loads llama.cpp. It may differ from gguf-py's in the last bit, where the compiler drew a product and a sum
    together.

    Raises:
        UnsupportedModelError: there is no dequantizer for the type.
    """
    from rosi_edge.native import ggml

    weights = ggml.dequantize(data, int(kind), columns)
    return dequantize_bytes(data, (len(data), columns), kind) if weights is None else weights


def quantize(values: Float32, kind: gguf.GGMLQuantizationType, importance: Float32 | None = None) -> Bytes:
    """ggml's own quantizer; returns the flat bytes. Loads llama.cpp for all types but floats.

    Args:
        values: (rows, columns).
        importance: (columns,), how much each column's error counts (an importance matrix).

    Raises:
        MissingExtraError: llama.cpp is not installed.
        UnsupportedModelError: the type needs an importance matrix, and there is none.
    """
    if kind == gguf.GGMLQuantizationType.F32:
        return np.ascontiguousarray(values, dtype=np.float32).view(np.uint8).reshape(-1)
    if kind == gguf.GGMLQuantizationType.F16:
        return values.astype(np.float16).view(np.uint8).reshape(-1)
    if kind == gguf.GGMLQuantizationType.BF16:
        return np.asarray(gguf_quantize(values, kind)).reshape(-1)
    require("run", f"quantizing to {kind.name}")
    from rosi_edge.native import ggml

    if importance is None and ggml.requires_importance_matrix(int(kind)):
        raise UnsupportedModelError(
            f"tensors of type {kind.name} cannot be quantized again without an importance matrix"
        )
    return ggml.quantize(values, int(kind), importance).reshape(-1)
