"""A model that is open to be hardened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.stopwatch import Stopwatch
from rosi_edge.errors import UnsupportedModelError
from rosi_edge.hardening.engines import Engines
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.inspection import Inspection, inspect, require_hardenable
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.open_weights import open_weights
from rosi_edge.quantization.imatrix import importance_for


class OpenModel:
    """Its file, its engines, and how long each stage of the work took. A context manager.

    Attributes:
        importance: of its matrices, where an importance matrix was given.

    Raises:
        RosiEdgeError: the file cannot be hardened.
    """

    def __init__(
        self, path: Path, options: HardenOptions, progress: Progress = SILENT, *, held: int = 0
    ) -> None:
        self.watch = Stopwatch()
        self.weights: GgufFile | Checkpoint = open_weights(path)
        try:
            self.matrices: list[WriteMatrix] = require_hardenable(self.weights, options.engine.template)
            with self.watch.measure("read"):
                self.inspection: Inspection = inspect(self.weights, with_sha256=True, progress=progress)
            self.importance = require_wanted(self.inspection, self.matrices, options)
        except BaseException:
            self.weights.close()
            raise
        self.engines = Engines(path, options.engine, held=held)

    def __enter__(self) -> OpenModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.engines.stop()
        self.weights.close()

    def reconfigure(self, options: HardenOptions) -> None:
        """
        Raises:
            RosiEdgeError: as the constructor does; the options are those from before then.
        """
        self.importance = require_wanted(self.inspection, self.matrices, options)
        self.engines.reconfigure(options.engine)


def require_wanted(
    inspection: Inspection, matrices: Sequence[WriteMatrix], options: HardenOptions
) -> Mapping[str, Float32]:
    """Refuse what the options do not fit; the importances of the matrices, where given.

    Raises:
        RosiEdgeError: the model has been hardened before, has no such layer, or the importances are another
            model's.
    """
    name = inspection.path.name
    if inspection.hardened and not options.force:
        raise UnsupportedModelError(
            f"{name} has been hardened before", "Harden the original file, or add --force"
        )
    blocks = inspection.block_count or 0
    wanted = (*(options.search.layers or ()), options.conditional.layer)
    if unknown := [layer for layer in wanted if layer is not None and not 0 <= layer < blocks]:
        raise UnsupportedModelError(
            f"{name} has no layer {unknown[0]}", f"Choose --layer from 0 to {blocks - 1}, or auto"
        )
    return {} if options.imatrix is None else importance_for(options.imatrix, matrices)
