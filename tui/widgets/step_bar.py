"""The line at the top: all steps, which are done, which one this is, which one works."""

from __future__ import annotations

from rich.text import Text
from textual.reactive import reactive

from ..steps import Step
from .plain import Plain

DONE, HERE, WORKING, TO_COME = "✓", "▶", "…", "·"


class StepBar(Plain):
    """Signs before the words say what colours say, too."""

    here: reactive[Step] = reactive(Step.MODEL)
    done: reactive[frozenset[Step]] = reactive(frozenset[Step]())
    working: reactive[Step | None] = reactive[Step | None](None)

    def render(self) -> Text:
        line = Text(no_wrap=True)
        for step in Step:
            sign = DONE if step in self.done else TO_COME
            if step is self.here:
                sign = HERE
            if step is self.working:
                sign = WORKING
            style = "bold reverse" if step is self.here else ("" if step in self.done else "dim")
            line.append(f" {sign} {step.title} ", style)
        return line
