"""The seam where a wanted change meets a quantized tensor.

A rounding takes rows of a tensor and the change wanted of them, and gives back bytes of the same type and
size. ``requantize`` is the plain one; better ones plug in here and nothing else has to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import gguf

from rosi_edge.basics.arrays import Bytes, Float32
from rosi_edge.errors import UnsupportedModelError
from rosi_edge.models.weights import tensor_and_expert
from rosi_edge.quantization.codec import quantize


class Rounding(Protocol):
    """How a changed matrix becomes blocks again. Rows are independent of each other."""

    @property
    def name(self) -> str: ...

    @property
    def aims(self) -> bool:
        """Whether it chooses by real inputs, so that asking for a little more brings a little more."""
        ...

    def round(
        self,
        tensor: str,
        kind: gguf.GGMLQuantizationType,
        data: Bytes,
        weights: Float32,
        change: Float32,
        push: Float32 | None = None,
        output: Float32 | None = None,
    ) -> Bytes:
        """New bytes for some rows of a tensor.

        Args:
            tensor: its name, an expert's number in brackets, for roundings that hold inputs by tensor.
            data: the rows' bytes as they are now, (rows, bytes a row).
            weights: the same dequantized, (rows, columns).
            change: what should be added, (rows, columns).
            push: (columns,), the vector a whose product with an input x is to bring ``output`` times aᵀx,
                where the change holds more than that; None where the change is of rank one.
            output: (rows,), what the change should add for each unit of the push.

        Returns:
            (rows, bytes a row).
        """
        ...


class Requantize:
    """Dequantize, add, quantize again with ggml's quantizer: scales move too, and small changes drown.

    Args:
        importance: for some tensors how much each column's error counts, (matrices, columns); see
            ``rosi_edge.quantization.imatrix``.
    """

    name = "requantize"
    aims = False

    def __init__(self, importance: Mapping[str, Float32] | None = None) -> None:
        self._importance = importance or {}

    def round(
        self,
        tensor: str,
        kind: gguf.GGMLQuantizationType,
        data: Bytes,
        weights: Float32,
        change: Float32,
        push: Float32 | None = None,
        output: Float32 | None = None,
    ) -> Bytes:
        importance = self._importance_of(tensor, weights.shape[1])
        return quantize(weights + change, kind, importance).reshape(data.shape)

    def _importance_of(self, matrix: str, columns: int) -> Float32 | None:
        """
        Raises:
            UnsupportedModelError: what is known of the tensor is of another shape.
        """
        name, expert = tensor_and_expert(matrix)
        known = self._importance.get(name)
        if known is None:
            return None
        index = expert or 0
        if known.shape[-1] != columns or index >= len(known):
            raise UnsupportedModelError(
                f"the importance matrix holds {known.shape[-1]} columns for {name}, which has {columns}",
                "Give the importance matrix of this model",
            )
        columns_matter: Float32 = known[index]
        return columns_matter
