"""The engine that fits a model: llama.cpp for GGUF files, torch for checkpoint folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rosi_edge.models.checkpoint import is_checkpoint
from rosi_edge.runtime.engine import EngineOptions, StoppableEngine


def open_engine(
    path: Path, options: EngineOptions | None = None, *, look: Callable[[], None] | None = None
) -> StoppableEngine:
    """An engine for ``path``: a GGUF file runs in a child process (``ChildEngine``), a folder in this one.

    Args:
        look: see ``ChildEngine``.

    Raises:
        ModelFileError, UnsupportedModelError, EngineError: as the engines do.
    """
    if is_checkpoint(path):
        from rosi_edge.runtime.torch_engine import TorchEngine

        engine: StoppableEngine = TorchEngine(path, options)
        return engine
    from rosi_edge.runtime.child_engine import ChildEngine

    return ChildEngine(path, options, look=look)
