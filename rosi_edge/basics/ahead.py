"""Work done by threads in the order it is asked for, a few pieces ahead of the asking."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from rosi_edge.basics.progress import Advance

T = TypeVar("T")

_PATIENCE = 0.1
"""Seconds between two looks at whether the listener wants to cancel."""


class Ahead(Generic[T]):
    """A context manager; at its end nothing more is started, and what runs is waited for.

    Args:
        name: of the threads.
        workers: how many there are; no more results than that are in memory, however slow the reader is.
    """

    def __init__(self, name: str, workers: int, work: Sequence[Callable[[], T]]) -> None:
        self._pool = ThreadPoolExecutor(workers, name)
        self._waiting = deque(work)
        self._running: deque[Future[T]] = deque()
        for _ in range(workers):
            self._start()

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, *exception: object) -> None:
        self._waiting.clear()
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> None:
        if self._waiting:
            self._running.append(self._pool.submit(self._waiting.popleft()))

    def next(self, advance: Advance) -> T:
        """Wait for the next piece; what the work raises is raised here.

        Args:
            advance: called with 0 now and then; raising from it ends the waiting.
        """
        future = self._running.popleft()
        while True:
            try:
                done = future.result(timeout=_PATIENCE)
                break
            except TimeoutError:
                if future.done():
                    raise
                advance(0)
        self._start()
        return done
