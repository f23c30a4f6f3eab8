"""One hash for a model, however many files it lies in."""

from __future__ import annotations

import hashlib

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile

_STEP = 1 << 22


def sha256_of_model(file: GgufFile | Checkpoint, progress: Progress = SILENT) -> str:
    """SHA-256, in hexadecimal, of the file, or of the files of a split model or checkpoint in turn."""
    if isinstance(file, Checkpoint):
        return file.sha256(progress)
    digest = hashlib.sha256()
    with progress.stage(f"Hashing {file.path.name}", file.total_size) as advance:
        for part in file.parts:
            for start in range(0, part.size, _STEP):
                piece = part.read(start, min(_STEP, part.size - start))
                digest.update(piece.data)
                advance(len(piece))
    return digest.hexdigest()
