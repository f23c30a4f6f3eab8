"""What a write matrix has to write so that the residual stream moves along a given direction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights
from rosi_edge.quantization.codec import dequantize

_SMALLEST_GAIN = 0.05
"""Gains below this share of the median count as this share: dividing by a dead channel only adds noise."""


def write_direction(file: Weights, matrix: WriteMatrix, direction: Float32) -> Float32:
    """The output vector of an edit of ``matrix`` that moves the stream along ``direction``, shape (hidden,).

    Usually the direction itself. Where a norm with gain g stands between the matrix and the addition
    (y = g · u / rms(u); Gemma 2 and 3, OLMo 2, GLM 4), the matrix must write along ŝ/g; where llama.cpp
    multiplies the output by a constant, along ŝ/scale. With a norm the stream follows ŝ to first order only,
    and less the part of ŝ/g that lies along u itself, which no norm lets through.
    """
    output = direction.astype(np.float64)
    if matrix.post_norm is not None:
        gain = dequantize(file, matrix.post_norm).reshape(-1).astype(np.float64)
        floor = _SMALLEST_GAIN * float(np.median(np.abs(gain)))
        safe = np.where(np.abs(gain) < floor, np.where(gain < 0, -floor, floor), gain)
        output = output / np.where(safe == 0, 1.0, safe)
    if matrix.scale is not None:
        scale = float(dequantize(file, matrix.scale).reshape(-1)[0])
        output = output / (scale if scale else 1.0)
    return output.astype(np.float32)


def adapter_gains(file: Weights, matrices: Sequence[WriteMatrix]) -> dict[str, float]:
    """By what an edit's output must be multiplied when it is applied as a LoRA adapter instead of in the
    weights, for the matrices where that is not one: llama.cpp adds an adapter's output after ``NAME.scale``
    has multiplied the matrix's (``llm_graph_context::build_lora_mm``)."""
    return {
        matrix.name: float(dequantize(file, matrix.scale).reshape(-1)[0])
        for matrix in matrices
        if matrix.scale is not None and matrix.scale_before_adapters and not matrix.experts
    }
