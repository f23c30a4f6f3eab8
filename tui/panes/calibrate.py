"""Step 3: the model reads requests; the difference inside it becomes a direction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from textual.widget import Widget

from ..steps import Step
from ..widgets.facts import Facts
from ..widgets.plain import Plain
from ..widgets.separation_plot import SeparationPlot, legend
from .base import StepPane

if TYPE_CHECKING:
    from rosi_edge.direction.difference import LayerSeparation


class CalibratePane(StepPane):
    STEP = Step.CALIBRATE

    def body(self) -> Iterable[Widget]:
        yield Facts(id="prompts")
        yield Plain(legend(), id="legend")
        yield SeparationPlot(id="separation")
        yield Plain(id="findings")

    def on_mount(self) -> None:
        self._separation: list[LayerSeparation] = []

    def draw(self) -> None:
        journey = self.journey
        if journey.prompts is not None:
            sets = journey.prompts.calibration
            about = journey.attribute
            names = ("harmful", "harmless", "that only sound harmful")
            if about is not None:
                names = (about.names.harmful, about.names.harmless, about.names.sounds_harmful)
            groups = (sets.harmful, sets.harmless, sets.sounds_harmful)
            requests = ", ".join(
                f"{len(group)} {name}" for group, name in zip(groups, names, strict=True) if group
            )
            own = [journey.choices.text(name) for name in ("harmful", "harmless", "sounds_harmful")]
            source = ", ".join(text for text in own if text) or "written for this tool"
            if about is not None:
                source = f"attribute {about.file.name}"
            elicit = journey.choices.text("elicit") or (
                "none" if about else "only if the model hardly refuses without"
            )
            self.query_one(Facts).show([("requests", f"{requests} ({source})"), ("safety prompt", elicit)])
        self.query_one("#legend", Plain).update(legend(journey.attribute))
        plot = self.query_one(SeparationPlot)
        plot.display = self.query_one("#legend").display = bool(self._separation)
        plot.show(self._separation)
        session = journey.session
        findings = session.findings if session is not None and not self.works else []
        self.query_one("#findings", Plain).update("\n".join(findings))

    def event(self, event: Any) -> None:
        self._separation.append(event)

    @property
    def _done(self) -> bool:
        return Step.CALIBRATE in self.journey.done

    def primary(self) -> str:
        return "Continue ›" if self._done else "Calibrate ›"

    def again(self) -> str:
        return "Calibrate again" if self._done else ""

    def press(self) -> None:
        if self._done:
            self.journey.go(Step.STRENGTH)
        else:
            self.calibrate()

    def press_again(self) -> None:
        self.calibrate()

    def calibrate(self) -> None:
        if self.refused():
            return
        session = self.session
        self.journey.undo_from(Step.CALIBRATE)
        self._separation = []

        def then(directions: Any) -> None:
            self._separation = list(directions.separation)
            self.journey.complete(Step.CALIBRATE)

        self.start("Calibrating", lambda activity: session.calibrate(), then)

    def forget(self) -> None:
        self._separation = []
        self.problem.clear()
