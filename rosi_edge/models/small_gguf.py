"""Writing the small GGUF files this tool makes from scratch: adapters and control vectors."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.errors import OutputError
from rosi_edge.models.atomic import atomic_write


def write_small_gguf(
    path: Path,
    *,
    architecture: str,
    metadata: Mapping[str, str | int | float],
    tensors: Mapping[str, npt.NDArray[np.float32]],
) -> None:
    """Write a GGUF of float32 tensors, whole or not at all. Integers become uint32, floats float32.

    Raises:
        OutputError: the file cannot be written there.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="rosi-edge-") as folder:
            draft = Path(folder) / "draft.gguf"
            writer = gguf.GGUFWriter(draft, architecture)
            try:
                for key, value in metadata.items():
                    if isinstance(value, str):
                        writer.add_string(key, value)
                    elif isinstance(value, int):
                        writer.add_uint32(key, value)
                    else:
                        writer.add_float32(key, value)
                for name, tensor in tensors.items():
                    writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_tensors_to_file()
            finally:
                writer.close()
            content = draft.read_bytes()
    except OSError as error:
        raise OutputError(
            f"a temporary file cannot be written in {tempfile.gettempdir()} ({error.strerror or error})",
            "Free some space there, or set TMPDIR to another folder",
        ) from error
    with atomic_write(path, size=len(content)) as stream:
        stream.write(content)
