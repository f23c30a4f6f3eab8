"""Opening a model's weights, whichever form they have."""

from __future__ import annotations

from pathlib import Path

from rosi_edge.models.checkpoint import Checkpoint, is_checkpoint
from rosi_edge.models.gguf_file import GgufFile


def open_weights(path: Path) -> GgufFile | Checkpoint:
    """A GGUF file or a checkpoint folder, as a context manager.

    Raises:
        ModelFileError, UnsupportedModelError: as ``GgufFile.open`` and ``Checkpoint.open`` do.
    """
    return Checkpoint.open(path) if is_checkpoint(path) else GgufFile.open(path)
