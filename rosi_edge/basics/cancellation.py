"""Stopping a step from another thread, whatever the step is doing just then.

Killing the engine's process ends a call that waits for it. A step is not always waiting: between two calls it
computes, and would ask for a new engine as if nothing had been said. So the wish is kept until the step ends.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class Cancellation:
    """Whether the running step is wanted any longer. ``request`` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._requested = False

    def request(self) -> None:
        """The running step is to end; without one, nothing happens."""
        with self._lock:
            self._requested = self._depth > 0

    def check(self) -> None:
        """
        Raises:
            KeyboardInterrupt: the running step is to end.
        """
        if self._requested:
            raise KeyboardInterrupt

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a step. Steps may be nested; a request is for the outermost.

        Raises:
            KeyboardInterrupt: the step was to end and did not hear of it.
        """
        with self._lock:
            self._depth += 1
        try:
            yield
            self.check()
        finally:
            with self._lock:
                self._depth -= 1
                self._requested = self._requested and self._depth > 0


class _Cancellable(Protocol):
    @property
    def cancellation(self) -> Cancellation: ...


Owner = TypeVar("Owner", bound=_Cancellable)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def cancellable(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """A method that is a step of its object's ``cancellation``."""

    @functools.wraps(method)
    def stepped(owner: Owner, /, *arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        with owner.cancellation.step():
            return method(owner, *arguments, **keywords)

    return stepped
