"""What the rest of the tool asks of a model's weights, whether they lie in a GGUF file or in a checkpoint.

Names are GGUF's in both cases (``blk.0.attn_output.weight``), so that directions, keys and edits found on one
can be used on the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rosi_edge.models.gguf_header import TensorInfo

_EXPERT = re.compile(r"(.+)\[(\d+)\]")


def matrix_name(tensor: str, expert: int | None) -> str:
    """A name for one matrix: the tensor's, and of an expert in a stack also its number."""
    return tensor if expert is None else f"{tensor}[{expert}]"


def tensor_and_expert(matrix: str) -> tuple[str, int | None]:
    """What ``matrix_name`` was made of."""
    found = _EXPERT.fullmatch(matrix)
    return (found[1], int(found[2])) if found else (matrix, None)


class Weights(Protocol):
    """``GgufFile`` or ``Checkpoint``."""

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Settings under GGUF's keys."""
        ...

    @property
    def total_size(self) -> int:
        """Bytes of all files."""
        ...

    def text(self, key: str) -> str | None: ...

    def integer(self, key: str) -> int | None: ...

    def tensor_bytes(self, name: str) -> npt.NDArray[np.uint8]: ...

    def read_tensor(self, name: str, start: int = 0, size: int | None = None) -> npt.NDArray[np.uint8]:
        """A copy of a tensor's stored bytes from ``start`` on, ``size`` of them or all that follow."""
        ...
