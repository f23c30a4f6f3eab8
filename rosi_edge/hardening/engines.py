"""Who opens, restarts and cancels the engines of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rosi_edge.basics.cancellation import Cancellation
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.runtime.engine import Engine, EngineOptions, StoppableEngine
from rosi_edge.runtime.open_engine import open_engine

HELD = 192
"""Prompts that a search keeps in the engine's cache, at most."""


class Engines:
    """The original model, running from when it is first asked for, and its hardened files, one at a time.

    Args:
        held: prompts kept in the original's cache; see ``EngineOptions``.
    """

    def __init__(self, model: Path, options: EngineOptions, *, held: int = 0) -> None:
        self.cancellation = Cancellation()
        self._model = model
        self._options = options
        self._held = held
        self._original: StoppableEngine | None = None
        self._hardened: StoppableEngine | None = None
        self._loaded: int | None = None

    def original(self, progress: Progress = SILENT) -> Engine:
        """The original model; started again after a cancellation.

        Raises:
            KeyboardInterrupt: the running step has been cancelled.
            RosiEdgeError: it cannot be run.
        """
        self.cancellation.check()
        if self._original is not None and not self._original.alive:
            self.stop()
        if self._original is None:
            self._original = self._opened(self._model, replace(self._options, held=self._held), progress)
        return self._original

    @contextmanager
    def running(self, hardened: Path, progress: Progress = SILENT) -> Iterator[Engine]:
        """A hardened file, which ``cancel`` can stop too."""
        with self._opened(hardened, self._options, progress) as engine:
            self._hardened = engine
            try:
                yield engine
            finally:
                self._hardened = None

    def apply(
        self, edits: Sequence[RankOneEdit], strength: float | None, progress: Progress = SILENT
    ) -> None:
        """Make edits active in the original at some strength, in place of others; None for none at all."""
        if self._loaded is not None:
            self.original(progress).apply({})
        if strength is None:
            return
        engine = self.original(progress)
        if self._loaded is not None:
            engine.unload(self._loaded)
        self._loaded = engine.load_edits(edits)
        engine.apply({self._loaded: strength})

    def reconfigure(self, options: EngineOptions) -> None:
        """Other options, for engines that are opened from now on."""
        if options != self._options:
            self._options = options
            self.stop()

    def cancel(self) -> None:
        """End the running step with KeyboardInterrupt, from another thread."""
        self.cancellation.request()
        for engine in (self._original, self._hardened):
            if engine is not None:
                engine.cancel()

    def stop(self) -> None:
        """Let go of the original; it starts again when it is asked for."""
        if self._original is not None:
            self._original.close()
            self._original = None
            self._loaded = None

    def _opened(self, model: Path, options: EngineOptions, progress: Progress) -> StoppableEngine:
        with progress.stage("Loading the model") as advance:

            def look() -> None:
                # There is no engine to cancel yet.
                self.cancellation.check()
                advance(0)

            return open_engine(model, options, look=look)
