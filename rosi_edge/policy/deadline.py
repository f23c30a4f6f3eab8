"""A time limit on work that may hang anywhere."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rosi_edge.basics.progress import Advance, Progress
from rosi_edge.errors import RosiEdgeError


class TimeLimitError(RosiEdgeError):
    """The time limit was reached; whatever was not finished could not run."""


@contextmanager
def time_limit(seconds: float, progress: Progress) -> Iterator[Progress]:
    """Raise TimeLimitError inside the block when ``seconds`` are over.

    By a timer signal where there is one (it ends waiting, for a hung child process too), and in any case at
    the next sign of progress: work inside must use the progress that this yields.
    """
    deadline = time.monotonic() + seconds

    def over() -> NoReturn:
        raise TimeLimitError(
            f"the time limit of {seconds:.0f} seconds was reached", "Raise time_limit in the policy"
        )

    def check() -> None:
        if time.monotonic() >= deadline:
            over()

    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield _Watched(progress, check)
        return

    def ring(number: int, frame: FrameType | None) -> None:
        over()

    before = signal.signal(signal.SIGALRM, ring)
    # Rings again: an exception that lands in a destructor or a clean-up is swallowed there.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        yield _Watched(progress, check)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Watched:
    """Passes everything on, and looks at the clock each time."""

    def __init__(self, progress: Progress, check: Callable[[], None]) -> None:
        self._progress = progress
        self._check = check

    @contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[Advance]:
        self._check()
        with self._progress.stage(description, total) as advance:

            def watched(units: int) -> None:
                advance(units)
                self._check()

            yield watched

    def note(self, line: str) -> None:
        self._progress.note(line)
