"""The seam where a wanted change meets a quantized tensor.

A rounding takes rows of a tensor and the change wanted of them, and gives back bytes of the same type and
size. ``requantize`` is the plain one; better ones plug in here and nothing else has to know.
"""

from __future__ import annotations

from typing import Protocol

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.quantization.codec import quantize

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class Rounding(Protocol):
    """How a changed matrix becomes blocks again. Rows are independent of each other."""

    @property
    def name(self) -> str: ...

    def round(
        self, tensor: str, kind: gguf.GGMLQuantizationType, data: Bytes, weights: Float32, change: Float32
    ) -> Bytes:
        """New bytes for some rows of a tensor.

        Args:
            tensor: its name, for roundings that hold inputs by tensor.
            data: the rows' bytes as they are now, (rows, bytes a row).
            weights: the same dequantized, (rows, columns).
            change: what should be added, (rows, columns).

        Returns:
            (rows, bytes a row).
        """
        ...


class Requantize:
    """Dequantize, add, quantize again with ggml's quantizer: scales move too, and small changes drown."""

    name = "requantize"

    def round(
        self, tensor: str, kind: gguf.GGMLQuantizationType, data: Bytes, weights: Float32, change: Float32
    ) -> Bytes:
        return quantize(weights + change, kind).reshape(data.shape)
