"""Progress on stderr: bars and notes on a terminal; elsewhere notes, and of long stages a line a minute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rosi_edge.basics.progress import Advance

_SECONDS_A_LINE = 60.0


class TerminalProgress:
    """Implements ``rosi_edge.basics.progress.Progress`` with rich; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            # On a slow machine units come minutes apart, and rich would forget them after half a minute.
            speed_estimate_period=600.0,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    @contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[Advance]:
        if not self._console.is_terminal:
            yield self._told_in_lines(description, total)
            return
        task = self._bars.add_task(description, total=total)
        try:
            yield lambda units: self._bars.advance(task, units)
        finally:
            self._bars.remove_task(task)

    def _told_in_lines(self, description: str, total: int | None) -> Advance:
        """For logs, of CI say: twenty silent minutes look like a job that hangs."""
        done, last = 0, self._console.get_time()

        def advance(units: int) -> None:
            nonlocal done, last
            done += units
            if self._console.get_time() - last >= _SECONDS_A_LINE:
                last = self._console.get_time()
                share = f" {done / total:.0%}" if total else ""
                self.note(f"{description}:{share or f' {done}'}")

        return advance

    def note(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
