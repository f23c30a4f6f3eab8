"""How long work tells of itself, without knowing who listens (a terminal, the wizard, nobody)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the number of units done since the last call."""


def count_done(advance: Advance | None, units: int) -> None:
    """Call ``advance`` where there is one."""
    if advance is not None:
        advance(units)


class Progress(Protocol):
    """A listener. Raising from any of these (KeyboardInterrupt, say) cancels the work."""

    def stage(self, description: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` units (None: unknown); it ends with the context."""
        ...

    def note(self, line: str) -> None:
        """A line worth keeping in view, such as a point of the frontier."""
        ...


class _Silent:
    @contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[Advance]:
        yield lambda units: None

    def note(self, line: str) -> None:
        pass


SILENT: Progress = _Silent()
