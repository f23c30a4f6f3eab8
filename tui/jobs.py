"""Slow work in a thread, and what it tells while it runs.

The thread only writes into its ``Activity``; the application looks at it ten times a second. So however
fast the work reports, the screen is drawn no more often than that and never waits for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rosi_edge.basics.progress import Advance

Clock = Callable[[], float]

_NOTES_KEPT = 200
_CANCEL_TRIES = 50
_CANCEL_SECONDS = 0.1


@dataclass(frozen=True)
class Stage:
    """A stretch of work; ``total`` is None when nobody knows how long it is."""

    description: str
    total: int | None
    done: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a value, or with an error (KeyboardInterrupt when it was stopped)."""

    value: Any = None
    error: BaseException | None = None

    @property
    def stopped(self) -> bool:
        return isinstance(self.error, KeyboardInterrupt)


class Activity:
    """What a job tells; implements ``rosi_edge.basics.progress.Progress``.

    Once ``stopping`` is set, whatever the work reports next ends it with KeyboardInterrupt.
    """

    def __init__(self, title: str, clock: Clock = time.monotonic) -> None:
        self.title = title
        self.stopping = False
        self.outcome: Outcome | None = None
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._stages: dict[int, Stage] = {}
        self._opened = 0
        self._notes: deque[str] = deque(maxlen=_NOTES_KEPT)
        self._events: deque[Any] = deque()

    # --- for the thread --------------------------------------------------------------------------------

    @contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[Advance]:
        self._end_if_stopping()
        with self._lock:
            number = self._opened = self._opened + 1
            self._stages[number] = Stage(description, total)

        def advance(units: int) -> None:
            self._end_if_stopping()
            with self._lock:
                stage = self._stages[number]
                self._stages[number] = replace(stage, done=stage.done + units)

        try:
            yield advance
        finally:
            with self._lock:
                del self._stages[number]

    def note(self, line: str) -> None:
        self._end_if_stopping()
        with self._lock:
            self._notes.append(line)

    def emit(self, event: Any) -> None:
        """Hand something to the screen as soon as it is known."""
        self._end_if_stopping()
        with self._lock:
            self._events.append(event)

    def _end_if_stopping(self) -> None:
        if self.stopping:
            raise KeyboardInterrupt

    # --- for the screen --------------------------------------------------------------------------------

    @property
    def stages(self) -> list[Stage]:
        """Open stages, the outermost first."""
        with self._lock:
            return list(self._stages.values())

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    def take_notes(self) -> list[str]:
        """Notes since the last call."""
        with self._lock:
            notes = list(self._notes)
            self._notes.clear()
        return notes

    def take_events(self) -> list[Any]:
        """Events since the last call."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
        return events


def _insist(thread: threading.Thread, cancel: Callable[[], None]) -> None:
    """Cancel until it helps: a process that only just starts cannot be ended yet."""
    for _ in range(_CANCEL_TRIES):
        if not thread.is_alive():
            return
        cancel()
        thread.join(_CANCEL_SECONDS)


Work = Callable[[Activity], Any]


@dataclass(frozen=True)
class Job:
    """A running piece of work.

    Attributes:
        owner: whose it is, for whoever draws its activity.
        then: called by ``Jobs.look``, so in the application's own thread, with the outcome.
        cancel: ends work that hears of ``Activity.stopping`` too late, from another thread.
        discard: gets the value of work that was let go before it ended.
    """

    owner: object
    activity: Activity
    thread: threading.Thread
    then: Callable[[Outcome], None]
    cancel: Callable[[], None] | None
    discard: Callable[[Any], None] | None


def _end(job: Job) -> threading.Thread:
    """Ask a job to end. The thread after which nothing of it is left."""
    job.activity.stopping = True
    if job.cancel is not None:
        # In a thread of its own: killing a process takes a moment.
        threading.Thread(target=_insist, args=(job.thread, job.cancel), daemon=True).start()
    if job.discard is None:
        return job.thread
    last = threading.Thread(target=_throw_away, args=(job, job.discard), daemon=True)
    last.start()
    return last


def _throw_away(job: Job, discard: Callable[[Any], None]) -> None:
    """Wait for work that nobody waits for any more, and throw its value away."""
    job.thread.join()
    outcome = job.activity.outcome
    if outcome is not None and outcome.value is not None:
        discard(outcome.value)


class Jobs:
    """Runs one job at a time."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.current: Job | None = None

    def start(
        self,
        owner: object,
        title: str,
        work: Work,
        then: Callable[[Outcome], None],
        *,
        cancel: Callable[[], None] | None = None,
        discard: Callable[[Any], None] | None = None,
    ) -> bool:
        """Begin; false while another job runs."""
        if self.current is not None:
            return False
        activity = Activity(title, self.clock)

        def run() -> None:
            try:
                activity.outcome = Outcome(work(activity))
            except BaseException as error:
                activity.outcome = Outcome(error=error)

        # A daemon, so that work which does not hear of stopping cannot keep the program alive.
        thread = threading.Thread(target=run, name=title, daemon=True)
        self.current = Job(owner, activity, thread, then, cancel, discard)
        thread.start()
        return True

    def stop(self) -> None:
        """Ask the job to end; it does so within moments."""
        job = self.current
        if job is None or job.activity.stopping:
            return
        _end(job)
        if job.discard is not None:
            # Work that may not hear of it for long (a download) goes on unseen.
            self.current = None
            job.then(Outcome(error=KeyboardInterrupt()))

    def look(self) -> None:
        """Tell whoever waits that the job has ended, if it has."""
        job = self.current
        if job is not None and job.activity.outcome is not None:
            job.thread.join()
            self.current = None
            job.then(job.activity.outcome)

    def close(self, patience: float = 2.0) -> None:
        """End everything; waits no longer than ``patience`` seconds. Nobody is told: whoever would be is gone
        with the application."""
        job, self.current = self.current, None
        if job is not None:
            last = job.thread if job.activity.stopping else _end(job)
            last.join(patience)
