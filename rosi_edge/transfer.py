"""Edits found on one form of a model, applied to its other files: harden once, bake every quantization.

What was found on the full-precision checkpoint (or on any one file) is a set of rank-one edits under GGUF
names. They fit every file of the same model: a quantized file has the same matrices in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rosi_edge.bake import BakedTensor, bake
from rosi_edge.bake_checkpoint import EDITS
from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.injection.adapter import read_adapter
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.models.architectures import architecture_of, write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import NewValue
from rosi_edge.models.weights import Weights
from rosi_edge.progress import SILENT, Progress
from rosi_edge.quantization.rounding import Requantize, Rounding
from rosi_edge.runtime.engine import Engine, EngineOptions, ask
from rosi_edge.runtime.open_engine import open_engine
from rosi_edge.runtime.taps import Capture, TapRequest

Float32 = npt.NDArray[np.float32]

RoundingFor = Callable[[Engine, GgufFile, Sequence[RankOneEdit]], Rounding]
"""Makes the rounding of one file; it may read activations of that file first."""


@dataclass(frozen=True)
class FoundEdits:
    """Edits at their full strength, and the architecture of the model they were found on."""

    architecture: str
    edits: tuple[RankOneEdit, ...]


def edits_from(path: Path) -> FoundEdits:
    """The edits of a hardened checkpoint folder, or of an adapter file that ``harden --adapter`` wrote.

    Raises:
        ModelFileError: there are none, or they are damaged.
    """
    place = path / EDITS if path.is_dir() else path
    if not place.is_file():
        raise ModelFileError(
            f"{place} does not exist", "Give a folder that `rosi-edge harden` wrote, or an adapter file"
        )
    with GgufFile.open(place) as file:
        edits = tuple(read_adapter(file))
        if not edits:
            raise ModelFileError(f"{place} holds no edits")
        return FoundEdits(file.text("general.architecture") or "", edits)


def require_fit(weights: Weights, found: FoundEdits) -> None:
    """Whether the edits were found on a model with these very matrices.

    Raises:
        UnsupportedModelError: another architecture, or a matrix is missing or has another shape.
    """
    name = weights.path.name
    architecture = architecture_of(weights).name
    if architecture != found.architecture:
        raise UnsupportedModelError(
            f"the edits were found on a {found.architecture} model, and {name} is {architecture}",
            "Give a file of the same model",
        )
    shapes = {matrix.name: matrix.shape for matrix in write_matrices(weights)}
    for edit in found.edits:
        wanted = (len(edit.output), len(edit.input))
        if edit.tensor not in shapes or shapes[edit.tensor][-2:] != wanted:
            raise UnsupportedModelError(
                f"the edit of {edit.tensor} is for a matrix of {wanted}, which {name} does not have",
                "Give a file of the same model",
            )


def transfer(
    model: Path,
    output: Path,
    found: FoundEdits,
    prompts: Sequence[str],
    *,
    rounding: RoundingFor | None = None,
    metadata: Mapping[str, NewValue] | None = None,
    options: EngineOptions | None = None,
    progress: Progress = SILENT,
) -> list[BakedTensor]:
    """Bake the edits into one GGUF file.

    Args:
        prompts: requests whose activations measure what arrived (``BakedTensor.delivered``).
        rounding: by default the changed rows are quantized again.

    Raises:
        UnsupportedModelError: the edits are those of another model.
        RosiEdgeError: whatever is wrong with the model or the place of the output.
    """
    with GgufFile.open(model) as file:
        require_fit(file, found)
        with open_engine(model, options) as engine:
            tokens = engine.encode([ask(prompt) for prompt in prompts])
            names = tuple(dict.fromkeys(edit.tensor for edit in found.edits))
            with progress.stage("Reading activations", len(tokens)) as advance:
                capture = engine.capture(tokens, TapRequest(inputs=names), advance=advance)
            chosen = rounding(engine, file, found.edits) if rounding is not None else Requantize()
        return bake(
            file,
            output,
            found.edits,
            rounding=chosen,
            probes={edit.matrix: _rows(capture, edit.matrix) for edit in found.edits},
            metadata=metadata or {},
            progress=progress,
        )


def _rows(capture: Capture, name: str) -> Float32:
    rows = capture.inputs[name].rows
    assert rows is not None
    return rows
