"""The seam where a wanted change meets a quantized tensor.

A rounding takes rows of a tensor and the change wanted of them, and gives back bytes of the same type and
size. ``requantize`` is the plain one; better ones plug in here and nothing else has to know.
"""

from __future__ import annotations

from typing import Protocol

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.quantization.codec import quantize

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


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
        edit: RankOneEdit | None = None,
    ) -> Bytes:
        """New bytes for some rows of a tensor.

        Args:
            tensor: its name (``RankOneEdit.matrix``), for roundings that hold inputs by tensor.
            data: the rows' bytes as they are now, (rows, bytes a row).
            weights: the same dequantized, (rows, columns).
            change: what should be added, (rows, columns).
            edit: the edit of these rows that the change is made of, where it holds more than that; None
                for a change that is the edit itself.

        Returns:
            (rows, bytes a row).
        """
        ...


class Requantize:
    """Dequantize, add, quantize again with ggml's quantizer: scales move too, and small changes drown."""

    name = "requantize"
    aims = False

    def round(
        self,
        tensor: str,
        kind: gguf.GGMLQuantizationType,
        data: Bytes,
        weights: Float32,
        change: Float32,
        edit: RankOneEdit | None = None,
    ) -> Bytes:
        return quantize(weights + change, kind).reshape(data.shape)
