"""Edits and a file in, a new file out: same types and tensors, the untouched copied byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import NewValue, rewrite
from rosi_edge.progress import SILENT, Advance, Progress
from rosi_edge.quantization.codec import dequantize_bytes
from rosi_edge.quantization.rounding import Rounding

Float32 = npt.NDArray[np.float32]

_CHUNK_VALUES = 1 << 22
"""Matrix elements handled at a time: 16 MiB as float32, whatever the model's size."""


@dataclass(frozen=True)
class BakedTensor:
    """What became of one edit.

    Attributes:
        delivered: share of the wanted push that the file's weights give: the slope of the delivered push
            along the edit's output against the wanted one, over probe inputs. 1 is all of it.
        noise: what came out differently from what was wanted, as root mean square over the probe inputs, in
            parts of the wanted change. 0 is none; an edit that was lost whole leaves 1.
    """

    name: str
    type: str
    delivered: float
    noise: float


def bake(
    file: GgufFile,
    target: Path,
    edits: Sequence[RankOneEdit],
    *,
    rounding: Rounding,
    probes: Mapping[str, Float32],
    metadata: Mapping[str, NewValue],
    progress: Progress = SILENT,
) -> list[BakedTensor]:
    """Write ``file`` with every edit (at its full strength) rounded into its tensor.

    Args:
        edits: at most one a tensor, their strength folded in (``RankOneEdit.scaled``).
        rounding: how changed rows become blocks.
        probes: for each edited tensor real inputs, (n, columns), to measure what arrived.
        metadata: keys to add.

    Raises:
        OutputError: the target cannot be written; nothing is left behind.
        UnsupportedModelError: a tensor's type cannot be read or written.
    """
    results: dict[str, BakedTensor] = {}

    def replace(edit: RankOneEdit, advance: Advance) -> Callable[[], npt.NDArray[np.uint8]]:
        def make() -> npt.NDArray[np.uint8]:
            data, results[edit.tensor] = _round_tensor(file, edit, rounding, probes[edit.tensor])
            advance(1)
            return data

        return make

    with progress.stage("Rounding tensors", len(edits)) as advance:
        rewrite(
            file,
            target,
            tensors={edit.tensor: replace(edit, advance) for edit in edits},
            metadata=metadata,
        )
    return [results[edit.tensor] for edit in edits]


def _round_tensor(
    file: GgufFile, edit: RankOneEdit, rounding: Rounding, probe: Float32
) -> tuple[npt.NDArray[np.uint8], BakedTensor]:
    tensor = file.tensors[edit.tensor]
    rows, columns = tensor.shape
    old = file.tensor_bytes(edit.tensor).reshape(rows, -1)
    new = np.empty_like(old)
    wanted = probe @ edit.input  # (n,): what aᵀx should add along the output vector
    delivered = np.zeros(len(probe))
    squared_change = 0.0
    for part in _row_chunks(rows, columns):
        weights = dequantize_bytes(old[part], (len(old[part]), columns), tensor.type)
        change = np.outer(edit.output[part], edit.input).astype(np.float32)
        new[part] = rounding.round(edit.tensor, tensor.type, old[part], weights, change)
        moved = dequantize_bytes(new[part], weights.shape, tensor.type) - weights
        outputs = probe @ moved.T  # (n, rows of this part)
        delivered += outputs @ edit.output[part]
        squared_change += float(np.square(outputs, dtype=np.float64).sum())
    return new.reshape(-1), _measure(edit, tensor.type, wanted, delivered, squared_change)


def _measure(
    edit: RankOneEdit,
    kind: gguf.GGMLQuantizationType,
    wanted: Float32,
    projected: npt.NDArray[np.float64],
    squared_change: float,
) -> BakedTensor:
    length = float(np.square(edit.output, dtype=np.float64).sum())
    push = projected / length
    wanted_square = float(np.square(wanted, dtype=np.float64).sum())
    slope = float(push @ wanted) / wanted_square if wanted_square else 0.0
    # ‖Δx − s·aᵀx‖² summed over the probes, expanded so that no (n, rows) array of all rows is needed.
    noise_square = squared_change - 2 * float(projected @ wanted) + length * wanted_square
    noise = np.sqrt(max(noise_square, 0.0) / (length * wanted_square)) if wanted_square else 0.0
    return BakedTensor(edit.tensor, kind.name, slope, float(noise))


def _row_chunks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _CHUNK_VALUES // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
