"""Work in threads: what it tells, how it ends, how little of the screen's time it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from drive_wizard import Driver
from fake_session import FakeLibrary
from rosi_edge_tui.app import Wizard
from rosi_edge_tui.jobs import Activity, Jobs, Outcome
from rosi_edge_tui.steps import Step
from rosi_edge_tui.widgets.work_panel import bar, clock

Play = Callable[..., Wizard]


def finished(jobs: Jobs, outcomes: list[Outcome], seconds: float = 20) -> Outcome:
    end = time.monotonic() + seconds
    while not outcomes and time.monotonic() < end:
        jobs.look()
        time.sleep(0.01)
    return outcomes[0]


def test_a_job_tells_and_ends() -> None:
    jobs, outcomes = Jobs(), list[Outcome]()

    def work(activity: Activity) -> int:
        with activity.stage("outer", 3) as outer:
            outer(1)
            with activity.stage("inner") as inner:
                inner(5)
                activity.note("a note")
                activity.emit("an event")
                assert [(s.description, s.total, s.done) for s in activity.stages] == [
                    ("outer", 3, 1),
                    ("inner", None, 5),
                ]
        assert activity.stages == []
        return 7

    assert jobs.start(None, "title", work, outcomes.append)
    job = jobs.current
    assert job is not None
    assert not jobs.start(None, "another", work, outcomes.append), "one at a time"
    outcome = finished(jobs, outcomes)
    assert (outcome.value, outcome.error) == (7, None)
    assert jobs.current is None
    assert job.activity.take_notes() == ["a note"]
    assert job.activity.take_notes() == []
    assert job.activity.take_events() == ["an event"]


@pytest.mark.parametrize("how", ["advance", "stage", "note", "emit"])
def test_whatever_work_reports_next_ends_it(how: str) -> None:
    jobs, outcomes = Jobs(), list[Outcome]()
    began, cancelled = threading.Event(), threading.Event()

    def work(activity: Activity) -> Any:
        with activity.stage("a stage", 2) as advance:
            began.set()
            while True:
                time.sleep(0.01)
                if how == "advance":
                    advance(1)
                elif how == "stage":
                    with activity.stage("inner"):
                        pass
                elif how == "note":
                    activity.note("x")
                else:
                    activity.emit("x")

    jobs.start(None, "title", work, outcomes.append, cancel=cancelled.set)
    began.wait(20)
    jobs.stop()
    jobs.stop()
    assert finished(jobs, outcomes).stopped
    assert cancelled.wait(20)


def test_work_that_does_not_hear_is_let_go() -> None:
    jobs, outcomes, thrown_away = Jobs(), list[Outcome](), list[Any]()
    deaf = threading.Event()

    def work(activity: Activity) -> str:
        deaf.wait(20)
        return "too late"

    jobs.start(None, "title", work, outcomes.append, discard=thrown_away.append)
    jobs.stop()
    assert outcomes[0].stopped, "at once"
    assert jobs.current is None
    deaf.set()
    end = time.monotonic() + 20
    while not thrown_away and time.monotonic() < end:
        time.sleep(0.01)
    assert thrown_away == ["too late"]
    jobs.look()
    assert len(outcomes) == 1


def test_close_does_not_wait_for_ever() -> None:
    jobs = Jobs()
    deaf = threading.Event()
    jobs.start(None, "title", lambda activity: deaf.wait(60), lambda outcome: None)
    start = time.monotonic()
    jobs.close(patience=0.2)
    assert time.monotonic() - start < 10
    assert jobs.current is None
    deaf.set()


def test_close_tells_nobody() -> None:
    """The application has ended by then; what the work ends with is thrown away all the same."""
    jobs, outcomes, thrown_away = Jobs(), list[Outcome](), list[Any]()
    began = threading.Event()

    def work(activity: Activity) -> str:
        began.set()
        time.sleep(0.1)
        return "too late"

    jobs.start(None, "title", work, outcomes.append, discard=thrown_away.append)
    began.wait(20)
    jobs.close(patience=20)
    assert outcomes == []
    assert thrown_away == ["too late"]
    assert jobs.current is None


def test_reports_do_not_flood_the_screen(
    play: Play, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred thousand reports cost no more than ten looks a second, none of them long."""
    spent: list[float] = []
    look = Wizard._look

    def timed(wizard: Wizard) -> None:
        # The processor's time of this thread: what others do on this machine is not the wizard's doing.
        start = time.thread_time()
        look(wizard)
        spent.append(time.thread_time() - start)

    monkeypatch.setattr(Wizard, "_look", timed)
    reported = threading.Event()

    async def script(driver: Driver) -> None:
        await driver.to(Step.CALIBRATE)
        session = library.sessions[0]

        def calibrate() -> Any:
            with session.progress.stage("Reading activations", 100_000) as advance:
                for number in range(100_000):
                    advance(1)
                    if number % 100 == 0:
                        session.progress.note(f"note {number}")
            reported.set()
            return type(session).calibrate(session)

        session.calibrate = calibrate  # type: ignore[method-assign]
        spent.clear()
        start = time.monotonic()
        await driver.press("enter")
        await driver.until(lambda: Step.CALIBRATE in driver.journey.done)
        assert reported.is_set()
        assert len(spent) <= (time.monotonic() - start) * 10 + 3
        assert max(spent) < 0.1, max(spent)

    play(script)


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (0, 4, "····"),
        (1, 4, "█···"),
        (4, 4, "████"),
        (9, 4, "████"),
        (1, 8, "▌···"),
        (0, 0, "████"),
        (-1, 4, "····"),
    ],
)
def test_bars(done: float, total: float, text: str) -> None:
    assert bar(done, total, 4) == text


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.9, 60, 3600, 7325)] == ["0:00", "0:59", "1:00", "1:00:00", "2:02:05"]
