"""Step 4: the frontier of refusal against compliance, and the point that is taken from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from textual.timer import Timer
from textual.widget import Widget

from ..steps import Step
from ..widgets.frontier_plot import Dot, FrontierPlot, legend
from ..widgets.plain import Plain
from ..widgets.point_slider import PointSlider
from .base import StepPane

if TYPE_CHECKING:
    from rosi_edge.evaluation.behaviour import Behaviour
    from rosi_edge.search.result import AnsweredPoint, Tried

_SETTLED = 0.3
"""Seconds without a move of the slider after which its point is applied."""


def dot(behaviour: Behaviour) -> Dot:
    return Dot(behaviour.refusal.value, behaviour.compliance.value)


class StrengthPane(StepPane):
    STEP = Step.STRENGTH

    def body(self) -> Iterable[Widget]:
        yield Plain(legend(), id="legend")
        yield FrontierPlot(id="frontier")
        yield PointSlider(id="slider")
        yield Plain(id="point")

    def on_mount(self) -> None:
        self._tried: list[Tried] = []
        self._settling: Timer | None = None
        self._taken = False

    # --- what is shown ---------------------------------------------------------------------------------

    def draw(self) -> None:
        session = self.journey.session
        found = session.found if session is not None and self._done else None
        estimated = [Dot(t.refusal, t.compliance) for t in self._tried if not t.answered]
        measured = [Dot(t.refusal, t.compliance) for t in self._tried if t.answered]
        plot, slider = self.query_one(FrontierPlot), self.query_one(PointSlider)
        slider.display = found is not None and bool(found.frontier)
        plot.display = bool(self._tried) or found is not None
        self.query_one("#legend", Plain).update(legend(self.journey.attribute))
        self.query_one("#legend").display = plot.display
        if session is None or found is None:
            if plot.display:
                plot.show(tried=estimated, answered=measured)
            self.query_one("#point", Plain).update("")
            return
        best, chosen = found.chosen, session.chosen
        plot.show(
            original=dot(found.original),
            tried=estimated,
            answered=[dot(point.behaviour) for point in found.frontier],
            chosen=dot(best.behaviour) if best else None,
            yours=dot(chosen.behaviour) if chosen and chosen is not best else None,
            floor=found.floor,
        )
        self.query_one("#point", Plain).update(self._words(chosen))
        if found.frontier:
            places = {id(point): index for index, point in enumerate(found.frontier)}
            slider.place(
                len(found.frontier),
                places.get(id(chosen)) if chosen else None,
                places.get(id(best)) if best else None,
            )

    def _words(self, point: AnsweredPoint | None) -> str:
        session = self.session
        assert session.found is not None
        if point is None:
            return (
                f"! No setting kept benign compliance at {session.found.floor:.1%} or above. Allow less in "
                "the advanced settings (F5) and search again, choose a point with the arrow keys, or "
                "continue: the report will say so."
            )
        return f"{point.words}\n{point.describe()}"

    def event(self, event: Any) -> None:
        self._tried.append(event)

    @property
    def _done(self) -> bool:
        return Step.STRENGTH in self.journey.done

    def primary(self) -> str:
        return "Continue ›" if self._done else "Search ›"

    def again(self) -> str:
        return "Search again" if self._done else ""

    # --- what is done ----------------------------------------------------------------------------------

    def press(self) -> None:
        if not self._done:
            self.search()
        elif self.session.chosen is None:
            self.journey.complete(Step.TRY)
            self.journey.go(Step.BAKE)
        else:
            self.journey.go(Step.TRY)

    def press_again(self) -> None:
        self.search()

    def search(self) -> None:
        if self.refused():
            return
        session = self.session
        self.journey.undo_from(Step.STRENGTH)
        self._tried = []

        def then(found: Any) -> None:
            self.journey.complete(Step.STRENGTH)
            self.journey.choose_remembered()

        self.start("Searching", lambda activity: session.search(), then)

    def on_point_slider_moved(self, event: PointSlider.Moved) -> None:
        event.stop()
        session = self.session
        # While a point is being applied, another may be taken: it is applied next.
        free = self.journey.jobs.current is None or (self.works and self._done)
        if not free or session.found is None:
            self.draw()
            return
        self._taken = False
        self.journey.choose(session.found.frontier[event.index])
        self.draw()
        if self._settling is not None:
            self._settling.stop()
        self._settling = self.set_timer(_SETTLED, self._settled)

    def on_point_slider_taken(self, event: PointSlider.Taken) -> None:
        event.stop()
        if self.works:
            # Moments later, when the point has been applied.
            self._taken = True
        else:
            self.press()

    def _settled(self) -> None:
        self._settling = None
        # Not behind a question or the settings, whose answer may need the session, and not behind another
        # step, whose work would have to wait. To be applied at once is only a help: whoever asks the model
        # has the point applied then.
        if len(self.app.screen_stack) == 1 and self.visible_now:
            self.apply()

    def apply(self) -> None:
        """Make the chosen point active in the running model, so that trying it starts at once."""
        session = self.journey.session
        point = session.chosen if session is not None else None
        if session is None or point is None or self.journey.jobs.current is not None:
            return

        def then(value: Any) -> None:
            if session.chosen is not point:
                # Moved meanwhile; if it has not settled yet, it is applied when it has.
                if self._settling is None:
                    self.apply()
            elif self.visible_now:
                self.query_one(PointSlider).focus()
                if self._taken:
                    self.press()

        self.start("Applying", lambda activity: session.apply(point.strength), then, quiet=True)

    def focus_here(self) -> None:
        # Enter on the slider continues, as it does on the button.
        slider = self.query_one(PointSlider)
        if slider.display:
            slider.focus()
        else:
            super().focus_here()

    def forget(self) -> None:
        self._tried = []
        self.problem.clear()
