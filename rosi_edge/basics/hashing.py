"""SHA-256 of files and bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.progress import SILENT, Progress


def sha256_of_bytes(data: npt.NDArray[np.uint8]) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data.data).hexdigest()


CHUNK = 1 << 20


def sha256_of(path: Path, progress: Progress = SILENT) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream, progress.stage(f"Checking {path.name}", path.stat().st_size) as advance:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
