"""Captured inputs of write matrices, kept as files: a matrix at a time is in memory, never all of them.

Rows and not covariances: a few thousand rows are less than a square of the columns (4864 here, 14336 in a 7B
model), and the keys are solved from products of rows.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32
from rosi_edge.models.weights import tensor_and_expert


class InputRows:
    """Rows by matrix and prompt set, as float16 in a temporary folder. A context manager.

    A matrix is named as ``RankOneEdit.matrix`` is: every expert of a stack has rows of its own.
    """

    def __init__(self, sets: int) -> None:
        self._sets = sets
        self._folder = tempfile.TemporaryDirectory(prefix="rosi-edge-inputs-")
        self._parts: dict[str, list[Path]] = {}

    def __enter__(self) -> InputRows:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._folder.cleanup()

    @property
    def names(self) -> list[str]:
        return list(self._parts)

    @property
    def tensors(self) -> list[str]:
        """The tensors that these matrices lie in."""
        return list(dict.fromkeys(tensor_and_expert(name)[0] for name in self._parts))

    def add(self, name: str, rows: Float32, members: npt.NDArray[np.intp]) -> None:
        """Keep more rows of a matrix.

        Args:
            rows: (n, columns); values beyond the range of float16 are clipped.
            members: (n,), the number of the prompt set that each row comes from.
        """
        largest = float(np.finfo(np.float16).max)
        parts = self._parts.setdefault(name, [])
        path = Path(self._folder.name) / f"{re.sub(r'[^A-Za-z0-9]+', '_', name)}-{len(parts)}.npz"
        with path.open("wb") as file:
            np.savez(file, rows=np.clip(rows, -largest, largest).astype(np.float16), members=members)
        parts.append(path)

    def by_set(self, name: str) -> list[Float32]:
        """The rows of one matrix, (n, columns) a prompt set."""
        found: Sequence[list[npt.NDArray[np.float16]]] = [[] for _ in range(self._sets)]
        for path in self._parts[name]:
            with np.load(path) as part:
                rows, members = part["rows"], part["members"]
            for number in range(self._sets):
                found[number].append(rows[members == number])
        return [np.concatenate(parts).astype(np.float32) for parts in found]
