"""What all steps share: a sentence, a body, the work under way, a problem, buttons."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widget import Widget

from ..jobs import Activity, Outcome
from ..journey import Journey
from ..steps import Step
from ..widgets.action_bar import ActionBar
from ..widgets.plain import Plain
from ..widgets.problem import Problem
from ..widgets.work_panel import WorkPanel

if TYPE_CHECKING:
    from ..session import Session


class StepPane(Vertical):
    """One step. ``press`` is what Enter does."""

    STEP: ClassVar[Step]

    def __init__(self, journey: Journey) -> None:
        super().__init__(id=f"step-{self.STEP.name.lower()}")
        self.journey = journey

    def compose(self) -> ComposeResult:
        yield Plain(self.STEP.purpose, classes="purpose")
        with Vertical(classes="body"):
            yield from self.body()
        yield WorkPanel()
        yield Problem()
        yield ActionBar()

    # --- for each step to say --------------------------------------------------------------------------

    def body(self) -> Iterable[Widget]:
        raise NotImplementedError

    def primary(self) -> str:
        """What the button that Enter presses says now."""
        return "Continue ›"

    def again(self) -> str:
        """What the button beside it says; empty for none."""
        return ""

    def press(self) -> None:
        """The button that Enter presses."""
        raise NotImplementedError

    def press_again(self) -> None:
        """The button beside it."""

    def draw(self) -> None:
        """Show what is known now."""

    def event(self, event: Any) -> None:
        """Something that a running job found; it is drawn afterwards."""

    def forget(self) -> None:
        """What this step has shown no longer holds."""

    def focus_here(self) -> None:
        """Where the focus goes when the step is opened or its work is done."""
        self.bar.focus_primary()

    # --- for each step to use --------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        session = self.journey.session
        assert session is not None
        return session

    @property
    def bar(self) -> ActionBar:
        return self.query_one(ActionBar)

    @property
    def problem(self) -> Problem:
        return self.query_one(Problem)

    @property
    def works(self) -> bool:
        """Whether this step's own job is running."""
        return self.journey.at_work is self.STEP

    def refused(self) -> bool:
        """Whether work has to wait because some is under way; that of another step is named. To be asked
        before anything is thrown away for new work."""
        if self.journey.jobs.current is None:
            return False
        if not self.works:
            self.problem.tell("Another step is still working. Wait for it, or stop it with Esc.")
        self.refresh_all()
        return True

    @property
    def visible_now(self) -> bool:
        return self.journey.here is self.STEP

    def start(
        self,
        title: str,
        work: Callable[[Activity], Any],
        then: Callable[[Any], None],
        *,
        discard: Callable[[Any], None] | None = None,
        quiet: bool = False,
    ) -> None:
        """Do slow work; ``then`` gets its value. A problem is shown here, and the step can be started
        again. ``quiet`` work shows no progress."""

        def ended(outcome: Outcome) -> None:
            self.query_one(WorkPanel).end()
            if outcome.error is not None:
                self.problem.show(outcome.error)
                self.journey.halt()
            else:
                then(outcome.value)
            self.refresh_all()
            if self.visible_now and not self.works:
                self.focus_here()

        self.problem.clear()
        if self.refused() or not self.journey.start(self.STEP, title, work, ended, discard=discard):
            return
        if not quiet:
            self.query_one(WorkPanel).begin()
        self.refresh_all()

    def follow(self, activity: Activity) -> None:
        """Called ten times a second while this step's job runs."""
        self.query_one(WorkPanel).show(activity)
        if found := activity.take_events():
            for event in found:
                self.event(event)
            self.draw()

    def refresh_all(self) -> None:
        self.draw()
        self.bar.offer(
            primary=self.primary(), again=self.again(), working=self.works, back=self.STEP > Step.MODEL
        )
        self.journey.face.refresh_bar()

    def arrive(self) -> None:
        """The step is opened."""
        self.refresh_all()
        self.focus_here()

    def on_action_bar_pressed(self, event: ActionBar.Pressed) -> None:
        event.stop()
        if event.which == "back":
            self.journey.back()
        elif event.which == "stop":
            self.journey.jobs.stop()
        elif event.which == "again":
            self.press_again()
        elif not self.works:
            self.press()
